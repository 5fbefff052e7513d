"""The example's settings, with a database in a file, which Channels' live servers ask for."""
import os

from mysite.settings import *  # noqa: F403

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.path.join(os.environ["CHAT_TEST_FOLDER"], "db.sqlite3"),
        "TEST": {"NAME": os.path.join(os.environ["CHAT_TEST_FOLDER"], "test.sqlite3")},
    }
}
