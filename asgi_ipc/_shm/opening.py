"""Opening what has a name: shared memory and a semaphore that are ours, or an error.

Knows names, owners, permission bits, and where the system shows shared memory as files; does not
know what is in it. A name is open to every user of the machine until somebody takes it: what
another user made under it is refused, unless ``mode`` admits others.
"""
import errno
import fcntl
import os
import resource
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
    memory = None
    while memory is None:
        # Opened apart from created: some systems (fs.protected_regular) let nobody do both in
        # one to the file of another user.
        memory = _memory(name, 0, mode) or _memory(name, posix_ipc.O_CREX, mode)
    try:
        close_on_exec(memory.fd)
        status = os.fstat(memory.fd)
        _refuse_other_files(name, status)
        _refuse_strangers(name, status, mode)
        if _lacks(status, mode):
            os.fchmod(memory.fd, stat.S_IMODE(status.st_mode) | mode)
    except BaseException:
        os.close(memory.fd)
        raise
    return memory.fd


def _memory(name, flags, mode):
    """Open it, or with O_CREX create it; None if it is not there, or there already."""
    try:
        return posix_ipc.SharedMemory(name, flags, mode=mode, size=0)
    except posix_ipc.ExistentialError:
        return None
    except posix_ipc.PermissionsError:
        raise SegmentError(forbidden(name, _status(_path(name.strip("/")))))
    except (posix_ipc.Error, EnvironmentError, ValueError) as error:
        if isinstance(error, ValueError) or getattr(error, "errno", None) in _NOT_A_FILE:
            raise SegmentError(unusable(name, "what has its name in /dev/shm is something else"))
        raise SegmentError("cannot open the shared memory {0}: {1}".format(name, error))


def open_semaphore(name, mode):
    file_name = "sem." + name.strip("/")
    path = _path(file_name)
    status = _status(path)
    if status is not None:
        # The C library maps what it finds, whatever it is.
        _refuse_other_files(name, status, SEMAPHORE_BYTES)
        _refuse_strangers(file_name, status, mode)
    try:
        semaphore = posix_ipc.Semaphore(name, posix_ipc.O_CREAT, mode=mode, initial_value=1)
    except posix_ipc.PermissionsError:
        raise SegmentError(forbidden(name, _status(path)))
    except (posix_ipc.Error, EnvironmentError) as error:
        if getattr(error, "errno", None) in NO_MEMORY:
            raise SegmentError(no_room("the semaphore of " + name, SEMAPHORE_BYTES))
        raise SegmentError("cannot open the semaphore of {0}: {1}".format(name, error))
    status = _status(path)
    if status is not None:
        try:
            # Somebody may have been there between the look and the opening.
            _refuse_strangers(file_name, status, mode)
            if _lacks(status, mode):
                os.chmod(path, stat.S_IMODE(status.st_mode) | mode)
        except BaseException:
            semaphore.close()
            raise
    return semaphore


def _path(file_name):
    return os.path.join(SHM_FOLDER, file_name) if SHM_FOLDER is not None else None


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


def forbidden(name, status):
    """The text of an error: ``status`` says who it is that does not admit this process."""
    owner = "another user"
    if status is not None:
        owner = "user {0} and group {1}".format(status.st_uid, status.st_gid)
    return (
        "{0} belongs to {1}, and this process, as user {2}, is not admitted. Use another prefix, "
        "have all processes of the site run as one user, or give them one group and open the "
        "layer with mode=0o660 in all of them.".format(name, owner, os.geteuid())
    )


def no_room(name, needed):
    """The text of an error: there is no memory for ``needed`` bytes of what has that name."""
    longest = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if longest != resource.RLIM_INFINITY and longest < needed:
        return (
            "no shared memory for {0}: {1} bytes are needed to begin with, and this process may "
            "make no file longer than {2} bytes (ulimit -f). Raise that limit.".format(
                name, needed, longest
            )
        )
    free = ""
    if SHM_FOLDER is not None:
        status = os.statvfs(SHM_FOLDER)
        free = ", {0} bytes are free in {1}".format(status.f_bavail * status.f_frsize, SHM_FOLDER)
    return (
        "no shared memory left for {0}: {1} bytes are needed to begin with{2}. Enlarge it (Docker: "
        "--shm-size), remove stale segments, or lower message_memory and group_memory.".format(
            name, needed, free
        )
    )


def _lacks(status, mode):
    """Whether the umask has taken bits of ``mode`` away which the owner, we, can give back."""
    return status.st_uid == os.geteuid() and mode & ~stat.S_IMODE(status.st_mode)


def close_on_exec(descriptor):
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFD)
    fcntl.fcntl(descriptor, fcntl.F_SETFD, flags | fcntl.FD_CLOEXEC)
