"""What actors of synchronous peers do, and time.

Every task takes the peer's adapter, a function to call when it is about to wait, and arguments
from the command. Times are nanoseconds of the monotonic clock, which all processes share.
``tasks_async`` has the same tasks for asynchronous peers. Runs on Python 3.7 as well.
"""
import os
from itertools import repeat
from time import monotonic_ns as clock

from benchmarks.peers.base import message_of

STOP = {"stop": True}


def prepare(adapter, ready):
    """Open the layer."""
    adapter.open()


def inbox(adapter, ready, name):
    """The channel by which this actor is reached."""
    return adapter.inbox(name)


def fill(adapter, ready, channels, each, first=0):
    """Leave messages waiting in many channels; the nanoseconds that it took."""
    names = ["waiting.{0}".format(number) for number in range(first, first + channels)]
    started = clock()
    adapter.fill(names, message_of(0), each)
    return clock() - started


# -- in one process ------------------------------------------------------------------


def round_trips(adapter, ready, count, batches, single, size=0, channel="measured"):
    """Send and receive, one after the other: batches of ``count``, and then single ones."""
    message = message_of(size)
    send, receive = adapter.sender(channel), adapter.receiver(channel)
    elapsed, samples = [], []
    for _ in range(batches):
        started = clock()
        for _ in repeat(None, count):
            send(message)
            receive()
        elapsed.append(clock() - started)
    for _ in repeat(None, single):
        begun = clock()
        send(message)
        receive()
        samples.append(clock() - begun)
    return {"batches": elapsed, "samples": samples}


def sends_and_receives(adapter, ready, count, channel="measured"):
    """First send all, then receive all."""
    message = message_of(0)
    send, receive = adapter.sender(channel), adapter.receiver(channel)
    times = [clock()]
    for _ in repeat(None, count):
        send(message)
        times.append(clock())
    begun = [clock()]
    for _ in repeat(None, count):
        receive()
        begun.append(clock())
    return {"sent": differences(times), "received": differences(begun)}


def differences(times):
    """The steps between moments."""
    return [after - before for before, after in zip(times, times[1:])]


# -- between processes ---------------------------------------------------------------


def ping(adapter, ready, there, here, count):
    """Send, and wait for the answer; nanoseconds of each."""
    message = message_of(0)
    send, wait = adapter.sender(there), adapter.waiter(here)
    samples = []
    for _ in repeat(None, count):
        message["sent"] = begun = clock()
        send(message)
        wait()
        samples.append(clock() - begun)
    return samples


def pong(adapter, ready, there, here, count):
    """Wait for a message, and answer it; nanoseconds that each was on its way."""
    send, wait, content = adapter.sender(there), adapter.waiter(here), adapter.content
    samples = []
    ready()
    for _ in repeat(None, count):
        received = wait()
        now = clock()
        message = content(received)
        samples.append(now - message["sent"])
        send(message)
    return samples


def emit(adapter, ready, channel, count):
    """Send without a pause; when it began, and when it ended."""
    message = message_of(0)
    send = adapter.sender(channel)
    started = clock()
    for _ in repeat(None, count):
        send(message)
    ended = clock()
    adapter.settle(channel)
    return [started, ended]


def emit_stops(adapter, ready, channel, count):
    """Tell so many receivers to stop."""
    send = adapter.sender(channel)
    for _ in range(count):
        send(STOP)


def absorb(adapter, ready, channel, count):
    """Receive so many; when the last one was there."""
    receive = adapter.stream(channel)
    ready()
    for _ in repeat(None, count):
        receive()
    return clock()


def absorb_until_stop(adapter, ready, channel):
    """Receive until told to stop; how many, and when the last one was there."""
    receive, stop = adapter.stream(channel), adapter.received(channel, STOP)
    ready()
    number, last = 0, clock()
    while True:
        if receive() == stop:
            return [number, last]
        last = clock()
        number += 1


# -- groups --------------------------------------------------------------------------


def join(adapter, ready, group, number):
    """Have so many members of this process join a group."""
    add = adapter.group_adder()
    for member in range(number):
        add(group, adapter.member(member))


def group_send(adapter, ready, group):
    """Send to a group; when it began, and when it ended."""
    send, message = adapter.group_sender(), message_of(0)
    started = clock()
    send(group, message)
    return [started, clock()]


def collect(adapter, ready, number):
    """Receive the message of each member; when the last one was there."""
    receive = adapter.collector()
    ready()
    for _ in repeat(None, number):
        receive()
    return clock()


def memberships(adapter, ready, count):
    """Begin memberships in ten groups, and end them."""
    add, discard = adapter.group_adder(), adapter.group_discarder()
    pairs = [("group.{0}".format(n % 10), adapter.member(n)) for n in range(count)]
    added, discarded = [clock()], []
    for group, channel in pairs:
        add(group, channel)
        added.append(clock())
    discarded.append(clock())
    for group, channel in pairs:
        discard(group, channel)
        discarded.append(clock())
    return {"added": differences(added), "discarded": differences(discarded)}


# -- beginnings ----------------------------------------------------------------------


def attach(adapter, ready, count):
    """Make a layer and have the first message through it; nanoseconds of each."""
    message = message_of(0)
    samples = []
    for _ in range(count):
        other = type(adapter)(adapter.settings)
        begun = clock()
        other.open()
        other.sender("measured")(message)
        other.receiver("measured")()
        samples.append(clock() - begun)
        other.close()
    return samples


def rebuild(adapter, ready):
    """Have another process die inside of the layer; nanoseconds of the next send."""
    child = os.fork()
    if not child:
        try:
            adapter.die_inside()
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    send = adapter.sender("measured")
    begun = clock()
    send(message_of(0))
    elapsed = clock() - begun
    adapter.receiver("measured")()
    return elapsed
