"""Who is inside a lock, or keeps others out of it: what errors and the command line tell.

Knows what the kernel tells of locks and processes, and the owners of lanes; nobody goes by what
is found here, for it may have changed by the time it is read.

The kernel names the holder of a flock as this process numbers it. The owner of a lane it only
tells to be living; who that is the owner has written down, as its own pid namespace numbers it.
"""
import os
import struct

from asgi_ipc._shm import lane

LOCKS = "/proc/locks"
"""Where Linux tells who holds which lock."""

PROC = "/proc"

_HEADER = struct.Struct("={0}Q".format(lane.OWNERS + lane.LANES))


def holder_of(memory, descriptor, slow=False):
    """Who is inside, or else who keeps others out: (pid, whether this process numbers it so).

    The pid is 0 if that is nobody, None if it cannot be told.

    :param memory: the segment, or its first page.
    :param descriptor: of the segment's file.
    :param slow: whether the asker has the flock: then another one is sought.
    """
    words = _HEADER.unpack(memory[: _HEADER.size])
    owners = lane_owners(words, memory, descriptor)
    pid = 0 if slow else flock_owner(descriptor)
    if pid and (words[lane.BUSY] or not owners):
        return pid, True
    if owners:
        return _translated(owners[0])
    return pid, True


def written_down(memory):
    """The pid that is left of who is inside, or broke off there, as that one has it; 0 for nobody.

    :param memory: the segment, or its first page.
    """
    words = _HEADER.unpack(memory[: _HEADER.size])
    if words[lane.BUSY]:
        return words[lane.BUSY]
    flags = lane.raised(memory)[0]
    return lane.owner_of(words, flags[0])[0] if flags else 0


def lane_owners(words, memory, descriptor):
    """(pid, its namespace) of those whose flags are up, and who live."""
    return [
        lane.owner_of(words, number)
        for number in lane.raised(memory)[0]
        if lane.lives(descriptor, number)
    ]


def flock_owner(descriptor):
    """The pid of who holds the flock of a file.

    0 if that is nobody whom this process can see, None where the kernel does not tell (not
    Linux, no /proc).
    """
    status = os.fstat(descriptor)
    device = status.st_dev
    wanted = "{0:02x}:{1:02x}:{2}".format(os.major(device), os.minor(device), status.st_ino)
    try:
        with open(LOCKS) as table:
            # "1: FLOCK  ADVISORY  WRITE 708 00:1a:57 0 EOF"; who only waits has a "->" in it.
            for fields in map(str.split, table):
                if fields[1] == "FLOCK" and fields[5] == wanted:
                    return int(fields[4])
    except (IOError, OSError):
        return None
    return 0


def _translated(owner):
    """The pid of a lane's owner as this process numbers it, and True; else as it is, and False."""
    pid, namespace = owner
    if namespace == lane.namespace():
        return pid, True
    for number in pids(PROC):
        if _is(os.path.join(PROC, str(number)), pid, namespace):
            return number, True
    return pid, False


def _is(folder, pid, namespace):
    """Whether a process's innermost namespace is this one, and its pid there that."""
    try:
        if lane.namespace_of(os.path.join(folder, "ns", "pid")) != namespace:
            return False
        with open(os.path.join(folder, "status")) as status:
            # "NSpid:	708	5": from the outermost namespace that this /proc shows.
            numbers = [line.split() for line in status if line.startswith("NSpid:")]
    except (IOError, OSError):
        return False
    return bool(numbers) and numbers[0][-1] == str(pid)


def pids(folder):
    """The processes that a /proc shows, as this process numbers them; [] where there is none."""
    try:
        return sorted(int(name) for name in os.listdir(folder) if name.isdigit())
    except OSError:
        return []
