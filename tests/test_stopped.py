"""Stopped, not dead: who is stopped inside is waited for and named, who waits holds up nobody."""
import os
import signal
import time

import pytest
from processkit import (
    Stopping,
    at_step,
    bells,
    eventually,
    is_locked,
    left_behind,
    steps_inside,
    stop_self,
    traced,
    waits,
)
from storekit import Child, in_child

from asgi_ipc import IPCChannelLayer
from asgi_ipc._shm import clock
from asgi_ipc._shm import lock as lock_module
from asgi_ipc.errors import LockTimeout

pytestmark = pytest.mark.skipif(
    not os.path.exists("/proc/self/wchan"), reason="the system does not tell what processes wait for"
)

BRIEF = 0.05
"""Seconds of lock_timeout of those who look on."""

SIZES = {"message_memory": 256 * 1024, "group_memory": 256 * 1024}


@pytest.fixture
def make(prefix, no_child_stays):
    """A function that makes a layer of the test's prefix; all are closed at the end."""
    layers = []

    def make_one(**options):
        layers.append(IPCChannelLayer(prefix, **dict(SIZES, **options)))
        return layers[-1]

    yield make_one
    for layer in layers:
        layer.close()


# -- a holder that is stopped, at any step of any operation --------------------------------


def numbers(layer, *channels):
    """The numbers of all messages that can be received."""
    found = []
    while True:
        channel, message = layer.receive(list(channels))
        if channel is None:
            return found
        found.append(message["n"])


def die_inside(layer, part):
    """Have a child die inside a lock, so that the next one has to rebuild."""

    def die():
        getattr(layer._stores, part)._lock.acquire()
        os.kill(os.getpid(), signal.SIGKILL)

    Child(die).wait()


class Operation(object):
    """One operation: what is there before, what is done, and what holds after it was done once."""

    def __init__(self, prepare, act, verify):
        self.prepare, self.act, self.verify = prepare, act, verify


def send_two(layer):
    layer.send(u"c", {"n": 1})
    layer.send(u"c", {"n": 2})


def join_two(layer):
    layer.group_add(u"g", u"p!x")
    layer.group_add(u"g", u"c")


def prepare_rebuild(layer):
    send_two(layer)
    join_two(layer)
    die_inside(layer, "messages")


def prepare_rebuild_of_groups(layer):
    join_two(layer)
    die_inside(layer, "groups")


def attach_and_send(layer):
    with IPCChannelLayer(layer.prefix, **SIZES) as other:
        other.send(u"c", {"n": 1})


def nothing(layer):
    """Nothing has to be there before."""


OPERATIONS = {
    "send": Operation(
        nothing,
        lambda layer: layer.send(u"c", {"n": 1}),
        lambda layer, _: numbers(layer, u"c") == [1],
    ),
    "send to a local channel": Operation(
        lambda layer: layer.send(u"p!y", {"n": 1}),
        lambda layer: layer.send(u"p!x", {"n": 2}),
        lambda layer, _: numbers(layer, u"p!") == [1, 2],
    ),
    "receive": Operation(
        send_two,
        lambda layer: layer.receive([u"c"]),
        lambda layer, got: got == (u"c", {"n": 1}) and numbers(layer, u"c") == [2],
    ),
    "blocking receive": Operation(
        nothing,
        lambda layer: layer.receive([u"none"], block=True),
        lambda layer, got: got == (None, None),
    ),
    "batch": Operation(
        send_two,
        lambda layer: len(layer._stores.messages.receive_batch(u"c", 5)),
        lambda layer, got: got == 2 and numbers(layer, u"c") == [],
    ),
    "group_add": Operation(
        nothing,
        lambda layer: layer.group_add(u"g", u"p!x"),
        lambda layer, _: layer.group_channels(u"g") == [u"p!x"],
    ),
    "group_discard": Operation(
        join_two,
        lambda layer: layer.group_discard(u"g", u"p!x"),
        lambda layer, _: layer.group_channels(u"g") == [u"c"],
    ),
    "send_group": Operation(
        join_two,
        lambda layer: layer.send_group(u"g", {"n": 1}),
        lambda layer, _: numbers(layer, u"p!") == [1] and numbers(layer, u"c") == [1],
    ),
    "flush": Operation(
        lambda layer: (send_two(layer), join_two(layer)),
        lambda layer: layer.flush(),
        lambda layer, _: numbers(layer, u"c") == [] and layer.group_channels(u"g") == [],
    ),
    "rebuild": Operation(
        prepare_rebuild,
        lambda layer: layer.receive([u"c"]),
        lambda layer, got: got == (u"c", {"n": 1}) and numbers(layer, u"c") == [2],
    ),
    "rebuild of groups": Operation(
        prepare_rebuild_of_groups,
        lambda layer: layer.group_add(u"g", u"p!y"),
        lambda layer, _: layer.group_channels(u"g") == [u"p!x", u"c", u"p!y"],
    ),
    "attach, send and detach": Operation(
        nothing, attach_and_send, lambda layer, _: numbers(layer, u"c") == [1]
    ),
}


