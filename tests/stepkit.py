"""Death and interruption at each step: a wire across the package's bytecode, and what is tried.

``scenes.py`` says what an operation is and what may be left of it. Here is how it is made to
fail at its Nth step, and which N are tried.

A step is a bytecode of the package's own code (before Python 3.7: a line). What other
processes can see changes at a few of them only; ``Footprints`` finds these by comparing shared
memory after each. In a full run every step is tried. A share of them has the ends, the steps
on both sides of the commit (found by trial, as nothing in the code has to name it), and some
drawn by chance, most of them right behind a change.
"""
import copy
import gc
import os
import signal
import sys

from storekit import Child

from asgi_ipc._shm import clock, forks
from asgi_ipc._shm.lock import SegmentLock

STEP = "opcode" if sys.version_info >= (3, 7) else "line"
PACKAGE = "asgi_ipc"

NEVER = 10 ** 9
"""The number of a step that no operation has."""

NEAR = 4
"""Steps before and after the commit that are always tried."""


def settrace(function):
    """Trace this thread; by opcode as well, where Python can and a frame asks for it."""
    if STEP == "opcode":
        # Python 3.12 looks at the moment of settrace whether any frame has asked yet.
        sys._getframe().f_trace_opcodes = True
    sys.settrace(function)


def is_inside(frame):
    """Whether somebody is inside the lock that a frame, or one that it was called from, uses."""
    while frame is not None:
        lock = frame.f_locals.get("lock")
        if isinstance(lock, SegmentLock):
            return lock.guarded and lock.entered is not None
        frame = frame.f_back
    return False


class Tracer(object):
    """Runs a call and counts the steps of the package in it; ``at_step`` is called before each."""

    def __init__(self):
        self.steps = 0

    def at_step(self, frame):
        """To be overridden."""

    def at_call(self, frame):
        """To be overridden."""

    def trace(self, frame, event, _):
        if event == "call":
            if frame.f_globals.get("__name__", "").split(".")[0] != PACKAGE:
                return None
            self.at_call(frame)
            if STEP == "opcode":
                # In this order: Python 3.13 looks at f_trace when the other is set.
                frame.f_trace = self.trace
                frame.f_trace_opcodes = True
        elif event == STEP:
            self.steps += 1
            self.at_step(frame)
        return self.trace

    def run(self, call):
        """Run it with this thread traced."""
        # Finalizers are to run where the program has them run, or no step would be the same
        # twice.
        collecting = gc.isenabled()
        gc.disable()
        before = sys.gettrace()
        # Python 3.11 calls a trace function by a borrowed reference while it makes the frame
        # object that it passes. If a finalizer runs in there, and the trace function raises in
        # it, that is the end of the function and of the interpreter, but for this reference.
        function = self.trace
        settrace(function)
        try:
            call()
        finally:
            sys.settrace(before)
            if collecting:
                gc.enable()


class Tripwire(Tracer):
    """Calls ``act`` before step ``number``, which counts from 1."""

    def __init__(self, number, act):
        Tracer.__init__(self)
        self._number = number
        self._act = act

    def at_step(self, frame):
        if self.steps == self._number:
            self._act()

    @property
    def reached(self):
        """Whether the call came to that step."""
        return self.steps >= self._number


class Footprints(Tracer):
    """Where a call changes what others can see, and which functions it comes through.

    ``changes``: steps before which ``look()`` had changed. ``functions``: their names.
    """

    def __init__(self, look):
        Tracer.__init__(self)
        self.changes = []
        self.functions = set()
        self._look = look
        self._seen = look()

    def at_step(self, frame):
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            self.changes.append(self.steps)

    def at_call(self, frame):
        self.functions.add(frame.f_code.co_name)


def footprints_of(scene, look):
    """Play a scene to its end in a forked child; return (steps, changes, functions).

    ``scene``: has ``prelude()``, which is not traced, and ``perform()``.
    ``look``: see ``Footprints``.
    """

    def follow():
        _settle(scene)
        tracer = Footprints(look)
        tracer.run(scene.perform)
        return tracer.steps, tracer.changes, tracer.functions

    return Child(follow).result()


def _settle(scene):
    """What a child does before its steps count."""
    # Python before 3.7 would notice the fork in the operation, in as many steps as there are
    # stores in the parent.
    forks.check()
    scene.prelude()


