"""What tests of limits and access need of the machine: a small /dev/shm, users, other Pythons.

Each is got in a forked child, so that nothing of it outlives the test: a mount namespace ends
with its last process, and a user who was put off cannot be put on again.
"""
import ctypes
import errno
import gc
import glob
import os
import subprocess
import sys

import pytest
import six
from storekit import Child, in_child

import asgi_ipc

SHM = "/dev/shm"
PAGE = os.sysconf("SC_PAGE_SIZE")
MIB = 1024 * 1024

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_REC_PRIVATE = 0x4000 | 0x40000

needs_linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="needs Linux: /proc, /dev/shm, namespaces"
)

_libc = ctypes.CDLL(None, use_errno=True)


# -- a /dev/shm of one's own -----------------------------------------------------------------


def own_shm(size, inodes=1000):
    """Give this process, a child with one thread, a /dev/shm of so many bytes and files."""
    flags = CLONE_NEWNS
    uid, gid = os.geteuid(), os.getegid()
    if uid:
        # Who is not root is root of a user namespace, where the system allows that.
        flags |= CLONE_NEWUSER
    _system("unshare", _libc.unshare(flags))
    if uid:
        for name, line in (
            ("setgroups", "deny"),
            ("uid_map", "0 {0} 1".format(uid)),
            ("gid_map", "0 {0} 1".format(gid)),
        ):
            with open("/proc/self/" + name, "w") as table:
                table.write(line)
    _mount(None, "/", None, MS_REC_PRIVATE, None)
    _mount("tmpfs", SHM, "tmpfs", 0, "mode=1777,size={0},nr_inodes={1}".format(size, inodes))


def _mount(*arguments):
    arguments = [
        word.encode("ascii") if isinstance(word, type("")) and word is not None else word
        for word in arguments
    ]
    _system("mount", _libc.mount(*arguments))


def _system(name, answer):
    if answer:
        number = ctypes.get_errno()
        raise OSError(number, "{0}: {1}".format(name, os.strerror(number)))


def _can_mount():
    try:
        own_shm(MIB)
    except (OSError, IOError) as error:
        return str(error)
    return ""


def skip_without_own_shm():
    """Skip the test where no small /dev/shm can be had."""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs Linux, for a /dev/shm of its own")
    obstacle = in_child(_can_mount)
    if obstacle:
        pytest.skip("needs root or user namespaces, to mount a /dev/shm of its own: " + obstacle)


def on_small_shm(size, function, *args, **options):
    """Run a function in a child with a /dev/shm of ``size`` bytes and ``inodes=1000`` files.

    Returns its result. A death by a signal is a failure.
    """
    inodes = options.pop("inodes", 1000)

    def run():
        own_shm(size, inodes)
        return function(*args)

    return Child(run).result()


def free_bytes():
    """Bytes that /dev/shm has left."""
    status = os.statvfs(SHM)
    return status.f_bavail * status.f_frsize


class Hog(object):
    """Another program that takes the space of /dev/shm, and gives it back."""

    def __init__(self):
        self.path = os.path.join(SHM, "hog-{0}".format(os.getpid()))
        self._files = 0

    def leave(self, left):
        """Take all memory but so many bytes, rounded down to pages."""
        self.give_back()
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            take = (free_bytes() - left) // PAGE * PAGE
            if take > 0:
                _system("posix_fallocate", _libc_fallocate(descriptor, take))
        finally:
            os.close(descriptor)

    def take_files(self):
        """Take all files that may still be made (``inodes``)."""
        try:
            while True:
                name = "{0}.{1}".format(self.path, self._files)
                os.close(os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
                self._files += 1
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise

    def give_back(self):
        """Remove all files."""
        names = ["{0}.{1}".format(self.path, number) for number in range(self._files)]
        self._files = 0
        for name in names + [self.path]:
            if os.path.exists(name):
                os.unlink(name)


def _libc_fallocate(descriptor, length):
    call = _libc.posix_fallocate64
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    number = call(descriptor, 0, length)
    ctypes.set_errno(number)
    return number


# -- processes -------------------------------------------------------------------------------


def descriptors():
    """What this process has open: the targets of its descriptors, sorted.

    Python 2.7 cannot close a mapping of which there is a view: there the collector may do it.
    """
    if six.PY2:
        gc.collect()
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink("/proc/self/fd/" + number))
        except OSError:
            # That of the listing itself, closed by now.
            pass
    return sorted(found)