def stop_at(step, make, operation):
    """In a child: do an operation with a layer of its own, stopping at a step of it."""
    layer = make(block_timeout=0.01)
    return traced(at_step(step, stop_self), operation.act, layer)


def try_while_stopped(kind, pid, prefix, call, *args):
    """Call while a process is stopped: refused, and it is named, if it holds that lock.

    Whether it was refused.
    """
    if not is_locked(prefix, kind):
        call(*args)
        return False
    began = clock.now()
    with pytest.raises(LockTimeout) as caught:
        call(*args)
    assert clock.now() - began >= BRIEF * clock.SECOND
    assert "process {0}.".format(pid) in str(caught.value)
    assert "kill -CONT" in str(caught.value)
    return True


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_a_holder_stopped_anywhere_is_waited_for_and_named(name, prefix, make, campaign):
    operation = OPERATIONS[name]
    layer = make(lock_timeout=BRIEF)
    for _ in range(2):
        # What is done for the first time takes other steps: the second time counts.
        layer.flush()
        operation.prepare(layer)
        outside, inside = in_child(lambda: steps_inside(operation.act, make(block_timeout=0.01)))
    steps = campaign.choose(outside, 1) + campaign.choose(inside, 3)
    refused = stopped = 0
    for step in steps:
        layer.flush()
        operation.prepare(layer)
        child = Stopping(stop_at, step, make, operation)
        try:
            if child.stops():
                stopped += 1
                no_send = try_while_stopped(
                    "messages", child.pid, prefix, layer.send, u"other", {"n": 7}
                )
                no_join = try_while_stopped(
                    "groups", child.pid, prefix, layer.group_add, u"others", u"other"
                )
                refused += no_send or no_join
                result = child.goes_on()
                if name != "flush":
                    # What was refused was not done, and what was not refused was.
                    assert numbers(layer, u"other") == ([] if no_send else [7])
                    assert layer.group_channels(u"others") == ([] if no_join else [u"other"])
            else:
                result = child.result()
        finally:
            child.end()
        assert layer.check() == []
        assert operation.verify(layer, result)
        assert layer.check() == []
    assert stopped >= len(steps) * 0.9
    assert refused > 0
    campaign.note("{0}: stopped at {1} steps, inside at {2}".format(name, stopped, refused))


# -- at the edges of the lock --------------------------------------------------------------


def child_stopped_at_flock(make, operation, before, call):
    """A child that stops right before or after a flock or an unlock that it makes."""

    def work():
        layer = make()
        flock = lock_module._flock

        def stopping_flock(descriptor, what):
            if what == operation and before:
                stop_once()
            flock(descriptor, what)
            if what == operation and not before:
                stop_once()

        def stop_once():
            lock_module._flock = flock
            stop_self()

        lock_module._flock = stopping_flock
        return call(layer)

    child = Stopping(work)
    assert child.stops()
    return child


