"""The real ``SegmentLock``, one step at a time, over things that answer what they are told to.

``replay`` takes it through a history as ``lock_model.replay`` takes the model, and returns the
same kind of Pause: so ``unfold`` makes the Graph of the real code. Nothing of ``lock.py`` is
replaced but what it calls: semaphore, flock, words, clock and sleep.

Two more kinds of events are known here, for what happens between two steps:

"raised at"  the step is taken, and a handler raises some bytecodes later
"called at"  the step is taken, and a handler calls the lock some bytecodes later

Their answer is (the step's answer, how many bytecodes later).
"""
import ast
import bisect
import contextlib
import dis
import errno
import functools
import inspect
import os
import sys
import textwrap
import types

import posix_ipc
from lock_model import AT_REST, Pause, Raised, plain

from asgi_ipc._shm import inside as inside_module
from asgi_ipc._shm import lane as lane_module
from asgi_ipc._shm import lock as lock_module
from asgi_ipc._shm.holders import Holder
from asgi_ipc._shm.lock import SegmentLock
from asgi_ipc.errors import LayerClosed, LockTimeout, ReentrantCall
from asgi_ipc.guarded import Guarded
from asgi_ipc.sending import Senders

ERRORS = (Raised, LockTimeout, ReentrantCall, LayerClosed)
BUSY, SLOW, BOARD = lane_module.BUSY, lane_module.SLOW, lane_module.BOARD
MINE, ANOTHERS = lane_module.FLAGS, lane_module.FLAGS + 1


def replay(history):
    """Take a new process through ``history``, and return its Pause.

    :returns: None if the last event cannot be: the next step comes before that bytecode.
    """
    world = World(history)

    world.fake()
    try:
        life(world)
    except Stop:
        pass
    except Exception as error:
        # On it hangs each exception of the history, a page to be shown for every one.
        error.__context__ = None
        raise
    return world.pause


class Stop(BaseException):
    """The history is over."""


class World(object):
    """What the process has, and what is going to happen to it."""

    written_out = False

    def __init__(self, history):
        self.history = list(history)
        self.lock = None
        self.pause = None
        self.depth = 0
        self.raised = 0
        self._stopped = False
        self._handler = None
        self._bytecodes = 0
        self._lives = False

    def fake(self):
        """Have what lock.py calls take steps of this world."""
        lock_module._flock = self._flock
        lock_module._Patience = functools.partial(Patience, self)
        # What the kernel says of the holder is for a text only.
        inside_module.flock_owner = lambda descriptor: 0
        inside_module.holder_of = lambda *_: (77, True)
        lane_module.take = lambda descriptor: MINE * self.step("lane.take()")
        lane_module.give = lambda descriptor: self.step("lane.give()")
        lane_module.clears = lambda memory: self.step("lane.clears()")
        lane_module.raised = self._raised
        lane_module.lives = lambda descriptor, number: self._lives
        lane_module.fence = functools.partial(fence, self)

    def _flock(self, descriptor, operation):
        assert descriptor == self.lock.holders.mine.descriptor
        if operation == lock_module._UNLOCK:
            self.step("flock(UNLOCK)")
        elif not self.step("flock(TRY)"):
            raise OSError(errno.EAGAIN, "held")

    def _raised(self, _):
        flags = self.step("flags")
        self._lives = flags == "alive"
        return [] if flags == "none" else [ANOTHERS], []

    def new_lock(self):
        return SegmentLock(Semaphore(self), open_description, 10.0, "/p-messages")

    def step(self, name):
        """Take a step as the history says; at its end, say where we are."""
        sys.settrace(None)
        if self._handler is not None or self._stopped:
            # Over, or the handler's bytecode would have been one after this step.
            self._stopped = True
            raise Stop
        if name in AT_REST:
            self.raised = 0
        while self.history:
            kind, answer = self.history.pop(0)
            if kind in ("raised", "lost"):
                self._raise()
            if kind in ("called", "late call"):
                self._call()
            if kind in ("raised at", "called at"):
                answer, self._bytecodes = answer
                self._handler = self._raise if kind == "raised at" else self._call
                self._trace_from(sys._getframe(1))
            if kind != "called":
                return answer
        self._stopped = True
        self.pause = self._look(name)
        raise Stop

    def _raise(self):
        self.raised += 1
        raise Raised

    def use(self):
        """Use the lock, in one of the two ways."""
        (use_written_out if self.written_out else use)(self)

    def _call(self):
        self.depth += 1
        try:
            self.use()
        except ERRORS:
            pass
        self.depth -= 1

    def _trace_from(self, frame):
        """Count the bytecodes from here on, and call the handler at the one that it is for."""
        while frame.f_code is not replay.__code__:
            if may_be_interrupted(frame):
                frame.f_trace = self._trace
                frame.f_trace_opcodes = True
            frame = frame.f_back
        sys.settrace(self._trace)

    def _trace(self, frame, event, _):
        if not may_be_interrupted(frame):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            self._bytecodes -= 1
            if self._bytecodes < 0:
                sys.settrace(None)
                handler, self._handler = self._handler, None
                handler()
        return self._trace

    def _look(self, name):
        where = []
        rest = []
        if self.lock is not None:
            holder = self.lock.holders.mine
            rest = [holder.inside, holder.slow, holder.broken, holder.token, holder.lane]
            rest.append(holder.refused is None)
            rest.extend([self.lock._words is None, self.lock.closed, self.lock.entered is None])
        frame = sys._getframe(2)
        while frame.f_code is not replay.__code__:
            variables = frame.f_locals
            if is_the_codes(frame):
                where.append(frame.f_code.co_name)
                rest.append(position(frame))
                rest.extend(plain(variables))
            elif frame.f_code is World.step.__code__:
                # A handler's call: what the step under it will be answered.
                rest.append((variables["kind"], variables["answer"]))
            frame = frame.f_back
        return Pause(name, tuple(reversed(where)), self.depth, self.raised, tuple(rest))


