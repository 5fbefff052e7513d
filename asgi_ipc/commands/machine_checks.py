"""What ``doctor`` looks at on the machine as a whole: space, limits, versions, what was left.

Knows the system's files that tell of it; attaches nothing and changes nothing.
"""
import errno
import os
import platform
import re
import resource
import stat
import struct
import time

import posix_ipc

import asgi_ipc
from asgi_ipc import codec, machine
from asgi_ipc._shm.opening import SHM_FOLDER
from asgi_ipc.attached import PROC
from asgi_ipc.commands import output
from asgi_ipc.commands.findings import error, fine, note, warning
from asgi_ipc.options import MEBIBYTE

DEFAULT_MEMORY = 120 * MEBIBYTE
"""Bytes that one prefix with the default options may take."""

FEW_DESCRIPTORS = 1024
FEW_INODES = 1000
LEFT_FOR = 60
"""Seconds after which a file of the C library that lives for microseconds was left behind."""

FIRST_PID_NAMESPACE = 0xEFFFFFFC
"""The number of the pid namespace that Linux begins with."""

FIRST_PERSON = 1000
"""Users below are the system's, on every usual Linux."""

MOUNTS = "/proc/self/mounts"
LOGIND = ("/etc/systemd/logind.conf", "/etc/systemd/logind.conf.d")
SYSTEMD = "/run/systemd/system"

ENLARGE = (
    "enlarge it (Docker: --shm-size=256m or shm_size; Kubernetes: an emptyDir with medium Memory; "
    "else mount -o remount,size=256m /dev/shm), or lower message_memory and group_memory"
)

_NAMELESS = re.compile(r"sem\.[A-Za-z0-9]{6}\Z")


def findings(places):
    """All that is found, in the order of what they rest on.

    :param places: the ``machine.Place`` of every prefix, those that nobody asked for as well.
    """
    found = [_versions()]
    for look in (_msgpack, _semaphores, _platform, _descriptors, _file_size, _processes):
        found += look()
    found += _shared_memory(places)
    found += _doorbells()
    found += _nameless_semaphores()
    found += _removal_at_logout(places)
    return found


# -- versions ----------------------------------------------------------------------------------


def _versions():
    return fine(
        "versions",
        "asgi_ipc {0}, Python {1}, posix_ipc {2}, msgpack {3}, {4} {5}".format(
            asgi_ipc.__version__,
            platform.python_version(),
            posix_ipc.VERSION,
            ".".join(str(part) for part in codec.msgpack.version if part != ""),
            platform.system(),
            platform.release(),
        ),
    )


def _msgpack():
    if "fallback" not in codec.msgpack.Packer.__module__:
        return []
    return [
        warning(
            "msgpack",
            "this msgpack is pure Python: every message takes some ten times as long to pack",
            "install one with its C part (Python 2.7: pip install 'msgpack==0.6.2'; PyPy's own is "
            "as quick)",
        )
    ]


def _semaphores():
    if posix_ipc.SEMAPHORE_VALUE_SUPPORTED:
        return []
    return [
        note(
            "posix_ipc",
            "this system cannot tell the value of a semaphore (macOS); the lock does without, one "
            "call more each time",
        )
    ]


def _platform():
    release = platform.release().lower()
    if "microsoft" not in release:
        return []
    if "wsl2" in release:
        return [note("platform", "this is WSL 2: shared memory is that of the Linux in it alone")]
    return [
        warning(
            "platform",
            "this is WSL 1, whose shared memory and file locks are an imitation, and not tested",
            "use WSL 2 (wsl --set-version DISTRIBUTION 2)",
        )
    ]


# -- limits ------------------------------------------------------------------------------------


def _descriptors():
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY or limit >= FEW_DESCRIPTORS:
        shown = "no limit" if limit == resource.RLIM_INFINITY else str(limit)
        return [fine("open files", "{0} for one process, as started from here".format(shown))]
    return [
        warning(
            "open files",
            "one process may open {0}, as started from here; each thread that uses a layer needs "
            "two, each receiver that waits one more, and a connection one".format(limit),
            "ulimit -n {0}, or LimitNOFILE={0} in the systemd unit".format(4 * FEW_DESCRIPTORS),
        )
    ]