def test_one_stopped_with_the_token_holds_nobody_up(prefix, make):
    """It has no flock yet, so nobody has to wait for it longer than it takes to ask."""
    layer, other = make(lock_timeout=1), make(lock_timeout=1)
    child = child_stopped_at_flock(
        make, lock_module._TRY, True, lambda layer: layer.send(u"c", {"n": 0})
    )
    try:
        assert not is_locked(prefix, "messages")
        for number in range(1, 20):
            (layer, other)[number % 2].send(u"c", {"n": number})
        child.goes_on()
    finally:
        child.end()
    assert numbers(layer, u"c") == list(range(1, 20)) + [0]
    assert layer.check() == []
    assert layer._stores.messages._lock._semaphore.value == 1


@pytest.mark.parametrize(
    "operation, before",
    [(lock_module._TRY, False), (lock_module._UNLOCK, True)],
    ids=["after the flock and before the pid", "after the post and before the unlock"],
)
def test_one_stopped_where_its_pid_is_not_there_is_named(prefix, make, operation, before):
    """The busy word is 0 there, and a token may be free: the kernel knows who it is."""
    layer = make(lock_timeout=BRIEF)
    child = child_stopped_at_flock(
        make, operation, before, lambda layer: layer.send(u"c", {"n": 1})
    )
    try:
        for _ in range(3):
            assert try_while_stopped(
                "messages", child.pid, prefix, layer.send, u"c", {"n": 2}
            )
        child.goes_on()
    finally:
        child.end()
    assert numbers(layer, u"c") == [1]
    layer.send(u"c", {"n": 3})
    assert numbers(layer, u"c") == [3]
    assert layer.check() == []
    assert layer._stores.messages._lock._semaphore.value == 1


def test_without_the_kernels_word_the_one_it_left_counts(make, monkeypatch):
    monkeypatch.setattr(lock_module, "LOCKS", "/proc/none")
    layer = make(lock_timeout=BRIEF)
    child = child_inside(make)
    with pytest.raises(LockTimeout) as caught:
        layer.send(u"c", {"n": 1})
    child.end()
    assert "by process {0}.".format(child.pid) in str(caught.value)


def child_inside(make, part="messages"):
    """A child that is stopped inside."""

    def work():
        layer = make()
        lock = getattr(layer._stores, part)._lock
        lock.acquire()
        stop_self()
        lock.release()

    child = Stopping(work)
    assert child.stops()
    return child


def test_who_attaches_while_one_is_stopped_is_told_whom_to_continue(prefix, make):
    make()
    for part in ("messages", "groups"):
        child = child_inside(make, part)
        try:
            try_while_stopped(part, child.pid, prefix, lambda: make(lock_timeout=BRIEF))
            child.goes_on()
        finally:
            child.end()
    layer = make(lock_timeout=BRIEF)
    layer.send(u"c", {"n": 1})
    assert numbers(layer, u"c") == [1]


def test_all_who_wait_are_let_in_when_it_goes_on(make):
    """Nobody has to wait for its own lock_timeout then."""
    layer = make()
    child = child_inside(make)
    senders = [
        Child(lambda number=number: make(lock_timeout=60).send(u"c", {"n": number}))
        for number in range(5)
    ]
    time.sleep(0.1)
    began = clock.now()
    child.goes_on()
    for sender in senders:
        sender.result()
    assert clock.now() - began < 30 * clock.SECOND
    assert sorted(numbers(layer, u"c")) == list(range(5))
    assert layer.check() == []


def test_killed_while_stopped_inside_is_a_death_inside(make):
    layer = make(lock_timeout=20)
    layer.send(u"c", {"n": 1})
    child = child_inside(make)
    child.kill()
    began = clock.now()
    assert numbers(layer, u"c") == [1]
    assert clock.now() - began < 10 * clock.SECOND
    assert layer._stores.messages._lock.recoveries == 1
    assert layer.check() == []