def held_up():
    """Nanoseconds for which this thread was ready to run, but others had the processors."""
    try:
        with open("/proc/thread-self/schedstat") as figures:
            return int(figures.read().split()[1])
    except (IOError, OSError):
        return 0


def timed(work):
    """Return (seconds that it took, its result); what other programs took does not count."""
    delay, begin = held_up(), clock.now()
    found = work()
    took = clock.now() - begin - (held_up() - delay)
    return took / float(clock.SECOND), found


def kill_self():
    os.kill(os.getpid(), signal.SIGKILL)


def stop_self():
    """Wait for what the parent has in mind."""
    os.kill(os.getpid(), signal.SIGSTOP)


def interrupt():
    raise KeyboardInterrupt


def play_in_fork(scene, number, act):
    """Play a scene in a forked child with a wire at that step; return the child."""

    def play():
        _settle(scene)
        wire = Tripwire(number, act)
        wire.run(scene.perform)
        return wire.reached

    return Child(play)


def die_at(scene, number):
    """Play a scene in a child that dies by SIGKILL at that step; True if it was through before."""
    child = play_in_fork(scene, number, kill_self)
    if child.wait() == signal.SIGKILL:
        child.close()
        return False
    assert child.result() is False
    return True


def interrupt_at(scene, number):
    """Perform a scene here, KeyboardInterrupt at that step; True if it was through before."""
    wire = Tripwire(number, interrupt)
    try:
        wire.run(scene.perform)
    except KeyboardInterrupt:
        pass
    return not wire.reached


class Plan(object):
    """Which steps of an operation are tried, and what became of each.

    :param campaign: draws, and knows whether all are wanted.
    :param steps: of the operation from begin to end.
    :param changes: steps before which shared memory changed.
    :param share: steps to draw by chance, if not all are wanted.
    :param commits: whether the operation changes what can be seen.
    """

    def __init__(self, campaign, steps, changes, share, commits):
        self.steps = steps
        self._campaign = campaign
        self._changes = changes
        self._share = share
        self._commits = commits
        self._numbers = list(range(1, steps + 1)) + [NEVER] if campaign.full else None

    def pieces(self, size):
        """Return plans of ``size`` steps each that are this one together; a share is in one."""
        if self._numbers is None:
            return [self]
        found = []
        for first in range(0, len(self._numbers), size):
            piece = copy.copy(self)
            piece._numbers = self._numbers[first : first + size]
            found.append(piece)
        return found

    def carry_out(self, attempt):
        """Try them: ``attempt(number)`` returns whether anything of the operation is there.

        ``NEVER`` is tried as well: the operation comes to its end.
        """
        if self._numbers is not None:
            for number in self._numbers:
                attempt(number)
            return
        attempt(NEVER)
        done = {1: attempt(1)}
        if self._commits:
            self._find_commit(attempt, done)
        changes = self._campaign.choose(self._changes, self._share * 2 // 3)
        others = sorted(set(range(1, self.steps + 1)) - set(self._changes))
        for number in changes + self._campaign.choose(others, self._share // 3):
            if number not in done:
                done[number] = attempt(number)

    def _find_commit(self, attempt, done):
        """Halve the steps until the commit is between two of them; try its neighbours too."""
        before, after = 1, self.steps + 1  # one behind the last: done
        while after - before > 1:
            middle = (before + after) // 2
            done[middle] = attempt(middle)
            if done[middle]:
                after = middle
            else:
                before = middle
        for number in range(max(1, before - NEAR), min(self.steps, after + NEAR) + 1):
            if number not in done:
                done[number] = attempt(number)


class Tally(object):
    """Adds up what was tried in the scenes of a module."""

    def __init__(self):
        self.scenes = self._steps = self._tried = 0
        self._longest = 0.0

    def add(self, campaign, steps, tried, longest):
        """Count one scene: steps that it has and that were tried, seconds of the longest call."""
        self.scenes += 1
        self._steps += steps
        self._tried += tried
        self._longest = max(self._longest, longest)
        if campaign.full:
            campaign.note("{0} of {1} steps".format(tried, steps))

    def text(self):
        """One sentence."""
        return "{0} of {1} {2}s in {3} scenes, longest call after one of them {4:.0f} ms".format(
            self._tried, self._steps, STEP, self.scenes, self._longest * 1000
        )
