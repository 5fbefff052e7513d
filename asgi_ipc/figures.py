"""Looking at a message segment: its figures, its tables piece by piece, messages that stay.

Knows the tables and records of the segment; does not know what is made of them (``census``,
``overview``). The part of ``messages.MessageStore`` that changes nothing but rate windows, and
drops what has expired where it comes by.
"""
from collections import namedtuple

from six.moves import range

from asgi_ipc import statistics
from asgi_ipc._shm.words import M32, Damage
from asgi_ipc.guarded import split
from asgi_ipc.layout import (
    CHECKED,
    CHECKED_BYTES,
    COUNT,
    DEAD,
    ENTRY_WORDS,
    EXPIRES,
    FIRST,
    HEAD,
    HEADER_RATES,
    LENGTHS,
    NEXT,
    R_STATE,
    RATES,
    SENT_AT,
    SEQ,
    SEQ_TWIN,
    TAIL,
    offset_of,
)
from asgi_ipc.parts import MessageSegment
from asgi_ipc.records import NO_RECORD, check_holds, stored_by

Peeked = namedtuple("Peeked", "place seq sent_at expires payload locals intact")
"""A message that was looked at. ``place`` and ``seq`` say where to go on. ``locals``: for whom it
is, of a process-specific channel. Not ``intact``: its check does not hold, and whoever receives
it next will have it dropped."""

START = Peeked(0, 0, 0, 0, b"", (), True)
"""What comes before the first one."""


class Figures(MessageSegment):
    """The looking side of a message store."""

    @property
    def entries(self):
        """The table of channels."""
        return self._directory.slots

    @property
    def bells(self):
        """The table of receivers."""
        return self._waiters.bells

    def now(self):
        """Nanoseconds of the store's clock."""
        return self._clock()

    def entries_from(self, first):
        """Copy some channels: ([(words, when the first message was sent)], where to go on)."""
        (raw, following), sent = self._run(self._entries, first)
        return list(zip(split(raw, ENTRY_WORDS), sent)), following

    def bells_from(self, first):
        """Copy some receivers: ([words], where to go on)."""
        return self.rows(self.bells, first)

    def nodes_from(self, first):
        """Copy some of what hangs receivers at channels: ([words], where to go on)."""
        return self.rows(self._waiters.nodes, first)

    def peek(self, queue, after=START):
        """Copy the first message of a queue, or the one after another, and leave it there.

        Cost: the lock for 3 us, and for the time that it takes to copy the message.

        :param after: the one that was looked at before.
        :returns: ``Peeked``, or None if there is no more.
        """
        found = self._run(self._peek, queue, after.place, after.seq)
        return found and _unpacked(*found)

    def global_statistics(self):
        """Figures of the whole segment, see ``statistics``. Cost: the channels, in pieces."""
        pending, oldest, first = 0, 0, 0
        while first is not None:
            first, found, age = self._run(self._piece, first)
            pending += found
            oldest = min(oldest or age, age or oldest)
        return self._run(
            statistics.figures, self._words, HEADER_RATES, pending, oldest, self._clock()
        )

    def channel_statistics(self, queue):
        """Figures of one queue, see ``statistics``."""
        return self._run(self._channel_statistics, queue)

    def memory(self):
        """Bytes: of the segment, of it in real memory, in messages that wait."""
        return {
            "size": self.size,
            "real": self._segment.memory_used(),
            "messages": self.stored(self.header()),
        }

    def stored(self, words):
        """Bytes in messages that wait.

        :param words: those of the header, or a copy of them. About, if others change them.
        """
        span = self._log.span(words[HEAD], words[TAIL])
        return max(span - (words[DEAD] & M32), 0) * 8

    def _piece(self, first):
        return statistics.piece(self._words, self._directory.slots, first)

    def _channel_statistics(self, queue):
        words, now = self._words, self._clock()
        hint = self._directory.find(queue)
        if hint is None:
            return statistics.nothing()
        entry = hint[0]
        self._log.drop_expired(entry, now)
        record = words[entry + FIRST]
        oldest = words[record + SENT_AT] if record else 0
        return statistics.figures(words, entry + RATES, words[entry + COUNT], oldest, now)

    def _entries(self, first):
        words, slots = self._words, self.entries
        found = self._copy_slots(slots, first)
        start = slots.start + first * ENTRY_WORDS
        records = [
            words[entry + FIRST]
            for entry in range(start, start + len(found[0]) // 8, ENTRY_WORDS)
        ]
        return found, [words[record + SENT_AT] if record else 0 for record in records]

    def _peek(self, queue, place, seq):
        words = self._words
        hint = self._directory.find(queue)
        if hint is None:
            return None
        entry, now = hint[0], self._clock()
        owner = hint[3] >> 32
        if place and words[place + R_STATE] and words[place + SEQ] == seq and (
            words[place] >> 32 == owner
        ):
            record = words[place + NEXT]
        else:
            # It was taken, or moved; what was before it has gone already.
            record = words[entry + FIRST]
        for _ in range(words[entry + COUNT]):
            if not record or (words[record + SEQ] > seq and words[record + EXPIRES] > now):
                break
            record = words[record + NEXT]
        if not record:
            return None
        if words[record] >> 32 != owner:
            raise Damage(NO_RECORD)
        size, lengths = words[record] & M32, words[record + LENGTHS]
        begin = (record + SENT_AT) * 8
        end = begin + CHECKED_BYTES + stored_by(size, (lengths >> 32) + (lengths & M32))
        numbers = [words[record + word] for word in (SEQ, SEQ_TWIN, R_STATE)]
        return record, numbers, hint[2], self._map[begin:end]


def _unpacked(place, numbers, start, raw):
    """What was copied, taken apart and verified."""
    seq, twin, state = numbers
    sent_at, expires, lengths = CHECKED.unpack_from(raw)
    length, more = lengths >> 32, lengths & M32
    end = CHECKED_BYTES + length
    names = raw[end : end + more]
    served = offset_of(state)
    locals_ = names[served:].decode("ascii", "replace").split(u"\n") if names else []
    intact = seq == twin and check_holds(state, raw, length + more, start)
    return Peeked(place, seq, sent_at, expires, raw[CHECKED_BYTES:end], locals_, intact)