# -- an error after the commit would make the caller do it twice, or lose what it took -----


def test_a_message_taken_is_not_lost_for_a_stopped_holder_of_the_other_lock(make):
    """What follows a receive (memberships of unread channels end) must not fail it."""
    layer = make(lock_timeout=BRIEF, expiry=0.01)
    layer.group_add(u"g", u"p!x")
    layer.send(u"p!x", {"n": 1})
    time.sleep(0.02)
    lasting = make(lock_timeout=BRIEF)
    lasting.send(u"p!y", {"n": 2})
    child = child_inside(make, "groups")
    try:
        # On its way to the second message it drops the first one, whose channel is to leave.
        assert lasting.receive([u"p!"]) == (u"p!y", {"n": 2})
        child.goes_on()
    finally:
        child.end()
    assert lasting.receive([u"p!"]) == (None, None)
    assert lasting.group_channels(u"g") == []


def test_a_message_sent_is_not_refused_for_a_stopped_holder_of_the_other_lock(make):
    layer = make(lock_timeout=BRIEF, expiry=0.01, capacity=1)
    layer.group_add(u"g", u"p!x")
    layer.send(u"p!x", {"n": 1})
    time.sleep(0.02)
    child = child_inside(make, "groups")
    try:
        layer.send(u"p!y", {"n": 2})
        child.goes_on()
    finally:
        child.end()
    time.sleep(0.02)
    assert numbers(layer, u"p!") == []
    assert layer.group_channels(u"g") == []


def ring_while_stopped(layer, make, call):
    """Call; when it comes to ring others, one stops inside, and the others' bells are dead."""
    store = layer._stores.messages
    children = []

    def ring(_):
        if not children:
            children.append(child_inside(make))
        return False

    store._ringer.ring = ring
    try:
        return call()
    finally:
        del store._ringer.ring
        for child in children:
            child.goes_on()
        assert len(children) == 1


def test_a_message_sent_is_not_refused_when_a_dead_waiter_cannot_be_struck_off(make):
    """Its bell is struck off in a critical section of its own, which may be held up."""
    layer = make(lock_timeout=BRIEF)
    waiter = Child(lambda: make(block_timeout=60).receive([u"c"], block=True))
    eventually(lambda: waits(waiter.pid), "waiting")
    waiter.kill()
    ring_while_stopped(layer, make, lambda: layer.send(u"c", {"n": 1}))
    assert numbers(layer, u"c") == [1]
    assert layer.check() == []


def test_a_message_taken_is_not_lost_when_a_dead_waiter_cannot_be_struck_off(make):
    """As it happens to who rebuilds after a death: all bells are rung then."""
    layer = make(lock_timeout=BRIEF)
    layer.send(u"c", {"n": 1})
    waiter = Child(lambda: make(block_timeout=60).receive([u"none"], block=True))
    eventually(lambda: waits(waiter.pid), "waiting")
    waiter.kill()
    die_inside(layer, "messages")
    got = ring_while_stopped(layer, make, lambda: layer.receive([u"c"]))
    assert got == (u"c", {"n": 1})
    assert layer.check() == []


# -- a waiter that is stopped --------------------------------------------------------------


def collect(make, channels, count, path):
    """In a child: receive so many, waiting; write the number of each to a file at once."""
    layer = make(block_timeout=60)
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
def start(make, tmpdir):
    """A function that starts a child which waits; returns (child, path of what it hears)."""
    children = []

    def start_one(channels=(u"c",), count=10 ** 6):
        path = str(tmpdir.join("heard{0}".format(len(children))))
        children.append(Stopping(collect, make, list(channels), count, path))
        eventually(lambda: waits(children[-1].pid), "waiting")
        return children[-1], path

    yield start_one
    for child in children:
        child.end()


def stop(child):
    os.kill(child.pid, signal.SIGSTOP)
    assert child.stops()