def _file_size():
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit == resource.RLIM_INFINITY or limit >= DEFAULT_MEMORY:
        return []
    return [
        error(
            "file size",
            "no file may be longer than {0}, as started from here, and a segment is one: with the "
            "default options it has {1}".format(output.size(limit), output.size(100 * MEBIBYTE)),
            "ulimit -f unlimited, or LimitFSIZE=infinity in the systemd unit",
        )
    ]


def _processes():
    if SHM_FOLDER is None:
        return []
    if not os.path.isfile(os.path.join(PROC, "self", "maps")):
        return [
            warning(
                "processes",
                "{0} cannot be read: it cannot be told who is attached, nor who holds a "
                "lock".format(PROC),
                "mount -t proc proc {0}".format(PROC),
            )
        ]
    if _pid_namespace() in (FIRST_PID_NAMESPACE, None):
        return []
    return [
        note(
            "processes",
            "this is in a pid namespace of its own, a container: processes outside of it that "
            "share {0} cannot be seen, but for receivers that wait".format(SHM_FOLDER),
        )
    ]


def _pid_namespace():
    try:
        return os.stat(os.path.join(PROC, "self", "ns", "pid")).st_ino
    except OSError:
        return None


# -- /dev/shm ----------------------------------------------------------------------------------


def _shared_memory(places):
    if SHM_FOLDER is None:
        if platform.system() != "Linux":
            return [note("shared memory", "this system does not show it: no space can be told")]
        return [
            error(
                "shared memory",
                "there is no /dev/shm",
                "mount -t tmpfs -o mode=1777 tmpfs /dev/shm",
            )
        ]
    return _mount() + _folder() + _space(places)


def _space(places):
    """Bytes and files that are left, against what may be wanted."""
    status = os.statvfs(SHM_FOLDER)
    total, free = status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
    wanted = sum(max(place.size - place.memory, 0) for place in places)
    has = "{0} has {1}, of which {2} are free; ".format(
        SHM_FOLDER, output.size(total), output.size(free)
    )
    may_take = "the prefixes on this machine may still take {0}".format(output.size(wanted))
    if wanted > free:
        text = has + may_take + ", and sends fail where there is none"
        found = [warning("space", text, ENLARGE)]
    elif total < DEFAULT_MEMORY:
        text = "with the default options one prefix may take {0}"
        found = [warning("space", has + text.format(output.size(DEFAULT_MEMORY)), ENLARGE)]
    else:
        found = [fine("space", has + may_take)]
    if status.f_files > 0 and status.f_favail < FEW_INODES:
        text = "{0} has room for only {1} more files; each receiver that waits needs one"
        found.append(
            warning(
                "space",
                text.format(SHM_FOLDER, status.f_favail),
                "remove what was left in it, or mount -o remount,nr_inodes=100000 " + SHM_FOLDER,
            )
        )
    return found


def _mount():
    """What kind of file system it is."""
    kind = options = None
    for line in _lines(MOUNTS):
        fields = line.split()
        if len(fields) > 3 and fields[1] in (SHM_FOLDER, os.path.realpath(SHM_FOLDER)):
            kind, options = fields[2], fields[3].split(",")
    if kind is None:
        return [
            warning(
                "shared memory",
                "{0} is a folder and nothing is mounted there: what should be in memory is on a "
                "disk".format(SHM_FOLDER),
                "mount -t tmpfs -o mode=1777 tmpfs {0}".format(SHM_FOLDER),
            )
        ]
    if "ro" in options:
        return [
            error(
                "shared memory",
                "{0} is mounted for reading only".format(SHM_FOLDER),
                "mount -o remount,rw {0}".format(SHM_FOLDER),
            )
        ]
    if kind not in ("tmpfs", "ramfs"):
        return [
            warning(
                "shared memory",
                "{0} is a {1} and not a tmpfs: what should be in memory may be written to a "
                "disk".format(SHM_FOLDER, kind),
                "mount -t tmpfs -o mode=1777 tmpfs {0}".format(SHM_FOLDER),
            )
        ]
    return []


