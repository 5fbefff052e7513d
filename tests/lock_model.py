"""The protocol of ``asgi_ipc/_shm/lock.py`` as a model, to explore every interleaving of it.

The protocol, step by step, is ``Lock`` below. Its methods have the names of ``SegmentLock``'s,
and do in the same order what those do. Each ``yield`` is a step: it touches what processes
share, and is named after the code that takes it. All between two yields is the process's own.

Shared are the semaphore's count; the flock, which the kernel drops when its holder dies; the
board: BUSY, SLOW, each process's flag, and those that the dead have left up; and whether the data
of the section are torn, that is, half written.

At every step it may happen that

* any other process moves instead, for as long as it likes. So one that is stopped is covered,
  and so are threads, since each thread has an open file description of its own (of what they
  share besides, ``entered``, ``test_lock.py`` sees that only who is inside writes it);
* the process dies, and a new one attaches in its place;
* a signal's handler raises, before the step or after it, when nothing has looked at its result;
* a handler calls the lock, and swallows what it gets;
* a wait for a token ends in vain, or the time for waiting is over.

In ``lock_explorer.py``, ``unfold`` follows one process through every answer that its steps can
get and all of the above, and returns its Graph: finite, as one that has left forgets what it did.
``Explorer`` lets several such processes run into one another, and visits each state that they
can reach, by however many operations, deaths and interruptions: there is no bound on them.
Processes are alike, so two states that differ in their order are one. What must hold in each
of them stands in ``problem_of`` below, and in ``Explorer.check_progress``.

``lock_trace.py`` has the real code unfolded by the same ``unfold``, over a semaphore, a flock
and words that answer what they are told to. ``differences`` compares the two Graphs, step by
step and by the names of the methods that take them: so the model says what the code does.
"""

from collections import namedtuple


class Raised(Exception):
    """What a signal's handler raises."""


class LockTimeout(Exception):
    """Somebody alive was inside for ``lock_timeout``."""


class ReentrantCall(Exception):
    """A handler called the lock while its thread was inside."""


class LayerClosed(Exception):
    """The lock was closed."""


ERRORS = (Raised, LockTimeout, ReentrantCall, LayerClosed)


# -- the protocol --------------------------------------------------------------------------


class Holder(object):
    """What a thread itself knows of its hold."""

    def __init__(self):
        self.inside = False
        self.slow = False
        self.broken = False
        self.token = False
        self.refused = None
        self.lane = None


