"""Watching before sleeping: when it is done, what it sees, what it costs, how it ends."""
import os
import signal
import threading
import time

import pytest
from processkit import Turns, bells, eventually, in_threads, limit, open_layer
from storekit import Child, get, in_child, put

from asgi_ipc import spin
from asgi_ipc._shm import clock as monotonic
from asgi_ipc._shm.lane import BOARD, EMPTY, FLAGS
from asgi_ipc._shm.segment import PAGE
from asgi_ipc.core import unlink
from asgi_ipc.errors import LayerClosed

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_yield"), reason="this Python cannot give way, so it never watches"
)

PLACE = 5


class TimedTurns(Turns):
    """The same, with a clock that goes on when it is told to."""

    def __init__(self, monkeypatch):
        Turns.__init__(self, monkeypatch)
        self.time = None
        self._patch = monkeypatch.setattr

    def stop_time(self):
        self.time = monotonic.now()
        self._patch(spin.clock, "now", lambda: self.time)

    def let_pass(self, nanoseconds):
        self.time += nanoseconds


@pytest.fixture
def turns(monkeypatch):
    return TimedTurns(monkeypatch)


@pytest.fixture
def words():
    return [0] * (PLACE + 3)


@pytest.fixture
def memory():
    return bytearray(PAGE)


def setting(words, place, value=1):
    def act():
        words[place] = value

    return act


# -- one watch -----------------------------------------------------------------------------


def test_what_comes_is_seen_at_once(turns, words, memory):
    turns.stop_time()
    turns.then[3] = setting(words, PLACE + 2)
    assert spin.Spin().sees(words, memory, [PLACE, PLACE + 2])
    assert turns.count == 3


def test_nothing_comes(turns, words, memory):
    turns.stop_time()
    assert not spin.Spin().sees(words, memory, [PLACE])
    # A clock that stands still does not keep it.
    assert turns.count == spin.LOOKS


def test_it_is_over_in_time(words, memory):
    started = monotonic.now()
    for _ in range(20):
        assert not spin.Spin().sees(words, memory, [PLACE])
    # Measured 1.1 ms; the rest is for others who want the processor.
    assert monotonic.now() - started < 2 * monotonic.SECOND


def test_it_ends_when_its_time_is_over(turns, words, memory):
    turns.stop_time()
    turns.then[5] = lambda: turns.let_pass(spin.LONGEST)
    assert not spin.Spin().sees(words, memory, [PLACE])
    assert turns.count == 5


def test_who_is_inside_is_waited_for(turns, words, memory):
    """Else it would find the lock taken, and sleep for longer than the other one is inside."""
    turns.stop_time()
    memory[FLAGS] = 1
    turns.then = {2: setting(words, PLACE), 6: setting(memory, FLAGS, 0)}
    assert spin.Spin().sees(words, memory, [PLACE])
    assert turns.count == 6


def test_who_died_inside_is_not_waited_for(turns, words, memory):
    turns.stop_time()
    words[PLACE] = 17
    memory[FLAGS] = 1
    assert spin.Spin().sees(words, memory, [PLACE])
    assert turns.count == spin.LOOKS


@pytest.mark.parametrize("error", [TypeError, ValueError])
def test_closed_meanwhile(turns, error, memory):
    class Closed(object):
        def __getitem__(self, index):
            raise error

    assert spin.Spin().sees(Closed(), memory, [PLACE])


def test_not_where_other_threads_want_to_run(turns, words, memory):
    turns.stop_time()
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        assert not spin.Spin().sees(words, memory, [PLACE])
    finally:
        over.set()
        thread.join()
    assert turns.count == 1


def test_not_where_python_cannot_give_way(monkeypatch, words, memory):
    monkeypatch.setattr(monotonic, "give_way", None)
    words[PLACE] = 1
    assert not spin.Spin().sees(words, memory, [PLACE])


# -- whether it pays -----------------------------------------------------------------------


def watches(one, turns, words, waits):
    """How many of so many waits begin with a watch."""
    done = 0
    for _ in range(waits):
        before = turns.count
        one.sees(words, memory, [PLACE])
        done += turns.count > before
    return done


def test_watches_in_vain_become_rare(turns, words):
    turns.stop_time()
    one = spin.Spin()
    assert watches(one, turns, words, 1000) == 9
    assert watches(one, turns, words, 10 * (spin.MOST_LEFT_OUT + 1)) == 10


def test_one_that_paid_brings_them_back(turns, words):
    turns.stop_time()
    one = spin.Spin()
    watches(one, turns, words, 1000)
    words[PLACE] = 1
    assert watches(one, turns, words, spin.MOST_LEFT_OUT + 100) > 99


