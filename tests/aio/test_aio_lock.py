"""A process that is stopped with the lock in its hand: the loop goes on, and later all the rest.

The holder is a live process that has got in and does not come out (as one that is stopped, or
in a debugger). What wants the lock tries for ``lock_timeout``, and lets the loop run between.
"""
import asyncio
import os
import re
import signal
import sys
import time

import pytest
from aiokit import end, soon, started, until
from channels.exceptions import ChannelFull
from storekit import Child

from asgi_ipc import gate
from asgi_ipc._shm.clock import SECOND
from asgi_ipc.aio import IPCChannelLayer
from asgi_ipc.codec import pack
from asgi_ipc.errors import IPCError, LockTimeout
from asgi_ipc.gate import PAUSE

HELLO = {"type": "test.message"}


class Holder:
    """A process inside the lock of one of a layer's stores, stopped."""

    def __init__(self, store):
        reader, writer = os.pipe()

        def hold():
            store._lock.acquire()
            os.write(writer, b"!")
            signal.pause()

        self.child = Child(hold)
        os.close(writer)
        assert os.read(reader, 1) == b"!"
        os.close(reader)
        self.pid = self.child.pid
        self.child.kill(signal.SIGSTOP)

    def end(self):
        """It is killed: the lock is free the moment it is gone."""
        if self.child is not None:
            self.child.kill()
            self.child = None


@pytest.fixture
def hold():
    holders = []

    def start(store):
        holders.append(Holder(store))
        return holders[-1]

    yield start
    for holder in holders:
        holder.end()


class Pulse:
    """Shows that a loop goes on with other things."""

    def __init__(self):
        self.beats = 0
        self._task = asyncio.ensure_future(self._beat())

    async def _beat(self):
        while True:
            await asyncio.sleep(0.001)
            self.beats += 1

    async def go_on(self, beats):
        """Wait for so many beats more: while a loop stands still, there are none."""
        target = self.beats + beats
        await until(lambda: self.beats >= target)

    async def end(self):
        await end(self._task)


def operations(layer, own):
    return {
        "send": lambda: layer.send("test.channel", HELLO),
        "send to an own channel": lambda: layer.send(own, HELLO),
        "receive": lambda: layer.receive("test.channel"),
        "receive from an own channel": lambda: layer.receive(own),
        "group_send": lambda: layer.group_send("room", HELLO),
        "group_add": lambda: layer.group_add("room", own),
        "group_discard": lambda: layer.group_discard("room", own),
        "flush": layer.flush,
    }


NAMES = sorted(operations(IPCChannelLayer, ""))


async def prepared(open_layer, **options):
    layer = open_layer(**options)
    own = await layer.new_channel()
    await layer.group_add("room", "member")
    await layer.group_add("room", own)
    return layer, own


def store_of(layer, name):
    of_groups = name in ("group_add", "group_discard")
    return layer._stores.groups if of_groups else layer._stores.messages


@pytest.mark.parametrize("name", NAMES)
async def test_the_loop_goes_on_until_the_lock_is_free(open_layer, hold, name):
    layer, own = await prepared(open_layer)
    if name == "receive":
        await layer.send("test.channel", HELLO)
    elif name == "receive from an own channel":
        await open_layer().send(own, HELLO)
    holder = hold(store_of(layer, name))
    pulse = Pulse()
    task = asyncio.ensure_future(operations(layer, own)[name]())
    await pulse.go_on(30)
    # Had it kept the loop, it would have come to its end, after ten seconds, before that.
    assert not task.done()
    holder.end()
    result = await soon(task)
    await pulse.end()
    assert result == (HELLO if name.startswith("receive") else None)
    if name == "send":
        assert await soon(layer.receive("test.channel")) == HELLO


@pytest.mark.parametrize("name", NAMES)
async def test_an_error_after_lock_timeout(open_layer, hold, name):
    layer, own = await prepared(open_layer, lock_timeout=0.3)
    holder = hold(store_of(layer, name))
    pulse = Pulse()
    began = time.monotonic()
    with pytest.raises(LockTimeout) as caught:
        await operations(layer, own)[name]()
    assert time.monotonic() - began >= 0.3
    await pulse.end()
    assert pulse.beats >= 2
    assert "0.3 s" in str(caught.value)
    assert re.search(r"process {0}\b".format(holder.pid), str(caught.value))
    holder.end()
    # It was not done, and can be now.
    assert layer._stores.messages.global_statistics()["messages_pending"] == 0
    assert "member" in layer._stores.groups.members("room")
    await layer.send("test.channel", HELLO)
    assert await soon(layer.receive("test.channel")) == HELLO


