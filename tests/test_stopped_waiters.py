"""A waiter that is stopped holds up nobody; one who waits for a stopped holder loses nothing."""
import os
import signal
import time

import pytest
from processkit import (
    Stopping,
    bells,
    child_inside,
    die_inside,
    eventually,
    left_behind,
    numbers,
    stop_self,
    waits,
)

from asgi_ipc._shm import clock
from asgi_ipc.errors import LockTimeout

pytestmark = pytest.mark.skipif(
    not os.path.exists("/proc/self/wchan"),
    reason="the system does not tell what processes wait for",
)

BRIEF = 0.05
"""Seconds of lock_timeout of those who look on."""


def collect(make_layer, channels, count, path):
    """In a child: receive so many, waiting; write the number of each to a file at once."""
    layer = make_layer(block_timeout=60)
    with open(path, "ab", 0) as heard:
        for _ in range(count):
            _, message = layer.receive(channels, block=True)
            heard.write("{0}\n".format(message["n"]).encode("ascii"))


def heard(path):
    if not os.path.exists(path):
        return []
    with open(path) as source:
        return [int(line) for line in source]


@pytest.fixture
def start(make_layer, tmpdir):
    """A function that starts a child which waits; returns (child, path of what it hears)."""
    children = []

    def start_one(channels=(u"c",), count=10 ** 6):
        path = str(tmpdir.join("heard{0}".format(len(children))))
        children.append(Stopping(collect, make_layer, list(channels), count, path))
        eventually(lambda: waits(children[-1].pid), "waiting")
        return children[-1], path

    yield start_one
    for child in children:
        child.end()


def stop(child):
    os.kill(child.pid, signal.SIGSTOP)
    assert child.stops()


def test_messages_flow_past_a_stopped_waiter(make_layer, start):
    """The first one may wait for the other waiter's own look; those after it do not."""
    layer = make_layer()
    stopped, _ = start()
    stop(stopped)
    _, path = start()
    for number in range(20):
        layer.send(u"c", {"n": number})
        eventually(lambda number=number: number in heard(path), "receiving")
    assert heard(path) == list(range(20))
    os.kill(stopped.pid, signal.SIGCONT)


def test_messages_flow_past_many_stopped_waiters(make_layer, start):
    """Each of them may take one ring, and none a message."""
    layer = make_layer()
    for _ in range(8):
        stop(start()[0])
    _, path = start()
    for number in range(40):
        layer.send(u"c", {"n": number})
    eventually(lambda: len(heard(path)) == 40, "receiving")
    assert heard(path) == list(range(40))
    assert layer.check() == []


@pytest.mark.slow
def test_one_that_waits_for_long_while_stopped_is_passed_over(make_layer, start):
    """After 2.5 s without a look it is rung only if nobody waits behind it: no delay any more."""
    layer = make_layer()
    stopped, _ = start([u"c", u"d"])
    stop(stopped)
    _, path = start([u"c"])
    time.sleep(2.6)
    _, other = start([u"d"])
    began = clock.now()
    layer.send(u"c", {"n": 1})
    layer.send(u"d", {"n": 2})
    eventually(lambda: heard(path) == [1] and heard(other) == [2], "receiving")
    # A look comes after a second: these were rung.
    assert clock.now() - began < 0.9 * clock.SECOND


def fill(prefix):
    """Write rings into all FIFOs of a prefix until they are full."""
    for name in bells(prefix):
        bell = os.open(os.path.join("/dev/shm", name), os.O_WRONLY | os.O_NONBLOCK)
        try:
            while True:
                os.write(bell, b"!" * 4096)
        except OSError:
            pass
        finally:
            os.close(bell)


def test_senders_do_not_wait_for_a_stopped_waiter(prefix, make_layer, start):
    """Not even when its FIFO is full, and when it is to be rung at each send."""
    many = 5000
    layer = make_layer(capacity=10 ** 6, message_memory=4 * 1024 * 1024)
    # Summoned once at each of these.
    channels = [u"c"] + [u"c{0}".format(number) for number in range(40)]
    stopped, path = start(channels, many + 40)
    stop(stopped)
    fill(prefix)
    for channel in channels[1:]:
        layer.send(channel, {"n": 0})
    for number in range(1, many + 1):
        layer.send(u"c", {"n": number})
    assert bells(prefix)
    os.kill(stopped.pid, signal.SIGCONT)
    stopped.result()
    found = heard(path)
    assert [number for number in found if number] == list(range(1, many + 1))
    assert len(found) == many + 40
    assert layer.check() == []


def test_a_rebuild_rings_a_full_bell_without_waiting(prefix, make_layer, start):
    layer = make_layer()
    stopped, path = start(count=1)
    stop(stopped)
    fill(prefix)
    die_inside(layer, "messages")
    layer.send(u"c", {"n": 1})
    assert layer._stores.messages._lock.recoveries == 1
    os.kill(stopped.pid, signal.SIGCONT)
    stopped.result()
    assert heard(path) == [1]


