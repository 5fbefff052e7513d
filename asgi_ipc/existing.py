"""What shared memory there is under a prefix, and room for more, for those who only look.

Knows the names of segments and what the system tells of them; opens none of them to map it, and
makes none: whoever attaches first decides of a segment's size, and that has to be the site.
"""
import os
import stat
from collections import namedtuple

import posix_ipc

from asgi_ipc._shm import segment
from asgi_ipc.stores import segment_names

Found = namedtuple("Found", "name size memory owner group mode")
"""A segment: its name, bytes in all, bytes really held, user, group, permission bits."""

Room = namedtuple("Room", "folder total free")
"""Where shared memory is, and its bytes."""


def find(prefix):
    """The segments of a prefix that exist: the message segment, then the group segment.

    One that is just being made, and has no size yet, is none. Cost: 10 us.
    """
    statuses = [(name, _status(name)) for name in segment_names(prefix)]
    return [
        Found(
            name,
            status.st_size,
            status.st_blocks * 512,
            status.st_uid,
            status.st_gid,
            stat.S_IMODE(status.st_mode) & 0o666,
        )
        for name, status in statuses
        if status is not None and status.st_size
    ]


def _status(name):
    if segment.SHM_FOLDER is not None:
        # Tells of another user's as well, which cannot be opened.
        path = os.path.join(segment.SHM_FOLDER, name.strip("/"))
        return os.lstat(path) if os.path.lexists(path) else None
    try:
        memory = posix_ipc.SharedMemory(name)
    except (posix_ipc.ExistentialError, posix_ipc.PermissionsError):
        return None
    try:
        return os.fstat(memory.fd)
    finally:
        memory.close_fd()


def room():
    """How much shared memory the system has; None where it does not tell (macOS)."""
    folder = segment.SHM_FOLDER
    if folder is None:
        return None
    status = os.statvfs(folder)
    return Room(folder, status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize)
