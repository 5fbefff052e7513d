"""Stopped, not dead: who is stopped inside is waited for and named, who waits holds up nobody."""
import gc
import os
import time

import pytest
from processkit import (
    SIZES,
    Stopping,
    at_step,
    child_inside,
    die_inside,
    eventually,
    is_locked,
    numbers,
    steps_inside,
    stop_self,
    traced,
    waits,
)
from storekit import Child, in_child

from asgi_ipc import IPCChannelLayer
from asgi_ipc._shm import clock, inside, lane
from asgi_ipc._shm import lock as lock_module
from asgi_ipc.errors import LockTimeout

pytestmark = pytest.mark.skipif(
    not os.path.exists("/proc/self/wchan"),
    reason="the system does not tell what processes wait for",
)

BRIEF = 0.05
"""Seconds of lock_timeout of those who look on."""

# -- a holder that is stopped, at any step of any operation --------------------------------


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


def stop_at(step, make_layer, operation):
    """In a child: do an operation with a layer of its own, stopping at a step of it."""
    layer = make_layer(block_timeout=0.01)
    return traced(at_step(step, stop_self), operation.act, layer)


def some(campaign, steps, share, whole):
    """So many steps by chance; ``whole`` is more than most operations have."""
    count = campaign.amount(share, whole)
    return steps if len(steps) <= count else campaign.random.sample(steps, count)


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
def test_a_holder_stopped_anywhere_is_waited_for_and_named(name, prefix, make_layer, campaign):
    operation = OPERATIONS[name]
    # Layers that other tests have left hear of each fork, which takes steps where it is looked for.
    gc.collect()
    layer = make_layer(lock_timeout=BRIEF)
    for _ in range(2):
        # What is done for the first time takes other steps: the second time counts.
        layer.flush()
        operation.prepare(layer)
        outside, inside = in_child(
            lambda: steps_inside(operation.act, make_layer(block_timeout=0.01))
        )
    steps = some(campaign, outside, 1, 100) + some(campaign, inside, 2, 1000)
    refused = stopped = 0
    for step in steps:
        layer.flush()
        operation.prepare(layer)
        child = Stopping(stop_at, step, make_layer, operation)
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
    # Once a second, an operation takes some steps more.
    assert stopped >= len(steps) / 2
    assert refused > 0
    campaign.note("{0}: stopped at {1} steps, inside at {2}".format(name, stopped, refused))


# -- at the edges of the lock --------------------------------------------------------------


def child_stopped_at_flock(make_layer, operation, before, call):
    """A child that stops right before or after a flock or an unlock that it makes."""

    def work():
        layer = make_layer()
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


def test_one_stopped_with_the_token_holds_nobody_up(prefix, make_layer):
    """It has no flock yet, so nobody has to wait for it longer than it takes to ask."""
    layer, other = make_layer(lock_timeout=1), make_layer(lock_timeout=1)
    child = child_stopped_at_flock(
        make_layer, lock_module._TRY, True, lambda layer: layer.send(u"c", {"n": 0})
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
    ids=["after the flock and before SLOW", "after the post and before the unlock"],
)
def test_one_stopped_with_the_flock_alone_keeps_out_who_comes_slowly(
    prefix, make_layer, operation, before
):
    """It is outside still, or again: the busy word is 0, and the kernel knows who it is."""
    layer, other = make_layer(lock_timeout=BRIEF), make_layer(lock_timeout=BRIEF)
    # From the second time on it has a lane.
    layer.flush()
    child = child_stopped_at_flock(
        make_layer, operation, before, lambda layer: layer.send(u"c", {"n": 1})
    )
    try:
        assert not is_locked(prefix, "messages")
        layer.send(u"c", {"n": 2})
        for _ in range(3):
            with pytest.raises(LockTimeout) as caught:
                other.send(u"c", {"n": 3})
            assert "process {0}.".format(child.pid) in str(caught.value)
        child.goes_on()
    finally:
        child.end()
    assert numbers(layer, u"c") == ([1, 2] if before else [2, 1])
    other.send(u"c", {"n": 4})
    assert numbers(layer, u"c") == [4]
    assert layer.check() == []
    assert layer._stores.messages._lock._semaphore.value == 1


@pytest.mark.parametrize("has_a_lane", [True, False])
def test_without_the_kernels_word_the_one_it_left_counts(make_layer, monkeypatch, has_a_lane):
    monkeypatch.setattr(inside, "LOCKS", "/proc/none")
    if not has_a_lane:
        monkeypatch.setattr(lane, "SUPPORTED", False)
    layer = make_layer(lock_timeout=BRIEF)
    child = child_inside(make_layer)
    with pytest.raises(LockTimeout) as caught:
        layer.send(u"c", {"n": 1})
    child.end()
    assert "by process {0}.".format(child.pid) in str(caught.value)


