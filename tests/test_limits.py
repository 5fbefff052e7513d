"""How many: processes one after the other and at once, receivers that wait on one channel."""
from __future__ import print_function

import os
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest
import six
from sandbox import end, layer_environment, needs_linux
from six.moves import range
from storekit import Child

from asgi_ipc import IPCChannelLayer
from asgi_ipc._shm import clock

pytestmark = needs_linux

PROCESSES, THREADS = 20, 50
WAITERS = PROCESSES * THREADS
OPTIONS = {"capacity": 10 ** 5}


@pytest.fixture
def layer(prefix):
    with IPCChannelLayer(prefix, block_timeout=20, **OPTIONS) as layer:
        yield layer
        assert layer.check() == []


def bells(prefix):
    """The doorbells of all who wait, or died waiting."""
    return [name for name in os.listdir("/dev/shm") if prefix in name and name.endswith(".bell")]


def wait_for(condition, seconds=60):
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline
        time.sleep(0.01)


def median(values):
    return sorted(values)[len(values) // 2]


# -- processes -----------------------------------------------------------------------------------


def attach_once(prefix, number):
    """Attach, use everything, and leave in one of several ways."""
    layer = IPCChannelLayer(prefix, block_timeout=0.001, **OPTIONS)
    layer.send(u"reply?{0}".format(number), {"n": number})
    layer.send(u"all", {"n": number})
    layer.group_add(u"g", u"p{0}!a".format(number))
    assert layer.receive([u"reply?{0}".format(number)], block=True)[1] == {u"n": number}
    assert layer.receive([u"nothing"], block=True) == (None, None)
    if number % 3 == 0:
        layer.close()
    elif number % 3 == 1:
        os.kill(os.getpid(), signal.SIGKILL)


FRESH = u"""
import sys
from asgi_ipc import IPCChannelLayer

layer = IPCChannelLayer(sys.argv[1], block_timeout=0.001, capacity=100000)
layer.receive([u"nothing"], block=True)
layer.send(u"all", {"n": int(sys.argv[2])})
layer.group_add(u"g", u"p{0}!a".format(sys.argv[2]))
"""


@pytest.mark.slow
def test_processes_one_after_the_other(layer, prefix, tmpdir, campaign):
    """Over 1,000 in full; every third is killed, every third leaves without a word."""
    forked, fresh = campaign.amount(150, 1200), campaign.amount(2, 30)
    environment = layer_environment(tmpdir)
    layer.group_add(u"g", u"first")
    real = []
    for number in range(forked):
        Child(attach_once, prefix, number).close()
        if number in (99, forked - 1):
            real.append(sum(memory_of(layer)))
    for number in range(forked, forked + fresh):
        subprocess.check_call(
            [sys.executable, "-c", str(FRESH), prefix, str(number)], env=environment
        )
    heard = [layer.receive([u"all"])[1][u"n"] for _ in range(forked + fresh)]
    assert heard == list(range(forked + fresh))
    assert layer.receive([u"all"]) == (None, None)
    assert len(layer.group_channels(u"g")) == 1 + forked + fresh
    # What each leaves in the segments is what it sent and joined.
    assert real[1] - real[0] <= (forked - 100) * 2500 + (1 << 18)
    # Whoever was killed while it had a doorbell could not take that along.
    time.sleep(2.6)
    left = clear_away(prefix)
    assert bells(prefix) == []
    campaign.note("{0} forked, {1} fresh; {2} doorbells of the dead".format(forked, fresh, left))


def clear_away(prefix):
    """Wait as new receivers do, each of whom clears a few of the dead away; how many there were.

    They look at eight doorbells each, in turn.
    """
    left = len(bells(prefix))
    for _ in range(WAITERS // 8 + 10):
        with IPCChannelLayer(prefix, block_timeout=0.001, **OPTIONS) as layer:
            layer.receive([u"nothing"], block=True)
        if not bells(prefix):
            break
    return left


def memory_of(layer):
    """Bytes of real memory of both segments."""
    stores = layer._stores
    return stores.messages.memory()["real"], stores.groups.statistics()["memory_used"]


def pass_on(prefix, number, count):
    """Wait for one's message, and send the next one theirs."""
    with IPCChannelLayer(prefix, block_timeout=60, **OPTIONS) as layer:
        layer.group_add(u"g", u"to.{0}".format(number))
        channel, message = layer.receive([u"to.{0}".format(number)], block=True)
        assert channel is not None
        layer.send(u"to.{0}".format((number + 1) % count), {"n": message[u"n"] + 1})
        # Each stays until the last one has had its turn.
        assert layer.receive([u"end.{0}".format(number)], block=True)[0] is not None
        return message[u"n"]


@pytest.mark.slow
def test_two_hundred_processes_at_once(layer, prefix, campaign):
    """All attached and alive; a message goes round through all of them, and wakes each."""
    count = 200
    children = []
    try:
        children += [Child(pass_on, prefix, number, count) for number in range(count)]
        wait_for(lambda: len(bells(prefix)) == count)
        wait_for(lambda: len(layer.group_channels(u"g")) == count)
        begun = clock.now()
        layer.send(u"to.0", {"n": 0})
        wait_for(lambda: layer.channel_statistics(u"to.0")["messages_count"] == 2)
        took = (clock.now() - begun) / float(clock.SECOND)
        # All of them are there at this moment.
        assert all(os.waitpid(child.pid, os.WNOHANG) == (0, 0) for child in children)
        for number in range(count):
            layer.send(u"end.{0}".format(number), {})
        assert [child.result() for child in children] == list(range(count))
    finally:
        end(children)
    assert layer.receive([u"to.0"]) == (u"to.0", {u"n": count})
    assert bells(prefix) == []
    campaign.note("{0} processes, round in {1:.3f} s".format(count, took))


# -- receivers that wait on one channel ------------------------------------------------------------


def crowd(prefix, channel, threads):
    """Wait with so many threads, each until it gets a message that says so; return those."""
    layer = IPCChannelLayer(prefix, block_timeout=100, **OPTIONS)
    last = []

    def wait():
        while True:
            name, message = layer.receive([channel], block=True)
            if name is None:
                last.append(None)
                return
            if u"last" in message:
                last.append(message[u"last"])
                return
            late = clock.now() - message[u"at"]
            layer.send(u"heard", {"n": message[u"n"], "late": late})

    crowd_threads = [threading.Thread(target=wait) for _ in range(threads)]
    for thread in crowd_threads:
        thread.start()
    for thread in crowd_threads:
        thread.join()
    layer.close()
    return last


cpu_time = time.clock if six.PY2 else time.process_time
"""Seconds of processor that this process has used. What a send costs is measured in these: who
is woken may be given the sender's processor at once, and how often depends on what else runs."""


def wake(layer, channel, number):
    """Send to a channel, and wait until it was heard.

    Returns seconds: of processor in the call, of the call, until the message was received.
    """
    message = {"n": number, "at": clock.now()}
    begun, used = clock.now(), cpu_time()
    layer.send(channel, message)
    used, sent = cpu_time() - used, clock.now()
    name, message = layer.receive([u"heard"], block=True)
    assert name is not None
    assert message[u"n"] == number
    return used, (sent - begun) / 1e9, message[u"late"] / 1e9


@pytest.fixture
def descriptors():
    """As many as who has a thousand waiters should allow: 4 for each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * (WAITERS + 100)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip("RLIMIT_NOFILE cannot be raised from {0} to {1}".format(hard, wanted))
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
def test_a_thousand_waiters_on_one_channel(descriptors, layer, prefix, campaign):
    """To wake one of them costs what it costs to wake the only one; each message wakes one.

    In the long run, that is: who rings a doorbell for the first time opens it.
    """
    assert layer._stores.messages._ringer.most_kept >= WAITERS
    children = []
    try:
        children.append(Child(crowd, prefix, u"one", 1))
        children += [Child(crowd, prefix, u"many", THREADS) for _ in range(PROCESSES)]
        wait_for(lambda: len(bells(prefix)) == WAITERS + 1)
        time.sleep(0.5)
        first = [wake(layer, u"many", number)[0] for number in range(WAITERS)]
        for number in range(20):
            wake(layer, u"one", number)
            wake(layer, u"many", number)
        ratios = [[], [], []]
        for _ in range(campaign.amount(7, 30)):
            costs = {u"one": [], u"many": []}
            for number in range(60):
                for channel in (u"one", u"many"):
                    costs[channel].append(wake(layer, channel, number))
            for part, found in enumerate(ratios):
                one, many = (
                    median([cost[part] for cost in costs[channel]])
                    for channel in (u"one", u"many")
                )
                found.append(many / one)
        used, call, delay = map(median, ratios)
        campaign.note(
            "with {0} waiters a send costs {1:.2f} times what it costs with one in processor time "
            "({2:.2f} times as long a call), and delivery takes {3:.2f} times as long (medians of "
            "{4} rounds); who rings one for the first time, {5:.2f} times".format(
                WAITERS, used, call, delay, len(ratios[0]), median(first) / one
            )
        )
        # Each of them gets one of as many messages.
        for number in range(WAITERS):
            layer.send(u"many", {"last": number})
        layer.send(u"one", {"last": -1})
        found = [child.result() for child in children]
    finally:
        end(children)
    assert found[0] == [-1]
    assert [len(part) for part in found[1:]] == [THREADS] * PROCESSES
    assert sorted(number for part in found[1:] for number in part) == list(range(WAITERS))
    # This process has one, for what it has heard.
    assert len(bells(prefix)) == 1
    assert used < 2
    # Here it counts what else the machine does, and which thread of fifty has the GIL.
    assert delay < 5


@pytest.mark.slow
@pytest.mark.parametrize("later", [0, 3])
def test_a_thousand_waiters_that_were_killed(layer, prefix, later, campaign):
    """At once and later: sends go on, the message is there for the living, the dead go."""
    children = []
    try:
        children += [Child(crowd, prefix, u"many", THREADS) for _ in range(PROCESSES)]
        wait_for(lambda: len(bells(prefix)) == WAITERS)
        time.sleep(0.5)
    finally:
        for child in children:
            os.kill(child.pid, signal.SIGKILL)
        end(children)
    time.sleep(later)
    begun = clock.now()
    layer.send(u"many", {"n": 1})
    first = clock.now() - begun
    begun = clock.now()
    layer.send(u"many", {"n": 2})
    second = clock.now() - begun
    assert layer.check() == []
    assert [layer.receive([u"many"])[1] for _ in range(2)] == [{u"n": 1}, {u"n": 2}]
    left = clear_away(prefix)
    assert bells(prefix) == []
    campaign.note(
        "killed {0} s before: the first send took {1:.1f} ms, the second {2:.3f} ms; it left "
        "{3} doorbells for later".format(later, first / 1e6, second / 1e6, left)
    )
    assert first < 5 * clock.SECOND