def become(uid, gid, groups=()):
    """Turn this process, a child, into one of another user."""
    os.setgroups(list(groups))
    os.setgid(gid)
    os.setuid(uid)


def _can_become_others():
    try:
        become(65534, 4242, [4343])
    except OSError as error:
        return str(error)
    return ""


def skip_without_users():
    """Skip the test where no other user can be had."""
    obstacle = in_child(_can_become_others)
    if obstacle:
        pytest.skip("needs root, to become other users: " + obstacle)


def as_user(uid, gid, function, *args, **options):
    """Start a child of another user; ``groups=[gid, ...]`` are its further groups."""
    groups = options.pop("groups", ())

    def run():
        become(uid, gid, groups)
        return function(*args, **options)

    return Child(run)


def end(children):
    """Kill those children whose result nobody has asked for."""
    for child in children:
        if child._status is None:
            child.kill()


# -- clocks ----------------------------------------------------------------------------------


def faketime_library():
    """The path of libfaketime, for programs with threads; None if it is not installed."""
    for folder in ("/usr/lib/*", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib/*"):
        for path in glob.glob(folder + "/faketime/libfaketimeMT.so.1"):
            return path
    return None


# -- other Pythons ---------------------------------------------------------------------------


def interpreters():
    """Paths of all Pythons on PATH and in pyenv, by version, this one not excluded."""
    folders = os.environ.get("PATH", "").split(os.pathsep)
    pyenv = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    folders += sorted(glob.glob(os.path.join(pyenv, "versions", "*", "bin")))
    found = {}
    for folder in folders:
        for name in ["python2.7"] + ["python3.{0}".format(minor) for minor in range(6, 20)]:
            path = os.path.join(folder, name)
            if name not in found and _version(path) == name[6:]:
                found[name] = path
    return [found[name] for name in sorted(found)]


def _version(python):
    """Which version a path is, or None: pyenv's shims answer only for what is switched on."""
    if not os.access(python, os.X_OK):
        return None
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    process = subprocess.Popen(
        [python, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    return process.communicate()[0].decode("ascii", "replace").strip() or None


def equipped_interpreters(environment):
    """Pythons of virtual environments beside this one (as tox has them) that can use the layer.

    :param environment: what ``layer_environment`` returned.
    """
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    folders = [os.path.dirname(os.path.abspath(sys.prefix)), os.path.join(root, ".tox")]
    found = {}
    for folder in folders:
        for path in sorted(glob.glob(os.path.join(folder, "*", "bin", "python"))):
            version = _version(path)
            if version in (None, "%d.%d" % sys.version_info[:2]) or version in found:
                continue
            quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment}
            process = subprocess.Popen([path, "-c", "import asgi_ipc"], **quiet)
            process.communicate()
            if process.returncode == 0:
                found[version] = path
    return [found[version] for version in sorted(found)]


def layer_environment(folder):
    """Environment variables with which any Python imports the asgi_ipc that is tested here.

    :param folder: an empty one, to link the package into: what lies beside it in an
        environment of another Python must not come along.
    """
    link = os.path.join(str(folder), "asgi_ipc")
    if not os.path.lexists(link):
        os.symlink(os.path.dirname(os.path.abspath(asgi_ipc.__file__)), link)
    environment = dict(os.environ, PYTHONPATH=str(folder), PYTHONDONTWRITEBYTECODE="1")
    environment.pop("LD_PRELOAD", None)
    return environment
