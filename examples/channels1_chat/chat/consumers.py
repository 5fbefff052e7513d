# -*- coding: utf-8 -*-
"""The websocket side: who joins a room, what is said there, who leaves it.

Each consumer runs in whichever worker is free. ``enforce_ordering`` makes the workers take
one connection's messages in the order in which they were sent, which has two consequences:

* a consumer must not raise on what a client sent, or that connection would stand still;
* what is said goes to the group ``immediately``, for Channels would otherwise send it after
  the next message of the same connection had been given to another worker.
"""
from __future__ import unicode_literals

import json
import time

from channels import Group
from channels.exceptions import DenyConnection
from channels.security.websockets import allowed_hosts_only
from channels.sessions import enforce_ordering
from django.utils import six

from chat.rooms import group_name

MAX_NAME = 40  # characters
MAX_TEXT = 2000  # characters


@enforce_ordering
@allowed_hosts_only
def connect(message, room):
    """Someone opens the page: into the group first, so that they miss nothing."""
    Group(group_name(room)).add(message.reply_channel)
    message.reply_channel.send({"accept": True})


@enforce_ordering
def receive(message, room):
    """Someone says something: everyone in the room hears it, the speaker too."""
    try:
        line = parse_line(message.content.get("text"))
    except ValueError as error:
        answer = {"kind": "error", "text": six.text_type(error)}
        message.reply_channel.send({"text": json.dumps(answer)})
        return
    line.update(kind="line", sent=time.time())
    Group(group_name(room)).send({"text": json.dumps(line)}, immediately=True)


@enforce_ordering
def disconnect(message, room):
    """Someone closed the page, or their connection broke."""
    Group(group_name(room)).discard(message.reply_channel)


def refuse(message):  # noqa: ARG001 (Channels passes it to every consumer)
    """A websocket on a path that is no room."""
    raise DenyConnection()


def parse_line(frame):
    """``{"name": ..., "text": ...}`` from what a browser sent.

    :raises ValueError: with a text to show to whoever sent it.
    """
    try:
        fields = json.loads(frame)
        name, text = fields["name"].strip(), fields["text"].strip()
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError("Expected a JSON object with the strings “name” and “text”.")
    if not name or len(name) > MAX_NAME:
        raise ValueError("A name has 1 to %d characters." % MAX_NAME)
    if not text or len(text) > MAX_TEXT:
        raise ValueError("A message has 1 to %d characters." % MAX_TEXT)
    return {"name": name, "text": text}