def is_the_codes(frame):
    """Whether a frame is one of the lock's, or of who uses it."""
    code = frame.f_code
    if code in THE_HOLDERS:
        return True
    return frame.f_globals["__name__"] == lock_module.__name__ or code in USERS


def may_be_interrupted(frame):
    """Whether handlers come at its bytecodes: where the lock, not a segment, has to bear it."""
    code = frame.f_code
    if code.co_name == "__init__":
        return False
    if code in THE_HOLDERS or code in (use.__code__, use_written_out.__code__):
        return True
    return frame.f_globals["__name__"] == lock_module.__name__


_offsets = {}


def position(frame):
    """Where a frame is; ``f_lasti`` may stand behind an instruction whose cache was filled."""
    code = frame.f_code
    if code not in _offsets:
        _offsets[code] = [found.offset for found in dis.get_instructions(code)]
    return bisect.bisect(_offsets[code], frame.f_lasti)


def open_description():
    return os.open(os.devnull, os.O_RDONLY)


class Semaphore(object):
    def __init__(self, world):
        self._step = world.step

    def acquire(self, timeout):
        assert timeout == 0
        if not self._step("semaphore.acquire(0)"):
            raise posix_ipc.BusyError

    def release(self):
        self._step("semaphore.release()")

    @property
    def value(self):
        return self._step("semaphore.value")

    def close(self):
        """Touches nothing that is shared."""


class Words(object):
    """BUSY and SLOW; who owns the lane is for a text only."""

    def __init__(self, world):
        self._step = world.step

    def __getitem__(self, index):
        assert index == BUSY
        return 77 if self._step("words[BUSY]") else 0

    def __setitem__(self, index, value):
        if index == BUSY:
            self._step("words[BUSY] = {0}".format("pid" if value else "0"))
        elif index == SLOW:
            self._step("words[SLOW] = {0}".format(value))
        else:
            assert index == lane_module.owner_place(MINE)


class Memory(object):
    """The board, and the flags on it."""

    def __init__(self, world):
        self._step = world.step

    def __getitem__(self, index):
        assert index is BOARD
        alone = self._step("memory[BOARD]")
        return lane_module.alone(MINE if alone else ANOTHERS)

    def __setitem__(self, lane, flag):
        whose = "mine" if lane == MINE else "other"
        assert flag in (lane_module.DOWN, lane_module.flag_of(lane))
        up_or_down = "DOWN" if flag == lane_module.DOWN else "up"
        self._step("memory[{0}] = {1}".format(whose, up_or_down))


