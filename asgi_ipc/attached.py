"""Who uses a prefix: processes that have its segments mapped, or listen at its doorbells.

For the command line. Knows /proc and FIFOs; does not know what is in a segment. Where a process
cannot be looked at (another user's, in another pid namespace, no /proc) a doorbell that somebody
listens at still tells that there is one. This very process is left out.
"""
import errno
import os
from collections import namedtuple

from asgi_ipc import machine
from asgi_ipc._shm import inside
from asgi_ipc._shm.segment import PAGE

PROC = "/proc"
"""Where Linux tells of processes."""

SHOWN = 120
"""Characters of a command line."""

Process = namedtuple("Process", "pid command stopped")

Attached = namedtuple("Attached", "processes unseen listeners known")
"""``processes``: those that were found. ``unseen``: of so many others it could not be told.
``listeners``: doorbells with somebody at them who is none of ``processes``. Not ``known``: the
system does not tell which process has what mapped."""


def anybody(found):
    """Whether there is one for sure."""
    return bool(found.processes or found.listeners)


def attached(place):
    """Who uses a prefix. Cost: all processes of the machine, 20 us each."""
    wanted = {_place_of(half.status) for half in place.there}
    processes, unseen, known, seen = [], 0, False, [os.getpid()]
    for pid in inside.pids(PROC):
        try:
            with open("{0}/{1}/maps".format(PROC, pid), "rb") as maps:
                mapped = {tuple(line.split(None, 5)[3:5]) for line in maps}
        except (IOError, OSError) as error:
            if error.errno in (errno.EACCES, errno.EPERM) and pid != os.getpid():
                unseen += _may_use(pid, place)
            continue
        known = True
        if pid != os.getpid() and mapped & wanted:
            processes.append(process(pid))
            seen.append(pid)
    return Attached(processes, unseen, _listeners(place.prefix, seen), known)


def process(pid):
    """What can be seen of a process."""
    return Process(pid, _command(pid), state_of(pid) in ("T", "t"))


def state_of(pid):
    """The letter by which the system tells a process's state, "T" if it is stopped; or ""."""
    # The command's name is in parentheses, and may have some in it.
    return _read(pid, "stat").rpartition(b")")[2].strip()[:1].decode("ascii", "replace")


def holder_of(half):
    """The pid of who is inside the lock at this moment; 0 if that is nobody, None if unknown.

    Asked of the kernel and of what is written down in the segment: nothing is locked, or mapped.
    """
    if machine.SHM_FOLDER is None:
        return None
    try:
        path = os.path.join(machine.SHM_FOLDER, half.name.strip("/"))
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        if half.state != machine.OURS:
            return inside.flock_owner(descriptor)
        return inside.holder_of(os.read(descriptor, PAGE), descriptor)[0]
    finally:
        os.close(descriptor)


def _place_of(status):
    """Device and inode as /proc writes them."""
    device = "{0:02x}:{1:02x}".format(os.major(status.st_dev), os.minor(status.st_dev))
    return device.encode("ascii"), str(status.st_ino).encode("ascii")


def _may_use(pid, place):
    """Whether a process that does not let itself be looked at may be one of the site's."""
    fields = dict(
        line.split(b":", 1) for line in _read(pid, "status").splitlines() if b":" in line
    )
    if b"VmSize" not in fields:
        # The kernel's own, or gone.
        return False
    users, groups = (
        {int(number) for name in names for number in fields.get(name, b"").split()}
        for names in ((b"Uid",), (b"Gid", b"Groups"))
    )
    mode = place.mode
    if mode & 0o006 or place.uid in users:
        return True
    return bool(mode & 0o060) and place.gid in groups


def _listeners(prefix, seen):
    """Doorbells with somebody at them who is none of ``seen``."""
    living = [bell for bell in machine.bells(prefix) if machine.is_living(bell)]
    if not living:
        return 0
    explained = set()
    for pid in seen:
        explained.update(_open_files(pid))
    return sum(_identity(os.stat, bell) not in explained for bell in living)


def _open_files(pid):
    folder = "{0}/{1}/fd".format(PROC, pid)
    if not os.path.isdir(folder) and pid == os.getpid():
        folder = "/dev/fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return set()
    return {_identity(os.stat, os.path.join(folder, name)) for name in names} - {None}


def _identity(look, path):
    try:
        status = look(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _command(pid):
    text = _read(pid, "cmdline").strip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
    if len(text) > SHOWN:
        text = text[: SHOWN - 3] + "..."
    return text


def _read(pid, name):
    try:
        with open("{0}/{1}/{2}".format(PROC, pid, name), "rb") as source:
            return source.read()
    except (IOError, OSError):
        return b""
