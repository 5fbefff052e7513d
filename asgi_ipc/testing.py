"""For tests: prefixes that nobody else has, and that are gone afterwards.

Name this module in ``pytest_plugins`` to have the fixtures of ``asgi_ipc.fixtures``. It knows how
Channels keeps its layers, and imports neither pytest, nor Django, nor Channels unless asked to,
so that settings may import it in production.

How what a killed run left behind is told from what is in use: beside the segments lies one file
for each run, ``<run>.tests``, which lists the prefixes that the run has used. Every process that
uses them keeps a shared flock on it, which the kernel drops when the process ends, however it
ends, in any pid namespace. Who finds the file of this user without a lock removes what it lists.
"""
import atexit
import binascii
import contextlib
import errno
import fcntl
import os

from asgi_ipc._shm.opening import close_on_exec
from asgi_ipc._shm.segment import runtime_folder
from asgi_ipc.core import unlink

try:
    from collections.abc import Mapping
except ImportError:
    from collections import Mapping

pytest_plugins = ["asgi_ipc.fixtures"]

NAME = "test-"
"""How the prefixes of tests begin."""

MARK = ".tests"
"""How the name of a run's file ends."""

VARIABLE = "ASGI_IPC_TEST_RUN"
"""Tells processes that this one starts which run they belong to."""


class _Run(object):
    """The prefixes of one run of tests, and the file that says that it lives.

    It has a name from the beginning, so that children which are forked later have the same one;
    the file is made with the first prefix.
    """

    def __init__(self):
        self.name = _new_name()
        self._mark = None
        self._pid = 0
        self._configs = 0

    def next_config(self):
        """A part for the prefix of one more configuration, the same in all who make the same."""
        self._configs += 1
        return str(self._configs)

    def prefix(self, part):
        """The prefix of that part, which is removed with the run."""
        if self._mark is None:
            self._begin()
        prefix = "{0}-{1}".format(self.name, part)
        os.write(self._mark, (prefix + "\n").encode("ascii"))
        return prefix

    def _begin(self):
        _sweep()
        worker, _, name = os.environ.get(VARIABLE, "").partition("/")
        if name and worker == _worker():
            self._mark = _join(name)
        if self._mark is not None:
            self.name = name
        while self._mark is None:
            self._mark = _found(self.name)
        self._pid = os.getpid()
        os.environ[VARIABLE] = "{0}/{1}".format(_worker(), self.name)
        atexit.register(self.end)

    def end(self):
        """Remove all prefixes, unless other processes still use them."""
        # A child has the file of its parent, who removes it.
        if self._mark is None or self._pid != os.getpid():
            return
        mark, self._mark = self._mark, None
        try:
            if _lock(mark, fcntl.LOCK_EX):
                _remove(self.name, mark)
        finally:
            os.close(mark)
        os.environ.pop(VARIABLE, None)
        self.name = _new_name()


class _Config(Mapping):
    """The options of a layer; what its prefix is gets decided when somebody reads it."""

    def __init__(self, options):
        self._options = options
        self._part = _run.next_config()

    def __getitem__(self, name):
        if name == "prefix":
            return _run.prefix(self._part)
        return self._options[name]

    def __iter__(self):
        yield "prefix"
        for name in self._options:
            yield name

    def __len__(self):
        return len(self._options) + 1

    def __repr__(self):
        return "<isolated_config {0!r}>".format(self._options)


def new_prefix():
    """Return a prefix that nobody else has. It is removed when the run ends, at the latest."""
    return _run.prefix(binascii.hexlify(os.urandom(3)).decode("ascii"))


def remove(prefix):
    """Remove the shared memory of a prefix, and all that is in it; True if there was any."""
    return unlink(prefix)


def clean_up():
    """Remove the prefixes of this run now, rather than when the process ends."""
    _run.end()


def isolated_config(**options):
    """Return a ``TEST_CONFIG``, or a ``CONFIG`` for test settings, with a prefix of its own.

    All that read it in one test process, and the processes that this one forks or starts, have
    the same prefix; another test process has another one. Nothing is done before somebody reads
    the prefix, so it may stand in settings that production uses as well.

    :param options: those of the layer, without ``prefix``.
    :raises ValueError: ``prefix`` is among them.
    """
    if "prefix" in options:
        raise ValueError(
            "isolated_config chooses the prefix itself; leave prefix={0!r} out".format(
                options["prefix"]
            )
        )
    return _Config(options)


