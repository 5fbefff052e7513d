"""The lock of a segment: a semaphore admits, the kernel says who is alive.

Knows a semaphore, an open file description for each thread, and two words of the segment.
Does not know what the segment holds; tells its user when that has to be rebuilt.

How it works. ``acquire`` takes the semaphore's token and then the ``flock`` of the segment.
Uncontended, the flock is free: whoever has the token is alone. It is there for the day on
which a holder dies, because the kernel drops it then, however the holder died, in whatever
pid namespace. Whoever finds no token takes short naps, and tries both after each: the flock
without a token, too, which is always safe. Got it: the holder has left, or is dead and its token
died with it, so go on as the holder. Not got: it is alive, perhaps stopped: keep trying, up to
``lock_timeout``.

Nobody sleeps in the semaphore. What a signal's handler raises meanwhile (SystemExit, when a
worker is stopped) posix_ipc replaces by its SignalError, and it is gone. And the time for which
a semaphore is waited for is one of the wall clock: set back, it is hours.

Invariants:

1. Only the holder of the flock is inside. Exclusion never rests on the semaphore's count.
2. A token is posted only by the holder of the flock, and only where the count is 0; so the
   count never goes above 1, whatever was lost or done twice before. (Where the system
   cannot tell the count, the poster first takes the token that may be there.)
3. The busy word is the holder's pid while it is inside. Whoever gets in and finds it set
   knows that the last holder died or was interrupted there: ``acquire`` returns True, and
   the caller rebuilds what is derived before it goes on.
4. Each thread has an open file description of its own, so a thread's unlock can never
   release what another thread holds, and ``abandon`` may be called at any time, any number
   of times. A forked child closes the inherited ones (never unlocks them) and makes its own.
5. A thread that may have the flock is marked as inside: from before its first try until after
   its unlock. A handler's call finds the mark, is refused, and touches nothing: neither in
   its ``acquire`` nor in the ``abandon`` that follows it.

Use: every bytecode between the call of ``acquire`` and the return of ``release`` lies in one
``try`` whose ``except BaseException`` calls ``abandon`` and raises on. So an exception that
a signal handler raises at any point leaves the lock free, and the busy word set if it was
inside::

    try:
        if lock.acquire():
            rebuild()
        ...
        lock.release()
    except BaseException:
        lock.abandon()
        raise

The function that does this holds the lock in a local variable named ``lock``: that is how a
call out of a signal handler, into a lock that the interrupted frame holds, is told from a
hold that an earlier interruption left behind. Its calls of ``acquire`` and ``abandon`` stand in
that function itself.

``tests/lock_model.py`` is this protocol, with every interleaving of it explored.
"""
import errno
import fcntl
import os
import sys
import threading
import time

import posix_ipc

from asgi_ipc._shm import clock, forks
from asgi_ipc.errors import LayerClosed, LockTimeout, ReentrantCall

FIRST_NAP, LONGEST_NAP = 0.00005, 0.005
"""Seconds between tries to get in; each nap is twice the one before."""

LOCKS = "/proc/locks"
"""Where Linux tells who holds which lock."""

COUNT_SUPPORTED = posix_ipc.SEMAPHORE_VALUE_SUPPORTED

CLOSED = "this channel layer was closed; make a new one"

_TRY = fcntl.LOCK_EX | fcntl.LOCK_NB
_UNLOCK = fcntl.LOCK_UN
_flock = fcntl.flock


class _Holder(object):
    """One thread's own view of the lock.

    ``descriptor``: of its own open file description. ``inside``: whether it is on its way in,
    inside, or on its way out. ``token``: whether it has one. ``refused``: the frame of a
    handler whose call was refused, until that has abandoned.
    """

    __slots__ = ("descriptor", "descriptors", "inside", "refused", "token")

    def __init__(self, descriptor, descriptors):
        self.descriptor = descriptor
        self.descriptors = descriptors
        self.inside = False
        self.token = False
        self.refused = None
        descriptors.add(descriptor)

    def close(self):
        """Give the descriptor up. Whoever takes it out of the set closes it, once."""
        try:
            self.descriptors.remove(self.descriptor)
        except (AttributeError, KeyError):
            # Closed already; or what made this one was interrupted.
            return
        descriptor, self.descriptor = self.descriptor, None
        os.close(descriptor)

    def __del__(self):
        # The thread ended, or the lock was dropped.
        self.close()


