"""What both stores are: a segment whose contents are worked on under its lock.

Knows the lock's protocol, rebuilds and damage; does not know what is stored. A store says in
``_rebuild`` how all that is derived in its segment is derived anew.

Every operation is: get the lock; if the last holder did not leave properly, rebuild; do it;
release. What goes wrong inside (an exception of a signal handler, damage) leaves a rebuild to
whoever comes next. After damage that is this very caller, who tries once more; damage that the
rebuild did not mend is a ``SegmentError``.

Nothing is logged before the lock is free: a handler may take its time, or use the layer. What is to
be logged is put into ``_trouble``, with its level.
"""
import logging
import struct
from collections import deque

from six.moves import range

from asgi_ipc._shm.holders import CLOSED
from asgi_ipc._shm.opening import prefix_of
from asgi_ipc._shm.words import DAMAGE
from asgi_ipc.errors import LayerClosed, SegmentError

PIECE = 64
"""Slots that are copied under one hold of the lock."""

HEADER_WORDS = 64
"""Words with which every header's numbers end."""

RECOVERED = (
    "a process died or was interrupted while it held the lock; what it was doing is wholly done or "
    "not done at all, and nothing is lost"
)
"""What is logged after such a rebuild."""

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

    def memory_used(self):
        """Bytes of real memory that the segment holds. Takes no lock."""
        return self._segment.memory_used()

    def header(self):
        """The words of the header's beginning, as they are at one moment. Cost: 3 us."""
        (words,) = split(self._run(self._copy, 0, HEADER_WORDS), HEADER_WORDS)
        return words

    def rows(self, slots, first):
        """Copy some slots of a table, for one who looks at all of it.

        Cost: the lock is held for 3 us, whatever is stored: it is read in pieces, and put together
        outside of it. So what is found was true at some moment of the time that it took.

        :param slots: the table.
        :param first: number of the first slot.
        :returns: (tuple of the words of each slot, number to go on with or None).
        """
        raw, following = self._run(self._copy_slots, slots, first)
        return split(raw, slots.width), following

    def _copy_slots(self, slots, first):
        high = slots.high
        last = min(first + PIECE, high)
        begin, end = slots.start + first * slots.width, slots.start + last * slots.width
        return self._copy(begin, end), last if last < high else None

    def _copy(self, begin, end):
        """The bytes of the words from ``begin`` to ``end``."""
        return self._segment.map[begin * 8 : end * 8]

    def _rebuild(self):
        raise NotImplementedError

    def _recover(self):
        """The last holder did not leave properly: rebuild, and have that told."""
        self._rebuild()
        if not self._trouble:
            # What is in there, damage that the last holder met, tells more.
            self._trouble.append((logging.INFO, RECOVERED))

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
                    self._recover()
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
                level, text = self._trouble.popleft()
            except IndexError:
                return
            logger.log(level, "%s: %s", self._segment.name, text)

    def _mend(self, error, again):
        """Whether to try once more: ``error`` is damage, and this was the first try.

        :raises SegmentError: it was the second.
        :raises LayerClosed: another thread has closed it, and its words are gone.
        """
        if isinstance(error, (TypeError, ValueError)) and not self._lock.guarded:
            raise LayerClosed(CLOSED)
        if not isinstance(error, DAMAGE) or self._segment.words is None:
            return False
        if again:
            name = self._segment.name
            raise SegmentError(
                "{0} is damaged beyond what can be rebuilt ({1!r}). Stop the processes that use "
                "it, and remove it with `asgi-ipc rm {2}`.".format(name, error, prefix_of(name))
            )
        self._tell_of_damage(error)
        return True

    def _tell_of_damage(self, what):
        self._trouble.append(
            (logging.ERROR, "it was damaged ({0}), and has been rebuilt".format(what))
        )


def split(raw, width):
    """Bytes as tuples of ``width`` words."""
    words = struct.unpack("={0}Q".format(len(raw) // 8), raw)
    return [words[at : at + width] for at in range(0, len(words), width)]
