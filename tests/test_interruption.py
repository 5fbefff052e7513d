"""An exception at each step of every operation, as from a signal's handler: the process lives on.

KeyboardInterrupt is raised before the Nth bytecode. Then the process goes on at once: with the
store that was interrupted, or with another one first, as nobody is to wait for an interrupted
process to call again; in its main thread, or beside and from other threads. Each call is
through within half a second, ``check()`` is clean, the operation is wholly there or wholly
absent (a message that was taken is gone then), and nothing else is lost.

All this runs in forked children: should the interpreter crash, a test fails and names the step.
"""
import itertools
import mmap
import os
import random
import signal
import struct
import sys
import threading
import time
import traceback

import pytest
from scenes import SCENES, parameters
from stepkit import Plan, Tripwire, interrupt_at, timed
from storekit import Child, drain, get, open_messages, put

from asgi_ipc.errors import LayerClosed, ReentrantCall

SHARE = 30
"""Steps drawn by chance for each scene, besides those around the commit."""

PIECE = 400
"""Steps that one child tries in a full run: what an interrupted call leaves open, it keeps."""

SIZE = 256 * 1024

_NUMBER = struct.Struct("=Q")


def alone(stage, number):
    """Interrupt, and go on with the same store; every other time with another one before."""
    stage.set(attached=number % 4 < 2)
    stage.prelude()
    through = interrupt_at(stage, number)
    mine = own_call(stage)
    there = stage.verdict(number, through, None if number % 2 else mine)
    mine(stage.first_calls()[0])
    stage.clear()
    return through, there


def own_call(stage):
    """Have the store that was interrupted make a call, if there is one and that was not its end."""

    def call(work):
        if stage.victim is None:
            return work(stage.open())
        if stage.scene.closes:
            stage.victim.close()
            return work(stage.open())
        return work(stage.victim)

    return lambda work: timed(lambda: call(work))


class Neighbour(threading.Thread):
    """Another thread, which works with the same store until told to stop."""

    def __init__(self, stage):
        threading.Thread.__init__(self)
        self.daemon = True
        self._stage = stage
        self._works = threading.Event()
        self._done = threading.Event()
        self._failure = None

    def run(self):
        turn = 0
        try:
            while not self._done.is_set():
                self._stage.work_beside(turn)
                self._works.set()
                turn += 1
        except BaseException:
            self._failure = traceback.format_exc()
            self._works.set()

    def begin(self, working):
        """Return at once, or when it is at work."""
        self.start()
        if working:
            assert self._works.wait(10)

    def end(self):
        self._done.set()
        self.join(10)
        assert not self.is_alive()
        assert self._failure is None, self._failure


def beside_another_thread(stage, number):
    """Interrupt while another thread works with the same store; go on from a third one."""
    stage.set(attached=number % 2)
    stage.prelude()
    neighbour = Neighbour(stage)
    neighbour.begin(working=not stage.scene.corpse)
    through = interrupt_at(stage, number)
    neighbour.end()
    there = stage.verdict(number, through, in_a_thread(stage.victim))
    own_call(stage)(stage.first_calls()[0])
    stage.clear()
    return through, there


def take_turns_often():
    """Have the interpreter change threads as often as it can."""
    if hasattr(sys, "setswitchinterval"):
        sys.setswitchinterval(1e-5)
    else:
        sys.setcheckinterval(1)


def in_a_thread(store):
    """Have a new thread make a call with the store."""

    def call(work):
        found, failure = [], []

        def run():
            try:
                found.append(timed(lambda: work(store)))
            except BaseException:
                failure.append(traceback.format_exc())

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert found, failure
        return found[0]

    return call


