"""Opening what has a name: shared memory and a semaphore that are ours, or an error.

Knows names, owners, permission bits, and where the system shows shared memory as files; does not
know what is in it. A name is open to every user of the machine until somebody takes it: what
another user made under it is refused, unless ``mode`` admits others.
"""
import errno
import fcntl
import os
import stat
import sys

import posix_ipc

from asgi_ipc.errors import SegmentError

SHM_FOLDER = "/dev/shm" if sys.platform.startswith("linux") and os.path.isdir("/dev/shm") else None
"""Where the system shows shared memory as files; None where it does not (macOS)."""

SEMAPHORE_BYTES = 16
"""No system's semaphore is smaller, as a file."""

NO_MEMORY = (errno.ENOSPC, errno.EFBIG, errno.ENOMEM, errno.EDQUOT)
_NOT_A_FILE = (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENOTDIR)


def prefix_of(name):
    """The prefix of a segment's name, which commands take."""
    return name.strip("/").rsplit("-", 1)[0]


def unusable(name, why):
    return (
        "the shared memory {0} cannot be used: {1}. If nothing else needs it, remove it with "
        "`asgi-ipc rm {2}`, or choose another prefix.".format(name, why, prefix_of(name))
    )


def open_memory(name, mode):
    """Open or create the memory, never sizing it; return the descriptor."""
    try:
        memory = posix_ipc.SharedMemory(name, posix_ipc.O_CREAT, mode=mode, size=0)
    except posix_ipc.PermissionsError:
        raise SegmentError(_forbidden(name, name.strip("/")))
    except (posix_ipc.Error, IOError, OSError) as error:
        if getattr(error, "errno", None) in _NOT_A_FILE:
            raise SegmentError(unusable(name, "what has its name in /dev/shm is something else"))
        raise SegmentError("cannot open the shared memory {0}: {1}".format(name, error))
    try:
        close_on_exec(memory.fd)
        status = os.fstat(memory.fd)
        _refuse_other_files(name, status)
        _refuse_strangers(name, status, mode)
        if _ours_to_open(status, mode):
            os.fchmod(memory.fd, mode)
    except BaseException:
        os.close(memory.fd)
        raise
    return memory.fd


def open_semaphore(name, mode):
    file_name = "sem." + name.strip("/")
    path = os.path.join(SHM_FOLDER, file_name) if SHM_FOLDER is not None else None
    status = _status(path)
    if status is not None:
        # The C library maps what it finds, whatever it is.
        _refuse_other_files(name, status, SEMAPHORE_BYTES)
        _refuse_strangers(file_name, status, mode)
    try:
        semaphore = posix_ipc.Semaphore(name, posix_ipc.O_CREAT, mode=mode, initial_value=1)
    except posix_ipc.PermissionsError:
        raise SegmentError(_forbidden(name, file_name))
    except (posix_ipc.Error, IOError, OSError) as error:
        if getattr(error, "errno", None) in NO_MEMORY:
            raise SegmentError(
                "no shared memory left for the semaphore of {0}. Enlarge it (Docker: "
                "--shm-size), or remove stale segments.".format(name)
            )
        raise SegmentError("cannot open the semaphore of {0}: {1}".format(name, error))
    status = _status(path)
    if status is not None:
        try:
            # Somebody may have been there between the look and the opening.
            _refuse_strangers(file_name, status, mode)
            if _ours_to_open(status, mode):
                os.chmod(path, mode)
        except BaseException:
            semaphore.close()
            raise
    return semaphore


def _status(path):
    """What ``lstat`` says of a path; None if there is nothing, or no path."""
    try:
        return os.lstat(path) if path is not None else None
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return None


def _refuse_other_files(name, status, least=0):
    if SHM_FOLDER is not None and not (stat.S_ISREG(status.st_mode) and status.st_size >= least):
        raise SegmentError(unusable(name, "what has its name in /dev/shm is something else"))


def _refuse_strangers(name, status, mode):
    """Refuse what somebody made whom ``mode`` does not admit."""
    if status.st_uid == os.geteuid() or mode & 0o006:
        return
    if mode & 0o060 and (status.st_gid == os.getegid() or status.st_gid in os.getgroups()):
        return
    raise SegmentError(
        "the shared memory {0} belongs to user {1} and group {2}, and this process runs as user "
        "{3}. Use another prefix, or have all processes of the site run as one user, or give "
        "them one group and open the layer with mode=0o660.".format(
            name, status.st_uid, status.st_gid, os.geteuid()
        )
    )


def _forbidden(name, file_name):
    owner = "another user"
    status = _status(os.path.join(SHM_FOLDER, file_name) if SHM_FOLDER is not None else None)
    if status is not None:
        owner = "user {0}".format(status.st_uid)
    return (
        "{0} belongs to {1}, who does not admit user {2}. Use another prefix, or open the layer "
        "with mode=0o660 on both sides.".format(name, owner, os.geteuid())
    )


def _ours_to_open(status, mode):
    """Whether the umask has taken bits of ``mode`` away which the owner, we, can give back."""
    return (
        mode & 0o077 and status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) != mode
    )


def close_on_exec(descriptor):
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFD)
    fcntl.fcntl(descriptor, fcntl.F_SETFD, flags | fcntl.FD_CLOEXEC)
