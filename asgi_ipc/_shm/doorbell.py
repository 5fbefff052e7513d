"""Waking a receiver in another process: a FIFO for each receiver that waits.

Knows FIFOs and their ids; does not know who waits for what. The FIFO stands beside the
segments, its name ends in a random id, and the id is what receivers leave in shared memory
for senders to find. One byte in it means: look again.

The receiver opens its FIFO for reading *and* writing, so that it never sees an end of file;
a FIFO that cannot be opened for writing alone (ENXIO) therefore has no living receiver. A
full FIFO (EAGAIN) has a ring in it already, which is as good.

``wait`` uses the C library's ``poll``: Python's own goes on waiting after a signal whose
handler did not raise (PEP 475), and a receiver has to look at what the handler did.

A FIFO goes when its object does, and when its process ends, in whatever way that runs Python
code. A forked child gives up the descriptors of its parent's doorbells, for as long as it had
them open a dead parent would look alive; it never removes their FIFOs. To be sure whose one is,
the system is asked for the pid: until a child's first operation ``forks`` may not know of it.
"""
import atexit
import errno
import os
import re
import resource
import select
import signal
import stat
import struct
import sys
import weakref

import six

from asgi_ipc._shm import forks
from asgi_ipc._shm.opening import close_on_exec
from asgi_ipc._shm.segment import runtime_folder

LEAST_KEPT, MOST_KEPT, SHARE_KEPT = 64, 4096, 4
"""Doorbells of others that one process keeps open, to ring them without opening: as many as one
part in ``SHARE_KEPT`` of the descriptors that it may have, within these bounds."""

SLICE = 1.0
"""Seconds that a wait lasts at most where the C library's poll is out of reach."""

NO_DESCRIPTOR = -1
"""What poll waits at in vain."""

_DRAIN = 4096

_open_ones = weakref.WeakSet()
_seen_to = set()


@atexit.register
def _close_all():
    for doorbell in list(_open_ones):
        doorbell.close()


def _see_to_the_end():
    """Have the doorbells closed when this process ends as a child of ``multiprocessing``.

    Such a child does not run what ``atexit`` has, or only what was registered in it.
    """
    pid = os.getpid()
    util = sys.modules.get("multiprocessing.util")
    if util is not None and pid not in _seen_to:
        _seen_to.add(pid)
        util.Finalize(None, _close_all, exitpriority=-100)


def path_of(name, number):
    """The path of the doorbell ``number`` beside the segment ``name``."""
    return os.path.join(runtime_folder(), "{0}-{1:016x}.bell".format(name.strip("/"), number))


class Doorbell(object):
    """One receiver's own: make it, wait at it, close it. One thread at a time waits."""

    def __init__(self, name, mode):
        self._pid = os.getpid()
        self._descriptor = self._poll = None
        while True:
            self.number = struct.unpack("=Q", os.urandom(8))[0] or 1
            self.path = path_of(name, self.number)
            try:
                os.mkfifo(self.path, mode)
                break
            except OSError as error:
                if error.errno != errno.EEXIST:
                    raise
        try:
            # The umask has taken bits away.
            os.chmod(self.path, mode)
            if mode & 0o060:
                _share(self.path, name)
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
            close_on_exec(self._descriptor)
        except BaseException:
            os.unlink(self.path)
            raise
        _open_ones.add(self)
        forks.watch(self)
        _see_to_the_end()

    def __del__(self):
        self.close()

    def fileno(self):
        """For ``select``, reactors and event loops: readable means rung."""
        return self._descriptor

    @property
    def usable(self):
        """Whether it is open, and ours: a forked child must not eat its parent's rings."""
        return self._descriptor is not None and self._pid == os.getpid()

    def wait(self, seconds):
        """Wait to be rung: True if rung, False after ``seconds``, None if a signal came.

        Nobody rings a closed one; a thread that outlives the end of its process waits there.
        """
        poll, descriptor = self._poll, self._descriptor
        if poll is None or descriptor is None:
            poll = self._poll = _poller(NO_DESCRIPTOR if descriptor is None else descriptor)
        rung = poll(seconds)
        if rung:
            self.silence()
        return rung

    def ring(self):
        """Ring one's own, for another thread that waits at it.

        As a stranger would: that thread may close it at any moment, and its descriptor's
        number may then be another file's.
        """
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return
        try:
            os.write(descriptor, b"!")
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EINTR, errno.EPIPE):
                raise
        finally:
            os.close(descriptor)

    def silence(self):
        """Take all rings out."""
        descriptor = self._descriptor
        if descriptor is None:
            return
        try:
            while len(os.read(descriptor, _DRAIN)) == _DRAIN:
                pass
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EINTR):
                raise

    def close(self):
        """Remove it. In a forked child only the inherited descriptor is closed."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        os.close(descriptor)
        if self._pid == os.getpid():
            unlink(self.path)

    def forked(self):
        """In a child: it is the parent's."""
        self.close()


def _share(path, name):
    """Give a FIFO the group of its segment, whose users are to ring it; ours may be another."""
    try:
        os.chown(path, -1, os.stat(os.path.join(runtime_folder(), name.strip("/"))).st_gid)
    except OSError:
        # Not in that group, or it cannot be seen (macOS): rung or not, its owner looks itself.
        pass