def interrupt_everywhere(stage, campaign, tally, trial):
    """Try the steps of a scene in children."""
    steps, changes, _ = stage.footprints()
    place = mmap.mmap(-1, mmap.PAGESIZE)

    def carry_out(plan):
        take_turns_often()
        interrupted = []

        def attempt(number):
            place[: _NUMBER.size] = _NUMBER.pack(number)
            through, there = trial(stage, number)
            if not through:
                interrupted.append(number)
            return there

        plan.carry_out(attempt)
        return len(interrupted), stage.longest

    plan = Plan(campaign, steps, changes, SHARE, len(stage.outcomes) > 1)
    interrupted = 0
    for piece in plan.pieces(PIECE):
        child = Child(carry_out, piece)
        try:
            count, longest = child.result()
        except BaseException:
            print("step {0}".format(_NUMBER.unpack(place[: _NUMBER.size])[0]))
            raise
        interrupted += count
        stage.longest = max(stage.longest, longest)
    tally.add(campaign, steps, interrupted, stage.longest)
    assert interrupted


@pytest.mark.parametrize("kind,scene", parameters(SCENES))
def test_interrupted_at_every_step(open_stage, campaign, tally, kind, scene):
    interrupt_everywhere(open_stage(kind, scene), campaign, tally, alone)


SHARED = [
    (kind, scene)
    for kind, scene in SCENES
    if not (scene.absent or scene.blank or scene.closes or scene.afresh)
]


@pytest.mark.parametrize("kind,scene", parameters(SHARED))
def test_interrupted_beside_another_thread(open_stage, campaign, tally, kind, scene):
    interrupt_everywhere(open_stage(kind, scene), campaign, tally, beside_another_thread)


@pytest.mark.parametrize("operation", ["send", "receive"])
def test_a_handlers_call_that_is_broken_off_at_every_step(open_store, operation):
    """What it leaves to be rebuilt, is rebuilt once, if by the very call that it interrupted."""
    store, other = open_store(), open_store()
    broken = []

    def handler():
        lock = store._lock
        try:
            lock.acquire()
        except ReentrantCall:
            pass
        else:
            broken.append(True)
        lock.abandon()

    def recoveries():
        return store._lock.recoveries + other._lock.recoveries

    for number in itertools.count(1):
        del broken[:]
        wire = Tripwire(number, handler)
        before = recoveries()
        if operation == "send":
            wire.run(lambda: put(store, u"a", b"x"))
        else:
            put(store, u"a", b"x")
            wire.run(lambda: put(store, u"b", get(store, u"a")[2]))
        if not wire.reached:
            break
        assert drain(other, u"a" if operation == "send" else u"b") == [b"x"]
        assert recoveries() - before == len(broken), number
        assert store.check() == []
    assert number > 20


@pytest.mark.parametrize("operation", ["send", "receive"])
def test_closed_by_another_thread_at_every_step(open_store, operation):
    """Done, or told that it is closed; and what it did is done wholly."""
    other = open_store()
    told = 0
    for number in itertools.count(1):
        store = open_store()
        put(store, u"a", b"before")
        closing = threading.Thread(target=store.close)
        done, reached = closed_at(number, operation, store, closing)
        told += not done
        if not reached:
            break
        closing.join()
        left = drain(other, u"a")
        if operation == "send":
            assert left == [b"before"] + [b"it"] * done
        else:
            assert left == [b"before"] * (not done)
        assert other.check() == []
    assert told and number > told + 10


def closed_at(number, operation, store, closing):
    """Have a thread close a store at a step; return whether that went on, and came to that step."""

    def close():
        closing.start()
        # It waits for one who is inside.
        closing.join(0.002)

    wire = Tripwire(number, close)
    try:
        if operation == "send":
            wire.run(lambda: put(store, u"a", b"it"))
        else:
            wire.run(lambda: get(store, u"a"))
    except LayerClosed:
        return False, wire.reached
    return True, wire.reached


# -- real signals --------------------------------------------------------------------------