def test_a_message_that_another_one_takes_does_not_pay(turns, words, memory):
    turns.stop_time()
    one = spin.Spin()
    words[PLACE] = 1
    taken = 0
    for _ in range(1000):
        if one.sees(words, memory, [PLACE]):
            one.in_vain()
            taken += 1
    # Each sight of it counts as one that paid, until it turns out that it did not.
    assert taken == 500


def test_what_is_seen_too_late_does_not_pay(turns, words, memory):
    """Another process had the processor for long: a doorbell would have got it back earlier."""
    turns.stop_time()
    one = spin.Spin()
    words[PLACE] = 1
    turns.then[1] = lambda: turns.let_pass(spin.LONGEST)
    assert one.sees(words, memory, [PLACE])
    assert not one.sees(words, memory, [PLACE])
    assert turns.count == 1


# -- receivers -----------------------------------------------------------------------------


@pytest.fixture
def known(open_store):
    """A store that has used the queue, so that it can be watched."""
    store = open_store(clock=monotonic.now)
    put(store, u"a", b"0")
    assert get(store, u"a")[2] == b"0"
    # When that is due, a receiver looks more closely first.
    store._next_look = monotonic.now() + 1000 * monotonic.SECOND
    return store


def test_a_message_that_comes_during_the_watch(known, open_store, turns, prefix):
    other = open_store(clock=monotonic.now)
    turns.then[2] = lambda: put(other, u"a", b"1")
    assert known.receive_blocking([u"a"], 60) == (u"a", u"", b"1")
    # Neither hung up nor rung.
    assert bells(prefix) == []
    assert known.check() == []


def test_the_watched_queues_are_all_that_are_waited_for(known, open_store, turns):
    other = open_store(clock=monotonic.now)
    put(known, u"b", b"0")
    get(known, u"b")
    turns.then[1] = lambda: put(other, u"b", b"1")
    assert known.receive_blocking([u"a", u"b"], 60) == (u"b", u"", b"1")


def test_a_queue_that_is_not_known_cannot_be_watched(known, turns):
    assert known.receive_blocking([u"a", u"new"], 0.001) is None
    assert turns.count == 0


def test_nobody_watches_who_does_not_wait(known, turns):
    assert known.receive_blocking([u"a"], 0) is None
    assert turns.count == 0


def test_where_there_is_a_backlog_nobody_watches(known, turns):
    for number in range(5):
        put(known, u"a", b"%d" % number)
    found = [known.receive_blocking([u"a"], 60)[2] for _ in range(5)]
    assert found == [b"%d" % number for number in range(5)]
    assert turns.count == 0


def test_another_receiver_is_faster(known, open_store, turns):
    """It sleeps, then, and the next message is its."""
    other = open_store(clock=monotonic.now)

    def come_and_go():
        put(other, u"a", b"1")
        # Past the lock, as if it were taken between the look and the lock.
        known.receive = taken

    def taken(queues, waiter=None):
        del known.receive
        assert get(other, u"a")[2] == b"1"
        turns.then[turns.count + 1] = lambda: put(other, u"a", b"2")
        found = known.receive(queues, waiter)
        put(other, u"a", b"3")
        return found

    turns.then[1] = come_and_go
    assert known.receive_blocking([u"a"], 60) == (u"a", u"", b"3")
    before = turns.count
    assert known.receive_blocking([u"a"], 0.001) is None
    # That watch was in vain, so this wait goes without one.
    assert turns.count == before
    assert known.check() == []


def test_closed_by_a_handler_during_the_watch(known, turns):
    turns.then[1] = known.close
    with pytest.raises(LayerClosed):
        known.receive_blocking([u"a"], 60)


def test_a_handler_that_raises_during_the_watch(known, turns):
    def stop():
        raise SystemExit(3)

    turns.then[2] = stop
    with pytest.raises(SystemExit):
        known.receive_blocking([u"a"], 60)
    put(known, u"a", b"1")
    assert known.receive_blocking([u"a"], 60)[2] == b"1"
    assert known.check() == []


def test_a_ring_that_comes_late_ends_no_wait(make_layer):
    """It was for the message that the receiver has found by itself."""
    layer = make_layer(block_timeout=0.2)
    messages = layer._stores.messages
    waiter = messages.borrow_waiter()
    messages.leave(waiter)
    waiter.doorbell.ring()
    started = time.time()
    assert layer.receive([u"a"], block=True) == (None, None)
    assert time.time() - started >= 0.19
    assert messages._idle_waiters == [waiter]
    assert not waiter.doorbell.wait(0)


