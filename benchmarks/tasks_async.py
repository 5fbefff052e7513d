"""What actors of asynchronous peers do, and time: the tasks of ``tasks``, in an event loop.

All tasks of one actor run in the same loop. Runs on Python 3.7 as well.
"""
import asyncio
from itertools import repeat
from time import monotonic_ns as clock
from time import process_time_ns

from benchmarks.peers.base import message_of
from benchmarks.tasks import STOP, differences

_mine = []
"""The channels of this process's members."""


async def prepare(adapter, ready):
    """Open the layer."""
    adapter.open()


async def inbox(adapter, ready, name):
    """The channel by which this actor is reached."""
    return await adapter.inbox(name)


async def fill(adapter, ready, channels, each, first=0):
    """Leave messages waiting in many channels; the nanoseconds that it took."""
    names = ["waiting.{0}".format(number) for number in range(first, first + channels)]
    started = clock()
    await adapter.fill(names, message_of(0), each)
    return clock() - started


# -- in one process ------------------------------------------------------------------


async def round_trips(adapter, ready, count, batches, single, size=0, channel="measured"):
    """Send and receive, one after the other: batches of ``count``, and then single ones."""
    message = message_of(size)
    send, receive = adapter.sender(channel), adapter.receiver(channel)
    elapsed, samples = [], []
    for _ in range(batches):
        started = clock()
        for _ in repeat(None, count):
            await send(message)
            await receive()
        elapsed.append(clock() - started)
    for _ in repeat(None, single):
        begun = clock()
        await send(message)
        await receive()
        samples.append(clock() - begun)
    return {"batches": elapsed, "samples": samples}


async def sends_and_receives(adapter, ready, count, channel="measured"):
    """First send all, then receive all."""
    message = message_of(0)
    send, receive = adapter.sender(channel), adapter.receiver(channel)
    times = [clock()]
    for _ in repeat(None, count):
        await send(message)
        times.append(clock())
    begun = [clock()]
    for _ in repeat(None, count):
        await receive()
        begun.append(clock())
    return {"sent": differences(times), "received": differences(begun)}


# -- between processes ---------------------------------------------------------------


async def ping(adapter, ready, there, here, count):
    """Send, and wait for the answer; nanoseconds of each."""
    message = message_of(0)
    send, wait = adapter.sender(there), adapter.waiter(here)
    samples = []
    for _ in repeat(None, count):
        message["sent"] = begun = clock()
        await send(message)
        await wait()
        samples.append(clock() - begun)
    return samples


async def pong(adapter, ready, there, here, count):
    """Wait for a message, and answer it; nanoseconds that each was on its way."""
    send, wait, content = adapter.sender(there), adapter.waiter(here), adapter.content
    samples = []
    ready()
    for _ in repeat(None, count):
        received = await wait()
        now = clock()
        message = content(received)
        samples.append(now - message["sent"])
        await send(message)
    return samples


async def emit(adapter, ready, channel, count):
    """Send without a pause; when it began, and when it ended."""
    message = message_of(0)
    send = adapter.sender(channel)
    started = clock()
    for _ in repeat(None, count):
        await send(message)
    ended = clock()
    adapter.settle(channel)
    return [started, ended]


async def emit_stops(adapter, ready, channel, count):
    """Tell so many receivers to stop."""
    send = adapter.sender(channel)
    for _ in range(count):
        await send(STOP)


async def absorb(adapter, ready, channel, count):
    """Receive so many; when the last one was there."""
    receive = adapter.stream(channel)
    ready()
    for _ in repeat(None, count):
        await receive()
    return clock()


async def absorb_until_stop(adapter, ready, channel):
    """Receive until told to stop; how many, and when the last one was there."""
    receive, stop = adapter.stream(channel), adapter.received(channel, STOP)
    ready()
    number, last = 0, clock()
    while True:
        if await receive() == stop:
            return [number, last]
        last = clock()
        number += 1


