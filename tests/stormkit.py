"""Storms: processes x threads that use one prefix, and are killed at any moment.

A *storm* keeps a number of *crews* running. A crew is a process with a layer of its own, and
each of its threads plays a *part* (``stormparts``). The storm kills processes with SIGKILL,
and starts anew whatever ended. Some calls are made under a trace that kills the process at
one opcode drawn by chance, so that deaths fall inside the lock more often than chance has it.

What is left of a killed thread are two things that outlive SIGKILL:

* its *journal*, a file with a line before each call and one after it, each of them written by
  one ``write`` to a file opened with O_APPEND. ``ledger`` reads them;
* its seat on the *board*, a mapped file: since when it is in which call, how many it made and
  which took longest. From it the storm tells who hangs, and says where.

The process that runs the storm starts no threads, as it forks all the time.
"""
import ctypes
import itertools
import logging
import mmap
import os
import random
import signal
import sys
import threading
import time
import traceback

from detector import Detector
from stepkit import is_inside, settrace

from asgi_ipc import IPCChannelLayer
from asgi_ipc._shm import clock

try:
    import faulthandler
except ImportError:
    # Python 2.7: then who hangs is named, and not where.
    faulthandler = None

PATIENCE = 60
"""Seconds that a call may take beyond what it was asked to wait; then it hangs."""

TICK = 0.002
"""Seconds between two looks of the storm at its processes."""

BEGAN, ALLOWED, COUNT, LONGEST = range(4)
SEAT_WORDS = 4
THREADS = 4
"""Seats of a crew."""

STEPS, STEPS_INSIDE = 1500, 500
"""Opcodes among which a doomed call dies, from its beginning and from when it is inside."""

DOOMED_REBUILDS = 0.3
"""The share of rebuilds in which the one who rebuilds dies as well."""

STEPS_OF_REBUILD = 20000


def now():
    """A clock that nobody sets back."""
    return clock.now() / float(clock.SECOND)


def killer(steps, inside=False):
    """A trace function that kills this process at its ``steps``-th opcode.

    Lines where Python cannot trace opcodes (before 3.7). ``inside``: counted from when a lock
    was got.
    """
    left = [steps]
    counting = [not inside]

    def trace(frame, event, _):
        if hasattr(frame, "f_trace_opcodes"):
            frame.f_trace_opcodes = True
        if counting[0]:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        else:
            counting[0] = is_inside(frame)
        return trace

    return trace


def doom_a_rebuild():
    """Called by who found that it has to rebuild."""
    if random.random() < DOOMED_REBUILDS:
        settrace(killer(random.randrange(1, STEPS_OF_REBUILD)))