class Lock(object):
    """``SegmentLock``, as one thread uses it. ``frame`` is 0, and 1 in a handler's call."""

    count_supported = True
    written_out = False

    def __init__(self):
        self.holder = Holder()
        self.guarded = False
        self.closed = False
        self.frame = 0
        self.entered = None

    def acquire(self):
        holder = self.holder
        if holder.inside:
            yield from self._recover_own(holder)
        holder.inside = True
        fast = holder.lane and self.guarded
        while fast:
            yield "memory[mine] = up"
            yield "fence"
            if (yield "memory[BOARD]"):
                if self.closed:
                    yield "memory[mine] = DOWN"
                    raise LayerClosed
                self.entered = holder
                return False
            yield "memory[mine] = DOWN"
            fast = yield "lane.clears()"
        return (yield from self._go_slowly(holder))

    def release(self):
        holder = self.entered
        self.entered = None
        if holder.slow:
            yield from self._leave_slowly(holder)
        else:
            yield "memory[mine] = DOWN"
        holder.inside = False

    def abandon(self):
        holder = self.holder
        refused, holder.refused = holder.refused, None
        if refused is not None and refused == self.frame:
            return
        try:
            yield from self._let_go(holder)
        except Raised:
            yield from self._let_go(holder)
            raise

    def _let_go(self, holder):
        holder.inside = True
        if self.entered is holder:
            holder.broken = not holder.slow
            self.entered = None
        if holder.broken:
            yield "lane.give()"
            holder.lane = None
            holder.broken = False
        elif holder.lane and self.guarded:
            yield "memory[mine] = DOWN"
        else:
            yield "lane.give()"
        if (yield from self._try_flock()):
            yield from self._post(holder)
            yield "flock(UNLOCK)"
        holder.slow = False
        holder.inside = False

    def close(self, unfinished=True):
        try:
            self.closed = True
            if not unfinished:
                yield from self.release()
            yield from self.abandon()
        except ERRORS:
            yield from self.abandon()
            raise
        self.guarded = False

    def _post(self, holder):
        if self.count_supported:
            if not (yield "semaphore.value"):
                yield "semaphore.release()"
        else:
            yield from self._take_spare()
            yield "semaphore.release()"
        holder.token = False

    def _take_spare(self):
        yield "semaphore.acquire(0)"

    def _try_flock(self):
        return (yield "flock(TRY)")

    def _take_token(self):
        return (yield "semaphore.acquire(0)")

    def _go_slowly(self, holder):
        if self.closed:
            raise LayerClosed
        holder.token = yield from self._take_token()
        if not (holder.token and (yield from self._try_flock())):
            yield from self._wait(holder)
        holder.slow = True
        if not self.guarded:
            if self.closed:
                raise LayerClosed
            self.entered = holder
            return False
        dead = yield from self._shut_out(holder)
        found = yield "words[BUSY]"
        yield "words[BUSY] = pid"
        self.entered = holder
        if dead:
            yield "memory[other] = DOWN"
        if holder.lane is None:
            yield from self.take_lane(holder)
        return found or dead

    def _wait(self, holder):
        while True:
            if not holder.token:
                holder.token = yield from self._take_token()
            if (yield from self._try_flock()):
                return
            if (yield "patience.over()"):
                yield from self._give_up(holder)

    def _shut_out(self, holder):
        yield "words[SLOW] = 1"
        yield "fence"
        while True:
            flags = yield "flags"
            if not self._anyone(holder, flags):
                return flags == "dead"
            if (yield "patience.over()"):
                yield from self._give_up(holder)

    def _anyone(self, holder, flags):
        return flags == "alive"

    def _leave_slowly(self, holder):
        if self.guarded:
            yield "words[BUSY] = 0"
            yield "words[SLOW] = 0"
        yield from self._post(holder)
        yield "flock(UNLOCK)"
        holder.slow = False

    def take_lane(self, holder):
        """A method of the holder itself."""
        number = yield "lane.take()"
        if number:
            yield "memory[mine] = DOWN"
        holder.lane = number

    def _give_up(self, holder):
        holder.token = False
        yield from self._let_go(holder)
        raise LockTimeout

    def _recover_own(self, holder):
        holder.refused = self.frame
        if self.frame:
            raise ReentrantCall
        holder.refused = None
        yield from self.abandon()


# -- who uses it ---------------------------------------------------------------------------


class World(object):
    """What a process has: its lock. ``new_lock`` makes one."""

    def __init__(self, new_lock):
        self.new_lock = new_lock
        self.use = use_written_out if new_lock.written_out else use
        self.lock = None


def life(world):
    """One process: it attaches, uses the lock as often as it likes, detaches, and so on."""
    while True:
        if world.lock is None:
            yield "away"
            action = attach
        else:
            # A detach that a handler's exception ended leaves the lock closed, and there.
            todo = yield "rest, closed" if world.lock.closed else "rest"
            action = {"use": world.use, "detach": detach}[todo]
            del todo
        try:
            yield from action(world)
        except ERRORS:
            pass


def use(world):
    """As every user does; the work tears the data for a while."""
    lock = world.lock
    try:
        if (yield from lock.acquire()):
            yield "rebuild begins"
            yield "rebuild ends"
        yield "work begins"
        yield "work ends"
        yield from lock.release()
    except ERRORS:
        yield from lock.abandon()
        raise


def use_written_out(world):
    """The same, as ``send`` and ``receive`` do, which try the fast way once by themselves."""
    lock = world.lock
    holder = lock.holder
    try:
        lane = False
        if not holder.inside:
            holder.inside = True
            lane = holder.lane
            if lane:
                yield "memory[mine] = up"
                yield "fence"
                if (yield "memory[BOARD]") and not lock.closed:
                    lock.entered = holder
                else:
                    yield "memory[mine] = DOWN"
                    holder.inside = False
                    lane = False
            else:
                holder.inside = False
        if not lane and (yield from lock.acquire()):
            yield "rebuild begins"
            yield "rebuild ends"
        yield "work begins"
        yield "work ends"
        if lane:
            lock.entered = None
            yield "memory[mine] = DOWN"
            holder.inside = False
        else:
            yield from lock.release()
    except ERRORS:
        yield from lock.abandon()
        raise


