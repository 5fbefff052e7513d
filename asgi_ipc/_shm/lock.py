"""The lock of a segment: a semaphore admits, the kernel says who is alive.

Knows a semaphore, an open file description for each thread, and the board of the segment.
Does not know what the segment holds; tells its user when that has to be rebuilt.

How it works. There are two ways in. The fast one goes over memory alone, and is free as long as
nobody else wants in; whoever finds that somebody does, and for longer than a moment, turns to the
slow one (``lane`` has the fast way, and why the two exclude each other).

The slow way takes the semaphore's token and then the ``flock`` of the segment, so that there is
one at a time on it; sets SLOW, which keeps others off the fast way; and waits until nobody is
inside who came by that.
Whoever finds no token gives way to others, then takes short naps, and tries both after each: the
flock without a token, too, which is always safe. Got it: the holder has left, or is dead and its
token died with it, so go on as the holder. Not got: it is alive, perhaps stopped: keep trying, up
to ``lock_timeout``.
Whatever dies is known from the kernel, which drops the flock, and what a lane's owner has locked,
however the holder died, in whatever pid namespace.

Nobody sleeps in the semaphore. What a signal's handler raises meanwhile (SystemExit, when a
worker is stopped) posix_ipc replaces by its SignalError, and it is gone. And the time for which
a semaphore is waited for is one of the wall clock: set back, it is hours.

Invariants:

1. Inside is either one who came the fast way, or the holder of the flock. Exclusion never
   rests on the semaphore's count.
2. A token is posted only by the holder of the flock, and only where the count is 0; so the
   count never goes above 1, whatever was lost or done twice before. (Where the system
   cannot tell the count, the poster first takes the token that may be there.)
3. Who is inside has its flag up, or BUSY set. Whoever gets in by the slow way, and finds either of
   one who is not there, knows that it died or was interrupted inside: ``acquire`` returns True,
   and the caller rebuilds what is derived before it goes on. Nobody gets in by the fast way then.
4. Each thread has an open file description of its own, so a thread's unlock can never
   release what another thread holds, and ``abandon`` may be called at any time, any number
   of times. A forked child closes the inherited ones (never unlocks them) and makes its own.
5. A thread that may have anything of the lock is marked as inside: from before its first step
   until after its last. A handler's call finds the mark, is refused, and touches nothing: neither
   in its ``acquire`` nor in the ``abandon`` that follows it.
6. Only a thread itself puts its flag down; and for the dead, who has the flock. Only who has that
   writes SLOW and BUSY. Only who is inside says who that is, of the threads of its process.

Use: every bytecode between the call of ``acquire`` and the return of ``release`` lies in one
``try`` whose ``except BaseException`` calls ``abandon`` and raises on. So an exception that
a signal handler raises at any point leaves the lock free, and leads to a rebuild if it was
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
import time

import posix_ipc

from asgi_ipc._shm import clock, forks, inside, lane
from asgi_ipc._shm.forks import NEEDS_CHECK
from asgi_ipc._shm.holders import CLOSED, Holders, NoHolders
from asgi_ipc._shm.lane import BOARD, BUSY, DOWN, SLOW
from asgi_ipc.errors import LayerClosed, LockTimeout, ReentrantCall

FIRST_NAP, LONGEST_NAP = 0.00005, 0.005
"""Seconds between tries to get in; each nap is twice the one before."""

LOOKS = 20
"""Tries before the first nap: who is inside has mostly left by then."""

COUNT_SUPPORTED = posix_ipc.SEMAPHORE_VALUE_SUPPORTED

_TRY = fcntl.LOCK_EX | fcntl.LOCK_NB
_UNLOCK = fcntl.LOCK_UN
_flock = fcntl.flock


class _Patience(object):
    """How long one waits: naps, each twice the one before, up to so many seconds in all."""

    # Most need none: so these are not set for each.
    _nap = FIRST_NAP
    _looks = LOOKS if clock.give_way else 0
    _deadline = None
    begin = 0

    def __init__(self, seconds):
        self._seconds = seconds

    def nap(self):
        """Sleep a little."""
        if self._deadline is None:
            self.begin = clock.now()
            self._deadline = self.begin + int(self._seconds * clock.SECOND)
        if self._looks:
            self._looks -= 1
            clock.give_way()
            return
        time.sleep(self._nap)
        self._nap = min(2 * self._nap, LONGEST_NAP)

    def over(self):
        """Whether the time is up."""
        return clock.now() >= self._deadline


def _asking_for_forks():
    """``holders``, where no hook tells of a fork: whoever wants one asks first."""

    def get(self):
        forks.check()
        return self._holders

    def put(self, holders):
        self._holders = holders

    return property(get, put)


class SegmentLock(object):
    """Mutual exclusion between all threads of all processes that attached a segment.

    :param semaphore: the ``posix_ipc.Semaphore`` that queues.
    :param open_description: returns a new descriptor, with an open file description of its
        own, of the file whose flock counts.
    :param lock_timeout: seconds after which ``acquire`` gives up on a live holder.

    ``holders.mine`` is this thread's holder, ``memory`` the segment with the board (None: not by
    that any more), ``entered`` the holder that is inside, of this process's; ``closed``: nobody
    gets in any more. ``messages`` and ``sending`` have the fast way written out.

    Cost: acquire and release 0.35 us together when nobody else wants it, 2.5 us the slow way.
    Source: the fast way is an old one (``lane``), the rest is ours; see docs/design.rst.
    """

    if NEEDS_CHECK:
        holders = _asking_for_forks()

    def __init__(self, semaphore, open_description, lock_timeout, name):
        self.name = name
        self.lock_timeout = lock_timeout
        self.recoveries = 0
        self.memory = None
        self.closed = False
        self.entered = None
        self._words = None
        self._book = None
        self._semaphore = semaphore
        self._open_description = open_description
        self._descriptors = set()
        self.holders = Holders(open_description, self._descriptors)

    def guard(self, words, memory, book=None):
        """From now on exclude by the board of this memory as well, and tell what was broken off.

        :param words: a view of ``memory``.
        :param book: told by who is inside: ``waited(ns)`` if it had to wait for that, and
            ``recovered()`` if the last one did not leave properly.
        """
        self._words = words
        self._book = book
        self.memory = memory

    def unguard(self):
        """Touch no words any more: they are gone."""
        self._words = self.memory = self._book = None

    @property
    def guarded(self):
        """Whether it goes by the board: from ``guard`` on, until ``unguard`` or ``close``."""
        return self._words is not None

    def acquire(self):
        """Get in; True if the last holder did not leave properly (rebuild what is derived).

        :raises LockTimeout: another process held it for ``lock_timeout`` seconds.
        :raises ReentrantCall: this very thread is inside, further up its stack.
        :raises LayerClosed: after ``close``.
        """
        holder = self.holders.mine
        if holder.inside:
            self._recover_own(holder)
        # Before anything of the lock may be ours: a handler that calls in from here on is to be
        # refused.
        holder.inside = True
        memory = self.memory
        mine = holder.lane
        try:
            while mine and memory is not None:
                memory[mine] = holder.up
                act, holder.fence = holder.fence
                act()
                if memory[BOARD] == holder.alone:
                    if self.closed:
                        # Not only by ``abandon``, before which one more exception may come.
                        memory[mine] = DOWN
                        raise LayerClosed(CLOSED)
                    self.entered = holder
                    return False
                memory[mine] = DOWN
                if not lane.clears(memory):
                    break
            return self._go_slowly(holder)
        except (TypeError, ValueError):
            # Another thread closed it, and there are no words any more.
            if self._words is not None:
                raise
            raise LayerClosed(CLOSED)

    def release(self):
        """Get out, properly: nothing was broken off."""
        holder = self.entered
        # A thread that ends takes with it what it has of the lock, if nobody else has that.
        self.entered = None
        if holder.slow:
            self._leave_slowly(holder)
        else:
            self.memory[holder.lane] = DOWN
        holder.inside = False

    def abandon(self):
        """Give up whatever this thread has of the lock, after an exception at any point.

        If it was inside, the next one who gets in rebuilds. Whoever ``acquire`` refused as a
        handler's call has nothing of the lock, and gives up nothing.
        """
        try:
            holder = self.holders.mine
        except LayerClosed:
            # Before a fork, so there is nothing here to give up.
            return
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
        memory = self.memory
        if self.entered is holder:
            # Before anything is given up, for then another thread may be the one.
            holder.broken = not holder.slow
            self.entered = None
        if holder.broken:
            # Work was broken off: the flag stays up, as if the thread had died.
            lane.give(holder.descriptor)
            holder.lane = None
            holder.broken = False
        elif holder.lane and memory is not None:
            memory[holder.lane] = DOWN
        elif holder.descriptor is not None:
            # It may have been about to get one. Or, closed, there is no flag left to put down.
            lane.give(holder.descriptor)
        if holder.descriptor is not None and self._try_flock(holder.descriptor):
            # The token may or may not have been ours. Invariant 2 makes posting safe.
            self._post(holder)
            _flock(holder.descriptor, _UNLOCK)
        # It may be the other one's turn, and the one that comes next does nothing then.
        holder.fence = lane.fence()
        holder.slow = False
        holder.inside = False

    def close(self, unfinished=True):
        """Let nobody of this process in any more. The caller is inside, and gets out.

        :param unfinished: whether somebody has to rebuild, as after ``abandon``.

        The caller's descriptor goes at once: of a segment that was removed, it would keep the
        memory. Those of other threads go with them or with this object, since one may be
        waiting with it in its hand. So may one on the semaphore, which is closed only if no
        other thread has ever come by.
        """
        try:
            self.closed = True
            self._open_description = None
            if not unfinished:
                self.release()
            self.abandon()
        except BaseException:
            self.abandon()
            raise
        self._words = self.memory = None
        if len(self._descriptors) <= 1:
            self._semaphore.close()
        self.holders.mine.close()

    def forked(self):
        """In a child: the parent's descriptors are not ours, nor are its threads."""
        self._close_descriptors()
        self._descriptors = set()
        self.entered = None
        if self.closed:
            self.holders = NoHolders()
        else:
            self.holders = Holders(self._open_description, self._descriptors)

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
            if not self.closed:
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

    def _go_slowly(self, holder):
        """The slow way in: somebody else wants in as well, or there is no lane."""
        if self.closed:
            raise LayerClosed(CLOSED)
        patience = _Patience(self.lock_timeout)
        holder.token = self._take_token()
        if not (holder.token and self._try_flock(holder.descriptor)):
            self._wait(holder, patience)
        holder.slow = True
        words = self._words
        if words is None:
            if self.closed:
                raise LayerClosed(CLOSED)
            self.entered = holder
            return False
        dead = self._shut_out(holder, patience)
        found = words[BUSY]
        words[BUSY] = holder.pid
        self.entered = holder
        for other in dead:
            self.memory[other] = DOWN
        if holder.lane is None:
            holder.take_lane(words, self.memory)
        if patience.begin and self._book is not None:
            self._book.waited(clock.now() - patience.begin)
        if not found and not dead:
            return False
        self.recoveries += 1
        if self._book is not None:
            self._book.recovered()
        return True

    def _wait(self, holder, patience):
        """Get the flock: somebody has it, or died with it, or tokens were lost."""
        while True:
            patience.nap()
            if not holder.token:
                holder.token = self._take_token()
            # Also with a token: one who came in without may have it.
            if self._try_flock(holder.descriptor):
                return
            if patience.over():
                self._give_up(holder)

    def _shut_out(self, holder, patience):
        """With the flock: keep others off the fast way, and wait until nobody is inside by it.

        :returns: the places that the dead have left their flags on, or something else its own.
        """
        self._words[SLOW] = 1
        act, holder.fence = holder.fence
        act()
        while True:
            flags, litter = lane.raised(self.memory)
            if not self._anyone(holder, flags):
                return flags + litter
            patience.nap()
            if patience.over():
                self._give_up(holder)

    def _anyone(self, holder, flags):
        """Whether one of these flags is of somebody who lives."""
        return any(lane.lives(holder.descriptor, other) for other in flags)

    def _leave_slowly(self, holder):
        words = self._words
        if words is not None:
            words[BUSY] = 0
            words[SLOW] = 0
        self._post(holder)
        _flock(holder.descriptor, _UNLOCK)
        holder.slow = False

    def _give_up(self, holder):
        who = self._who(holder)
        # A token that we have goes with us: the live holder posts one (invariant 2). And what we
        # have beside it goes before the error is on its way, which one more may overtake.
        holder.token = False
        self._let_go(holder)
        raise LockTimeout(
            "{0} has been locked for more than {1} s by {2}. If that process is stopped, "
            "continue it (kill -CONT) or end it; the lock is free the moment it is gone.".format(
                self.name, self.lock_timeout, who
            )
        )

    def _who(self, holder):
        """Name who is inside, or keeps others out.

        By what the kernel tells; else by BUSY, which comes later, goes earlier, and is as its
        holder's pid namespace has it: another one than ours, if the kernel sees nobody here.
        """
        words = self._words
        if words is None:
            pid, numbered_so = inside.flock_owner(holder.descriptor), True
        else:
            pid, numbered_so = inside.holder_of(
                self.memory, holder.descriptor, holder.slow
            )
            if not pid:
                pid, numbered_so = words[BUSY], pid is None
        if not pid:
            return "a process that has not left its pid yet"
        where = "" if numbered_so else ", as another pid namespace numbers it"
        return "process {0}{1}".format(pid, where)

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