class _Holders(threading.local):
    """Makes a thread's holder when the thread first comes by."""

    def __init__(self, open_description, descriptors):
        self.mine = _Holder(open_description(), descriptors)


class _NoHolders(object):
    """Of a lock that was closed before a fork: the parent's holders have no descriptors here."""

    @property
    def mine(self):
        raise LayerClosed(CLOSED)


class SegmentLock(object):
    """Mutual exclusion between all threads of all processes that attached a segment.

    :param semaphore: the ``posix_ipc.Semaphore`` that queues.
    :param open_description: returns a new descriptor, with an open file description of its
        own, of the file whose flock counts.
    :param lock_timeout: seconds after which ``acquire`` gives up on a live holder.

    Cost: acquire and release 1.3 us together when nobody else wants it.
    Source: the scheme is ours; see docs/design.rst for the trial it rests on.
    """

    def __init__(self, semaphore, open_description, lock_timeout, name):
        self.name = name
        self.lock_timeout = lock_timeout
        self.recoveries = 0
        self._words = None
        self._busy = 0
        self._book = None
        self._closed = False
        self._semaphore = semaphore
        self._open_description = open_description
        self._descriptors = set()
        self._holders = _Holders(open_description, self._descriptors)

    def guard(self, words, busy, book=None):
        """From now on keep the holder's pid in ``words[busy]`` while it is inside.

        :param book: told by who is inside: ``waited(ns)`` if it had to wait for that, and
            ``recovered()`` if the last one did not leave properly.
        """
        self._busy = busy
        self._words = words
        self._book = book

    def unguard(self):
        """Touch no words any more: they are gone."""
        self._words = self._book = None

    @property
    def guarded(self):
        """Whether there are words in which it keeps the holder's pid."""
        return self._words is not None

    def acquire(self):
        """Get in; True if the last holder did not leave properly (rebuild what is derived).

        :raises LockTimeout: another process held it for ``lock_timeout`` seconds.
        :raises ReentrantCall: this very thread is inside, further up its stack.
        :raises LayerClosed: after ``close``.
        """
        if forks.NEEDS_CHECK:
            forks.check()
        holder = self._holders.mine
        if holder.inside:
            self._recover_own(holder)
        if self._closed:
            raise LayerClosed(CLOSED)
        # Before the flock may be ours: a handler that calls in from here on is to be refused.
        holder.inside = True
        try:
            self._semaphore.acquire(0)
            holder.token = True
            _flock(holder.descriptor, _TRY)
        except (posix_ipc.BusyError, posix_ipc.SignalError):
            self._wait(holder)
        except (IOError, OSError) as error:
            # What a handler raised here may be an OSError as well (TimeoutError).
            if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EINTR):
                raise
            self._wait(holder)
        words = self._words
        if words is None:
            if self._closed:
                raise LayerClosed(CLOSED)
            return False
        if words[self._busy]:
            self.recoveries += 1
            words[self._busy] = forks.pid()
            if self._book is not None:
                self._book.recovered()
            return True
        words[self._busy] = forks.pid()
        return False

    def release(self):
        """Get out, properly: the busy word is cleared first, the flock given up last."""
        holder = self._holders.mine
        if self._words is not None:
            self._words[self._busy] = 0
        self._post(holder)
        _flock(holder.descriptor, _UNLOCK)
        holder.inside = False

    def abandon(self):
        """Give up whatever this thread has of the lock, after an exception at any point.

        The busy word stays as it is: if it was set, the next holder rebuilds. Whoever
        ``acquire`` refused as a handler's call has nothing of the lock, and gives up nothing.
        """
        holder = self._holders.mine
        refused, holder.refused = holder.refused, None
        if refused is not None and refused is sys._getframe(1):  # noqa: SLF001 (as below)
            return
        try:
            self._let_go(holder)
        except BaseException:
            # One more handler raised, while the first exception was on its way here.
            self._let_go(holder)
            raise

    def _let_go(self, holder):
        holder.inside = True
        if holder.descriptor is not None and self._try_flock(holder.descriptor):
            # The token may or may not have been ours. Invariant 2 makes posting safe.
            self._post(holder)
            _flock(holder.descriptor, _UNLOCK)
        holder.inside = False

    def close(self):
        """Let nobody of this process in any more. The caller is inside, and abandons.

        The caller's descriptor goes at once: of a segment that was removed, it would keep the
        memory. Those of other threads go with them or with this object, since one may be
        waiting with it in its hand. So may one on the semaphore, which is closed only if no
        other thread has ever come by.
        """
        try:
            self._closed = True
            self._words = None
            self._open_description = None
        finally:
            self.abandon()
        if len(self._descriptors) <= 1:
            self._semaphore.close()
        self._holders.mine.close()

    def forked(self):
        """In a child: the parent's descriptors are not ours, nor are its threads."""
        self._close_descriptors()
        self._descriptors = set()
        if self._closed:
            self._holders = _NoHolders()
        else:
            self._holders = _Holders(self._open_description, self._descriptors)

    def _close_descriptors(self):
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _post(self, holder):
        try:
            if COUNT_SUPPORTED:
                if self._semaphore.value == 0:
                    self._semaphore.release()
            else:
                self._take_spare()
                self._semaphore.release()
        except posix_ipc.ExistentialError:
            # Closed, so whoever closed it has posted.
            if not self._closed:
                raise
        holder.token = False

    def _take_spare(self):
        """So that the token which is posted next is the only one, where there is no count."""
        try:
            self._semaphore.acquire(0)
        except posix_ipc.BusyError:
            pass

    def _try_flock(self, descriptor):
        try:
            _flock(descriptor, _TRY)
        except (IOError, OSError) as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EINTR):
                raise
            return False
        return True

    def _take_token(self):
        try:
            self._semaphore.acquire(0)
        except (posix_ipc.BusyError, posix_ipc.SignalError):
            return False
        return True

    def _wait(self, holder):
        """The slow way in: somebody is inside, or died there, or tokens were lost."""
        nap = FIRST_NAP
        begin = clock.now()
        deadline = begin + int(self.lock_timeout * clock.SECOND)
        while True:
            time.sleep(nap)
            nap = min(2 * nap, LONGEST_NAP)
            if not holder.token:
                holder.token = self._take_token()
            # Also with a token: one who came in without may be inside.
            if self._try_flock(holder.descriptor):
                if self._book is not None and not self._closed:
                    self._book.waited(clock.now() - begin)
                return
            if clock.now() >= deadline:
                self._give_up(holder)

    def _give_up(self, holder):
        # A token that we have goes with us: the live holder posts one (invariant 2).
        holder.token = False
        raise LockTimeout(
            "{0} has been locked for more than {1} s by {2}. If that process is stopped, "
            "continue it (kill -CONT) or end it; the lock is free the moment it is gone.".format(
                self.name,
                self.lock_timeout,
                self._who(holder),
            )
        )

    def _who(self, holder):
        """Name who is inside.

        By the kernel, if it tells: it knows from the flock on, and numbers as this process
        does. The busy word comes later, goes earlier, is not known before ``guard``, and
        holds the pid as the holder's pid namespace has it.
        """
        pid = flock_owner(holder.descriptor)
        if pid:
            return "process {0}".format(pid)
        words = self._words
        left = words[self._busy] if words is not None else 0
        if not left:
            return "a process that has not left its pid yet"
        where = "" if pid is None else ", as another pid namespace numbers it"
        return "process {0}{1}".format(left, where)

    def _recover_own(self, holder):
        """This thread counts as inside already: re-entered, or left there by an exception."""
        holder.refused = caller = sys._getframe(2)  # noqa: SLF001 (the way to one's frames)
        frame = caller.f_back
        while frame is not None:
            if frame.f_locals.get("lock") is self:
                raise ReentrantCall(
                    "a signal handler or a finalizer called the channel layer while its "
                    "thread was inside it; set a flag there, and send from the main flow"
                )
            frame = frame.f_back
        holder.refused = None
        self.abandon()


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
