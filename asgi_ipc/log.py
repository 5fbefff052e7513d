"""The log of messages as a whole: read from end to end, and rebuilt.

Knows how to find all records that can still be read, whatever happened, and how queues, counts
and ends follow from them. ``ring`` says where records lie, ``records`` what they are. The caller
holds the lock.
"""
from asgi_ipc._shm.words import M32, TWIN, Damage
from asgi_ipc.layout import (
    DEAD,
    FLUSH,
    FLUSHING,
    HASH,
    HEAD,
    LIMIT,
    NEXT,
    PREV,
    R_STATE,
    RECORD_WORDS,
    RESERVED,
    SEQ,
    SKIP,
    TAG_MAGIC,
    TAIL,
    WRAP,
    seed,
)
from asgi_ipc.ring import Ring


class Log(Ring):
    """The ring as a whole; for its parameters see ``Ring`` and ``Records``."""

    def walk(self):
        """Yield the records from HEAD to TAIL, dead ones included.

        :raises Damage: at the first place that holds no record.
        """
        words = self._words
        self._verify_ends()
        place, tail = words[HEAD], words[TAIL]
        end, left = self.reserved, self.end - self.start
        while place != tail:
            if words[place] >= SKIP:
                place = self._hop(place, words[place])
                left -= 1
                continue
            size = self._size(words[place])
            left -= size
            if left < 0 or place + size > end:
                raise Damage("a record reaches beyond the log")
            yield place
            place += size

    def salvage(self):
        """Return the records that can still be read between HEAD and TAIL, as ``walk`` would.

        Where ``walk`` cannot go on, it is looked everywhere for live ones, word by word. (What
        makes one dead takes its check sum with it; what only looks like one may be in a message.)
        Cost: with damage, every word of the log; else every record.
        """
        try:
            return list(self.walk()), False
        except Damage:
            pass
        words = self._words
        head, tail, end = words[HEAD], words[TAIL], self.reserved
        if not (self.start <= head <= end and self.start <= tail <= end):
            head, tail = self.start, end
        pieces = [(head, tail)] if head <= tail else [(head, end), (self.start, tail)]
        found = []
        for piece_start, piece_end in pieces:
            place = piece_start
            while place < piece_end:
                if self.sound(place, piece_end):
                    found.append(place)
                    place += words[place] & M32
                else:
                    place += 1
        return found, True

    def sound(self, place, end):
        """Whether a live record lies at ``place``, its check included."""
        words = self._words
        tag = words[place]
        size = tag & M32
        if tag >> 56 != TAG_MAGIC or size < RECORD_WORDS or place + size > end:
            return False
        entry = self._entry_of((tag >> 32) & 0xFFFFFF)
        return bool(entry) and self.alive(place, seed(words[entry + HASH]))

    def flush(self):
        """End all records: THE COMMIT. The rebuild has to follow."""
        self._words[FLUSHING] = FLUSH

    def rebuild(self):
        """Derive all queues from the records; entries' queues are empty before.

        :returns: (highest sequence number met, records dropped for damage).
        """
        words = self._words
        self._repair_reserved()
        records, damaged = self.salvage()
        flushed = words[FLUSHING] == FLUSH
        highest = dropped = 0
        live = []
        for place in records:
            if not words[place + R_STATE]:
                continue
            entry = self._entry_of((words[place] >> 32) & 0xFFFFFF)
            if flushed:
                words[place + R_STATE] = 0
            elif entry and self.alive(place, seed(words[entry + HASH])):
                live.append((entry, words[place + SEQ], place))
                highest = max(highest, words[place + SEQ])
            else:
                words[place + R_STATE] = 0
                dropped += 1
        if damaged:
            self._repack(records)
        words[LIMIT] = 0
        size = self._string(sorted(live))
        if not size:
            words[HEAD] = words[TAIL]
            if words[TAIL] >= self.end:
                # With a LIMIT that was written over, the last one went up to the very end: there
                # is no word left that would lead round.
                words[HEAD] = self.start
                words[TAIL] = self.start
        words[DEAD] = (self.span(words[HEAD], words[TAIL]) - size) * TWIN
        words[FLUSHING] = 0
        return highest, dropped + damaged

    def _repair_reserved(self):
        """Have RESERVED be true again, if something wrote over it."""
        words = self._words
        halves = sorted((words[RESERVED] & M32, words[RESERVED] >> 32))
        if halves[0] == halves[1] and self.start <= halves[0] <= self.end:
            return
        ends = max(words[HEAD], words[TAIL])
        halves = [half for half in halves if self.start <= half <= self.end]
        # One of them is what it was. Better too low, if all of the log is below it.
        for half in [half for half in halves if half > ends] + halves[::-1] + [self.start]:
            if self._reserve(self.start * 8, half * 8):
                words[RESERVED] = half * TWIN
                return

    def _repack(self, records):
        """After damage: skip what lies between the records that are left."""
        words = self._words
        head, tail, end = words[HEAD], words[TAIL], self.reserved
        if not (self.start <= head <= end and self.start <= tail < end):
            # Nothing else is known: the log is what could be read, in one piece. (A word below
            # the end is kept free, so TAIL is never there, once there was a record.)
            head = words[HEAD] = self.start
            tail = max([self.start] + [place + (words[place] & M32) for place in records])
            words[TAIL] = tail
        behind = head
        for record in records + [tail]:
            if record < behind:
                # The log goes round here; one word is kept free below the end.
                words[behind] = WRAP
                behind = self.start
            if record > behind:
                words[behind] = SKIP | (record - behind)
            if record != tail:
                behind = record + (words[record] & M32)

    def _string(self, live):
        """Link the live records, given in order of entry and sequence number.

        :returns: the words in them.
        """
        words = self._words
        entry = seq = last = size = 0
        for owner, number, place in live:
            if owner == entry and number == seq and (
                words[place + R_STATE] == words[last + R_STATE]
            ):
                # Killed between the copy and the end of the old one, when it was moved.
                words[place + R_STATE] = 0
                continue
            previous = last if owner == entry else 0
            words[place + NEXT] = 0
            words[place + PREV] = previous
            self.link(owner, place)
            entry, seq, last = owner, number, place
            size += words[place] & M32
        return size
