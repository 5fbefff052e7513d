"""A named shared-memory segment: create, attach, validate, reserve, detach, unlink.

Knows names, sizes, owners and the first words of the segment; does not know what its user
keeps in the rest. Words are 64 bits in the machine's byte order (little-endian wherever this
runs today; the magic reads differently in the other order, so it is refused there).

The words that are the same in every segment::

    0 MAGIC   "ASGI_IPC" as bytes; stored last when a segment is made
    1 LAYOUT  version of the layout that the kind of segment has
    2 KIND    what it is for, a number of its user's
    3 SIZE    bytes in the whole segment
    4 BUSY    pid of the process that is inside the lock, 0 for none
    5 EPOCH   counts the rebuilds
    6 KEY     random; keys the hashes of names, which come from users

A segment is made under its own lock: whoever opens the name first finds it of size 0, sizes
it, reserves and fills the header, stores the magic. One who finds a size but no magic at all
comes after a process that died in the making, and makes it anew. The size is
never set a second time: that would cut memory off under those who use it.

Memory is reserved before it is touched (``reserve``): touching a page that tmpfs has no room
for is a SIGBUS, while a failed reservation is an answer.
"""
import errno
import fcntl
import hashlib
import mmap
import os
import stat
import struct
import sys

import posix_ipc
import six

from asgi_ipc._shm import forks
from asgi_ipc._shm.lock import CLOSED, SegmentLock
from asgi_ipc.errors import LayerClosed, SegmentError

MAGIC, LAYOUT, KIND, SIZE, BUSY, EPOCH, KEY = range(7)
FIRST_FREE_WORD = 8
_UNSIGNED = struct.Struct("=Q")
MAGIC_VALUE = _UNSIGNED.unpack(b"ASGI_IPC")[0]
PAGE = mmap.PAGESIZE

SHM_FOLDER = "/dev/shm" if sys.platform.startswith("linux") and os.path.isdir("/dev/shm") else None
"""Where the system shows shared memory as files; None where it does not (macOS)."""


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
    :param fixed: bytes at the beginning that are reserved when it is made.
    :param lay_header: called as ``lay_header(words, size)`` to lay the user's header in a new one.
    :param mode: permission bits; 0600 admits this user alone.
    :param lock_timeout: seconds, see ``lock``.
    :raises SegmentError: it is not ours, or there is no memory for it; says what to do.
    """

    def __init__(self, name, kind, layout, size, fixed, lay_header, mode, lock_timeout):
        self.name = name
        self.mode = mode
        self.created = False
        self._kind = kind
        self._layout = layout
        self._lock_timeout = lock_timeout
        self.map = self.words = None
        while not self._attach(round_up(size, PAGE), fixed, lay_header):
            pass
        forks.watch(self)

    def _attach(self, size, fixed, lay_header):
        """Open, look under the lock, make or validate; False if it was unlinked meanwhile."""
        self._descriptor = _open_memory(self.name, self.mode)
        self.lock = lock = SegmentLock(
            _open_semaphore(self.name, self.mode),
            self._open_description,
            self._lock_timeout,
            self.name,
        )
        try:
            lock.acquire()
            status = os.fstat(self._descriptor)
            attached = status.st_nlink != 0 or SHM_FOLDER is None
            if attached:
                self._refuse_strangers(status)
                self._make_or_map(status.st_size, size, fixed, lay_header)
                lock.guard(self.words, BUSY)
                self._key = _UNSIGNED.pack(self.words[KEY])
        except BaseException:
            lock.close()
            self._close()
            raise
        if not attached:
            lock.close()
            self._close()
            return False
        # Not release(): the busy word may be another's, who died inside.
        lock.abandon()
        return True

    def _make_or_map(self, found_size, size, fixed, lay_header):
        if found_size == 0:
            os.ftruncate(self._descriptor, size)
            found_size = size
        if found_size < PAGE or found_size % 8:
            raise SegmentError(self._stranger("it is too small ({0} bytes)".format(found_size)))
        self.size = found_size
        # The header page has to be there before the first look at it.
        if not self.reserve(0, PAGE):
            raise SegmentError(self._no_room(PAGE))
        self.map = mmap.mmap(self._descriptor, found_size)
        self.words = view_words(self.map)
        if (
            self.words[MAGIC] == 0
            and self.words[LAYOUT] in (0, self._layout)
            and self.words[KIND] in (0, self._kind)
        ):
            # New, or left by one who died in the making: the magic comes last.
            self._make(fixed, lay_header)
        else:
            self._validate()

    def _make(self, fixed, lay_header):
        words = self.words
        if not self.reserve(PAGE, max(fixed, PAGE)):
            raise SegmentError(self._no_room(fixed))
        words[LAYOUT] = self._layout
        words[KIND] = self._kind
        words[SIZE] = self.size
        words[KEY] = _UNSIGNED.unpack(os.urandom(8))[0]
        lay_header(words, self.size)
        words[MAGIC] = MAGIC_VALUE
        self.created = True

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
        if words[SIZE] != self.size:
            raise SegmentError(
                self._stranger(
                    "it is {0} bytes long and should be {1}".format(self.size, words[SIZE])
                )
            )

    def _refuse_strangers(self, status):
        if status.st_uid != os.geteuid() and not self.mode & 0o077:
            raise SegmentError(
                "the shared memory {0} belongs to user {1}, and this process runs as user {2}. "
                "Use another prefix, or have all processes of the site run as one user, or give "
                "them one group and open the layer with mode=0o660.".format(
                    self.name, status.st_uid, os.geteuid()
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
            if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.ENOMEM, errno.EDQUOT):
                raise
            return False
        return True

    def replaced(self):
        """Whether the name was unlinked, so that others no longer come here. Cost: 1 us."""
        if SHM_FOLDER is None or self._descriptor is None:
            return False
        return os.fstat(self._descriptor).st_nlink == 0

    def hash(self, data):
        """Hash bytes to 64 bits with the segment's random key. Cost: 1 us.

        Keyed, because names come from users, who could choose colliding ones for any hash
        that they can compute (CRC-32 collides under every key).
        """
        return _UNSIGNED.unpack(hashlib.sha256(self._key + data).digest()[:8])[0]

    def memory_used(self):
        """Bytes of real memory that the segment holds."""
        return os.fstat(self._descriptor).st_blocks * 512

    def close(self):
        """Detach. The segment stays for others; ``unlink`` removes it. Twice is once."""
        lock = self.lock
        try:
            if not lock.acquire():
                # Nothing was begun, so nobody has to rebuild for it.
                self.words[BUSY] = 0
        except LayerClosed:
            return
        except BaseException:
            lock.abandon()
            raise
        self._release_words()
        lock.close()
        self._close()

    def forked(self):
        """In a child: the mapping is shared and good, what the lock holds is the parent's."""
        self.lock.forked()

    def _close(self):
        self._release_words()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _release_words(self):
        words, self.words = self.words, None
        if hasattr(words, "release"):
            words.release()
        memory, self.map = self.map, None
        if memory is not None and six.PY3:
            memory.close()

    def _open_description(self):
        """A new open file description of the file whose flock is the lock."""
        if self._descriptor is None:
            raise LayerClosed(CLOSED)
        if SHM_FOLDER is None:
            path = _lock_file(self.name)
        else:
            # Not by the segment's name, which may have gone to another one by now.
            path = "/proc/self/fd/{0}".format(self._descriptor)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, self.mode)
        close_on_exec(descriptor)
        return descriptor

    def _stranger(self, why):
        return (
            "the shared memory {0} cannot be used: {1}. If nothing else needs it, remove it with "
            "`asgi-ipc rm {2}`, or choose another prefix.".format(
                self.name, why, self.name.strip("/").rsplit("-", 1)[0]
            )
        )

    def _no_room(self, needed):
        free = ""
        if SHM_FOLDER is not None:
            status = os.statvfs(SHM_FOLDER)
            free = ", {0} bytes are free in {1}".format(
                status.f_bavail * status.f_frsize, SHM_FOLDER
            )
        return (
            "no shared memory left for {0}: {1} bytes are needed to begin with{2}. Enlarge it "
            "(Docker: --shm-size), remove stale segments, or lower message_memory and "
            "group_memory.".format(self.name, needed, free)
        )