def test_a_stopped_waiter_that_goes_on_takes_its_turn(make_layer, start):
    """It hears of what came while it was stopped, and of what comes then, at once."""
    layer = make_layer()
    stopped, path = start(count=3)
    stop(stopped)
    layer.send(u"c", {"n": 1})
    time.sleep(0.1)
    assert heard(path) == []
    os.kill(stopped.pid, signal.SIGCONT)
    eventually(lambda: heard(path) == [1], "receiving")
    layer.send(u"c", {"n": 2})
    layer.send(u"c", {"n": 3})
    stopped.result()
    assert heard(path) == [1, 2, 3]
    assert layer.check() == []


def test_a_stopped_waiter_that_dies_is_struck_off(prefix, make_layer, start):
    """The next one is rung in its place, at once."""
    layer = make_layer()
    stopped, _ = start()
    stop(stopped)
    _, path = start()
    assert len(bells(prefix)) == 2
    stopped.kill()
    # One of the other's looks may come in between, and would prove nothing: several times.
    for number in range(3):
        layer.send(u"c", {"n": number})
        eventually(lambda number=number: number in heard(path), "receiving")
    assert len(bells(prefix)) == 1
    assert left_behind(prefix) == bells(prefix)
    assert layer.check() == []


def test_a_waiter_stopped_between_its_ring_and_its_look_delays_one_message(make_layer, start):
    """It was rung, wakes, and is stopped before it takes the message: the other one looks."""
    layer = make_layer()

    def collect_until_stopped():
        mine = make_layer(block_timeout=60)
        receive, calls = mine._stores.messages.receive, []

        def receive_or_stop(*args):
            calls.append(1)
            if len(calls) == 3:
                stop_self()
            return receive(*args)

        mine._stores.messages.receive = receive_or_stop
        return mine.receive([u"c"], block=True)[1]["n"]

    first = Stopping(collect_until_stopped)
    try:
        eventually(lambda: waits(first.pid), "waiting")
        _, path = start(count=1)
        layer.send(u"c", {"n": 1})
        assert first.stops()
        eventually(lambda: heard(path) == [1], "receiving")
        layer.send(u"c", {"n": 2})
        assert first.goes_on() == 2
    finally:
        first.end()
    assert layer.check() == []


@pytest.mark.slow
def test_a_blocked_receiver_survives_a_stopped_holder(make_layer, start):
    """Its look is held up, and nothing else: it goes on when the holder does."""
    layer = make_layer()
    _, path = start()
    child = child_inside(make_layer)
    try:
        time.sleep(1.5)
        child.goes_on()
    finally:
        child.end()
    layer.send(u"c", {"n": 1})
    eventually(lambda: heard(path) == [1], "receiving")


@pytest.mark.slow
def test_giving_up_on_a_stopped_holder_leaves_nothing_behind(prefix, make_layer):
    """Blocking receives that end in LockTimeout, again and again: no descriptors, no FIFOs."""
    layer = make_layer(lock_timeout=BRIEF, block_timeout=0.3)
    layer.receive([u"c"], block=True)
    before = len(os.listdir("/proc/self/fd"))

    def receive_while_one_stops_inside():
        """Not before this one waits: it is then that leaving needs the lock."""
        store = layer._stores.messages
        children = []
        hang = store._hang

        def hang_and_be_held_up(*args):
            hang(*args)
            children.append(Stopping(enter_and_stop, make_layer))

        store._hang = hang_and_be_held_up
        try:
            with pytest.raises(LockTimeout):
                layer.receive([u"c"], block=True)
        finally:
            del store._hang
            for child in children:
                assert child.stops()
                child.goes_on()

    for _ in range(4):
        receive_while_one_stops_inside()
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert len(bells(prefix)) <= 1
    layer.send(u"c", {"n": 1})
    assert layer.receive([u"c"], block=True) == (u"c", {"n": 1})
    assert layer.check() == []


def enter_and_stop(make_layer):
    layer = make_layer()
    lock = layer._stores.messages._lock
    lock.acquire()
    stop_self()
    lock.release()


def test_a_close_that_was_held_up_can_be_done_again(prefix, make_layer):
    layer = make_layer(lock_timeout=BRIEF, block_timeout=0.01)
    layer.receive([u"c"], block=True)
    child = child_inside(make_layer)
    try:
        with pytest.raises(LockTimeout):
            layer.close()
        child.goes_on()
    finally:
        child.end()
    layer.close()
    assert left_behind(prefix) == []
    other = make_layer()
    other.send(u"c", {"n": 1})
    assert numbers(other, u"c") == [1]
    assert other.check() == []
