"""An overlap detector: it knows who is inside a lock without asking the lock.

A file of its own, outside of the store, is mapped by all processes of a test. Each lock has a
word in it. Whoever got in stamps the word with its thread and that thread's start time, and
clears it right before it gets out. Whoever gets in and finds another's stamp has either come
after a death, or is in there together with a living one: an overlap.

The two are told apart without being fooled

* by a process that is dying: the kernel drops its flock while /proc shows it running still, or
  as a zombie. The finder waits, inside, until the owner of the stamp is gone. A dying thread
  runs no more code, so a stamp that changes meanwhile is an overlap, and so is an owner that
  does not go;
* by a number that is used again: thread ids come again, but not with the same start time.

What is seen is appended to a file, so that it outlives whoever saw it.
"""
import ctypes
import mmap
import os
import threading
import time

from asgi_ipc._shm import clock
from asgi_ipc._shm.lock import SegmentLock

PATIENCE = 20.0
"""Seconds in which the owner of a stamp has to be gone if it was killed."""

_KINDS = ("-messages", "-groups")
_TID_BITS = 22


def thread_stamp():
    """A number that no other thread of this machine has, had, or will have: never 0."""
    tid = int(os.readlink("/proc/thread-self").rsplit("/", 1)[1])
    return stamp_of(tid)


def stamp_of(tid):
    """The stamp of a living thread."""
    _, started = _look(tid)
    return started << _TID_BITS | tid


def is_alive(stamp):
    """Whether the owner of a stamp is there and no zombie; it may be dying."""
    try:
        state, started = _look(stamp & (1 << _TID_BITS) - 1)
    except (IOError, OSError):
        return False
    return started == stamp >> _TID_BITS and state not in "ZX"


def _look(tid):
    """The state and the start time (clock ticks since boot) of a thread."""
    with open("/proc/{0}/stat".format(tid)) as source:
        # The name before the last bracket may hold anything.
        fields = source.read().rpartition(")")[2].split()
    return fields[0], int(fields[19])


class Detector(object):
    """The words and the findings of one test; ``folder`` is where the two files are kept."""

    def __init__(self, folder, patience=PATIENCE):
        self._patience = patience
        self._findings = os.path.join(folder, "findings")
        self._file = os.open(os.path.join(folder, "stamps"), os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self._file, mmap.PAGESIZE)
        self._map = mmap.mmap(self._file, mmap.PAGESIZE)
        # One aligned store of 8 bytes each: ctypes, as struct would store byte by byte.
        self.words = (ctypes.c_uint64 * len(_KINDS)).from_buffer(self._map)
        self._threads = threading.local()

    def install(self, recovering=None):
        """In a child of the test: from now on all locks of this process stamp.

        ``recovering`` is called, inside, when a lock was got that is to be recovered.
        """
        acquire = SegmentLock.acquire

        # ``this`` and not ``lock``: production code looks for a local of that name.
        def noting_acquire(this):
            found = acquire(this)
            if found and this.guarded:
                self._note("recovered {0}".format(this.name))
                if recovering is not None:
                    recovering()
            return found

        def stamping_put(this, holder):
            if holder is None:
                self.leave(_word(this.name))
            elif this.guarded:
                # Else it attaches: that keeps others from attaching, and not from what is inside.
                self.enter(_word(this.name))
            this.__dict__["entered"] = holder

        SegmentLock.acquire = noting_acquire
        # Whichever way one comes in, it says so right behind it, and takes it back before it goes.
        SegmentLock.entered = property(lambda this: this.__dict__.get("entered"), stamping_put)

    def enter(self, word):
        """This thread got in."""
        mine, inside = self._me()
        before = self.words[word]
        if before and self._lives_on(before, word):
            self._note("overlap {0} {1:x} finds {2:x}".format(word, mine, before))
        self.words[word] = mine
        inside.add(word)

    def leave(self, word):
        """This thread is about to get out, if it is inside."""
        mine, inside = self._me()
        if word not in inside:
            return
        inside.discard(word)
        found = self.words[word]
        if found != mine:
            self._note("overlap {0} {1:x} lost to {2:x}".format(word, mine, found))
        self.words[word] = 0

    def seen(self, what):
        """How often ``overlap`` or ``recovered`` was noted by all processes together."""
        if not os.path.exists(self._findings):
            return 0
        with open(self._findings) as source:
            return sum(line.startswith(what) for line in source)

    def close(self):
        """Let go of the file."""
        self.words = None
        self._map.close()
        os.close(self._file)

    def _lives_on(self, stamp, word):
        """Whether the owner of a stamp that was found is alive, and not about to be gone."""
        deadline = clock.now() + int(self._patience * clock.SECOND)
        while is_alive(stamp):
            if self.words[word] != stamp or clock.now() > deadline:
                return True
            time.sleep(0.0002)
        return self.words[word] != stamp

    def _me(self):
        """This thread's stamp, and the words that it has stamped."""
        known = self._threads
        if getattr(known, "pid", None) != os.getpid():
            known.mine, known.inside, known.pid = thread_stamp(), set(), os.getpid()
        return known.mine, known.inside

    def _note(self, line):
        with open(self._findings, "a") as findings:
            findings.write(line + "\n")


def _word(name):
    return [name.endswith(kind) for kind in _KINDS].index(True)
