"""The fast way into a lock: words in place of system calls.

Knows the words by which threads keep each other out, and how the kernel tells which of them
live; does not know the semaphore, the flock, or what the lock is for (``lock`` does).

Each thread that has been inside once gets a *lane*, as long as there are any: a word of the
segment that only it writes, its flag; and, for as long as it lives, the lock of one byte of the
segment's file, which the kernel drops when the thread's open file description is closed, however
that comes about. All share two words: DOOR, 0 while it is open, and LATEST, who came last. The
fast way in, for the thread whose lane is ``lane``::

    words[lane] = lane              its flag is up
    words[LATEST] = lane
    words[DOOR] == 0?               else somebody is inside, or on the way: see below
    words[DOOR] = lane              the door is shut
    words[LATEST] == lane?          else another came at the same moment: both take the slow way
    ... inside ...
    words[DOOR] = 0                 unless one of the slow way has shut it meanwhile
    words[lane] = 0

Whoever finds the door shut puts its flag down and watches the door for a moment, with nothing in
hand. If it opens, the fast way is tried anew: who is inside mostly leaves within microseconds. If
it does not, the slow way is taken.

Whoever turns to the slow way has its flag down and leaves the DOOR as it is: shut by whomever,
it keeps all off the fast way, and that is always safe. On the slow way there is one at a time (it
has the flock). That one shuts the door and waits until no flag is up of one that lives
(``SegmentLock._shut_out``); and opens it when it leaves.

Why only one is inside. Of two on the fast way who both find the door open, the one that signed
LATEST first finds the other there, or has shut the door before the other looks. And who is on
the slow way gets in only if the door has been shut by itself from before it began to look at the
flags until it has seen all of them down: who finds the door open after that finds it shut, and
who found it open before has had its flag up all along.

Who dies on the fast way leaves its flag up, which counts no more, and the door shut at worst,
which the slow way opens. That the work itself was broken off is told by the busy word.

All this needs that a store is seen by others before the same thread's next load. Processors
move loads ahead of stores, unless something is done about it: an operation on a lock of Python's
own, which nobody else uses, is an atomic instruction in the processor, and these keep order
(``Fence``). The rest of the order x86 keeps by itself. Others do not, so there is no fast way on
them.

Source: the fast way is Leslie Lamport's "A fast mutual exclusion algorithm" (ACM Transactions on
Computer Systems 5(1), 1987), whose waiting the slow way does.
"""
import errno
import fcntl
import os
import struct
import sys
import threading
from itertools import repeat

from asgi_ipc._shm import clock
from asgi_ipc._shm.words import M32

LANES = 128
"""Threads that can have one, in each segment. Others always take the slow way."""

DOOR, LATEST = 11, 12
FLAGS = 256
OWNERS = FLAGS + LANES
"""Words: the flag of each lane, and who its owner is (``owner_word``)."""

TURNS, LOOKS = 60, 8
"""Of a wait for the door: how often the processor is given to others, and looks between. 50 us."""

SLOW = 1
"""In DOOR and LATEST: one who comes the slow way. No lane has this number."""

SUPPORTED = sys.platform.startswith("linux") and os.uname()[4] == "x86_64"

_GET, _SET = 36, 37
"""F_OFD_GETLK and F_OFD_SETLK, which Python's ``fcntl`` names since 3.9."""

_RECORD = struct.Struct("@hhqqi4x")
"""``struct flock``: type, whence, first byte, bytes, pid (to be 0)."""

_NO_FLAGS = b"\0" * (8 * LANES)
_FLAG_WORDS = struct.Struct("={0}Q".format(LANES))
_fcntl = fcntl.fcntl


def take(descriptor):
    """Get a lane for who holds this open file description, as long as it is open.

    Cost: 1 us for each that is tried, and each thread begins with another one.

    :returns: its word, or 0 if none is free, or the system has no such locks.
    """
    if not SUPPORTED:
        return 0
    first = _first(descriptor)
    for number in range(LANES):
        lane = FLAGS + (first + number) % LANES
        try:
            _fcntl(descriptor, _SET, _RECORD.pack(fcntl.F_WRLCK, os.SEEK_SET, lane, 1, 0))
        except (IOError, OSError) as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                continue
            if error.errno not in (errno.EINVAL, errno.ENOLCK):
                raise
            return 0
        return lane
    return 0


def _first(descriptor):
    """The number of the lane to try first."""
    return (31 * os.getpid() + descriptor) % LANES


def give(descriptor):
    """Give back whatever lane this open file description has. Nobody may use it any more."""
    if SUPPORTED:
        try:
            _fcntl(descriptor, _SET, _RECORD.pack(fcntl.F_UNLCK, os.SEEK_SET, FLAGS, LANES, 0))
        except (IOError, OSError) as error:
            if error.errno not in (errno.EINVAL, errno.ENOLCK):
                raise


def lives(descriptor, lane):
    """Whether somebody beside this open file description has the lane."""
    asked = _RECORD.pack(fcntl.F_WRLCK, os.SEEK_SET, lane, 1, 0)
    return _RECORD.unpack(_fcntl(descriptor, _GET, asked))[0] != fcntl.F_UNLCK


def raised(memory):
    """The lanes whose flags are up. Cost: 0.2 us if there are none."""
    flags = memory[FLAGS * 8 : OWNERS * 8]
    if flags == _NO_FLAGS:
        return []
    # A flag holds its own number: what something else has left there is none.
    return [
        lane for lane, flag in enumerate(_FLAG_WORDS.unpack(flags), FLAGS) if lane == flag
    ]


def opens(words):
    """Watch the door for a moment; True as soon as it is open."""
    if clock.give_way is None:
        return False
    for _ in repeat(None, TURNS):
        for _ in repeat(None, LOOKS):
            if not words[DOOR]:
                return True
        clock.give_way()
    return False


def owner_word(pid):
    """What says who has a lane: its pid, and the namespace in which that counts."""
    return namespace() << 32 | pid


def owner_of(words, lane):
    """(pid, namespace) of who took a lane last."""
    word = words[lane + LANES]
    return word & M32, word >> 32


def namespace():
    """The number of this process's pid namespace; 0 if the system does not tell it."""
    try:
        return namespace_of("/proc/self/ns/pid")
    except OSError:
        return 0


def namespace_of(path):
    """The number of the namespace that a file of /proc stands for."""
    return os.stat(path).st_ino & M32


class Fence(object):
    """Two points that no load passes before the stores ahead of them are to be seen.

    ``first`` and ``second`` are called in turn: an atomic instruction each.
    """

    __slots__ = ("first", "second")

    def __init__(self):
        lock = threading.Lock()
        self.first = lock.acquire
        self.second = lock.release