def _folder():
    found = []
    mode = os.stat(SHM_FOLDER).st_mode
    if not os.access(SHM_FOLDER, os.W_OK | os.X_OK):
        text = "{0} has mode {1}: this user can make no shared memory"
        found.append(
            error(
                "shared memory",
                text.format(SHM_FOLDER, output.octal(mode)),
                "chmod 1777 {0}".format(SHM_FOLDER),
            )
        )
    elif mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        text = "{0} has mode {1}, without the sticky bit: every user can remove the others' memory"
        found.append(
            warning(
                "shared memory",
                text.format(SHM_FOLDER, output.octal(mode)),
                "chmod 1777 {0}".format(SHM_FOLDER),
            )
        )
    return found


# -- what was left -----------------------------------------------------------------------------


def _doorbells():
    left = [bell for bell in machine.all_bells() if machine.is_living(bell) is False]
    if not left:
        return []
    return [
        note(
            "doorbells",
            "{0} left by receivers that died: {1}. A sender that would ring one removes it; they "
            "take no memory".format(
                output.count(len(left), "was", "were"), ", ".join(_few(left))
            ),
            "rm " + " ".join(left),
        )
    ]


def _nameless_semaphores():
    """Those that a process was killed over while the C library made them."""
    if SHM_FOLDER is None:
        return []
    named = sorted(filter(_NAMELESS.match, os.listdir(SHM_FOLDER)))
    left = [
        path
        for path in (os.path.join(SHM_FOLDER, name) for name in named)
        if _is_left_semaphore(path)
    ]
    if not left:
        return []
    return [
        note(
            "semaphores",
            "{0} like what a process leaves that is killed while it makes a semaphore: {1}. They "
            "take 4 KiB each".format(
                output.count(len(left), "file looks", "files look"), ", ".join(_few(left))
            ),
            "if no program of yours has a semaphore of such a name: rm " + " ".join(left),
        )
    ]


def _is_left_semaphore(path):
    try:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size != 32 or status.st_nlink != 1:
            return False
        if time.time() - status.st_mtime < LEFT_FOR:
            return False
        with open(path, "rb") as source:
            # As it is made: one token, nobody waits.
            return struct.unpack("=2I", source.read(8)) == (1, 0)
    except (IOError, OSError) as failure:
        if failure.errno not in (errno.ENOENT, errno.EACCES, errno.EPERM):
            raise
        return False


def _removal_at_logout(places):
    """Whether systemd removes the shared memory of people who log out."""
    if not os.path.isdir(SYSTEMD) or not _logind_removes():
        return []
    people = sorted({place.uid for place in places if place.uid >= FIRST_PERSON})
    return [
        note(
            "systemd",
            "what user {0} has in shared memory is removed when that user's last session "
            "ends, also under running services: RemoveIPC=yes is in force".format(
                machine.user_name(uid)
            ),
            "RemoveIPC=no in /etc/systemd/logind.conf, or run the site as a system user",
        )
        for uid in people
    ]


def _logind_removes():
    files, folder = [LOGIND[0]], LOGIND[1]
    if os.path.isdir(folder):
        files += [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
    setting = "yes"
    for path in files:
        for line in _lines(path):
            name, _, value = line.partition("=")
            if name.strip() == "RemoveIPC":
                setting = value.strip().lower()
    return setting in ("yes", "true", "1", "on", "")


def _few(paths):
    names = [os.path.basename(path) for path in paths]
    return names if len(names) <= 3 else names[:3] + ["..."]


def _lines(path):
    try:
        with open(path) as source:
            return source.read().splitlines()
    except (IOError, OSError, UnicodeError):
        return []
