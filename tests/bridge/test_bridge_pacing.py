"""A burst, and queues that are full: who is waited for, how long, and at whose cost."""
import asyncio
import os
import threading
import time

import pytest

pytest.importorskip("redis", reason="NO BRIDGE WAS TESTED: redis-py is not installed")

from bridgekit import Machine
from processkit import eventually

from asgi_ipc import routing
from asgi_ipc._shm import clock
from asgi_ipc.bridge.envelope import GROUPS, Sealer
from asgi_ipc.bridge.incoming import Incoming
from asgi_ipc.bridge.link import State
from asgi_ipc.bridge.pacing import EARNED, LONGEST, MANY, PAUSE, Pacing
from asgi_ipc.bridge.station import Station

CAPACITY = 100
"""What the bridge has by default."""

EXPIRY = 60 * clock.SECOND
THEM = 0x0123456789AB


class Time:
    """A clock that a pause moves on."""

    now = 10 ** 12

    def __call__(self):
        return self.now


@pytest.fixture
def time_():
    return Time()


def waited(pacing, time_, queues, most=100 * LONGEST):
    """How long it waits while queues stay as they are; ns."""
    begun = time_.now
    while pacing.waits(queues) and time_.now - begun < most:
        time_.now += PAUSE
    return time_.now - begun


def test_a_queue_of_which_nothing_is_taken_is_waited_for_once(time_):
    pacing = Pacing(EXPIRY, time_)
    assert waited(pacing, time_, {"a": 5}) == LONGEST
    assert waited(pacing, time_, {"a": 5}) == 0
    assert waited(pacing, time_, {"a": 5, "b": 0}) == LONGEST
    assert waited(pacing, time_, {"a": 5, "b": 0}) == 0
    assert waited(pacing, time_, {"a": 6}) == EARNED
    time_.now += EXPIRY
    assert waited(pacing, time_, {"a": 6}) == LONGEST


def test_who_gets_on_fast_enough_is_waited_for(time_):
    pacing = Pacing(EXPIRY, time_)
    for gone in range(1000):
        assert pacing.waits({"a": gone})
        time_.now += PAUSE


def test_who_is_slow_does_not_hold_up_the_others_for_long(time_):
    pacing = Pacing(EXPIRY, time_)
    found = [waited(pacing, time_, {"a": gone}, 3 * EARNED) for gone in range(1000)]
    assert found[0] == found[10] == 3 * EARNED
    assert found[-1] == EARNED
    assert sum(found) < 2 * LONGEST + 1000 * EARNED


def test_what_it_remembers_is_bounded(time_):
    pacing = Pacing(EXPIRY, time_)
    for number in range(10 * MANY):
        pacing.waits({str(number): 0})
        time_.now += EXPIRY // 500
    assert len(pacing._queues) <= MANY


class Stream:
    """A link that has these entries for groups: (group, number)."""

    def __init__(self, entries):
        self._entries = [
            ((1, number), Sealer(1000, 60000).seal(
                GROUPS, THEM, 60000, routing.routing(routing.GROUP, group).encode(), b"\x80"
            ))
            for number, group in enumerate(entries, 2)
        ]  # fmt: skip

    def now(self):
        return 1.0

    async def state(self, streams):
        return State(-1, 1, False, [None for _ in streams])

    async def read(self, last, count):
        await asyncio.sleep(0)
        return [(GROUPS, [one for one in self._entries if one[0] > last[GROUPS]])]


ROOM = 2
"""Messages that the bridge puts into a queue before it waits: half of its capacity."""


@pytest.fixture
def here():
    machine = Machine("pacing{0}".format(os.getpid()), "", "", capacity=ROOM * 2)
    yield machine
    machine.close()


def delivered(machine, entries, meanwhile):
    """Have entries delivered, while a coroutine of this machine runs; it says when to end."""

    async def run():
        station = Station(machine.layer._stores, EXPIRY, 100)
        incoming = Incoming(station, Stream(entries), Sealer(1000, 60000))
        await incoming.settle()
        pump = asyncio.ensure_future(incoming.pump())
        try:
            return await meanwhile(station)
        finally:
            pump.cancel()
            await asyncio.wait([pump])
            station.close(clean=False)

    return asyncio.run(asyncio.wait_for(run(), 20))


async def until_delivered(station, number):
    for _ in range(20000):
        if station.messages.last_id(0) >= (1, number):
            return
        await asyncio.sleep(0.001)
    raise AssertionError("entry {0} was not delivered".format(number))


def test_nothing_is_noted_before_it_is_delivered_to_all(here):
    reader, other = here.member("room"), here.member("room")

    async def meanwhile(station):
        await until_delivered(station, 3)
        await asyncio.sleep(0.05)
        # The third one waits; this loop does not.
        seen = station.messages.last_id(0)
        here.receive(reader, 0)
        here.receive(reader, 0)
        waits = [here.receive(other, 0) for _ in range(3)]
        await until_delivered(station, 4)
        return seen, waits

    seen, waits = delivered(here, ["room"] * 3, meanwhile)
    assert seen == (1, 3)
    assert waits == [{}, {}, None]
    for member in (reader, other):
        assert here.receive(member, 0) == {}
        assert here.receive(member, 0) is None
    assert here.layer.channel_statistics(reader)["channel_full_count"] == 0


def test_a_dead_one_costs_one_wait(here):
    dead = here.member("room")
    alive = here.member("room")
    count = 50

    async def meanwhile(station):
        had, begun = 0, time.monotonic()
        while station.messages.last_id(0) < (1, count + 1):
            had += here.receive(alive, 0) is not None
            await asyncio.sleep(0)
        return had, time.monotonic() - begun

    had, took = delivered(here, ["room"] * count, meanwhile)
    while here.receive(alive, 0) is not None:
        had += 1
    assert had == count
    assert here.layer.channel_statistics(dead)["channel_full_count"] == count - 2 * ROOM
    # Once, and not forty-eight times.
    assert 0.5 < took < 10


class Reader(threading.Thread):
    """Takes what comes for a member, and does something with it that takes a while."""

    def __init__(self, machine, member, takes):
        super().__init__(daemon=True)
        self.had = []
        self._machine = machine
        self._member = member
        self._takes = takes

    def run(self):
        while not self.had or self.had[-1] != "end":
            self.had.append(self._machine.receive(self._member)["n"])
            time.sleep(self._takes)


def burst(machines, server, count):
    """Have so many messages come to the second machine at once; a reader, and one that is dead."""
    here, there = machines(2)
    reader, dead = Reader(there, there.member("room"), 0.002), there.member("hall")
    server.freeze()
    for number in range(count):
        here.layer.send_group("room", {"n": number})
        here.layer.send_group("hall", {"n": number})
    here.layer.send_group("room", {"n": "end"})
    server.thaw()
    reader.start()
    reader.join(40)
    return there, reader, dead


def test_a_burst_beyond_capacity(machines, server):
    """A reader who gets on misses nothing; what a dead one misses is counted, and told."""
    count = 10 * CAPACITY
    there, reader, dead = burst(machines, server, count)
    assert reader.had == [*range(count), "end"]
    figures = there.layer.channel_statistics(dead)
    assert figures["messages_pending"] == CAPACITY
    assert figures["channel_full_count"] == count - CAPACITY
    assert "dropped, channels full" in eventually(there.bridges[0].log, "its word")
