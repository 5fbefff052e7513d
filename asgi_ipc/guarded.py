"""What both stores are: a segment whose contents are worked on under its lock.

Knows the lock's protocol, rebuilds and damage; does not know what is stored. A store says in
``_rebuild`` how all that is derived in its segment is derived anew.

Every operation is: get the lock; if the last holder did not leave properly, rebuild; do it;
release. What goes wrong inside (an exception of a signal handler, damage) leaves the busy word
set, and so a rebuild to whoever comes next. After damage that is this very caller, who tries
once more; damage that the rebuild did not mend is a ``SegmentError``.

Nothing is logged before the lock is free: a handler may take its time, or use the layer.
"""
import logging
from collections import deque

from asgi_ipc._shm.opening import prefix_of
from asgi_ipc._shm.words import DAMAGE
from asgi_ipc.errors import SegmentError

logger = logging.getLogger("asgi_ipc")


class Guarded(object):
    """A store over one attached segment."""

    def __init__(self, segment):
        self._segment = segment
        self._lock = segment.lock
        self._trouble = deque()

    def replaced(self):
        """Whether others use another segment by now: ours was removed, or made anew.

        Cost: 1 us.

        :raises SegmentError: another program cut it short, and touching it would end this
            process.
        """
        return self._segment.replaced()

    def _rebuild(self):
        raise NotImplementedError

    def _run(self, work, *arguments):
        """Do ``work`` in a critical section of its own, and what is to be done after it."""
        result = self._locked(work, *arguments)
        self._afterwards()
        return result

    def _locked(self, work, *arguments):
        lock = self._lock
        again = False
        while True:
            try:
                if lock.acquire():
                    self._rebuild()
                result = work(*arguments)
                lock.release()
                return result
            except BaseException as error:
                lock.abandon()
                if not self._mend(error, again):
                    raise
                again = True

    def _afterwards(self):
        """Do what waits for the lock to be free: tell what was found."""
        while self._trouble:
            try:
                logger.error("%s: %s", self._segment.name, self._trouble.popleft())
            except IndexError:
                return

    def _mend(self, error, again):
        """Whether to try once more: ``error`` is damage, and this was the first try.

        :raises SegmentError: it was the second.
        """
        if not isinstance(error, DAMAGE) or self._segment.words is None:
            return False
        if again:
            name = self._segment.name
            raise SegmentError(
                "{0} is damaged beyond what can be rebuilt ({1!r}). Stop the processes that use "
                "it, and remove it with `asgi-ipc rm {2}`.".format(name, error, prefix_of(name))
            )
        self._trouble.append("it was damaged ({0}), and has been rebuilt".format(error))
        return True
