"""Settings of the chat: all that it needs, and no database.

The part to copy is ``CHANNEL_LAYERS``. All processes of a site, and its cron jobs, read the
same settings on the same machine: the prefix is how they find each other.
"""
import os

BASE_DIR = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "asgi_ipc.aio.IPCChannelLayer",
        "CONFIG": {
            # Two copies of the site on one machine need two prefixes.
            "prefix": os.environ.get("CHAT_PREFIX", "chat-example"),
            # Messages that may wait for one server process, for all its browsers together; one
            # for a whole room counts once. The default of 100 is plenty while a process keeps
            # up. This leaves room for a burst: what goes beyond it is dropped, and logged.
            "capacity": 2000,
            # Pictures that may wait for a painter. The next one is refused while the asker is
            # there to be told; see RoomConsumer.paint.
            "channel_capacity": {"pictures": 20},
            # Seconds after which nobody wants a message any more. Ask for more if jobs wait
            # longer than that for a worker.
            "expiry": 60,
        },
    },
}

# An example for one's own machine. A production site has its key from a safe place, DEBUG off,
# and its own name in ALLOWED_HOSTS, which is also what websockets are checked against.
SECRET_KEY = os.environ.get("CHAT_SECRET_KEY", "an example has no secrets")
DEBUG = os.environ.get("CHAT_DEBUG", "1") == "1"
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]

# A site with accounts adds django.contrib.auth, sessions and a database here, and an
# AuthMiddlewareStack in asgi.py.
INSTALLED_APPS = [
    "django.contrib.staticfiles",
    "channels",
    "chat",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "mysite.urls"
ASGI_APPLICATION = "mysite.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
    },
]

# With DEBUG the application serves these itself (asgi.py). In production the web server does,
# from the folder that `manage.py collectstatic` fills.
STATIC_URL = "/static/"
STATIC_ROOT = os.path.join(BASE_DIR, "static")

LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_TZ = True
