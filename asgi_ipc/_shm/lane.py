"""The fast way into a lock: a flag for each thread, in place of system calls.

Knows the flags by which threads keep each other out, and how the kernel tells which of them
live; does not know the semaphore, the flock, or what the lock is for (``lock`` does).

Each thread that has been inside once gets a *lane*, as long as there are any: a byte of the
segment that only it writes, its flag; and, for as long as it lives, the lock of that byte of the
segment's file, which the kernel drops when the thread's open file description is closed, however
that comes about. All flags lie on one *board*, beside two words: SLOW is set by one who comes
the slow way, and BUSY while it is inside. The fast way in, for the thread whose lane is ``lane``::

    memory[lane] = its number       its flag is up
    memory[BOARD] == alone?         nothing else is on the board: it is inside
    ... inside ...
    memory[lane] = 0

Whoever finds anything else on the board puts its flag down and watches the board for a moment, with
nothing in hand. When it is empty, the fast way is tried anew: who is inside mostly leaves within
microseconds. If it does not become empty, the slow way is taken.

On the slow way there is one at a time (it has the flock). That one sets SLOW, and waits until no
flag is up of one that lives (``SegmentLock._shut_out``). It takes SLOW off when it leaves.

Why only one is inside. Each raises its flag, or sets SLOW, before it looks; and goes in only if
it then finds nobody else's. Of any two, the one that looks later finds what the other has raised,
as long as that one is inside.

Who dies by the fast way leaves its flag up, which keeps all others off that way. The next one on
the slow way finds a flag of one who is dead, and knows by that: something was broken off. Whoever
is broken off by an exception makes itself the same: it gives its lane back, with the flag up.

All this needs that a store is seen by others before the same thread's next load. Processors
move loads ahead of stores, unless something is done about it: an operation on a lock of Python's
own, which nobody else uses, is an atomic instruction in the processor, and these keep order
(``fence``). The rest of the order x86 keeps by itself. Others do not, so there is no fast way on
them.

Source: to raise a flag and then to look at the others' is as old as E. W. Dijkstra's "Cooperating
sequential processes" (1965, where he gives it as T. J. Dekker's); the waiting is the slow way's.
"""
import errno
import fcntl
import functools
import os
import struct
import sys
import threading
from itertools import repeat

import six

from asgi_ipc._shm import clock
from asgi_ipc._shm.words import M32

LANES = 128
"""Threads that can have one, in each segment. Others always take the slow way."""

BUSY, SLOW = 256, 257
"""Words: the pid of who is inside by the slow way, or died there; whether one is on that way."""

FLAGS = (SLOW + 1) * 8
"""Bytes: the flag of each lane, which is the lane's number."""

OWNERS = 384
"""Words: who the owner of each lane is (``owner_word``)."""

BOARD = slice(BUSY * 8, FLAGS + LANES)
EMPTY = b"\0" * (FLAGS + LANES - BUSY * 8)
"""All of it, and what it is when nobody is inside or wants in."""

TURNS, LOOKS = 12, 40
"""Of a wait for an empty board: how often the processor is given to others, and looks between."""

SUPPORTED = sys.platform.startswith("linux") and os.uname()[4] == "x86_64"

_GET, _SET = 36, 37
"""F_OFD_GETLK and F_OFD_SETLK, which Python's ``fcntl`` names since 3.9."""

_RECORD = struct.Struct("@hhqqi4x")
"""``struct flock``: type, whence, first byte, bytes, pid (to be 0)."""

DOWN = 0 if six.PY3 else "\0"
"""A flag that is not up, as a mmap takes it."""

_NO_FLAGS = b"\0" * LANES
_fcntl = fcntl.fcntl


def take(descriptor):
    """Get a lane for who holds this open file description, as long as it is open.

    Cost: 1 us for each that is tried, and each thread begins with another one.

    :returns: its byte, or 0 if none is free, or the system has no such locks.
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


def flag_of(lane):
    """What the flag of a lane is when it is up, as a mmap takes it."""
    return _number(lane) if six.PY3 else chr(_number(lane))


def alone(lane):
    """The board with the flag of a lane, and nothing else."""
    before = lane - BUSY * 8
    return EMPTY[:before] + six.int2byte(_number(lane)) + EMPTY[before + 1 :]


def _number(lane):
    """What a flag that is up consists of: so what something else has left there is none."""
    return lane - FLAGS + 1


def raised(memory):
    """(lanes whose flags are up, places on which there is something else). Cost: 0.2 us if none."""
    flags = memory[FLAGS : FLAGS + LANES]
    if flags == _NO_FLAGS:
        return [], []
    found = [
        (lane, flag == _number(lane))
        for lane, flag in enumerate(six.iterbytes(flags), FLAGS)
        if flag
    ]
    return [lane for lane, own in found if own], [lane for lane, own in found if not own]


def clears(memory):
    """Watch the board for a moment; True as soon as it is empty."""
    if clock.give_way is None:
        return False
    for _ in repeat(None, TURNS):
        for _ in repeat(None, LOOKS):
            if memory[BOARD] == EMPTY:
                return True
        clock.give_way()
    return False


def owner_place(lane):
    """The word that says who has a lane."""
    return OWNERS + lane - FLAGS


def owner_word(pid):
    """What says who has a lane: its pid, and the namespace in which that counts."""
    return namespace() << 32 | pid


def owner_of(words, lane):
    """(pid, namespace) of who took a lane last."""
    word = words[owner_place(lane)]
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


def fence():
    """A point that no load passes before the stores ahead of it are to be seen; for one thread.

    A list of what to call, an atomic instruction if it is called once, and of the one to use then.
    """
    lock = threading.Lock()
    first = [functools.partial(lock.acquire, False)]
    first.append([lock.release, first])
    return first
