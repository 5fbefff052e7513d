"""What there is of asgi_ipc on this machine: prefixes, their segments, and what stands beside.

For the command line. Knows names, files and the first words of a segment, read as any file is:
it attaches nothing, takes no lock and changes nothing. Does not know who uses a segment
(``attached``), nor what is in it (``census``).

On Linux every segment is a file in /dev/shm. Where the system does not show them (macOS), what
has a known prefix can be looked at, and nothing can be listed.
"""
import errno
import grp
import mmap
import os
import pwd
import re
import stat
import struct
from collections import namedtuple

import posix_ipc

from asgi_ipc import group_cells, layout
from asgi_ipc._shm import inside
from asgi_ipc._shm.opening import SHM_FOLDER
from asgi_ipc._shm.segment import (
    KIND,
    LAYOUT,
    MAGIC,
    MAGIC_VALUE,
    PAGE,
    RECOVERIES,
    SIZE,
    runtime_folder,
)
from asgi_ipc.stores import segment_names

LAYOUTS = {
    "messages": (layout.KIND, layout.LAYOUT_VERSION),
    "groups": (group_cells.SEGMENT_KIND, group_cells.SEGMENT_LAYOUT),
}
"""What this version of asgi_ipc uses of each: the number of the kind, and of the layout."""

KINDS = ("messages", "groups")

OURS, OTHER_LAYOUT, OLD_RELEASE, FOREIGN, UNMADE, CLOSED, ABSENT = (
    "ours", "other layout", "old release", "foreign", "unmade", "closed", "absent"
)  # fmt: skip
"""What a half can be. ``UNMADE``: is being made, or its maker died. ``CLOSED``: to this user."""