@pytest.mark.parametrize("slow", [True, False])
def test_who_attaches_while_one_is_stopped_is_told_whom_to_continue(prefix, make_layer, slow):
    """At once, or with the first call: who is inside by the fast way lets others attach."""
    make_layer()

    def attach_and_use():
        layer = make_layer(lock_timeout=BRIEF)
        layer.send(u"d", {"n": 1})
        layer.group_add(u"g", u"d")

    for part in ("messages", "groups"):
        child = child_inside(make_layer, part, slow)
        try:
            assert try_while_stopped(part, child.pid, prefix, attach_and_use)
            child.goes_on()
        finally:
            child.end()
    layer = make_layer(lock_timeout=BRIEF)
    layer.send(u"c", {"n": 1})
    assert numbers(layer, u"c") == [1]


def test_all_who_wait_are_let_in_when_it_goes_on(make_layer):
    """Nobody has to wait for its own lock_timeout then."""
    layer = make_layer()
    child = child_inside(make_layer)
    senders = [
        Child(lambda number=number: make_layer(lock_timeout=60).send(u"c", {"n": number}))
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


def test_killed_while_stopped_inside_is_a_death_inside(make_layer):
    layer = make_layer(lock_timeout=20)
    layer.send(u"c", {"n": 1})
    child = child_inside(make_layer)
    child.kill()
    began = clock.now()
    assert numbers(layer, u"c") == [1]
    assert clock.now() - began < 10 * clock.SECOND
    assert layer._stores.messages._lock.recoveries == 1
    assert layer.check() == []


# -- an error after the commit would make the caller do it twice, or lose what it took -----


def test_a_message_taken_is_not_lost_for_a_stopped_holder_of_the_other_lock(make_layer):
    """What follows a receive (memberships of unread channels end) must not fail it."""
    layer = make_layer(lock_timeout=BRIEF, expiry=0.01)
    layer.group_add(u"g", u"p!x")
    layer.send(u"p!x", {"n": 1})
    time.sleep(0.02)
    lasting = make_layer(lock_timeout=BRIEF)
    lasting.send(u"p!y", {"n": 2})
    child = child_inside(make_layer, "groups")
    try:
        # On its way to the second message it drops the first one, whose channel is to leave.
        assert lasting.receive([u"p!"]) == (u"p!y", {"n": 2})
        child.goes_on()
    finally:
        child.end()
    assert lasting.receive([u"p!"]) == (None, None)
    assert lasting.group_channels(u"g") == []


def test_a_message_sent_is_not_refused_for_a_stopped_holder_of_the_other_lock(make_layer):
    layer = make_layer(lock_timeout=BRIEF, expiry=0.01, capacity=1)
    layer.group_add(u"g", u"p!x")
    layer.send(u"p!x", {"n": 1})
    time.sleep(0.02)
    child = child_inside(make_layer, "groups")
    try:
        layer.send(u"p!y", {"n": 2})
        child.goes_on()
    finally:
        child.end()
    time.sleep(0.02)
    assert numbers(layer, u"p!") == []
    assert layer.group_channels(u"g") == []


def ring_while_stopped(layer, make_layer, call):
    """Call; when it comes to ring others, one stops inside, and the others' bells are dead."""
    store = layer._stores.messages
    children = []

    def ring(_):
        if not children:
            children.append(child_inside(make_layer))
        return False

    store._ringer.ring = ring
    try:
        return call()
    finally:
        del store._ringer.ring
        for child in children:
            child.goes_on()
        assert len(children) == 1


def test_a_message_sent_is_not_refused_when_a_dead_waiter_cannot_be_struck_off(make_layer):
    """Its bell is struck off in a critical section of its own, which may be held up."""
    layer = make_layer(lock_timeout=BRIEF)
    waiter = Child(lambda: make_layer(block_timeout=60).receive([u"c"], block=True))
    eventually(lambda: waits(waiter.pid), "waiting")
    waiter.kill()
    ring_while_stopped(layer, make_layer, lambda: layer.send(u"c", {"n": 1}))
    assert numbers(layer, u"c") == [1]
    assert layer.check() == []


def test_a_message_taken_is_not_lost_when_a_dead_waiter_cannot_be_struck_off(make_layer):
    """As it happens to who rebuilds after a death: all bells are rung then."""
    layer = make_layer(lock_timeout=BRIEF)
    layer.send(u"c", {"n": 1})
    waiter = Child(lambda: make_layer(block_timeout=60).receive([u"none"], block=True))
    eventually(lambda: waits(waiter.pid), "waiting")
    waiter.kill()
    die_inside(layer, "messages")
    got = ring_while_stopped(layer, make_layer, lambda: layer.receive([u"c"]))
    assert got == (u"c", {"n": 1})
    assert layer.check() == []
