"""The chat's settings with channels_redis in place of asgi_ipc; nothing else changes."""
import os

from mysite.settings import *  # noqa: F403

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {
            "hosts": [os.environ["CHAT_REDIS"]],
            "prefix": "mysite",
            "capacity": 2000,
            "channel_capacity": {"pictures": 20},
            "expiry": 60,
        },
    },
}
