"""The websocket side: one RoomConsumer for each page that is open.

A page sends JSON objects, whose ``kind`` is one of RoomConsumer.kinds, and gets objects whose
``kind`` is ``hello``, ``line``, ``announcement``, ``picture``, ``present``, ``job`` or
``error``. The room's group carries what all pages of a room get; a page's own channel carries
what only that page gets, such as the progress of a picture.
"""
import json
import os

from channels.exceptions import ChannelFull
from channels.generic.websocket import AsyncJsonWebsocketConsumer

from chat import presence
from chat.painting import PICTURES
from chat.rooms import MAX_NAME, MAX_TEXT, MAX_WORDS, NOBODY, group_name, line_message

MAX_FRAME = 20000  # characters; the longest text fits, also with each of its own escaped
MAX_ID = 64  # characters


class BadFrame(Exception):
    """What a page sent is not what this site's page sends; says what was expected."""


class RoomConsumer(AsyncJsonWebsocketConsumer):
    """One page in one room."""

    async def connect(self):
        self.room = self.scope["url_route"]["kwargs"]["room"]
        self.name = NOBODY
        # Into the group before the page hears of it, so that it misses nothing.
        await self.channel_layer.group_add(group_name(self.room), self.channel_name)
        await self.accept()
        port = (self.scope.get("server") or (None, None))[1]
        await self.send_json({"kind": "hello", "process": os.getpid(), "port": port})
        presence.enter(self)

    async def send_json(self, content, close=False):
        """To the page, if it is there still."""
        try:
            await super().send_json(content, close)
        except OSError:
            # That says it has gone (ASGI 2.4). We are about to hear of it by disconnect(); who
            # raises before that never does, and stays in the room until its membership expires.
            pass

    async def disconnect(self, code):  # noqa: ARG002 (Channels' signature)
        await self.channel_layer.group_discard(group_name(self.room), self.channel_name)
        await presence.leave(self)

    # -- from the page ---------------------------------------------------------------

    async def receive(self, text_data=None, bytes_data=None):  # noqa: ARG002 (Channels' signature)
        line_id = None
        try:
            content = read_frame(text_data)
            line_id = content.get("id")
            await self.kinds[content["kind"]](self, content)
        except BadFrame as error:
            await self.send_json({"kind": "error", "id": line_id, "text": str(error)})

    async def call_me(self, content):
        """The name of whoever sits at the page, which goes with what they say."""
        self.name = text_in(content, "name", MAX_NAME)
        presence.enter(self)

    async def say(self, content):
        """A line for everyone in the room, its speaker too, who knows it by its id."""
        line_id, text = text_in(content, "id", MAX_ID), text_in(content, "text", MAX_TEXT)
        message = line_message(self.name, text, line_id)
        await self.channel_layer.group_send(group_name(self.room), message)

    async def paint(self, content):
        """A picture, which takes a while: a worker is asked, and reports to our own channel."""
        job, words = text_in(content, "id", MAX_ID), text_in(content, "words", MAX_WORDS)
        order = {"type": "paint", "job": job, "words": words, "name": self.name}
        order.update(group=group_name(self.room), asker=self.channel_name)
        try:
            await self.channel_layer.send(PICTURES, order)
        except ChannelFull:
            text = "The painter has too much to do. Try again in a minute."
            await self.send_json({"kind": "error", "id": job, "text": text})
        else:
            await self.send_json({"kind": "job", "id": job, "state": "waiting", "percent": 0})

    kinds = {"name": call_me, "say": say, "paint": paint}

    # -- from the layer: the method is the message's "type" with an underscore ---------

    async def room_show(self, event):
        """Something for the whole room, ready to be shown."""
        await self.send_json(event["content"])

    async def room_present(self, event):
        """Who is in the room, as far as one server process knows."""
        presence.heard(self.room, event)
        await self.send_json({"kind": "present", **event["content"]})

    async def job_progress(self, event):
        """A worker on what this page asked for."""
        await self.send_json({"kind": "job", **event["content"]})


def read_frame(text):
    """A dict of a kind that RoomConsumer knows, from what a page sent.

    :raises BadFrame: it is anything else, such as None for binary frames.
    """
    if text is None or len(text) > MAX_FRAME:
        raise BadFrame(f"Expected text of at most {MAX_FRAME} characters.")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    kind = content.get("kind") if isinstance(content, dict) else None
    if not isinstance(kind, str) or kind not in RoomConsumer.kinds:
        kinds = ", ".join(RoomConsumer.kinds)
        raise BadFrame(f"Expected a JSON object whose “kind” is one of: {kinds}.")
    return content


def text_in(content, field, longest):
    """A string of ``content``, stripped.

    :raises BadFrame: it is missing, empty or too long.
    """
    text = content.get(field)
    text = text.strip() if isinstance(text, str) else ""
    # Half of a surrogate pair is JSON, and is no text that could be sent on.
    text = text.encode("utf-8", "replace").decode("utf-8")
    if not text or len(text) > longest:
        raise BadFrame(f"“{field}” has to be text of 1 to {longest} characters.")
    return text
