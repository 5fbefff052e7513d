"""Death at each step of every operation: the next process goes on at once, and nothing is lost.

A child runs the operation, and SIGKILLs itself before its Nth bytecode. Then another process,
attached before or attaching now, calls at once. Its call is through within half a second,
``check()`` is clean, the operation is wholly there or wholly absent, all that was sent before
is there still, in order, once, and the store goes on working.
"""
import threading
import time

import pytest
from scenes import SCENES, parameters
from stage import HALF_A_SECOND
from stepkit import NEVER, Plan, die_at, held_up, play_in_fork, stop_self
from storekit import Child

from asgi_ipc._shm import clock

SHARE = 30
"""Steps drawn by chance for each scene, besides those around the commit."""


@pytest.mark.parametrize("kind,scene", parameters(SCENES))
def test_killed_at_every_step(open_stage, campaign, tally, kind, scene):
    stage = open_stage(kind, scene)
    steps, changes, _ = stage.footprints()
    killed = []

    def attempt(number):
        stage.set(attached=number % 2)
        through = die_at(stage, number)
        there = stage.verdict(number, through)
        stage.clear()
        assert through or number != NEVER
        killed.append(not through)
        return there

    Plan(campaign, steps, changes, SHARE, len(stage.outcomes) > 1).carry_out(attempt)
    tally.add(campaign, steps, sum(killed), stage.longest)
    assert sum(killed) > len(killed) // 2


INSIDE = [
    (kind, scene)
    for kind, scene in SCENES
    if scene.name in {"send", "send to many", "flush", "rebuild and send", "join", "flush groups"}
]


class Caller(threading.Thread):
    """Calls from a thread of its own; ``found`` is what ``call`` returned."""

    def __init__(self, store):
        threading.Thread.__init__(self)
        self.found = None
        self._store = store

    def run(self):
        self.found = call(self._store)


def call(store):
    """Return (when the call was through, what the machine being busy cost it), in ns."""
    delay = held_up()
    assert store.check() == []
    return clock.now(), held_up() - delay


def wait_for(stage, holder):
    """Have a process and a thread wait for a stopped holder, and kill it; return the seconds."""
    process = Child(call, stage.judge)
    thread = Caller(stage.judge)
    thread.start()
    time.sleep(0.05)
    before = clock.now()
    holder.kill()
    death = clock.now()
    thread.join()
    calls = [thread.found, process.result()]
    assert min(through for through, _ in calls) > before
    return max(through - death - delay for through, delay in calls) / float(clock.SECOND)


@pytest.mark.slow
@pytest.mark.parametrize("kind,scene", parameters(INSIDE))
def test_those_who_wait_go_on(open_stage, campaign, kind, scene):
    """One is inside, a process and a thread wait for it; half a second after its death they are in.

    The thread waits for the lock in another way than main threads do.
    """
    stage = open_stage(kind, scene)
    _, changes, _ = stage.footprints()
    waits = []
    for number in campaign.choose(changes, 8):
        stage.set()
        holder = play_in_fork(stage, number, stop_self)
        if not holder.stops():
            # Looking for a lane that is free takes a step or two for each that is not: it may
            # have found one earlier than the one whose steps were counted.
            assert holder.result() is False
        elif stage.inside(holder.pid):
            waits.append(wait_for(stage, holder))
            stage.verdict(number, through=False)
        else:
            holder.kill()
        stage.clear()
    assert waits
    campaign.note(
        "{0} deaths inside, those who waited were through after {1:.0f} ms at most".format(
            len(waits), max(waits) * 1000
        )
    )
    assert max(waits) < HALF_A_SECOND
