"""Settings of the chat: all of Django's that it needs, and no database.

The part to copy is ``CHANNEL_LAYERS``. Daphne and every worker must read the same settings
on the same machine, for the prefix is how they find each other.
"""
from __future__ import unicode_literals

import os

BASE_DIR = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# An example for one's own machine: set both before anyone else can reach it.
SECRET_KEY = os.environ.get("CHAT_SECRET_KEY", "an example has no secrets")
DEBUG = os.environ.get("CHAT_DEBUG", "1") == "1"
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "asgi_ipc.IPCChannelLayer",
        "ROUTING": "chat.routing.channel_routing",
        "CONFIG": {
            # Two copies of the site on one machine need two prefixes.
            "prefix": os.environ.get("CHAT_PREFIX", "channels1-chat"),
        },
    },
}

INSTALLED_APPS = [
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "channels",
    "chat",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "chat.urls"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
    },
]

# Channels notes in a session how far each connection has got, so that two workers cannot
# swap two lines of one writer. Files are enough for that, and are seen by every worker.
SESSION_ENGINE = "django.contrib.sessions.backends.file"
SESSION_FILE_PATH = os.path.join(BASE_DIR, "sessions")
SESSION_COOKIE_AGE = 24 * 60 * 60

STATIC_URL = "/static/"
LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_TZ = True
