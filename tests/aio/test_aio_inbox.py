"""What a process holds for its own channels: in order, bounded, and gone when nobody wants it."""
import asyncio
import logging
import random
import sys
import threading
import time
from collections import deque

import pytest
from aiokit import SOON, end, in_thread, never, soon, started, until

from asgi_ipc import names
from asgi_ipc._shm.clock import SECOND
from asgi_ipc.drops import Drops
from asgi_ipc.errors import ChannelFull
from asgi_ipc.inbox import BATCH, Inbox
from asgi_ipc.process import UNREAD

HELLO = {"type": "test.message"}


@pytest.fixture
def own_layers(open_layer):
    """A layer, and another that is to it as another process."""
    return open_layer(capacity=5), open_layer(capacity=5)


def sizes(layer):
    """(channels with buffers, messages in them, messages posted)."""
    inbox = layer._process.inbox
    return (
        len(inbox.channels()),
        len(inbox._single) + sum(len(buffer) for buffer in inbox._buffers.values()),
        sum(len(posted) for posted in inbox._posted.values()),
    )


# -- order -----------------------------------------------------------------------------------


async def test_order_over_shared_memory_and_what_is_posted(own_layers):
    # From inside, outside, inside: what is posted may not overtake what lies in shared memory.
    layer, outside = own_layers
    channel = await layer.new_channel()
    await outside.send(channel, {"n": 0})
    assert await soon(layer.receive(channel)) == {"n": 0}
    await layer.send(channel, {"n": 1})
    assert sizes(layer) == (0, 0, 1)
    await layer.send(channel, {"n": 2})
    await outside.send(channel, {"n": 3})
    await layer.send(channel, {"n": 4})
    # The last one went behind the one from outside.
    assert sizes(layer) == (0, 0, 2)
    assert [(await soon(layer.receive(channel)))["n"] for _ in range(4)] == [1, 2, 3, 4]
    await layer.send(channel, {"n": 5})
    assert sizes(layer) == (0, 0, 1)
    assert await soon(layer.receive(channel)) == {"n": 5}


async def test_order_by_chance(own_layers, campaign):
    # Sends from inside and outside, to channels and groups, and receives: as a list would.
    layer, outside = own_layers
    channels = [await layer.new_channel() for _ in range(3)]
    for channel in channels[:2]:
        await layer.group_add("room", channel)
    chance = random.Random(campaign.random.random())
    expected = {channel: deque() for channel in channels}
    full = 0
    for number in range(campaign.amount(2000, 100000)):
        message, sender = {"n": number}, chance.choice([layer, outside])
        channel = chance.choice(channels)
        targets = channels[:2] if chance.random() < 0.2 else [channel]
        if chance.random() < 0.6 and all(len(expected[target]) < 5 for target in targets):
            dropped = sender._process._drops.total
            try:
                if len(targets) > 1:
                    await sender.group_send("room", message)
                else:
                    await sender.send(channel, message)
            except ChannelFull:
                full += 1
                continue
            if sender._process._drops.total > dropped:
                full += 1
                continue
            for target in targets:
                expected[target].append(message)
        elif expected[channel]:
            assert await soon(layer.receive(channel)) == expected[channel].popleft()
    campaign.note("{0} operations, {1} of them refused for capacity".format(number + 1, full))
    for channel in channels:
        while expected[channel]:
            assert await soon(layer.receive(channel)) == expected[channel].popleft()
        await never(layer.receive(channel), 0.05)
    assert sizes(layer) == (0, 0, 0)


async def test_a_batch_is_sorted_to_its_channels(open_layer):
    layer, outside = open_layer(capacity=1000), open_layer(capacity=1000)
    channels = [await layer.new_channel() for _ in range(3)]
    total = 2 * BATCH + 10
    for number in range(total):
        await outside.send(channels[number % 3], {"n": number})
    waiting = [await started(layer.receive(channel)) for channel in channels]
    got = {channel: [] for channel in channels}
    for channel, receive in zip(channels, waiting):
        got[channel].append((await soon(receive))["n"])
    for number in range(3, total):
        channel = channels[number % 3]
        got[channel].append((await soon(layer.receive(channel)))["n"])
    for start, channel in enumerate(channels):
        assert got[channel] == list(range(start, total, 3))


@pytest.mark.usefixtures("no_looks")
async def test_a_full_batch_wakes_all_who_wait(open_layer, open_far):
    # More records than are taken at a time, and one of them for each who waits.
    layer, far = open_layer(capacity=1000), open_far(capacity=1000)
    channels = [await layer.new_channel() for _ in range(3 * BATCH)]
    waiting = [await started(layer.receive(channel)) for channel in channels]
    await asyncio.sleep(0.05)
    await asyncio.gather(*[far.send(channel, {"to": channel}) for channel in channels])
    for channel, receive in zip(channels, waiting):
        assert await soon(receive) == {"to": channel}


