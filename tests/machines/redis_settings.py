"""The chat's settings with channels_redis in place of asgi_ipc; nothing else changes."""
import os

from mysite.settings import *  # noqa: F403

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {
            # A worker's read of Redis lasts 5 seconds: redis-py 8 gives up at that moment.
            "hosts": [{"address": os.environ["CHAT_REDIS"], "socket_timeout": 20}],
            "prefix": "mysite",
            "capacity": 2000,
            "channel_capacity": {"pictures": 20},
            "expiry": 60,
        },
    },
}
