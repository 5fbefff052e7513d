"""The message segment and its parts, put together: opened, looked after, rebuilt.

Knows which parts there are, where each lies, and in which order they are derived anew; does not
know what is done with them (``sending``, ``waiting``, ``messages``).
"""
import functools
import logging
import warnings
from collections import deque

from asgi_ipc import crossing
from asgi_ipc._shm.segment import EPOCH, LOOK, PAGE, Segment
from asgi_ipc._shm.slots import Slots
from asgi_ipc._shm.words import LARGEST_COUNT
from asgi_ipc.directory import Directory
from asgi_ipc.guarded import Guarded
from asgi_ipc.layout import (
    BELL_WORDS,
    BELLS,
    BRIDGE_COUNTERS,
    COUNTERS,
    DAMAGED,
    ENTRIES,
    ENTRY_WORDS,
    HEADER_RATES,
    KIND,
    LAYOUT_VERSION,
    MOVED,
    NODE,
    NODE_WORDS,
    NODES,
    SEQUENCE,
    Geometry,
    fixed_bytes,
    lay_header,
)
from asgi_ipc.log import Log
from asgi_ipc.waiters import Waiters

_COUNTERS = (
    tuple(range(HEADER_RATES, HEADER_RATES + 8))
    + (DAMAGED, MOVED)
    + tuple(range(BRIDGE_COUNTERS, BRIDGE_COUNTERS + len(COUNTERS)))
)


def segment_name(prefix):
    """The name of the message segment of a prefix."""
    return "/{0}-messages".format(prefix)


class MessageSegment(Guarded):
    """One attached message segment.

    For its parameters see ``messages.MessageStore``. ``lapsed`` collects the names of
    process-specific channels for which a message expired unread. ``succeed`` may be set to what
    returns the store that takes the place of this one, if its segment is removed (``gone``).
    """

    def __init__(self, prefix, size, mode, lock_timeout, clock, node=0):
        self.name = segment_name(prefix)
        self.lapsed = deque()
        self.mode = mode
        self._clock = clock
        self.succeed = None
        self.gone = False
        self._next_look = 0
        self._to_ring = deque()
        segment = Segment(
            self.name,
            KIND,
            LAYOUT_VERSION,
            size,
            fixed_bytes,
            functools.partial(lay_header, node=node),
            mode,
            lock_timeout,
        )
        Guarded.__init__(self, segment)
        self.size = segment.size
        self.node = segment.words[NODE]
        try:
            self._tell_of_size(size)
        except BaseException:
            # A warning that is made an error.
            segment.close()
            raise
        self._open_parts(segment)

    def _tell_of_size(self, asked):
        if not self._segment.created and abs(self.size - asked) >= PAGE:
            warnings.warn(
                "the segment {0} exists with {1} bytes; message_memory={2} takes no effect until "
                "it is removed (asgi-ipc rm)".format(self.name, self.size, asked),
                RuntimeWarning,
                stacklevel=9,
            )

    def _open_parts(self, segment):
        words = self._words = segment.words
        geometry = Geometry(segment.size)

        def slots(name, control, place, width):
            return Slots(name, words, control, place[0], place[1], width, segment.reserve, 64)

        self._directory = directory = Directory(
            segment, slots("entries", ENTRIES, geometry.entries, ENTRY_WORDS), geometry
        )
        self._map = segment.map
        self._hints = directory.hints
        self._log = Log(
            words,
            segment.map,
            segment.reserve,
            segment.give_back,
            geometry.log,
            geometry.log_end,
            directory.entry_of,
            self._lapse,
        )
        self._waiters = Waiters(
            words,
            slots("bells", BELLS, geometry.bells, BELL_WORDS),
            slots("nodes", NODES, geometry.nodes, NODE_WORDS),
        )

    def _lapse(self, entry, locals_):
        queue = self._directory.name_of(entry)
        if queue == crossing.OUTBOX:
            crossing.count(self._words, "expired")
            return
        self.lapsed.extend(queue + local for local in locals_)

    def _look(self, now):
        """Look whether the segment is still that of the name; the store to go on with, if not."""
        gone = self.replaced()
        self._next_look = now + LOOK
        if not gone or self.succeed is None:
            return None
        self.gone = True
        successor = self.succeed()
        return None if successor is self else successor

    def _rebuild(self):
        """Derive everything from the records: the last holder did not leave properly."""
        words = self._words
        words[EPOCH] = words[EPOCH] + 1 & LARGEST_COUNT - 1
        for word in _COUNTERS:
            if words[word] > LARGEST_COUNT:
                words[word] = 0
        self._directory.rebuild()
        self._waiters.rebuild()
        highest, dropped = self._log.rebuild()
        words[SEQUENCE] = max(words[SEQUENCE], highest)
        crossing.resolve(words, self._directory, self._log)
        if dropped:
            self._count_damaged(dropped)
        for bell, number in self._waiters.all_bells():
            # Their nodes are gone; let them hang themselves up again at once.
            self._to_ring.append((0, bell, number))

    def _count_damaged(self, dropped):
        self._words[DAMAGED] += dropped
        self._trouble.append(
            (logging.ERROR, "{0} records were damaged and have been dropped".format(dropped))
        )

    def _nothing(self):
        """Get in and out: what there is to rebuild gets rebuilt."""