def attach(world):
    """As a segment attaches: nothing that a rebuild would mend is looked at."""
    lock = world.lock = world.new_lock()
    try:
        yield from lock.acquire()
        yield from lock.release()
        lock.guarded = True
    except ERRORS:
        try:
            yield from lock.close()
        finally:
            world.lock = None
        raise


def detach(world):
    """As a segment is closed."""
    lock = world.lock
    try:
        yield from lock.close((yield from lock.acquire()))
    except LayerClosed:
        yield from lock.abandon()
    except ERRORS:
        yield from lock.abandon()
        raise
    world.lock = None


ANSWERS = {
    "away": (None,),
    "rest": ("use", "detach"),
    "rest, closed": ("use", "detach"),
    "semaphore.acquire(0)": (True, False),
    "semaphore.value": (0, 1),
    "semaphore.release()": (None,),
    "flock(TRY)": (True, False),
    "flock(UNLOCK)": (None,),
    "lane.take()": (True, False),
    "lane.give()": (None,),
    "memory[mine] = up": (None,),
    "memory[mine] = DOWN": (None,),
    "memory[other] = DOWN": (None,),
    "memory[BOARD]": (True, False),
    "lane.clears()": (False, True),
    "flags": ("none", "dead", "alive"),
    "fence": (None,),
    "words[SLOW] = 1": (None,),
    "words[SLOW] = 0": (None,),
    "words[BUSY]": (False, True),
    "words[BUSY] = pid": (None,),
    "words[BUSY] = 0": (None,),
    "patience.over()": (False, True),
    "rebuild begins": (None,),
    "rebuild ends": (None,),
    "work begins": (None,),
    "work ends": (None,),
}
"""The steps, and what each may be answered."""

AT_REST = ("away", "rest", "rest, closed")
INSIDE = ("rebuild begins", "rebuild ends", "work begins", "work ends")


# -- one process, unfolded -----------------------------------------------------------------

Event = namedtuple("Event", "kind answer")
"""What happens at a step. ``kind`` is one of

"done"       the step is taken, and answered
"raised"     a handler raises, before the step is taken
"lost"       the step is taken, and a handler raises before the answer is looked at
"called"     a handler calls the lock, before the step is taken
"late call"  the step is taken, and a handler calls before the answer is looked at
"""

Pause = namedtuple("Pause", "step where depth raised rest")
"""Where a process is: about to take ``step``, in the methods named in ``where``, ``depth``
handlers deep, and ``raised`` handlers have raised in this operation. ``rest`` is whatever
else it may remember: positions in its functions, their variables, its Holder."""


def replay(new_lock, history):
    """Take a new process of the model through ``history``, and return its Pause."""
    world = World(new_lock)
    stack = [life(world)]
    calls = []
    step = next(stack[0])
    raised = 0
    for event in history:
        kind, answer = event
        go_on = stack[-1].send, answer
        if kind in ("raised", "lost"):
            raised += 1
            go_on = stack[-1].throw, Raised()
        elif kind in ("called", "late call"):
            calls.append((step, kind, answer))
            stack.append(world.use(world))
            world.lock.frame += 1
            go_on = next, stack[-1]
        while go_on is not None:
            try:
                step = go_on[0](go_on[1])
                go_on = None
            except (StopIteration,) + ERRORS:
                # The handler's call is over.
                stack.pop()
                world.lock.frame -= 1
                step, kind, answer = calls.pop()
                go_on = (stack[-1].send, answer) if kind == "late call" else None
        if step in AT_REST:
            raised = 0
    return _look(world.lock, stack, calls, step, raised)


def _look(lock, stack, calls, step, raised):
    where = []
    rest = [tuple(calls)]
    if lock is not None:
        rest.extend(sorted(lock.holder.__dict__.items()))
        rest.extend([lock.guarded, lock.closed, lock.entered is None])
    for top in stack:
        generator = top
        while generator is not None:
            where.append(generator.gi_code.co_name)
            rest.append(generator.gi_frame.f_lasti)
            rest.extend(plain(generator.gi_frame.f_locals))
            generator = generator.gi_yieldfrom
    return Pause(step, tuple(where), len(stack) - 1, raised, tuple(rest))


def plain(variables):
    """Those of a function's variables that are values, but for a descriptor's number."""
    return sorted(
        (name, str(value))
        for name, value in variables.items()
        if name != "descriptor" and isinstance(value, (type(None), bool, int, float, str, list))
    )


# -- what is shared, and what must hold ----------------------------------------------------

