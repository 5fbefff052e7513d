"""Attaching a prefix from a shell: what is there, as whose it is, and never making anything.

For the command line. Root acts as the owner of the shared memory, so that what comes to be
beside it (doorbells) is the owner's, as all the rest.
"""
import contextlib
import gc
import os
import pwd
import signal

from asgi_ipc import machine
from asgi_ipc.core import IPCChannelLayer
from asgi_ipc.errors import SegmentError
from asgi_ipc.options import MINIMUM_MEMORY, Options
from asgi_ipc.stores import Stores

LOCK_TIMEOUT = 2.0
"""Seconds: a person waits."""

EXPIRY, CAPACITY = 60, 100
"""Seconds and messages: the defaults of the layer's options, of which only what acts makes use."""

_GROUP_EXPIRY = 86400


class Stop(object):
    """While it is entered, signals that end a command only set ``asked``.

    One who is ended inside a lock leaves a rebuild to the next process of the site.
    """

    def __init__(self):
        self.asked = False
        self._before = []

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._before.append((number, signal.signal(number, self._ask)))
        return self

    def __exit__(self, *_):
        while self._before:
            signal.signal(*self._before.pop())

    def _ask(self, *_):
        self.asked = True


def complete(census, stop=None):
    """Take all steps of a census, or of an overview; return it.

    :param stop: a ``Stop`` that is entered already.
    :raises KeyboardInterrupt: a signal asked for it; none of them ends us inside a lock.
    """
    if stop is None:
        with Stop() as own:
            return complete(census, own)
    # Among what it has found of a large site, a collection takes milliseconds. It is due at some
    # allocation, and half of those are made inside the lock.
    collects = gc.isenabled()
    gc.disable()
    try:
        while census.step():
            if stop.asked:
                raise KeyboardInterrupt
    finally:
        if collects:
            gc.enable()
    return census


def checked(prefix):
    """The prefix, if it can be one.

    :raises ValueError: it cannot.
    """
    if not prefix or "/" in prefix:
        raise ValueError("{0!r} is no prefix: that has no slash and is not empty".format(prefix))
    return prefix


def existing(prefix):
    """The ``machine.Place`` of a prefix that exists.

    :raises SegmentError: it does not.
    """
    place = machine.Place(checked(prefix))
    if not place.there:
        raise SegmentError(
            "there is no shared memory of prefix {0}; it comes to be when a process opens the "
            "layer{1}".format(
                prefix, "" if machine.SHM_FOLDER is None else " (`asgi-ipc ls` shows what there is)"
            )
        )
    return place


def usable(prefix):
    """The same, of one that can be attached.

    :raises SegmentError: it cannot; says why, and what to do.
    """
    place = existing(prefix)
    for half in place.halves:
        fault = fault_of(prefix, half)
        if fault:
            raise SegmentError(fault)
    return place


_FAULTS = {
    machine.ABSENT: "there is no shared memory {0}: it is being made, or was left by a process "
    "that died in the making. A process that opens the layer makes what is missing; {1} removes "
    "the rest.",
    machine.UNMADE: "the shared memory {0} is being made, or was left by a process that died in "
    "the making. A process that opens the layer finishes it; {1} removes it.",
    machine.OLD_RELEASE: "the shared memory {0} was left by asgi_ipc 1.x, and is never read. Stop "
    "the processes that use that release, and remove it with {1}.",
    machine.FOREIGN: "the contents of the shared memory {0} are not asgi_ipc's, or are cut. If "
    "nothing else needs it, remove it with {1}.",
    machine.OTHER_LAYOUT: "the shared memory {0} has the layout of another version of asgi_ipc. "
    "Use the command of the version that the site runs, or stop the site and remove it with {1}.",
    machine.CLOSED: "the shared memory {0} belongs to user {2}: run this as that user or as root",
}
"""Why a half of that state cannot be attached, and in sentences after the first what to do."""

_NO_SEMAPHORE = (
    "the shared memory {0} has no semaphore: it is being made, or the semaphore was removed. A "
    "process that opens the layer makes it; {1} removes the rest."
)


def fault_of(prefix, half):
    """Why a half cannot be attached, and what to do; None if it can."""
    why = _FAULTS.get(half.state)
    if why is None and not half.semaphore:
        why = _NO_SEMAPHORE
    if why is None:
        return None
    owner = machine.user_name(half.status.st_uid) if half.status is not None else ""
    return why.format(half.name, "`asgi-ipc rm {0}`".format(prefix), owner)


@contextlib.contextmanager
def as_owner(place):
    """Be the owner of a prefix for a while, if we are root and it is another's."""
    if os.geteuid() != 0 or place.uid == 0:
        yield
        return
    group, groups = os.getegid(), os.getgroups()
    try:
        try:
            os.setgroups(_groups_of(place.uid, place.gid))
            os.setegid(place.gid)
            os.seteuid(place.uid)
        except OSError as error:
            raise SegmentError(
                "the shared memory of prefix {0} belongs to user {1}, and this root may not act as "
                "that user ({2}); run this as that user".format(
                    place.prefix, machine.user_name(place.uid), error.strerror
                )
            )
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        if os.getgroups() != groups:
            os.setgroups(groups)


def _groups_of(uid, gid):
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return [gid]
    from_system = getattr(os, "getgrouplist", None)
    return from_system(user.pw_name, gid) if from_system else [gid, user.pw_gid]


def options_for(place, expiry=EXPIRY, capacity=CAPACITY, channel_capacity=None):
    """The options with which a prefix that exists is attached as it is."""
    return Options(
        place.prefix,
        expiry,
        _GROUP_EXPIRY,
        capacity,
        channel_capacity,
        max(place.messages.status.st_size, MINIMUM_MEMORY),
        max(place.groups.status.st_size, MINIMUM_MEMORY),
        place.mode & 0o666 | 0o600,
        None,
        0,
        LOCK_TIMEOUT,
    )


@contextlib.contextmanager
def stores(prefix, **options):
    """Yield (``machine.Place``, ``stores.Stores``) of a prefix that exists.

    :param options: of ``options_for``, for who sends.
    """
    place = usable(prefix)
    with as_owner(place):
        opened = Stores(options_for(place, **options))
        try:
            yield place, opened
        finally:
            opened.close()


def create(prefix):
    """Make the shared memory of a prefix with the layer's default options, if there is none."""
    if not machine.Place(checked(prefix)).sound:
        IPCChannelLayer(prefix, lock_timeout=LOCK_TIMEOUT).close()