class Patience(object):
    """Others may move before any step, so nothing is gained by waiting."""

    begin = 0

    def __init__(self, world, seconds):
        self.over = lambda: world.step("patience.over()")

    def nap(self):
        """No time is needed."""


def fence(world):
    always = [lambda: world.step("fence")]
    always.append(always)
    return always


@contextlib.contextmanager
def capabilities(count=True, written_out=False):
    """For a while, semaphores can tell their value, or not; and the lock is used in either way."""
    replaced = [
        (lock_module, ["_flock", "_Patience", "COUNT_SUPPORTED"]),
        (inside_module, ["flock_owner", "holder_of"]),
        (lane_module, ["take", "give", "clears", "raised", "lives", "fence"]),
        (World, ["written_out"]),
    ]
    before = [(where, name, getattr(where, name)) for where, names in replaced for name in names]
    lock_module.COUNT_SUPPORTED = count
    World.written_out = written_out
    try:
        yield
    finally:
        for where, name, value in before:
            setattr(where, name, value)


# -- who uses it: the same as in lock_model ------------------------------------------------


def life(world):
    while True:
        if world.lock is None:
            world.step("away")
            action = attach
        else:
            rest = "rest, closed" if world.lock.closed else "rest"
            action = {"use": World.use, "detach": detach}[world.step(rest)]
            del rest
        try:
            action(world)
        except ERRORS:
            pass


def use(world):
    lock = world.lock
    try:
        if lock.acquire():
            world.step("rebuild begins")
            world.step("rebuild ends")
        world.step("work begins")
        world.step("work ends")
        lock.release()
    except BaseException:
        lock.abandon()
        raise


def written_out(method):
    """The statements by which a method gets in, and out, by the fast way itself."""
    (function,) = ast.parse(textwrap.dedent(inspect.getsource(method))).body

    def recovers(node):
        return "'_recover'" in ast.dump(node)

    (body,) = [
        node.body for node in function.body if isinstance(node, ast.Try) and recovers(node)
    ]
    (last,) = [number for number, node in enumerate(body) if recovers(node)]
    return body[: last + 1], body[-1:]


class Work(Guarded):
    """A store, of which nothing is real but what every store does about its lock."""

    def __init__(self, world):
        Guarded.__init__(self, types.SimpleNamespace(lock=world.lock, words=None))
        self._step = world.step

    def _rebuild(self):
        self._step("rebuild begins")
        self._step("rebuild ends")


def _made_of(method):
    """``use``, with the statements of a method in place of the calls of acquire and release."""
    tree = ast.parse(
        textwrap.dedent(
            """
            def use_written_out(world):
                lock = world.lock
                memory = lock.memory
                self = Work(world)
                try:
                    world.step("work begins")
                    world.step("work ends")
                except BaseException as error:
                    lock.abandon()
                    if not self._mend(error, False):
                        raise
            """
        )
    )
    (body,) = [node.body for node in tree.body[0].body if isinstance(node, ast.Try)]
    way_in, way_out = written_out(method)
    body[:0] = way_in
    body.extend(way_out)
    names = {"Work": Work, "BOARD": BOARD, "DOWN": lane_module.DOWN, "__name__": __name__}
    exec(compile(tree, inspect.getsourcefile(method), "exec"), names)
    return names["use_written_out"]


use_written_out = _made_of(Senders.send)


def attach(world):
    lock = world.lock = world.new_lock()
    try:
        lock.acquire()
        lock.release()
        lock.guard(Words(world), Memory(world))
    except BaseException:
        try:
            lock.close()
        finally:
            world.lock = None
        raise


def detach(world):
    lock = world.lock
    try:
        lock.close(unfinished=lock.acquire())
    except LayerClosed:
        lock.abandon()
    except BaseException:
        lock.abandon()
        raise
    world.lock = None


USERS = tuple(function.__code__ for function in (life, use, use_written_out, attach, detach))
THE_HOLDERS = (Holder.take_lane.__code__,)