Shared = namedtuple("Shared", "count busy torn slow dead")
"""What processes share. ``dead``: whether a flag is up of one who is dead."""

FLOCK, FLAG = 1, 2
"""What a process has of the rest, as bits: the flock, and its flag up."""

LOOKS = ("memory[BOARD]", "flags")
"""Steps that look at one place after the other, in whatever order. So each place may have been
looked at at any moment since the step before."""

NEW = Shared(1, False, False, False, False)


def take(step, answer, shared, own, free):
    """What comes of it when ``step`` is answered so: (shared, own bits).

    None if it cannot be answered so. ``free``: nobody else has the flock. How LOOKS can be
    answered hangs on the others, whom the Explorer knows.
    """
    count, busy = shared.count, shared.busy
    same = shared, own
    if step == "semaphore.acquire(0)":
        if answer:
            return (shared._replace(count=count - 1), own) if count else None
        return same if not count else None
    if step == "semaphore.value":
        return same if bool(answer) == bool(count) else None
    if step == "semaphore.release()":
        return shared._replace(count=count + 1), own
    if step == "flock(TRY)":
        return (shared, own | answer * FLOCK) if answer == free else None
    if step == "flock(UNLOCK)":
        return shared, own & ~FLOCK
    if step == "lane.take()":
        # Who had it before may have left the flag up.
        return shared, own | answer * FLAG
    if step == "lane.give()":
        return died(shared, own), own & ~FLAG
    if step in ("memory[mine] = up", "memory[mine] = DOWN"):
        return shared, own | FLAG if step == "memory[mine] = up" else own & ~FLAG
    if step == "memory[other] = DOWN":
        return shared._replace(dead=False), own
    if step == "lane.clears()":
        # False at any time: who watches may have looked just before.
        return same if not answer or not (busy or shared.slow or shared.dead) else None
    if step == "words[BUSY]":
        return same if answer == busy else None
    if step in ("words[BUSY] = pid", "words[BUSY] = 0"):
        return shared._replace(busy=step == "words[BUSY] = pid"), own
    if step in ("words[SLOW] = 1", "words[SLOW] = 0"):
        return shared._replace(slow=step == "words[SLOW] = 1"), own
    if step in INSIDE:
        return shared._replace(torn=step in ("rebuild begins", "work begins")), own
    return same


def died(shared, own):
    """What is shared, after one who had this is dead for the kernel."""
    return shared._replace(dead=True) if own & FLAG else shared


def may_find(answer, step, shared, up, been_down, seen):
    """Whether one of LOOKS can be answered so.

    :param up: whether the flag of another one is up that lives.
    :param been_down: whether each of the others' has been down at some moment of the look.
    :param seen: which of BUSY, SLOW and dead flags have been absent at some moment of it, in
        these bits: 1, 2, 4.
    """
    if step == "memory[BOARD]":
        if answer:
            return been_down and seen == 7
        return up or shared.busy or shared.slow or shared.dead
    if answer == "alive":
        return up
    if answer == "dead":
        return been_down and shared.dead
    return been_down and bool(seen & 4)


def absent(shared):
    """Which of BUSY, SLOW and dead flags are absent, as ``may_find`` has it."""
    return 7 - shared.busy - 2 * shared.slow - 4 * shared.dead


def problem_of(pause, shared, own, most_tokens):
    """Which property it breaks to take the step there; None if none."""
    step = pause.step
    if not own & (FLOCK | FLAG):
        if step in INSIDE:
            return "inside without flock and flag"
        if step in ("words[BUSY] = pid", "words[BUSY] = 0"):
            return "busy word stored without flock and flag"
    elif step in AT_REST:
        return "at rest with the flock" if own & FLOCK else "at rest with the flag up"
    if not own & FLOCK:
        if step == "semaphore.release()":
            return "token posted without the flock"
        if step in ("words[SLOW] = 1", "words[SLOW] = 0"):
            return "SLOW stored without the flock"
        if step == "memory[other] = DOWN":
            return "another's flag put down without the flock"
    if step == "work begins" and shared.torn:
        return "torn data, and no rebuild"
    if step == "words[BUSY] = 0" and shared.torn:
        return "busy word cleared over torn data"
    if step == "semaphore.release()" and shared.count >= most_tokens:
        return "more tokens than there were"
    if step == "words[SLOW] = 0" and shared.busy:
        # The first thing that others see of the slow way out.
        return "busy word left set"
    return None
