"""A named shared-memory segment: create, attach, validate, reserve, detach, unlink.

Knows names, sizes, owners and the first words of the segment; does not know what its user
keeps in the rest. Words are 64 bits in the machine's byte order (little-endian wherever this
runs today; the magic reads differently in the other order, so it is refused there).

The words that are the same in every segment::

    0 MAGIC   "ASGI_IPC" as bytes; stored last when a segment is made
    1 LAYOUT  version of the layout that the kind of segment has
    2 KIND    what it is for, a number of its user's
    3 SIZE    bytes in the whole segment
    5 EPOCH   counts the rebuilds
    6 KEY     random; keys the hashes of names, which come from users
    7 SEAL    check of LAYOUT, KIND, SIZE and KEY; stored when all of the header is in place
    8 WAITS   times that somebody had to wait for the lock
    9 WAITED  nanoseconds that all of them waited for it
   10 RECOVERIES  holders that did not leave properly
  256 BUSY, 257 SLOW, 258-273 flags, 384-511 owners: who is inside the lock (``lane``)

A segment is made under its own lock: whoever opens the name first finds it of size 0, sizes
it, reserves and fills the header, stores the seal, stores the magic. One who finds a size but
neither seal nor magic comes after a process that died in the making, and makes it anew; one
who finds the seal, but no magic, stores that. The size of what has either is never set a second
time: that would cut memory off under those who use it. Where the memory does not suffice for the
header, the size goes back to 0.

Memory is reserved before it is touched (``reserve``): touching a page that tmpfs has no room
for is a SIGBUS, while a failed reservation is an answer. So is touching what another program
has cut off (``truncate``): ``replaced`` notices it, and is asked every ``LOOK`` by whoever works
on the segment.
"""
import errno
import hashlib
import mmap
import os
import struct

import posix_ipc
import six

from asgi_ipc._shm import clock, forks
from asgi_ipc._shm.holders import CLOSED
from asgi_ipc._shm.lock import SegmentLock
from asgi_ipc._shm.opening import (
    NO_MEMORY,
    SHM_FOLDER,
    close_on_exec,
    forbidden,
    no_room,
    open_memory,
    open_semaphore,
    unusable,
)
from asgi_ipc._shm.words import LARGEST_COUNT, crc32
from asgi_ipc.errors import LayerClosed, SegmentError

MAGIC, LAYOUT, KIND, SIZE = range(4)
EPOCH, KEY, SEAL, WAITS, WAITED, RECOVERIES = range(5, 11)
_UNSIGNED = struct.Struct("=Q")
_SEALED = struct.Struct("=4Q")
MAGIC_VALUE = _UNSIGNED.unpack(b"ASGI_IPC")[0]
PAGE = mmap.PAGESIZE

LOOK = clock.SECOND // 100
"""Nanoseconds after which one who works on a segment looks whether it is still there."""


def runtime_folder():
    """The folder for what stands beside segments: FIFOs, and lock files where needed."""
    if SHM_FOLDER is not None:
        return SHM_FOLDER
    # A costly import, and not needed on Linux.
    import tempfile

    return tempfile.gettempdir()


