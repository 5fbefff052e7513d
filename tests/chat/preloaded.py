"""The example's application, the channel layer of which was in use before the server forked.

Gunicorn's ``--preload`` imports this once, in the process that the workers are forked from.
"""
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from mysite.asgi import application  # noqa: F401 (what the server is pointed at)

layer = get_channel_layer()
name = async_to_sync(layer.new_channel)()
async_to_sync(layer.group_add)("chat-before-the-fork", name)
async_to_sync(layer.group_send)("chat-before-the-fork", {"type": "room.show"})
async_to_sync(layer.group_discard)("chat-before-the-fork", name)