@pytest.mark.parametrize("name", NAMES)
async def test_cancelled_while_it_tries(open_layer, hold, name):
    layer, own = await prepared(open_layer)
    outside = open_layer()
    if name == "receive":
        await layer.send("test.channel", HELLO)
    elif name == "receive from an own channel":
        await outside.send(own, HELLO)
    holder = hold(store_of(layer, name))
    task = await started(operations(layer, own)[name]())
    await asyncio.sleep(0.05)
    await end(task)
    assert task.cancelled()
    holder.end()
    await asyncio.sleep(0.1)
    # Not done, not even later; and what was to be received is there.
    if name.startswith("receive"):
        channel = "test.channel" if name == "receive" else own
        assert await soon(layer.receive(channel)) == HELLO
    assert layer._stores.messages.global_statistics()["messages_pending"] == 0
    assert not layer._process.inbox
    assert sorted(layer._stores.groups.members("room")) == sorted(["member", own])


async def test_those_who_wait_already_go_on_waiting(open_layer, hold):
    layer, own = await prepared(open_layer)
    outside = open_layer()
    waiting = [await started(layer.receive(channel)) for channel in ("test.channel", own)]
    holder = hold(layer._stores.messages)
    pulse = Pulse()
    # Their own look falls into this time.
    await asyncio.sleep(1.3)
    await pulse.go_on(30)
    holder.end()
    await pulse.end()
    for receive, channel in zip(waiting, ("test.channel", own)):
        assert not receive.done()
        await outside.send(channel, {"to": channel})
        assert await soon(receive) == {"to": channel}


async def test_those_who_wait_hear_of_it_after_lock_timeout(open_layer, hold):
    layer, own = await prepared(open_layer, lock_timeout=0.2)
    waiting = [await started(layer.receive(channel)) for channel in ("a", "b", own)]
    holder = hold(layer._stores.messages)
    for receive in waiting:
        with pytest.raises(LockTimeout, match=r"0\.2 s"):
            await soon(receive)
    holder.end()
    await layer.send("a", HELLO)
    assert await soon(layer.receive("a")) == HELLO


async def test_a_message_is_not_sent_twice(open_layer, hold):
    # The lock is taken away again and again while many send: each message comes once.
    layer, own = await prepared(open_layer, capacity=1000)
    outside = open_layer(capacity=1000)
    for turn in range(3):
        holder = hold(layer._stores.messages)
        sends = [outside.send("many", {"n": number}) for number in range(20)]
        sends += [outside.send(own, {"n": number}) for number in range(20)]
        tasks = [await started(send) for send in sends]
        await asyncio.sleep(0.1)
        holder.end()
        await soon(asyncio.gather(*tasks))
        for channel in ("many", own):
            got = [(await soon(layer.receive(channel)))["n"] for _ in range(20)]
            assert sorted(got) == list(range(20))
        assert layer._stores.messages.global_statistics()["messages_pending"] == 0, turn


def tries_of(layer, monkeypatch):
    """A list of a list, which gets longer with each try of the message store's lock."""
    lock, tries = layer._stores.messages._lock, []
    acquire = lock.acquire

    def note_and_acquire():
        tries.append(1)
        return acquire()

    monkeypatch.setattr(lock, "acquire", note_and_acquire)
    return [tries]


async def test_many_that_try_keep_the_loop_no_longer_than_one(open_layer, hold, monkeypatch):
    options = {"capacity": 1000, "lock_timeout": 100}
    layer, own = await prepared(open_layer, **options)
    outside = open_layer(**options)
    waiting = [await started(layer.receive("w{0}".format(number))) for number in range(50)]
    holder = hold(layer._stores.messages)
    tries, began = tries_of(layer, monkeypatch) + tries_of(outside, monkeypatch), time.monotonic()
    tasks = [await started(outside.send(own, HELLO)) for _ in range(60)]
    tasks += [await started(layer.receive("r{0}".format(number))) for number in range(30)]
    await end(*waiting[:49])
    await asyncio.sleep(0.5)
    await end(*tasks[60:])
    # One try at a time and layer, and a pause between them.
    assert max(len(each) for each in tries) <= (time.monotonic() - began) / PAUSE + 2
    holder.end()
    await soon(asyncio.gather(*tasks[:60]))
    await outside.send("w49", HELLO)
    assert await soon(waiting[49]) == HELLO
    assert [await soon(layer.receive(own)) for _ in range(60)] == [HELLO] * 60


