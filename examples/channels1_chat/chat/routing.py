"""Which consumer takes which message. Plain HTTP goes to Django's views by default."""
from __future__ import unicode_literals

from channels.routing import route

from chat import consumers
from chat.rooms import ROOM_PATTERN

_PATH = r"^/ws/%s/$" % ROOM_PATTERN

channel_routing = [
    route("websocket.connect", consumers.connect, path=_PATH),
    route("websocket.receive", consumers.receive, path=_PATH),
    route("websocket.disconnect", consumers.disconnect, path=_PATH),
    # Channels would accept sockets on every other path as well.
    route("websocket.connect", consumers.refuse),
]