class Board(object):
    """Who is in a call, since when: a mapped file with a seat for each thread of each crew."""

    def __init__(self, path, crews):
        size = -(-crews * THREADS * SEAT_WORDS * 8 // mmap.PAGESIZE) * mmap.PAGESIZE
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(descriptor, size)
        self._map = mmap.mmap(descriptor, size)
        os.close(descriptor)
        self.words = (ctypes.c_uint64 * (size // 8)).from_buffer(self._map)

    def seat(self, crew, thread):
        """The index of a seat's first word."""
        return (crew * THREADS + thread) * SEAT_WORDS

    def total(self):
        """Calls made."""
        return sum(self.words[COUNT::SEAT_WORDS])

    def longest(self):
        """Seconds of the longest call, beyond what it was asked to wait."""
        return max(self.words[LONGEST::SEAT_WORDS]) / float(clock.SECOND)

    def late(self, crew):
        """The first thread of a crew that hangs in a call, and for how many s; or None."""
        now = clock.now()
        for thread in range(THREADS):
            seat = self.seat(crew, thread)
            began, allowed = self.words[seat + BEGAN], self.words[seat + ALLOWED]
            if began and now > began + allowed + PATIENCE * clock.SECOND:
                return thread, (now - began) // clock.SECOND
        return None

    def vacate(self, crew):
        """Nobody of a crew is in a call: it ended."""
        for thread in range(THREADS):
            self.words[self.seat(crew, thread) + BEGAN] = 0


class Journal(object):
    """What one thread was about to do, and what came of it."""

    def __init__(self, path):
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, *fields):
        """Append a line; once this returned it is there, whatever happens to the process."""
        line = u" ".join(u"{0}".format(field) for field in fields) + u"\n"
        os.write(self._file, line.encode("ascii"))

    def close(self):
        os.close(self._file)


class Complaints(logging.Handler):
    """Writes down what the layer logs as an error: damage, which there must be none of."""

    def __init__(self, journal):
        logging.Handler.__init__(self, logging.ERROR)
        self._journal = journal

    def emit(self, record):
        self._journal.write("X", record.getMessage())


class Part(object):
    """What a thread of a crew does until the crew ends; subclasses have ``step``.

    :param storm: its ``Storm``.
    :param crew: the ``Crew`` it belongs to.
    :param name: tells this thread of this process from all others of the storm.
    :param seat: the index of its seat on the board.
    """

    def __init__(self, storm, crew, name, seat):
        self.name = name
        self.crew = crew
        self.layer = crew.layer
        self.random = random.Random(crew.seed + name)
        self.doom_mean = storm.doom_mean
        self._words = storm.board.words
        self._seat = seat
        self.journal = Journal(storm.journal_path(type(self).__name__, name))
        self._doom = clock.now()
        self._draw_doom()

    def step(self):
        """Do one thing."""
        raise NotImplementedError

    def run(self):
        """Go on until the crew ends."""
        try:
            while not self.crew.ending:
                self.step()
        except BaseException:
            self.journal.write("X", repr(traceback.format_exc()))
            self.crew.failed = True

    def call(self, function, *args, **options):
        """Call into the layer: on the board, and once in a while doomed.

        :param waiting: seconds that the call is asked to wait.
        """
        words, seat = self._words, self._seat
        allowed = words[seat + ALLOWED] = int(options.get("waiting", 0) * clock.SECOND)
        words[seat + COUNT] += 1
        began = words[seat + BEGAN] = clock.now()
        try:
            if began >= self._doom:
                self._draw_doom()
                return self._call_doomed(function, *args)
            return function(*args)
        finally:
            sys.settrace(None)
            words[seat + BEGAN] = 0
            taken = clock.now() - began
            if taken > allowed + words[seat + LONGEST]:
                words[seat + LONGEST] = taken - allowed

    def _draw_doom(self):
        self._doom += int(self.random.expovariate(1.0 / self.doom_mean) * clock.SECOND)

    def _call_doomed(self, function, *args):
        """Call under a trace that kills this process at an opcode, if the call has so many.

        Half of them are counted from when the call got into a lock.
        """
        if self.random.random() < 0.5:
            settrace(killer(self.random.randrange(1, STEPS)))
        else:
            settrace(killer(self.random.randrange(1, STEPS_INSIDE), inside=True))
        return function(*args)


class Crew(object):
    """One process of the storm, seen from inside: its layer, and its threads' parts."""

    def __init__(self, storm, number, incarnation):
        self.storm = storm
        self.seed = "{0}:{1}:{2}:".format(storm.seed, number, incarnation)
        self.ending = self.failed = False
        self.layer = storm.open_layer()
        kinds = storm.crews[number]
        self._parts = [
            kind(
                storm,
                self,
                "{0}.{1}.{2}".format(number, incarnation, thread),
                storm.board.seat(number, thread),
            )
            for thread, kind in enumerate(kinds)
        ]
        draw = random.Random(self.seed)
        # Some go by themselves: what they leave is to be as good as what the killed leave.
        self._end = now() + draw.expovariate(1.0 / storm.life_mean)
        self._stop = storm.stop_path

    def run(self):
        """Play until the storm is over or the time has come; return the exit status."""
        threads = [threading.Thread(target=part.run) for part in self._parts]
        for thread in threads:
            thread.start()
        while not (os.path.exists(self._stop) or now() > self._end or self.failed):
            time.sleep(0.02)
        self.ending = True
        for thread in threads:
            thread.join()
        self.layer.close()
        return int(self.failed)


class Storm(object):
    """Seen from outside: starts, kills, starts anew, and watches that nobody hangs.

    :param folder: for journals, board and detector.
    :param options: of the layers.
    :param crews: for each process, the list of parts that its threads play.
    :param draw: ``random.Random``.
    :param doom_mean: seconds until a thread makes a call that kills it, on average.
    :param life_mean: seconds until a crew ends by itself, on average.
    """

    def __init__(self, folder, options, crews, draw, doom_mean=2.0, life_mean=10.0):
        self.folder = folder
        self.options = options
        self.crews = crews
        self.doom_mean, self.life_mean = doom_mean, life_mean
        self.seed = draw.getrandbits(32)
        self.stop_path = os.path.join(folder, "stop")
        self.detector = Detector(folder)
        self.board = Board(os.path.join(folder, "board"), len(crews))
        self._draw = draw
        self._running = {}
        self._incarnations = itertools.count()
        # Of those that ended: by SIGKILL, by themselves; (crew, status) of any other way.
        self.killed = self.gone = 0
        self.failures = []

    def open_layer(self, **options):
        """A layer of the storm's prefix; ``options`` differ from the storm's."""
        return IPCChannelLayer(**dict(self.options, **options))

    def journal_path(self, part, name):
        return os.path.join(self.folder, "{0}.{1}.journal".format(part, name))

    def rage(self, seconds, kill_mean):
        """Kill a process every ``kill_mean`` seconds, on average, for so long; then end all."""
        # The segments are there before the first kill: the C library's sem_open, killed while it
        # makes a semaphore, leaves one that has no name yet, and nobody would find it.
        self.open_layer().close()
        over = now() + seconds
        next_kill = now()
        try:
            while now() < over and not self.failures:
                for crew in range(len(self.crews)):
                    if crew not in self._running:
                        self._running[crew] = self._start(crew)
                if now() >= next_kill:
                    next_kill = now() + self._draw.expovariate(1.0 / kill_mean)
                    os.kill(self._running[self._draw.randrange(len(self.crews))], signal.SIGKILL)
                self._watch()
                time.sleep(TICK)
            open(self.stop_path, "w").close()
            while self._running and not self.failures:
                self._watch()
                time.sleep(TICK)
        finally:
            for pid in self._running.values():
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            self._running = {}

    def _start(self, crew):
        incarnation = next(self._incarnations)
        pid = os.fork()
        if pid:
            return pid
        status = 1
        journal = Journal(self.journal_path("Crew", "{0}.{1}".format(crew, incarnation)))
        try:
            self._prepare_child(journal)
            status = Crew(self, crew, incarnation).run()
        except BaseException:
            journal.write("X", repr(traceback.format_exc()))
        finally:
            os._exit(status)

    def _prepare_child(self, journal):
        logging.getLogger("asgi_ipc").addHandler(Complaints(journal))
        if faulthandler is not None:
            # Who hangs is asked by this signal where it is.
            descriptor = os.open(self._stacks_path(os.getpid()), os.O_WRONLY | os.O_CREAT, 0o600)
            faulthandler.register(signal.SIGUSR1, descriptor, all_threads=True)
        random.seed()
        self.detector.install(doom_a_rebuild)

    def _stacks_path(self, pid):
        return os.path.join(self.folder, "{0}.stacks".format(pid))

    def _watch(self):
        """Take note of who ended, and of who hangs."""
        for crew, pid in list(self._running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self._running[crew]
                self.board.vacate(crew)
                if status == signal.SIGKILL:
                    self.killed += 1
                elif status == 0:
                    self.gone += 1
                else:
                    self.failures.append("crew {0} ended with status {1}".format(crew, status))
                continue
            late = self.board.late(crew)
            if late is not None:
                self.failures.append(self._describe(crew, pid, *late))

    def _stacks_of(self, pid):
        """What a process has written of its stacks, once that grows no more; "" after 10 s."""
        stacks, before = "", None
        deadline = time.time() + 10
        while (not stacks or stacks != before) and time.time() < deadline:
            time.sleep(0.2)
            before = stacks
            with open(self._stacks_path(pid)) as source:
                stacks = source.read()
        return stacks

    def _describe(self, crew, pid, thread, late):
        """Who hangs, and where."""
        stacks = "(this Python cannot tell where)"
        if faulthandler is not None:
            os.kill(pid, signal.SIGUSR1)
            stacks = self._stacks_of(pid)
        return "crew {0} (pid {1}), {2} in thread {3}, has been in a call for {4} s:\n{5}".format(
            crew, pid, self.crews[crew][thread].__name__, thread, late, stacks
        )
