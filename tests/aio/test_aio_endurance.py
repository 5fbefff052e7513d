"""A hundred thousand browsers that come and go leave nothing behind (a tenth of that by default).

Each joins a room, waits for messages, gets some or none, and goes: properly, or without leaving
its room, or with a message that it has not read, or before it has got anywhere. After the expiry
times there must be nothing of it: no buffer, queue, name, entry or membership. What is counted is
Python's memory blocks, and the segments' own figures.
"""
import asyncio
import gc
import sys

import pytest
from aiokit import descriptors, end, run, soon, started, until

from asgi_ipc import groups, routes

HELLO = {"type": "test.message", "text": "Ahoy"}
ROOMS = ["room.{0}".format(number) for number in range(20)]
AT_ONCE = 50


class Visits:
    """Browsers of one process."""

    def __init__(self, layer, far, chance):
        self.layer = layer
        self.far = far
        self.chance = chance
        self.received = self.cancelled = 0

    async def visit(self):
        layer, chance = self.layer, self.chance
        channel = await layer.new_channel()
        room = chance.choice(ROOMS)
        await layer.group_add(room, channel)
        for _ in range(chance.randrange(3)):
            receive = asyncio.ensure_future(layer.receive(channel))
            if chance.random() < 0.5:
                await asyncio.sleep(0)
            if chance.random() < 0.3:
                await layer.send(channel, HELLO)
            elif chance.random() < 0.3:
                await layer.group_send(room, HELLO)
            done, _ = await asyncio.wait([receive], timeout=0.001 * chance.randrange(3))
            if done:
                assert receive.result() == HELLO
                self.received += 1
            else:
                receive.cancel()
                await asyncio.wait([receive])
                self.cancelled += receive.cancelled()
        if chance.random() < 0.2:
            # It goes with a message unread.
            await layer.send(channel, HELLO)
        if chance.random() < 0.5:
            await layer.group_discard(room, channel)

    async def many(self, count):
        for _ in range(count // AT_ONCE):
            visits = [asyncio.ensure_future(self.visit()) for _ in range(AT_ONCE)]
            await self.far.group_send(self.chance.choice(ROOMS), HELLO)
            await asyncio.gather(*visits)

    async def settle(self):
        """Let all expire that is left, as whoever stays sees to it."""
        layer = self.layer
        await until(lambda: not layer._process.inbox, 20)
        await until(lambda: not layer._process._loops._seats, 20)
        await asyncio.sleep(1.1)
        # Expired memberships end when they are met.
        for room in ROOMS:
            await layer.group_send(room, HELLO)
        gc.collect()


def used(layer):
    """What is in use: Python's blocks, and what both segments have in them."""
    messages = layer._stores.messages
    return {
        "blocks": sys.getallocatedblocks(),
        "pending": messages.global_statistics()["messages_pending"],
        "message bytes": messages.memory()["messages"],
        "entries": messages._directory.slots.high,
        "memberships": layer._stores.groups.statistics()["memberships"],
        "cells": layer._stores.groups._inside.cells.slots.high,
        "descriptors": descriptors(),
    }


@pytest.mark.slow
def test_browsers_that_come_and_go(open_layer, open_far, campaign, monkeypatch):
    # What a process remembers of names is bounded; make that small enough to be reached.
    monkeypatch.setattr(routes.Routes, "limit", 100)
    monkeypatch.setattr(groups, "KNOWN_NAMES", 100)
    options = {"expiry": 0.3, "group_expiry": 1, "capacity": 100000}
    layer, far = open_layer(**options), open_far(**options)
    visits = Visits(layer, far, campaign.random)
    count = campaign.amount(10000, 100000)

    async def main():
        await visits.many(1000)
        await visits.settle()
        before = used(layer)
        await visits.many(count)
        at_once = used(layer)
        await visits.settle()
        return before, at_once, used(layer)

    before, at_once, after = run(main())
    campaign.note(
        "{0} visits, {1} messages received, {2} receives cancelled; blocks {3}, {4} at the end, "
        "{5} after the expiry; membership cells {6}, {7}".format(
            count, visits.received, visits.cancelled, before["blocks"], at_once["blocks"],
            after["blocks"], before["cells"], after["cells"]
        )
    )  # fmt: skip
    assert visits.received
    assert visits.cancelled
    for name in ("pending", "message bytes", "memberships"):
        assert after[name] == 0, name
    assert after["entries"] == before["entries"]
    assert after["descriptors"] <= before["descriptors"] + 1
    # One for each visit would be ten times that; a few hundred come and go with those names.
    assert after["blocks"] - before["blocks"] < 1000
    assert layer._process._loops._owed == []
    assert layer._stores.messages._waiting == set()
    assert len(layer._stores.messages._idle_waiters) <= 1


@pytest.mark.slow
def test_a_receiver_that_waits_all_the_time(open_layer, open_far, campaign):
    # Messages without end to one channel, among others that come and go.
    layer, far = open_layer(), open_far()
    count = campaign.amount(2000, 50000)

    async def messages(number):
        own = await layer.new_channel()
        for turn in range(number):
            waiting = await started(layer.receive(own))
            passing = await started(layer.receive("normal"))
            await (layer, far)[turn % 2].send(own, {"n": turn})
            assert await soon(waiting) == {"n": turn}
            await end(passing)

    async def main():
        await messages(500)
        gc.collect()
        before = used(layer)
        await messages(count)
        gc.collect()
        return before, used(layer)

    before, after = run(main())
    campaign.note("blocks {0}, then {1}".format(before["blocks"], after["blocks"]))
    assert after["blocks"] - before["blocks"] < 1000
    assert after["entries"] == before["entries"]
    assert after["descriptors"] <= before["descriptors"]