_WORDS = struct.Struct("={0}Q".format(PAGE // 8))
_ENDING = re.compile(r"(?!sem\.)(.+)-(messages|groups)\Z", re.DOTALL)
_BELL = r"-(messages|groups)-[0-9a-f]{16}\.bell\Z"
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")

Half = namedtuple("Half", "kind name state status words semaphore")
"""One segment of a prefix. ``state``: one of the above. ``status``: as ``fstat`` has it, None if
it is absent. ``words``: the beginning of its header, () if it cannot be read. ``semaphore``: the
status of its semaphore's file; None if there is none; True if there is one that has no file."""


class Place(object):
    """A prefix as it is at this moment."""

    def __init__(self, prefix):
        self.prefix = prefix
        self.halves = [
            _half(kind, name) for kind, name in zip(KINDS, segment_names(prefix))
        ]
        self.messages, self.groups = self.halves

    @property
    def there(self):
        """Those halves that exist."""
        return [half for half in self.halves if half.state != ABSENT]

    @property
    def sound(self):
        """Whether it can be attached by this version and this user."""
        return all(half.state == OURS and half.semaphore for half in self.halves)

    @property
    def status(self):
        """What ``stat`` says of the first half that exists."""
        return self.there[0].status

    @property
    def uid(self):
        """The number of the user who owns it."""
        return self.status.st_uid

    @property
    def gid(self):
        """The number of the group that it belongs to."""
        return self.status.st_gid

    @property
    def mode(self):
        """Permission bits that all of its files have."""
        mode = 0o666
        for half in self.there:
            mode &= half.status.st_mode
            if half.semaphore not in (None, True):
                mode &= half.semaphore.st_mode
        return mode

    @property
    def size(self):
        """Bytes that both halves may grow to."""
        return sum(half.status.st_size for half in self.there)

    @property
    def memory(self):
        """Bytes of real memory that both halves hold."""
        return sum(memory_of(half.status) for half in self.there)


def prefixes():
    """The prefixes of all that looks like ours, sorted; None where nothing can be listed."""
    if SHM_FOLDER is None:
        return None
    names = set(os.listdir(SHM_FOLDER))
    found = set()
    for name in names:
        match = _ENDING.match(name)
        if match and _is_ours(name, names):
            found.add(match.group(1))
    return sorted(found)


def _is_ours(name, names):
    """Whether a file is a segment, rather than of another program that likes such names."""
    status = _status(os.path.join(SHM_FOLDER, name))
    if status is None or not stat.S_ISREG(status.st_mode):
        return False
    if "sem." + name in names:
        return True
    words = _read_file(os.path.join(SHM_FOLDER, name))[1]
    return bool(words) and words[MAGIC] == MAGIC_VALUE


def bells(prefix):
    """The paths of a prefix's doorbells."""
    pattern = re.compile(re.escape(prefix) + _BELL)
    folder = runtime_folder()
    return sorted(os.path.join(folder, name) for name in os.listdir(folder) if pattern.match(name))


def all_bells():
    """The paths of all doorbells on the machine."""
    pattern = re.compile(".+" + _BELL, re.DOTALL)
    folder = runtime_folder()
    return sorted(os.path.join(folder, name) for name in os.listdir(folder) if pattern.match(name))


def is_living(bell):
    """Whether somebody listens at a doorbell: True, False, or None if it cannot be told."""
    try:
        os.close(os.open(bell, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT):
            return False
        return None
    return True


def memory_of(status):
    """Bytes of real memory behind a file."""
    return status.st_blocks * 512


def user_name(uid):
    """The name of a user, or the number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid):
    """The name of a group of users, or the number."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def busy_of(half):
    """The pid that is written down of who is inside the lock, or broke off there; 0 for nobody."""
    return inside.written_down(_WORDS.pack(*half.words)) if half.state == OURS else 0


def layout_of(half):
    """The version of a half's layout; None if it has none."""
    return half.words[LAYOUT] if half.state in (OURS, OTHER_LAYOUT) else None


def rebuilds_of(half):
    """Holders of the lock that did not leave properly, so far."""
    return half.words[RECOVERIES] if half.state == OURS else 0


def _half(kind, name):
    if SHM_FOLDER is not None:
        path = os.path.join(SHM_FOLDER, name.strip("/"))
        status, semaphore = _status(path), _status(os.path.join(SHM_FOLDER, "sem." + name[1:]))
        readable, words, begin = None, (), b""
        if status is not None and stat.S_ISREG(status.st_mode):
            readable, words, begin = _read_file(path)
    else:
        status, readable, words, begin = _read_memory(name)
        semaphore = _semaphore(name)
    if status is None:
        state = ABSENT
    elif not stat.S_ISREG(status.st_mode) and SHM_FOLDER is not None:
        state = FOREIGN
    elif not readable:
        state = CLOSED
    else:
        state = _state(kind, status, words, begin)
    return Half(kind, name, state, status, words, semaphore)


def _state(kind, status, words, begin):
    if not words or words[MAGIC] != MAGIC_VALUE:
        if begin[:2] in _PICKLES:
            return OLD_RELEASE
        return FOREIGN if begin.strip(b"\0") else UNMADE
    if (words[KIND], words[LAYOUT]) != LAYOUTS[kind]:
        return OTHER_LAYOUT
    return OURS if words[SIZE] == status.st_size else FOREIGN


def _read_file(path):
    """(whether this user may read it, the first words, the first bytes)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False, (), b""
    try:
        begin = os.read(descriptor, _WORDS.size)
    finally:
        os.close(descriptor)
    words = _WORDS.unpack(begin) if len(begin) == _WORDS.size else ()
    return True, words, begin


def _read_memory(name):
    """The same with the status before it, where a segment is no file."""
    try:
        memory = posix_ipc.SharedMemory(name, read_only=True)
    except posix_ipc.ExistentialError:
        return None, False, (), b""
    except posix_ipc.PermissionsError:
        raise ValueError(
            "the shared memory {0} belongs to another user; run this as that user".format(name)
        )
    try:
        status = os.fstat(memory.fd)
        begin = b""
        if status.st_size >= _WORDS.size:
            page = mmap.mmap(memory.fd, _WORDS.size, prot=mmap.PROT_READ)
            begin = page[: _WORDS.size]
            page.close()
    finally:
        os.close(memory.fd)
    return status, True, _WORDS.unpack(begin) if begin else (), begin


def _semaphore(name):
    try:
        posix_ipc.Semaphore(name).close()
    except posix_ipc.ExistentialError:
        return None
    except posix_ipc.Error:
        # It is another user's, and there.
        return True
    return True


def _status(path):
    try:
        return os.lstat(path)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return None