def _open_memory(name, mode):
    """Open or create the memory, never sizing it; return the descriptor."""
    try:
        memory = posix_ipc.SharedMemory(name, posix_ipc.O_CREAT, mode=mode, size=0)
    except posix_ipc.PermissionsError:
        raise SegmentError(_forbidden(name, name.strip("/")))
    except posix_ipc.Error as error:
        raise SegmentError("cannot open the shared memory {0}: {1}".format(name, error))
    close_on_exec(memory.fd)
    _open_to_mode(memory.fd, mode)
    return memory.fd


def _open_semaphore(name, mode):
    try:
        semaphore = posix_ipc.Semaphore(name, posix_ipc.O_CREAT, mode=mode, initial_value=1)
    except posix_ipc.PermissionsError:
        raise SegmentError(_forbidden(name, "sem." + name.strip("/")))
    except posix_ipc.Error as error:
        raise SegmentError("cannot open the semaphore {0}: {1}".format(name, error))
    if mode & 0o077 and SHM_FOLDER is not None:
        path = os.path.join(SHM_FOLDER, "sem." + name.strip("/"))
        if os.stat(path).st_uid == os.geteuid():
            os.chmod(path, mode)
    return semaphore


def _forbidden(name, file_name):
    owner = "another user"
    if SHM_FOLDER is not None:
        try:
            owner = "user {0}".format(os.stat(os.path.join(SHM_FOLDER, file_name)).st_uid)
        except OSError:
            pass
    return (
        "{0} belongs to {1}, who does not admit user {2}. Use another prefix, or open the layer "
        "with mode=0o660 on both sides.".format(name, owner, os.geteuid())
    )


def _open_to_mode(descriptor, mode):
    """The umask has taken bits of ``mode`` away; the owner gives them back."""
    status = os.fstat(descriptor)
    if mode & 0o077 and status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) != mode:
        os.fchmod(descriptor, mode)


def close_on_exec(descriptor):
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFD)
    fcntl.fcntl(descriptor, fcntl.F_SETFD, flags | fcntl.FD_CLOEXEC)


def _fallocate(descriptor, first, length):
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, first, length)
        return
    # Python 2.7; the 64 makes the offsets 64 bits wide on every machine.
    import ctypes

    call = ctypes.CDLL(None).posix_fallocate64
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    number = errno.EINTR
    while number == errno.EINTR:
        number = call(descriptor, first, length)
    if number:
        raise OSError(number, os.strerror(number))