# -- groups --------------------------------------------------------------------------


async def join(adapter, ready, group, number):
    """Have so many members of this process join a group."""
    add = adapter.group_adder()
    for member in range(number):
        channel = await adapter.member(member)
        await add(group, channel)
        _mine.append(channel)


async def group_send(adapter, ready, group):
    """Send to a group; when it began, and when it ended."""
    send, message = adapter.group_sender(), message_of(0)
    started = clock()
    await send(group, message)
    return [started, clock()]


class Collection(object):
    """One receive for each member, as consumers have it; when the last one was there."""

    def __init__(self, adapter):
        self._receive = adapter.layer.receive
        self.last = 0

    async def _one(self, channel):
        await self._receive(channel)
        self.last = clock()

    async def start(self):
        """Have all of them wait."""
        self._tasks = [asyncio.ensure_future(self._one(channel)) for channel in _mine]
        for _ in range(3):
            await asyncio.sleep(0)

    async def finish(self):
        """When the last one was there."""
        await asyncio.gather(*self._tasks)
        return self.last


async def collect(adapter, ready, number):
    """Receive the message of each member; when the last one was there."""
    if number != len(_mine):
        raise ValueError("{0} members have joined, not {1}".format(len(_mine), number))
    collection = Collection(adapter)
    await collection.start()
    ready()
    return await collection.finish()


async def group_send_here(adapter, ready, group):
    """As ``group_send`` and ``collect`` together, where all is in one process."""
    collection = Collection(adapter)
    await collection.start()
    started = (await group_send(adapter, ready, group))[0]
    return [started, await collection.finish()]


async def absorb_group(adapter, ready, count):
    """Each member receives so many; when the last one was there, and the processor's time."""
    receive = adapter.layer.receive

    async def one(channel):
        for _ in repeat(None, count):
            await receive(channel)
        return clock()

    begun = process_time_ns()
    tasks = [asyncio.ensure_future(one(channel)) for channel in _mine]
    for _ in range(3):
        await asyncio.sleep(0)
    ready()
    return [max(await asyncio.gather(*tasks)), process_time_ns() - begun]


async def absorb_within(adapter, ready, seconds):
    """How many members receive something within so many seconds."""
    tasks = [asyncio.ensure_future(adapter.layer.receive(channel)) for channel in _mine]
    ready()
    done, waiting = await asyncio.wait(tasks, timeout=seconds)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    return len(done)


async def emit_group(adapter, ready, group, count):
    """Send so many to a group; when each was about to be, and the processor's time."""
    send, message = adapter.group_sender(), message_of(0)
    begun, times = process_time_ns(), [clock()]
    for _ in repeat(None, count):
        await send(group, message)
        times.append(clock())
    return [times, process_time_ns() - begun]


async def memberships(adapter, ready, count):
    """Begin memberships in ten groups, and end them."""
    add, discard = adapter.group_adder(), adapter.group_discarder()
    # Names are kept: to make one costs some peers a subscription.
    while len(_mine) < count:
        _mine.append(await adapter.member(len(_mine)))
    pairs = [("group.{0}".format(n % 10), channel) for n, channel in enumerate(_mine[:count])]
    added, discarded = [clock()], []
    for group, channel in pairs:
        await add(group, channel)
        added.append(clock())
    discarded.append(clock())
    for group, channel in pairs:
        await discard(group, channel)
        discarded.append(clock())
    return {"added": differences(added), "discarded": differences(discarded)}


# -- beginnings ----------------------------------------------------------------------


async def attach(adapter, ready, count):
    """Make a layer and have the first message through it; nanoseconds of each."""
    message = message_of(0)
    samples = []
    for _ in range(count):
        other = type(adapter)(adapter.settings)
        begun = clock()
        other.open()
        channel = await other.inbox("measured")
        await other.sender(channel)(message)
        await other.receiver(channel)()
        samples.append(clock() - begun)
        await other.aclose()
    return samples