class Ringer(object):
    """Rings the doorbells of others, for any number of threads.

    Whoever rings one takes its descriptor out of those that are kept, and puts it back when
    done. So no thread closes what another one writes to, and no lock is needed.
    """

    def __init__(self, name):
        self._name = name
        self._open = {}
        self._closed = False
        self.most_kept = _most_kept()

    def ring(self, number):
        """Ring; False if its receiver is gone (its FIFO, if any is left, is removed then).

        Cost: one write of a byte, 1 us; 7 us if its FIFO has to be opened for it.
        """
        descriptor = self._open.pop(number, None)
        kept = descriptor is not None
        rung = again = False
        try:
            if not kept:
                path = path_of(self._name, number)
                descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
                if six.PY2:
                    # Python 3 opens it so.
                    close_on_exec(descriptor)
                if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
                    return False
            os.write(descriptor, b"!")
            rung = True
        except OSError as error:
            if error.errno in (errno.ENXIO, errno.EPIPE, errno.ENOENT, errno.ENOTDIR):
                unlink(path_of(self._name, number))
            elif error.errno in (errno.EMFILE, errno.ENFILE) and self._open:
                again = True
            else:
                # Full, which is as good. Or out of descriptors all the same, or not admitted:
                # what it is rung for has been done, and is not to seem to have failed; the
                # receiver looks by itself.
                rung = True
        finally:
            # Writing to a kept one whose reader died would end a process that minds SIGPIPE.
            if rung and descriptor is not None and (kept or _pipe_signal_ignored()):
                self._keep(number, descriptor)
            elif descriptor is not None:
                os.close(descriptor)
        if again:
            # Out of descriptors: those kept for speed go first.
            self._drop_kept()
            return self.ring(number)
        return rung

    def close(self):
        """Close what is kept open, and keep nothing any more."""
        self._closed = True
        self._drop_kept()

    def _drop_kept(self):
        while self._open:
            try:
                _, descriptor = self._open.popitem()
            except KeyError:
                # Another thread rings it.
                return
            os.close(descriptor)

    def _keep(self, number, descriptor):
        if len(self._open) >= self.most_kept:
            self._drop_kept()
        if self._open.setdefault(number, descriptor) != descriptor:
            # Another thread has rung the same meanwhile.
            os.close(descriptor)
        if self._closed:
            self._drop_kept()


def sweep(name):
    """Ring all doorbells beside a segment; how many were removed, their receivers being gone.

    The living look, and find that they have to attach anew.
    """
    pattern = re.compile(re.escape(name.strip("/")) + r"-([0-9a-f]{16})\.bell\Z")
    ringer = Ringer(name)
    removed = 0
    for entry in os.listdir(runtime_folder()):
        match = pattern.match(entry)
        if match and not ringer.ring(int(match.group(1), 16)):
            removed += 1
    ringer.close()
    return removed


def unlink(path):
    """Remove the FIFO, if it is there still, and ours to remove.

    That of another user stays: in a folder with the sticky bit its owner alone can do it.
    """
    try:
        os.unlink(path)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EPERM, errno.EACCES):
            raise


def _most_kept():
    """How many doorbells of others to keep open, by what this process may open at all."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return MOST_KEPT
    return min(max(limit // SHARE_KEPT, LEAST_KEPT), MOST_KEPT)


def _pipe_signal_ignored():
    try:
        return signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN
    except ValueError:
        return False


def _poller(descriptor):
    """Return what waits for input: True, False after so many seconds, None after a signal."""
    global _poller
    _poller = _find_poller()
    return _poller(descriptor)


def _find_poller():
    """With the C library's poll if it can be had: done at the first wait, ctypes takes a while."""
    try:
        import ctypes

        call = ctypes.CDLL(None, use_errno=True).poll
    except (ImportError, OSError, AttributeError):
        return _poller_with_python

    class PollDescriptor(ctypes.Structure):
        _fields_ = (
            ("fd", ctypes.c_int),
            ("events", ctypes.c_short),
            ("revents", ctypes.c_short),
        )

    def poller(descriptor):
        # Made once for each doorbell, and passed as they are: half of what a call costs.
        asked = ctypes.byref(PollDescriptor(descriptor, select.POLLIN, 0))
        one = ctypes.c_ulong(1)

        def poll(seconds):
            ready = call(asked, one, int(seconds * 1000) + 1 if seconds > 0 else 0)
            if ready >= 0:
                return ready > 0
            if ctypes.get_errno() == errno.EINTR:
                return None
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

        return poll

    return poller


def _poller_with_python(descriptor):
    poller = select.poll()
    if descriptor != NO_DESCRIPTOR:
        poller.register(descriptor, select.POLLIN)

    def poll(seconds):
        try:
            return bool(poller.poll(min(seconds, SLICE) * 1000))
        except select.error as error:
            # Python 2.7, which does not go on by itself.
            if error.args[0] != errno.EINTR:
                raise
            return None

    return poll