@contextlib.contextmanager
def isolated_layers(**options):
    """Put the layers of ``CHANNEL_LAYERS`` on prefixes of their own, for Django's tests.

    Those that are asgi_ipc's, that is; they have the options of their ``TEST_CONFIG``, or of
    their ``CONFIG`` where there is none. Layers with one prefix share the new one too. Channels
    makes them anew when they are next asked for, inside and afterwards; inside's are closed, and
    their prefixes removed.

    :param options: of the layers, in place of those in the settings.
    :returns: a context manager; it gives Channels' ``channel_layers``.
    :raises ValueError: no layer in ``CHANNEL_LAYERS`` is asgi_ipc's.
    """
    from django.test.utils import override_settings

    prefixes = {}
    override = override_settings(CHANNEL_LAYERS=_isolated_settings(prefixes, options))
    manager = _manager()
    before, manager.backends = manager.backends, {}
    override.enable()
    try:
        yield manager
    finally:
        made = list(manager.backends.values())
        override.disable()
        manager.backends = before
        for layer in made:
            _close(layer)
        for prefix in prefixes.values():
            remove(prefix)


def _isolated_settings(prefixes, options):
    from django.conf import settings

    isolated = {}
    for alias, usual in getattr(settings, "CHANNEL_LAYERS", {}).items():
        isolated[alias] = setting = dict(usual)
        if not _is_ours(setting.get("BACKEND")):
            continue
        shared = setting.get("CONFIG", {}).get("prefix", "asgi")
        if shared not in prefixes:
            prefixes[shared] = new_prefix()
        config = dict(setting.get("TEST_CONFIG", setting.get("CONFIG", {})), **options)
        config["prefix"] = prefixes[shared]
        setting["CONFIG"] = setting["TEST_CONFIG"] = config
    if not prefixes:
        raise ValueError(
            "no layer in CHANNEL_LAYERS is asgi_ipc's, so there is none to put on a prefix of its "
            "own; set BACKEND to asgi_ipc.aio.IPCChannelLayer, or do without isolated_layers"
        )
    return isolated


def _is_ours(backend):
    from django.utils.module_loading import import_string

    kind = import_string(backend) if backend else object
    return any(
        parent.__module__.split(".")[0] == "asgi_ipc" for parent in getattr(kind, "__mro__", ())
    )


def _manager():
    """What keeps the layers that Channels has made."""
    try:
        from channels.layers import channel_layers
    except ImportError:
        # Channels 1.
        from channels.asgi import channel_layers
    return channel_layers


def _close(layer):
    """Close a layer, of whichever face, that Channels has made."""
    ending = layer.close() if hasattr(layer, "close") else None
    if hasattr(ending, "send"):
        run_apart(ending)


def run_apart(coroutine):
    """Run a coroutine to its end, also where an event loop is running: in a thread of its own."""
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def _new_name():
    # With a part behind it within what macOS takes.
    return NAME + binascii.hexlify(os.urandom(3)).decode("ascii")


def _worker():
    """The name of this process under pytest-xdist, "" elsewhere."""
    return os.environ.get("PYTEST_XDIST_WORKER", "")


def _path(name):
    return os.path.join(runtime_folder(), name + MARK)


def _open(name, flags):
    """The descriptor of a run's file, None if it is not there or not this user's."""
    try:
        mark = os.open(_path(name), os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | flags, 0o600)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP):
            raise
        return None
    close_on_exec(mark)
    if os.fstat(mark).st_uid != os.geteuid():
        os.close(mark)
        return None
    return mark


def _lock(mark, kind):
    """Whether the lock of that kind is to be had at once."""
    try:
        fcntl.flock(mark, kind | fcntl.LOCK_NB)
    except (IOError, OSError) as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False
    return True


def _found(name):
    """Make a run's file, or join those who have; None if one who sweeps came between."""
    mark = _open(name, os.O_CREAT)
    if mark is None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), _path(name))
    return _share(mark)


def _share(mark):
    fcntl.flock(mark, fcntl.LOCK_SH)
    if os.fstat(mark).st_nlink:
        return mark
    os.close(mark)
    return None


def _join(name):
    """The file of a run that lives; None if it does not, and has been swept away."""
    mark = _open(name, 0)
    return _share(mark) if mark is not None else None


def _sweep():
    """Remove what runs that were killed have left."""
    for file_name in os.listdir(runtime_folder()):
        if not (file_name.startswith(NAME) and file_name.endswith(MARK)):
            continue
        name = file_name[: -len(MARK)]
        mark = _open(name, 0)
        if mark is None:
            continue
        try:
            if _lock(mark, fcntl.LOCK_EX):
                _remove(name, mark)
        finally:
            os.close(mark)


def _remove(name, mark):
    """Remove the prefixes of a run, and its file; the caller has the lock to itself."""
    os.lseek(mark, 0, os.SEEK_SET)
    with os.fdopen(os.dup(mark), "rb") as lines:
        prefixes = set(lines.read().decode("ascii").split())
    for prefix in sorted(prefixes):
        if prefix.startswith(name + "-"):
            unlink(prefix)
    try:
        os.unlink(_path(name))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


_run = _Run()