# -- bounds ----------------------------------------------------------------------------------


class Source:
    """In place of the stores: records as a test wants them."""

    def __init__(self, capacity=100):
        self.messages = self
        self.records = []
        self.capacity = capacity
        self.lapsed = deque()

    def quiet(self, _):
        return not self.records

    def receive_batch(self, _, limit):
        taken, self.records = self.records[:limit], self.records[limit:]
        return taken

    def capacity_of(self, _):
        return self.capacity


class Open:
    """In place of the gate: always open."""

    def run(self, work, *arguments):
        return work(*arguments)


@pytest.fixture
def source():
    return Source()


@pytest.fixture
def inbox(source):
    return Inbox(source, Open(), lambda *_: None, lambda *_: None, Drops(UNREAD))


def test_a_buffer_respects_capacity(source, inbox, caplog):
    later = 10**18
    source.records = [("x\ny", b"%d" % number, later) for number in range(10000)]
    while source.records:
        inbox.drain("p!")
    assert [len(buffer) for buffer in inbox._buffers.values()] == [100, 100]
    # The latest are kept.
    for local in ("x", "y"):
        got = [inbox.take("p!" + local, "p!", local) for _ in range(100)]
        assert got == [b"%d" % number for number in range(9900, 10000)]
    assert not inbox
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 1
    assert "channels of p!" in texts[0]
    assert "p!x" in texts[0] or "p!y" in texts[0]


