"""The example's settings with what only a test wants: a database, folders of its own, a
switch that hides the ``twisted`` extension, and the ``TEST_CONFIG`` of live-server tests.

Set by ``CHAT_TEST_DIR`` (a folder of this run) and ``CHAT_TEST_TWISTED`` (``0`` hides it).
"""
from __future__ import unicode_literals

import os

from chat.settings import *  # noqa: F403
from chat.settings import CHANNEL_LAYERS

_folder = os.environ["CHAT_TEST_DIR"]

SESSION_FILE_PATH = _folder

# Live-server tests refuse a database in memory.
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.path.join(_folder, "chat.sqlite3"),
        "TEST": {"NAME": os.path.join(_folder, "chat-test.sqlite3")},
    },
}

_layer = CHANNEL_LAYERS["default"]
_layer["TEST_CONFIG"] = dict(_layer["CONFIG"])
if os.environ.get("CHAT_TEST_TWISTED", "1") == "0":
    _layer["BACKEND"] = "site_layers.PollingLayer"