class Alarm(object):
    """Raises KeyboardInterrupt out of a signal's handler, wherever the program is by then."""

    def __init__(self, chance):
        self._chance = chance
        self._armed = False
        signal.signal(signal.SIGALRM, self._ring)

    def _ring(self, *_):
        # One that comes late must not hit anything but the call.
        if self._armed:
            self._armed = False
            raise KeyboardInterrupt

    def call(self, work):
        """Return (whether it was interrupted, what ``work`` returned)."""
        # Mostly within the calls, and at times within a wait.
        seconds = 0.00005 * 2 ** self._chance.uniform(0, 6)
        try:
            self._armed = True
            signal.setitimer(signal.ITIMER_REAL, seconds)
            found = work()
            self._armed = False
        except KeyboardInterrupt:
            return True, None
        signal.setitimer(signal.ITIMER_REAL, 0)
        return False, found


class History(object):
    """What was sent and received on one channel, and what an interruption leaves open."""

    def __init__(self):
        self.sent = []
        self.perhaps = set()
        self.received = []
        self.may_be_lost = 0

    def judge(self):
        """In order, once; and nothing is gone but what interrupted receives had in hand."""
        assert self.received == sorted(set(self.received))
        assert set(self.received) <= set(self.sent) | self.perhaps
        assert len(set(self.sent) - set(self.received)) <= self.may_be_lost


def use_under_alarms(prefix, seed, seconds):
    """Send, receive and wait, interrupted all the time; return how often it was."""
    chance = random.Random(seed)
    alarm = Alarm(chance)
    store, other = open_messages(prefix, SIZE), open_messages(prefix, SIZE)
    histories = {u"a": History(), u"b!": History()}
    number = interruptions = 0
    end = time.time() + seconds
    while time.time() < end:
        number += 1
        queue = chance.choice(sorted(histories))
        if do_something(store, queue, histories[queue], number, alarm, chance):
            interruptions += 1
            first, second = (store, other) if interruptions % 2 else (other, store)
            assert first.check() == second.check() == []
    for queue, history in histories.items():
        history.received += [int(payload) for payload in drain(other, queue)]
        history.judge()
    store.close()
    other.close()
    return interruptions


def do_something(store, queue, history, number, alarm, chance):
    """Send, receive or wait; return whether it was interrupted."""
    kind = chance.randrange(4)
    if kind == 0 or len(history.sent) - len(history.received) < 3:
        payload = b"%d" % number + b" " * chance.choice((1, 50, 5000))
        local = u"x" if queue == u"b!" else u""
        interrupted, _ = alarm.call(lambda: put(store, queue, payload, local=local))
        if interrupted:
            history.perhaps.add(number)
        else:
            history.sent.append(number)
    elif kind == 1:
        interrupted, batch = alarm.call(lambda: store.receive_batch(queue, 2))
        history.may_be_lost += 2 * interrupted
        history.received += [int(payload) for _, payload, _ in batch or []]
    else:
        names = [u"nobody", queue] if kind == 2 else [u"nobody"]
        interrupted, found = alarm.call(lambda: store.receive_blocking(names, 0.002))
        history.may_be_lost += interrupted
        history.received += [int(found[2])] if found else []
    return interrupted


def disturb(prefix, stop):
    """Keep the lock in use, so that the others have to wait for it."""
    store = open_messages(prefix, SIZE)
    turn = 0
    while not os.path.exists(stop):
        put(store, u"c", b"%d" % turn)
        assert get(store, u"c") == (u"c", u"", b"%d" % turn)
        turn += 1
    store.close()
    return turn


@pytest.mark.slow
def test_signals_whose_handlers_raise(prefix, tmpdir, campaign):
    """They come where no trace gets to: in the calls of the system, and in waiting."""
    stop = str(tmpdir.join("stop"))
    first = open_messages(prefix, SIZE)
    neighbour = Child(disturb, prefix, stop)
    try:
        child = Child(
            use_under_alarms, prefix, campaign.random.random(), campaign.amount(4, 120)
        )
        interruptions = child.result()
    finally:
        open(stop, "w").close()
        assert neighbour.result() > 0
    assert first.check() == []
    first.close()
    campaign.note("{0} interruptions by signals".format(interruptions))
    assert interruptions > 100
