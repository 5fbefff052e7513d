"""Who is in a room, with no database: each server process tells what it knows.

A process keeps the names of its own connections. It tells the room's pages when they change,
at most every PAUSE seconds, and every BEAT seconds besides; the pages add up what the
processes tell, and forget a process that has been silent, as one that was killed is. A process
with newcomers asks the others to tell as well.

So the cost is one message for each process now and then, not one for each pair of people.
"""
import asyncio
import os

from channels.layers import get_channel_layer

from chat.rooms import group_name

PAUSE = 0.3  # seconds
BEAT = 5  # seconds; chat.js forgets a process after FORGET, more than twice this
NAMES_TOLD = 50  # names in one message; beyond that only the count is right

_rosters = {}


class Roster:
    """Those who are in one room by way of this process."""

    def __init__(self, room):
        self.names = {}  # by channel name
        self._group = group_name(room)
        self._asking = False
        self._timer = None
        self._task = None

    def put(self, channel_name, name):
        self._asking = self._asking or channel_name not in self.names
        self.names[channel_name] = name
        self.tell_soon()

    def tell_soon(self, delay=PAUSE):
        """Tell after a while, unless that is going to happen earlier anyway."""
        loop = asyncio.get_running_loop()
        if self._timer is not None and self._timer.when() <= loop.time() + delay:
            return
        self.be_silent()
        self._timer = loop.call_later(delay, self._start_telling)

    def _start_telling(self):
        self._timer = None
        # Kept, because the loop alone does not keep a task from being collected.
        self._task = asyncio.ensure_future(self.tell())

    async def tell(self):
        names = sorted(self.names.values())
        content = {"process": os.getpid(), "count": len(names), "names": names[:NAMES_TOLD]}
        event = {"type": "room.present", "asking": self._asking, "content": content}
        self._asking = False
        if names:
            self.tell_soon(BEAT)
        await get_channel_layer().group_send(self._group, event)

    def be_silent(self):
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def enter(consumer):
    """Somebody came, or changed their name."""
    roster = _rosters.get(consumer.room)
    if roster is None:
        roster = _rosters[consumer.room] = Roster(consumer.room)
    roster.put(consumer.channel_name, consumer.name)


async def leave(consumer):
    """Somebody left."""
    roster = _rosters.get(consumer.room)
    if roster is None:
        return
    roster.names.pop(consumer.channel_name, None)
    if roster.names:
        roster.tell_soon()
        return
    # The last one: there is nobody here to tell it later.
    del _rosters[consumer.room]
    roster.be_silent()
    await roster.tell()


def heard(room, event):
    """Some process told; if it asked, tell as well."""
    roster = _rosters.get(room)
    if roster is not None and event["asking"] and event["content"]["process"] != os.getpid():
        roster.tell_soon()