def view_words(memory):
    """Return the fastest view of a mmap as 64-bit words that this Python offers.

    Measured on 3.11: memoryview 25 ns an access, ctypes 30 ns, struct 55 ns.
    """
    if six.PY3:
        return memoryview(memory).cast("Q")
    # Python 2.7 has no memoryview of a mmap.
    import ctypes

    return (ctypes.c_uint64 * (len(memory) // 8)).from_buffer(memory)


def view_part(memory, words, first, count):
    """A view of ``count`` words from ``first`` on, for who goes there often. Cost: 0.1 us.

    An access by it takes 10 ns less, for there is nothing to be added. It keeps the mapping: who
    has it after the segment was closed has to let go of it, and not to touch it.

    :param words: ``view_words(memory)``.
    """
    if six.PY3:
        return words[first : first + count]
    return (words._type_ * count).from_buffer(memory, first * 8)


def round_up(number, step):
    """The next multiple of ``step``."""
    return -(-number // step) * step


def unlink(name):
    """Remove the segment and its semaphore; True if there was any."""
    found = False
    for remove in (posix_ipc.unlink_shared_memory, posix_ipc.unlink_semaphore):
        try:
            remove(name)
            found = True
        except posix_ipc.ExistentialError:
            pass
    if SHM_FOLDER is None and os.path.exists(_lock_file(name)):
        os.unlink(_lock_file(name))
    return found


def _lock_file(name):
    """Stands in for the segment's own descriptor where that takes no flock (macOS)."""
    return os.path.join(runtime_folder(), name.strip("/") + ".lock")


class Segment(object):
    """One attached segment, with its word view and its lock.

    :param name: as POSIX has it, "/prefix-messages".
    :param kind: number that tells one use of segments from another.
    :param layout: version of the layout; another one is refused.
    :param size: bytes, if it has to be made; an existing one keeps its size.
    :param fixed_bytes: called with the size in force; bytes at the beginning to reserve when
        it is made.
    :param lay_header: called as ``lay_header(words, size)`` to lay the user's header in a new one.
    :param mode: permission bits; 0600 admits this user alone.
    :param lock_timeout: seconds, see ``lock``.
    :raises SegmentError: it is not ours, or there is no memory for it; says what to do.
    """

    def __init__(self, name, kind, layout, size, fixed_bytes, lay_header, mode, lock_timeout):
        self.name = name
        self.mode = mode
        self.created = False
        self._kind = kind
        self._layout = layout
        self._lock_timeout = lock_timeout
        self.map = self.words = self._descriptor = None
        while not self._attach(round_up(size, PAGE), fixed_bytes, lay_header):
            pass
        forks.watch(self)

    def _attach(self, size, fixed_bytes, lay_header):
        """Open, look under the lock, make or validate; False if it was unlinked meanwhile."""
        lock = None
        try:
            self._descriptor = open_memory(self.name, self.mode)
            self.lock = lock = SegmentLock(
                open_semaphore(self.name, self.mode),
                self._open_description,
                self._lock_timeout,
                self.name,
            )
            lock.acquire()
            status = os.fstat(self._descriptor)
            attached = status.st_nlink != 0 or SHM_FOLDER is None
            if attached:
                self._make_or_map(status.st_size, size, fixed_bytes, lay_header)
                self._number = self.words[KEY]
                self._key = _UNSIGNED.pack(self._number)
                lock.release()
                lock.guard(self.words, self.map, self)
            else:
                lock.close()
                self._close()
        except BaseException as error:
            if lock is not None:
                lock.close()
            self._close()
            if isinstance(error, EnvironmentError):
                text = "cannot attach the shared memory {0}: {1}".format(self.name, error)
                raise SegmentError(text)
            raise
        return attached

    def _make_or_map(self, found_size, size, fixed_bytes, lay_header):
        if found_size == 0:
            try:
                os.ftruncate(self._descriptor, size)
            except (IOError, OSError) as error:
                if error.errno not in NO_MEMORY:
                    raise
                raise SegmentError(no_room(self.name, size))
            found_size = size
            self.created = True
        if found_size < PAGE or found_size % 8:
            raise SegmentError(self._stranger("it is too small ({0} bytes)".format(found_size)))
        self.size = found_size
        # The header page has to be there before the first look at it.
        if not self.reserve(0, PAGE):
            self._refuse(PAGE, unmade=self.created)
        self.map = mmap.mmap(self._descriptor, found_size)
        if six.PY2:
            _close_copies_on_exec(self._descriptor)
        self.words = words = view_words(self.map)
        if words[MAGIC] == 0 and words[SEAL] == 0 and (
            words[LAYOUT] in (0, self._layout) and words[KIND] in (0, self._kind)
        ):
            # New, or left by one who died in the making.
            self._make(max(fixed_bytes(found_size), PAGE), lay_header)
        elif words[MAGIC] == 0 and words[SEAL] == _seal_of(words):
            # Left by one who died with all but this done.
            words[MAGIC] = MAGIC_VALUE
        self._validate()

    def _make(self, fixed, lay_header):
        words = self.words
        if not self.reserve(PAGE, fixed):
            self._refuse(fixed, unmade=True)
        words[LAYOUT] = self._layout
        words[KIND] = self._kind
        words[SIZE] = self.size
        words[KEY] = _UNSIGNED.unpack(os.urandom(8))[0]
        lay_header(words, self.size)
        words[SEAL] = _seal_of(words)
        words[MAGIC] = MAGIC_VALUE

    def _refuse(self, needed, unmade):
        """There is no memory for it. ``unmade``: have the next one give it a size of its own."""
        if unmade and SHM_FOLDER is not None:
            # Nobody has this mapped but those who came as far as here, and failed.
            self._release_words()
            os.ftruncate(self._descriptor, 0)
        raise SegmentError(no_room(self.name, needed))

    def _validate(self):
        words = self.words
        if words[MAGIC] != MAGIC_VALUE:
            raise SegmentError(self._stranger("its contents are not asgi_ipc's"))
        if words[LAYOUT] != self._layout or words[KIND] != self._kind:
            raise SegmentError(
                self._stranger(
                    "it has layout {0} of kind {1}, and this version of asgi_ipc uses layout {2} "
                    "of kind {3}".format(words[LAYOUT], words[KIND], self._layout, self._kind)
                )
            )
        if words[SEAL] != _seal_of(words):
            raise SegmentError(self._stranger("its header is damaged"))
        if words[SIZE] != self.size:
            raise SegmentError(
                self._stranger(
                    "it is {0} bytes long and should be {1}".format(self.size, words[SIZE])
                )
            )

    def reserve(self, first, end):
        """Make sure that the bytes from ``first`` to ``end`` have memory behind them.

        False if there is none. Nothing is touched, so a crash inside leaves nothing.
        """
        if SHM_FOLDER is None or end <= first:
            return True
        try:
            _fallocate(self._descriptor, first, end - first)
        except (IOError, OSError) as error:
            if error.errno not in NO_MEMORY:
                raise
            return False
        return True

    def give_back(self, first, end):
        """Return the memory of whole pages from ``first`` to ``end`` (bytes) to the system.

        They read as zeros then. Where the system cannot do it, they stay.
        """
        first, end = round_up(first, PAGE), end // PAGE * PAGE
        if SHM_FOLDER is not None and first < end:
            _punch(self._descriptor, first, end - first)

    def replaced(self):
        """Whether others no longer come here: the name was unlinked, or the memory made anew.

        Cost: 1 us.

        :raises SegmentError: it was cut short, and touching it would end this process.
        """
        status = self._status()
        if status is None:
            return False
        if SHM_FOLDER is not None and status.st_nlink == 0:
            return True
        if status.st_size < self.size:
            raise SegmentError(
                self._stranger(
                    "another program has cut it from {0} to {1} bytes while it was in use".format(
                        self.size, status.st_size
                    )
                )
            )
        try:
            return self.words[KEY] != self._number
        except (TypeError, ValueError):
            # Closed in the meantime, which the caller hears of at the lock.
            return False

    def cut_short(self):
        """Whether another program has cut the memory: touching it would end this process."""
        status = self._status()
        return status is not None and status.st_size < self.size

    def _status(self):
        """What ``fstat`` says of the memory; None once it is closed."""
        descriptor = self._descriptor
        if descriptor is None:
            return None
        try:
            return os.fstat(descriptor)
        except OSError as error:
            # Another thread has closed it meanwhile.
            if error.errno != errno.EBADF or self._descriptor is not None:
                raise
            return None

    def waited(self, nanoseconds):
        """Somebody of this process had to wait for the lock, and has it now."""
        self._count(WAITS, 1)
        self._count(WAITED, nanoseconds)

    def recovered(self):
        """Somebody of this process comes after a holder that did not leave properly."""
        self._count(RECOVERIES, 1)

    def _count(self, word, number):
        words = self.words
        if words is not None:
            words[word] = (words[word] + number) % LARGEST_COUNT

    def hash(self, data):
        """Hash bytes to 64 bits with the segment's random key, never to 0. Cost: 1 us.

        Keyed, because names come from users, who could choose colliding ones for any hash
        that they can compute (CRC-32 collides under every key).
        """
        return _UNSIGNED.unpack(hashlib.sha256(self._key + data).digest()[:8])[0] or 1

    def memory_used(self):
        """Bytes of real memory that the segment holds."""
        status = self._status()
        return status.st_blocks * 512 if status is not None else 0

    def close(self):
        """Detach. The segment stays for others; ``unlink`` removes it. Twice is once."""
        lock = self.lock
        if self.cut_short():
            # Its words cannot be touched any more.
            lock.unguard()
        try:
            # From then on nobody of this process comes in, who would want the words.
            lock.close(unfinished=lock.acquire())
        except LayerClosed:
            # Perhaps an earlier close was interrupted.
            lock.abandon()
        except BaseException:
            lock.abandon()
            raise
        lock.unguard()
        self._close()

    def forked(self):
        """In a child: the mapping is shared and good, what the lock holds is the parent's."""
        self.lock.forked()

    def _close(self):
        self._release_words()
        # Interrupted here it stays open, rather than be closed twice: by then its number may be
        # that of another file.
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _release_words(self):
        if hasattr(self.words, "release"):
            self.words.release()
        self.words = None
        if self.map is not None and six.PY3:
            try:
                self.map.close()
            except BufferError:
                # Somebody has a view of a part of it: it goes with the last of these.
                pass
        self.map = None

    def _open_description(self):
        """A new open file description of the file whose flock is the lock."""
        mine = self._descriptor
        if mine is None:
            raise LayerClosed(CLOSED)
        # Not by the segment's name, if that can be: it may have gone to another one by now.
        path = "/proc/self/fd/{0}".format(mine) if SHM_FOLDER else _lock_file(self.name)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, self.mode)
        except (IOError, OSError) as error:
            if self._descriptor is None:
                # Another thread has closed it meanwhile.
                raise LayerClosed(CLOSED)
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise SegmentError(
                    "each thread needs a descriptor of its own to lock the shared memory {0}, and "
                    "there is none left: {1}. Raise the limit (ulimit -n).".format(
                        self.name, error
                    )
                )
            if error.errno not in (errno.EACCES, errno.EPERM):
                raise
            # A thread that is new since this process became another user's.
            raise SegmentError(forbidden(self.name, os.fstat(mine)))
        if self._descriptor is None:
            # Closed before it was opened here: by then its number may have been any other file's.
            os.close(descriptor)
            raise LayerClosed(CLOSED)
        close_on_exec(descriptor)
        return descriptor

    def _stranger(self, why):
        return unusable(self.name, why)


def _seal_of(words):
    """What SEAL has to be; never 0."""
    constant = _SEALED.pack(words[LAYOUT], words[KIND], words[SIZE], words[KEY])
    return 1 << 32 | crc32(constant)


def _close_copies_on_exec(descriptor):
    """Python 2.7 maps a copy of a descriptor, and hands that on to programs it executes."""
    folder, mine = "/proc/self/fd", os.fstat(descriptor)
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        try:
            if os.path.samestat(os.fstat(int(name)), mine):
                close_on_exec(int(name))
        except (IOError, OSError) as error:
            if error.errno != errno.EBADF:
                raise


def _fallocate(descriptor, first, length):
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, first, length)
        return
    # Python 2.7; the 64 makes the offsets 64 bits wide on every machine.
    _call(("posix_fallocate64", descriptor), (first, length))


def _punch(descriptor, first, length):
    keep_size, punch_hole = 1, 2
    try:
        _call(("fallocate64", descriptor, keep_size | punch_hole), (first, length))
    except (AttributeError, OSError):
        # No such call in this C library, or not for this file system.
        pass


def _call(function, offsets):
    """Call a function of the C library: (its name, ints), then offsets in bytes."""
    import ctypes

    call = getattr(ctypes.CDLL(None, use_errno=True), function[0])
    call.argtypes = (ctypes.c_int,) * (len(function) - 1) + (ctypes.c_int64,) * len(offsets)
    number = errno.EINTR
    while number == errno.EINTR:
        # The one returns the error's number, the other sets it.
        number = call(*(function[1:] + offsets))
        if number < 0:
            number = ctypes.get_errno()
    if number:
        raise OSError(number, os.strerror(number))
