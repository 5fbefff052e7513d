"""The channel layer that Daphne is pointed at: ``daphne chat.asgi:channel_layer``."""
import os

from channels.asgi import get_channel_layer

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chat.settings")

channel_layer = get_channel_layer()