def test_what_is_posted_respects_capacity(inbox):
    later = 10**18
    for number in range(5):
        assert inbox.post("p!", ("x", b"%d" % number, later), 5, at_once=False)
    assert not inbox.post("p!", ("y", b"5", later), 5, at_once=False)
    assert inbox.post("q!", ("x", b"6", later), 5, at_once=False)
    assert [inbox.take("p!x", "p!", "x") for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
    assert inbox.post("p!", ("y", b"7", later), 5, at_once=False)


def test_what_is_posted_and_expired_makes_room(source, inbox):
    assert inbox.post("p!", ("x\ny", b"0", 1), 1, at_once=False)
    assert inbox.post("p!", ("z", b"1", 10**18), 1, at_once=False)
    assert list(source.lapsed) == ["p!x", "p!y"]
    assert inbox.take("p!x", "p!", "x") is None
    assert inbox.take("p!z", "p!", "z") == b"1"


def test_what_has_expired_is_not_handed_out(source, inbox):
    now = time.monotonic_ns()
    source.records = [
        ("x", b"old", now - 1), ("x\ny", b"new", now + 100 * SECOND), ("y", b"old", now - 1)
    ]
    inbox.drain("p!")
    assert inbox.take("p!x", "p!", "x") == b"new"
    assert inbox.take("p!x", "p!", "x") is None
    # Only from the front, as in shared memory.
    assert inbox.take("p!y", "p!", "y") == b"new"
    assert inbox.take("p!y", "p!", "y") is None
    assert not inbox
    assert not source.lapsed


def test_expire(source, inbox):
    source.records = [("x", b"1", 10), ("x", b"2", 20), ("y", b"3", 30)]
    inbox.drain("p!")
    inbox.post("q!", ("z", b"4", 15), 9, at_once=False)
    inbox.post("q!", ("w", b"5", 40), 9, at_once=False)
    inbox.expire(9)
    assert not source.lapsed
    inbox.expire(15)
    assert sorted(source.lapsed) == ["p!x", "q!z"]
    assert inbox._buffers["p!x"] == [(20, b"2")]
    inbox.expire(35)
    assert list(inbox._posted) == ["q!"]
    assert not inbox.channels()
    inbox.expire(40)
    assert not inbox
    assert sorted(set(source.lapsed)) == ["p!x", "p!y", "q!w", "q!z"]


def test_one_that_enters_again(source, inbox):
    # A finalizer that receives, called while the inbox is at work: no deadlock, nothing lost.
    source.records = [("x", b"1", 10**18), ("x", b"2", 10**18), ("y", b"3", 10**18)]
    inner = []

    def receive_batch(queue, limit):
        del source.receive_batch
        inner.append(inbox.take("p!x", "p!", "x"))
        return source.receive_batch(queue, limit)

    source.receive_batch = receive_batch
    assert inbox.take("p!y", "p!", "y") in (b"3", None)
    assert inner == [b"1"]
    assert inbox.take("p!x", "p!", "x") == b"2"


class Meddling(dict):
    """A dict of which another thread takes something just before a call of ``pop``."""

    def __init__(self, inbox, channel):
        super().__init__()
        self.got = []
        self._inbox = inbox
        self._channel = channel

    def pop(self, channel, *default):
        if self._channel is not None:
            other, self._channel = self._channel, None
            in_thread(lambda: self.got.append(super(Meddling, self).pop(other, None)))
        return super().pop(channel, *default)


def test_taken_by_another_thread_while_the_next_one_is_sorted(source, inbox):
    source.records = [("x", b"1", 10**18)]
    inbox._single = single = Meddling(inbox, None)
    inbox.drain("p!")
    single._channel = "p!x"
    source.records = [("x", b"2", 10**18), ("x", b"3", 10**18)]
    inbox.drain("p!")
    assert single.got == [(10**18, b"1")]
    assert [inbox.take("p!x", "p!", "x") for _ in range(3)] == [b"2", b"3", None]
    assert not inbox


def test_sorted_in_one_thread_and_taken_in_others(source, inbox, campaign):
    total, later = campaign.amount(20000, 500000), 10**18
    source.capacity = total
    channels = ["p!x", "p!y"]
    got = {channel: [] for channel in channels}
    done = threading.Event()

    def take(channel):
        while not done.is_set() or channel in inbox:
            payload = inbox.take(channel, "p!", channel[2:])
            if payload is not None:
                got[channel].append(payload)

    threads = [threading.Thread(target=take, args=(channel,)) for channel in channels]
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for number in range(0, total, 4):
            expected = [b"%d" % each for each in range(number, number + 4)]
            with inbox._lock:
                inbox._sort("p!", [("x\ny", each, later) for each in expected])
    finally:
        done.set()
        for thread in threads:
            thread.join(SOON)
        sys.setswitchinterval(usual)
    assert got == {channel: [b"%d" % each for each in range(total)] for channel in channels}
    assert not inbox


async def test_nothing_there_needs_no_lock(layer):
    channel = await layer.new_channel()
    waiting = await started(layer.receive(channel))
    inbox = layer._process.inbox
    with_lock, inbox._lock = inbox._lock, None
    try:
        assert inbox.take(channel, *names.split_local(channel)) is None
    finally:
        inbox._lock = with_lock
    await end(waiting)


# -- gone by itself --------------------------------------------------------------------------


async def test_a_buffer_that_nobody_reads_vanishes(open_layer, open_far):
    layer, far = open_layer(expiry=0.5), open_far(expiry=0.5)
    gone = [await layer.new_channel() for _ in range(10)]
    alive = await layer.new_channel()
    for channel in [*gone, alive]:
        await layer.group_add("room", channel)
    for sender in (layer, far):
        waiting = await started(layer.receive(alive))
        await asyncio.sleep(0.05)
        await sender.group_send("room", HELLO)
        assert await soon(waiting) == HELLO
        assert sizes(layer) == (10, 10, 0)
        # Nothing is called; the second look after the expiry finds them.
        await until(lambda: sizes(layer) == (0, 0, 0), 5)
        await until(lambda: layer._stores.groups.members("room") == [alive], 5)
        await until(lambda: not layer._process._loops._seats, 5)
        for channel in gone:
            await layer.group_add("room", channel)


async def test_a_receiver_that_is_late_stays_in_its_groups(open_layer):
    # It reads, if slowly: what it missed is lost, its membership is not.
    layer, outside = open_layer(expiry=0.4), open_layer(expiry=0.4)
    slow, other = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("room", slow)
    waiting = await started(layer.receive(other))
    await outside.send(slow, HELLO)
    await outside.send(other, HELLO)
    assert await soon(waiting) == HELLO
    assert sizes(layer) == (1, 1, 0)
    await asyncio.sleep(0.45)
    await never(layer.receive(slow), 0.05)
    assert layer._stores.groups.members("room") == [slow]


async def test_a_slow_reader_costs_others_nothing(open_layer, open_far, caplog):
    layer, far = open_layer(capacity=10), open_far(capacity=10)
    slow, quick = await layer.new_channel(), await layer.new_channel()
    for channel in (slow, quick):
        await layer.group_add("room", channel)
    with caplog.at_level(logging.WARNING, logger="asgi_ipc"):
        for number in range(50):
            waiting = await started(layer.receive(quick))
            await far.group_send("room", {"n": number})
            assert await soon(waiting) == {"n": number}
    assert sizes(layer) == (1, 10, 0)
    assert layer._process.inbox.drops.total == 40
    texts = [record.getMessage() for record in caplog.records if record.name == "asgi_ipc"]
    assert len(texts) == 1
    assert slow in texts[0]
    assert [(await soon(layer.receive(slow)))["n"] for _ in range(10)] == list(range(40, 50))


# -- the loop gets its turn ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["own", "normal"])
async def test_a_burst_lets_the_loop_breathe(open_layer, kind):
    layer = open_layer(capacity=1000)
    channel = await layer.new_channel() if kind == "own" else "normal"
    for number in range(500):
        await layer.send(channel, {"n": number})
    beats = 0

    async def beat():
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(0)

    beating = asyncio.ensure_future(beat())
    for number in range(500):
        assert await layer.receive(channel) == {"n": number}
    assert beats >= 10
    await end(beating)