@pytest.mark.filterwarnings("ignore:.*was removed while in use:RuntimeWarning")
def test_a_removed_segment_is_not_waited_at(make_layer, prefix):
    layer = make_layer()
    layer.send(u"a", {})
    layer.receive([u"a"])
    unlink(prefix)
    time.sleep(0.02)
    started = time.time()
    assert layer.receive([u"a"], block=True) == (None, None)
    assert time.time() - started < 0.9
    layer.send(u"a", {"n": 1})
    assert layer.receive([u"a"], block=True) == (u"a", {"n": 1})


# -- processes -----------------------------------------------------------------------------


def answer(prefix, count):
    limit()
    layer = open_layer(prefix)
    for _ in range(count):
        _, message = layer.receive([u"ask"], block=True)
        layer.send(u"answer", message)
    layer.close()


def test_to_and_fro(layer, prefix):
    child = Child(answer, prefix, 3000)
    for number in range(3000):
        layer.send(u"ask", {"n": number})
        assert layer.receive([u"answer"], block=True) == (u"answer", {"n": number})
    child.result()
    assert layer.check() == []


def compete(prefix):
    limit()
    layer = open_layer(prefix, capacity=10 ** 6)
    found = []
    while True:
        _, message = layer.receive([u"work"], block=True)
        if not message["n"]:
            return found
        found.append(message["n"])


def test_receivers_that_compete_take_each_message_once(make_layer, prefix):
    layer = make_layer(capacity=10 ** 6)
    children = [Child(compete, prefix) for _ in range(3)]
    for number in range(1, 2001):
        layer.send(u"work", {"n": number})
        if not number % 7:
            # Not a backlog all the time.
            time.sleep(0.0002)
    for _ in children:
        layer.send(u"work", {"n": 0})
    found = [child.result() for child in children]
    assert sorted(number for each in found for number in each) == list(range(1, 2001))
    assert layer.check() == []


def idle(prefix, seconds):
    limit()
    layer = open_layer(prefix, block_timeout=0.005)
    layer.send(u"a", {})
    layer.receive([u"a"])
    begun, end, waits = sum(os.times()[:2]), time.time() + seconds, 0
    while time.time() < end:
        assert layer.receive([u"a"], block=True) == (None, None)
        waits += 1
    return sum(os.times()[:2]) - begun, waits


def test_who_has_nothing_to_do_does_nothing(prefix, no_child_stays):
    """Even where a wait lasts 5 ms only; to watch at each of them would take 10 ms a second."""
    used, waits = in_child(idle, prefix, 1.0)
    assert waits > 20
    # Measured 0.02 s, most of it for the waits as such.
    assert used < 0.1


def watch_for_ever(prefix, pipe):
    limit()
    layer = open_layer(prefix)
    layer.send(u"a", {})
    layer.receive([u"a"])
    spin.LONGEST, spin.LOOKS = 600 * monotonic.SECOND, 10 ** 9
    os.write(pipe, b"!")
    layer.receive([u"a"], block=True)


def test_killed_while_it_watches(layer, prefix):
    """It has left nothing, and nobody waits for it."""
    reader, writer = os.pipe()
    child = Child(watch_for_ever, prefix, writer)
    os.read(reader, 1)
    time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.close()
    os.close(reader)
    os.close(writer)
    assert bells(prefix) == []
    layer.send(u"a", {"n": 1})
    assert layer.receive([u"a"], block=True) == (u"a", {"n": 1})
    assert layer._stores.messages._map[BOARD] == EMPTY
    assert layer.check() == []


def test_stopped_while_it_watches(layer, prefix):
    """Who goes on in the midst of it sees what has come."""
    reader, writer = os.pipe()
    child = Child(watch_for_ever, prefix, writer)
    os.read(reader, 1)
    os.kill(child.pid, signal.SIGSTOP)
    layer.send(u"a", {"n": 1})
    os.kill(child.pid, signal.SIGCONT)
    child.result()
    os.close(reader)
    os.close(writer)
    assert layer.check() == []


def test_a_fork_in_between(layer, prefix):
    """The child of one that has waited, and has watched with success, waits as well."""
    child = Child(answer, prefix, 50)
    for number in range(50):
        layer.send(u"ask", {"n": number})
        layer.receive([u"answer"], block=True)
    child.result()

    def wait():
        limit()
        return layer.receive([u"for.child"], block=True)

    child = Child(wait)
    eventually(lambda: len(bells(prefix)) >= 1, "waiting")
    time.sleep(0.05)
    layer.send(u"for.child", {"n": 1})
    assert child.result() == (u"for.child", {"n": 1})
    in_threads(2, lambda number: layer.receive([u"nobody"], block=False))
    assert layer.check() == []