def test_a_gate_that_is_told_twice_is_shut_for_no_longer(monkeypatch):
    now = [1000 * SECOND]
    monkeypatch.setattr(gate.clock, "now", lambda: now[0])
    shut, error = gate.Gate(), LockTimeout("held")
    for pause in (PAUSE, 2 * PAUSE, 4 * PAUSE, gate.LONGEST_PAUSE, gate.LONGEST_PAUSE):
        shut.shut(error)
        shut.shut(LockTimeout("again"))
        for _ in range(2):
            with pytest.raises(LockTimeout, match="held"):
                shut.run(int)
        now[0] += int(pause * SECOND) - 1
        with pytest.raises(LockTimeout, match="held"):
            shut.run(int)
        now[0] += 1
    assert shut.run(int) == 0
    assert not shut.shut_until
    shut.shut(error)
    now[0] += int(PAUSE * SECOND)
    assert shut.run(int) == 0


@pytest.mark.parametrize("name", ["send", "receive"])
async def test_who_meets_a_held_lock_shuts_the_gate_for_all(open_layer, hold, monkeypatch, name):
    # These two go by the gate while it is open.
    layer, own = await prepared(open_layer)
    holder = hold(layer._stores.messages)
    (tries,) = tries_of(layer, monkeypatch)
    tasks = [asyncio.ensure_future(operations(layer, own)[name]()) for _ in range(20)]
    await asyncio.sleep(0)
    assert len(tries) == 1
    assert layer._process.gate.shut_until
    holder.end()
    await soon(layer.send("other.channel", HELLO))
    await until(lambda: not layer._process.gate.shut_until)
    if name == "send":
        await soon(asyncio.gather(*tasks))
    await end(*tasks)


async def test_full_is_told_also_after_a_wait(open_layer, hold):
    layer, _ = await prepared(open_layer, capacity=1)
    await layer.send("test.channel", HELLO)
    holder = hold(layer._stores.messages)
    send = await started(layer.send("test.channel", HELLO))
    await asyncio.sleep(0.1)
    holder.end()
    with pytest.raises(ChannelFull) as caught:
        await soon(send)
    assert isinstance(caught.value, IPCError)


@pytest.mark.usefixtures("no_looks")
async def test_who_leaves_while_it_is_held_still_has_the_next_one_told(open_layer, hold):
    here, there, outside = open_layer(), open_layer(), open_layer()
    receive = await started(here.receive("jobs"))
    other = await started(there.receive("jobs"))
    messages = outside._stores.messages
    messages.send("jobs", "", pack(HELLO), 10**10, 100)
    holder = hold(messages)
    # Rung, but it goes before its loop has heard of that, and cannot tell the segment now.
    await end(receive)
    await asyncio.sleep(0.1)
    assert not other.done()
    holder.end()
    assert await soon(other) == HELLO


def test_a_new_layer_waits_for_the_lock(prefix, open_layer, hold):
    first = open_layer()
    for store in (first._stores.messages, first._stores.groups):
        holder = hold(store)
        with pytest.raises(LockTimeout, match=r"0\.2 s"):
            IPCChannelLayer(prefix, lock_timeout=0.2)
        holder.end()
        IPCChannelLayer(prefix)._stores.close()


async def test_nothing_is_left_when_the_lock_is_held_at_the_end(open_layer, hold):
    # A waiter that cannot be handed back now is handed back by the next who waits.
    layer, _ = await prepared(open_layer)
    receive = await started(layer.receive("test.channel"))
    holder = hold(layer._stores.messages)
    await end(receive)
    assert len(layer._process._loops._owed) == 1
    holder.end()
    receive = await started(layer.receive("test.channel"))
    await until(lambda: not layer._process._loops._owed)
    await end(receive)
    assert layer._stores.messages._waiting == set()


if sys.platform != "linux":  # SIGSTOP and flock are what these are about
    pytestmark = pytest.mark.skip(reason="tried on Linux")
