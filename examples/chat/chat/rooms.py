"""What a room and a person may be called, and the messages that go to a whole room.

The one place that addresses, groups, consumers and the management command agree on. It needs
neither Django nor Channels.
"""
import os
import time
import uuid

ROOM_PATTERN = r"(?P<room>[a-z0-9-]{1,40})"
LOBBY = "lobby"
MAX_NAME = 40  # characters
MAX_TEXT = 2000  # characters
MAX_WORDS = 80  # characters, of what a picture is painted from
NOBODY = "Somebody"


def group_name(room):
    """The group that all who are in a room belong to."""
    return f"chat-{room}"


def line_message(name, text, line_id, kind="line"):
    """What somebody said, for a room's group; ``type`` names RoomConsumer's method.

    :param line_id: of the page's choice, by which it knows its own line again.
    """
    line = {"kind": kind, "id": line_id, "name": name, "text": text}
    line.update(sent=time.time(), process=os.getpid())
    return {"type": "room.show", "content": line}


def announcement_message(text):
    """What the management says to a room."""
    return line_message("Announcement", text, uuid.uuid4().hex, kind="announcement")
