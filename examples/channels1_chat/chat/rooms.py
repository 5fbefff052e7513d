"""What a room may be called, and the group that carries it.

The one place that URLs, websocket paths and groups agree on. A room's name is used in a
group's name, so it keeps to characters and a length that the channel layer accepts.
"""
from __future__ import unicode_literals

ROOM_PATTERN = r"(?P<room>[a-z0-9-]{1,40})"
LOBBY = "lobby"


def group_name(room):
    """The name of the group that all who are in ``room`` belong to."""
    return "chat-%s" % room