def test_messages_flow_past_a_stopped_waiter(make, start):
    """The first one may wait for the other waiter's own look; those after it do not."""
    layer = make()
    stopped, _ = start()
    stop(stopped)
    _, path = start()
    for number in range(20):
        layer.send(u"c", {"n": number})
        eventually(lambda number=number: number in heard(path), "receiving")
    assert heard(path) == list(range(20))
    os.kill(stopped.pid, signal.SIGCONT)


def test_messages_flow_past_many_stopped_waiters(make, start):
    """Each of them may take one ring, and none a message."""
    layer = make()
    for _ in range(8):
        stop(start()[0])
    _, path = start()
    for number in range(40):
        layer.send(u"c", {"n": number})
    eventually(lambda: len(heard(path)) == 40, "receiving")
    assert heard(path) == list(range(40))
    assert layer.check() == []


def test_one_that_waits_for_long_while_stopped_is_passed_over(make, start):
    """After 2.5 s without a look it is rung only if nobody waits behind it: no delay any more."""
    layer = make()
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


def test_senders_do_not_wait_for_a_stopped_waiter(prefix, make, start):
    """Not even when its FIFO is full, and when it is to be rung at each send."""
    many = 5000
    layer = make(capacity=10 ** 6, message_memory=4 * 1024 * 1024)
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


def test_a_rebuild_rings_a_full_bell_without_waiting(prefix, make, start):
    layer = make()
    stopped, path = start(count=1)
    stop(stopped)
    fill(prefix)
    die_inside(layer, "messages")
    layer.send(u"c", {"n": 1})
    assert layer._stores.messages._lock.recoveries == 1
    os.kill(stopped.pid, signal.SIGCONT)
    stopped.result()
    assert heard(path) == [1]


def test_a_stopped_waiter_that_goes_on_takes_its_turn(make, start):
    """It hears of what came while it was stopped, and of what comes then, at once."""
    layer = make()
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


def test_a_stopped_waiter_that_dies_is_struck_off(prefix, make, start):
    """The next one is rung in its place, at once."""
    layer = make()
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


def test_a_waiter_stopped_between_its_ring_and_its_look_delays_one_message(make, start):
    """It was rung, wakes, and is stopped before it takes the message: the other one looks."""
    layer = make()

    def collect_until_stopped():
        mine = make(block_timeout=60)
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


def test_a_blocked_receiver_survives_a_stopped_holder(make, start):
    """Its look is held up, and nothing else: it goes on when the holder does."""
    layer = make()
    _, path = start()
    child = child_inside(make)
    try:
        time.sleep(1.5)
        child.goes_on()
    finally:
        child.end()
    layer.send(u"c", {"n": 1})
    eventually(lambda: heard(path) == [1], "receiving")


def test_giving_up_on_a_stopped_holder_leaves_nothing_behind(prefix, make):
    """Blocking receives that end in LockTimeout, again and again: no descriptors, no FIFOs."""
    layer = make(lock_timeout=BRIEF, block_timeout=0.3)
    layer.receive([u"c"], block=True)
    before = len(os.listdir("/proc/self/fd"))

    def receive_while_one_stops_inside():
        """Not before this one waits: it is then that leaving needs the lock."""
        store = layer._stores.messages
        children = []
        hang = store._hang

        def hang_and_be_held_up(*args):
            hang(*args)
            children.append(Stopping(enter_and_stop, make))

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


def enter_and_stop(make):
    layer = make()
    lock = layer._stores.messages._lock
    lock.acquire()
    stop_self()
    lock.release()


def test_a_close_that_was_held_up_can_be_done_again(prefix, make):
    layer = make(lock_timeout=BRIEF, block_timeout=0.01)
    layer.receive([u"c"], block=True)
    child = child_inside(make)
    try:
        with pytest.raises(LockTimeout):
            layer.close()
        child.goes_on()
    finally:
        child.end()
    layer.close()
    assert left_behind(prefix) == []
    other = make()
    other.send(u"c", {"n": 1})
    assert numbers(other, u"c") == [1]
    assert other.check() == []
