"""The log of messages: a ring of records that cleans itself, and the queues through it.

Knows records, where they lie, and the list of them that an entry's FIRST and LAST begin and
end; does not know names of channels beyond their entries, capacities, nor who waits. The
caller holds the lock.

A record is written beyond TAIL, and the store of TAIL makes it exist. The store of 0 as its
STATE ends it. Space comes back at HEAD, which passes over dead and expired records. A live
one in its way, when room is needed, is moved: copied beyond TAIL under the same sequence
number, TAIL stored, the old one ended. Killed in between, two live records have one number,
and ``rebuild`` drops the later one in the log.

Where the next record goes (``make_room``): on at TAIL as long as there is reserved memory.
Round to the start of the ring, behind a WRAP tag, when no more memory can be had, or when
what is live has become so little (1/16) of what has been passed that going on would only
touch more memory: a quiet system stays in the first 64 KiB. In that mode, and whenever less
than 1/8 of the ring is free, each send passes over 16 times its own length at HEAD, so no
single one has to clean up for all. Above 7/8 live it is full.

Invariants:

1. From HEAD to TAIL, through WRAP tags, record follows record without a gap.
2. HEAD == TAIL only if nothing is live. TAIL never catches up with HEAD from behind.
3. No byte at or above RESERVED is touched, and one word below it is kept for a WRAP tag.
4. A record is handed out, moved or dropped only if its check holds, which binds it to its
   channel, and its STATE is sealed by that check. Any other is damage, which is found before
   anything is written.
"""
import zlib

from asgi_ipc._shm.words import M32, TWIN, Damage, single
from asgi_ipc.layout import (
    CHECK,
    CHECKED,
    COUNT,
    EXPIRES,
    FIRST,
    FLUSH,
    FLUSHING,
    HASH,
    HEAD,
    LAST,
    LENGTHS,
    LIMIT,
    LIVE,
    MOVED,
    MUTABLE,
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
    live_state,
)

WINDOW = 64 * 1024 // 8
"""Words within which a quiet log goes round."""

STEP = 256 * 1024 // 8
"""Words of memory that are reserved at a time."""

THRIFT = 16
"""The log goes round early when less than one part in so many of what it passed is live."""

PACE = 16
"""Words of old records that a send passes for each word it writes, while cleaning."""

SPARE = 8
"""One part in so many of the ring is kept free, to have room to move records into."""

SHIFT = 4096
"""Records among which room is looked for when one at HEAD does not fit beyond TAIL."""

SMALL = 4096
"""Bytes up to which joining a payload to its header costs less than writing it apart."""

SWEEP, LONG_SWEEP = 64, 512
"""Records that one sweep passes, in passing and when room is needed."""

_pack_checked = CHECKED.pack
_pack_mutable = MUTABLE.pack
_crc32 = zlib.crc32


class Log(object):
    """View of the ring, and of the queues of records that entries hold.

    :param reserve: called with (first byte, end byte); False if there is no memory.
    :param start: first word of the ring.
    :param end: the word behind it.
    :param entry_of: number in a record's tag -> entry in use, or 0.
    :param lapsed: called with (entry, [local names]) for a message to process-specific
        channels that expired unread.
    """

    def __init__(self, words, memory, reserve, start, end, entry_of, lapsed):
        self._words = words
        self._map = memory
        self._reserve = reserve
        self._entry_of = entry_of
        self._lapsed = lapsed
        self.start = start
        self.end = end

    @property
    def live(self):
        """Words in live records."""
        return single(self._words[LIVE])

    @property
    def reserved(self):
        """The end of that part of the ring that has memory behind it."""
        return single(self._words[RESERVED])

    # -- writing ---------------------------------------------------------------------

    def write(self, place, previous, number, seed, seq, now, expires, payload, names):
        """Write a record at ``place``; it does not exist until TAIL is stored.

        :param previous: the channel's last record, or 0.
        :param number: of the entry.
        :param seed: of the entry's checks.
        :returns: the words it takes.
        :raises Damage: ``previous`` is not a record of the channel, or not an earlier one.
        """
        size = len(payload) + len(names)
        need = RECORD_WORDS + (size + 7 >> 3)
        tag = TAG_MAGIC << 56 | number << 32 | need
        if previous:
            words = self._words
            if (words[previous] ^ tag) >> 32 or words[previous + SEQ] >= seq:
                raise Damage("a queue does not end in an earlier record of its channel")
        checked = _pack_checked(seq, now, expires, len(payload) << 32 | len(names))
        seed ^= need
        begin = place * 8
        if size <= SMALL:
            checked += payload + names
            check = _crc32(checked, seed) & M32
            self._map[begin : begin + 72 + size] = (
                _pack_mutable(tag, check << 32 | 1, 0, previous, check) + checked
            )
            return need
        check = _crc32(names, _crc32(payload, _crc32(checked, seed))) & M32
        body = begin + 72 + len(payload)
        self._map[begin : begin + 72] = (
            _pack_mutable(tag, check << 32 | 1, 0, previous, check) + checked
        )
        self._map[begin + 72 : body] = payload
        self._map[body : body + len(names)] = names
        return need

    def link(self, entry, record):
        """Append a record that exists to its entry's queue."""
        words = self._words
        last = words[entry + LAST]
        if last:
            words[last + NEXT] = record
        else:
            words[entry + FIRST] = record
        words[entry + LAST] = record
        words[entry + COUNT] += 1
        words[LIVE] += (words[record] & M32) * TWIN

    # -- reading ---------------------------------------------------------------------

    def read(self, record, seed):
        """Return (payload, names, offset of the first name to serve) of a live record.

        :raises Damage: its check does not hold, or it is not live.
        """
        words = self._words
        size = words[record] & M32
        lengths = words[record + LENGTHS]
        length, more = lengths >> 32, lengths & M32
        state = words[record + R_STATE]
        check = words[record + CHECK]
        offset = (state & M32) - 1
        if RECORD_WORDS + (length + more + 7 >> 3) != size or state >> 32 ^ check != offset:
            raise Damage("a queue leads to what is no live record")
        begin = (record + SEQ) * 8
        checked = self._map[begin : begin + 32 + length + more]
        if _crc32(checked, seed ^ size) & M32 != check:
            raise Damage("a record's check does not hold")
        if more:
            return checked[32 : 32 + length], checked[32 + length :], offset
        return checked[32:], b"", 0

    def serve(self, record, offset):
        """Move the cursor of a record on to the name at ``offset``: a commit."""
        words = self._words
        words[record + R_STATE] = live_state(words[record + CHECK], offset)

    def end_first(self, entry, record):
        """End the first record of an entry's queue: THE COMMIT, then unlink it."""
        words = self._words
        following = words[record + NEXT]
        count = words[entry + COUNT] - 1
        live = words[LIVE] - (words[record] & M32) * TWIN
        if count < 0 or live < 0 or (not following) != (not count):
            # Found before the commit, so that what is tried again is not done twice.
            raise Damage("a queue's count is wrong")
        words[record + R_STATE] = 0
        words[entry + FIRST] = following
        if not following:
            words[entry + LAST] = 0
        words[entry + COUNT] = count
        words[LIVE] = live
        if not live:
            words[HEAD] = words[TAIL]

    def drop_expired(self, entry, now):
        """End the records at the front of a queue whose time is up; True if there were any."""
        words = self._words
        dropped = False
        record = words[entry + FIRST]
        while record and words[record + EXPIRES] <= now:
            _, names, offset = self.read(record, words[entry + HASH] & M32)
            self.end_first(entry, record)
            if names:
                self._lapsed(entry, names[offset:].decode("ascii").split("\n"))
            dropped = True
            record = words[entry + FIRST]
        return dropped

    # -- space -----------------------------------------------------------------------

    def sweep(self, now, records=SWEEP):
        """Advance HEAD over dead and expired records, so many at most."""
        words = self._words
        head, tail, end = words[HEAD], words[TAIL], self.reserved
        while head != tail and records:
            records -= 1
            if head >= end:
                raise Damage("the log goes on beyond its memory")
            tag = words[head]
            if tag >= SKIP:
                head = self._hop(head, tag)
            elif not words[head + R_STATE]:
                head += self._size(tag)
            else:
                words[HEAD] = head
                if words[head + EXPIRES] > now or not self._expire(tag, head, now):
                    return
                tail = words[TAIL]
        words[HEAD] = head

    def make_room(self, need, now):
        """Return the place for a record of ``need`` words, or 0 if the log is full.

        Cost: amortised constant, see the module's head. A crash inside leaves at most one
        record twice, and ``rebuild`` drops one.
        """
        self._verify_ends()
        if self.live > self.reserved - self.start:
            raise Damage("more is live than there is memory")
        self.sweep(now, LONG_SWEEP)
        while self.live + need > (self.reserved - self.start) * (SPARE - 1) // SPARE:
            if not self._reserve_more(min(need, self.end - self.reserved)):
                return 0
        if self._cleaning_due(need):
            self._clean(need * PACE + WINDOW // 64, now)
        place = self._place(need)
        left = 2 * (self.reserved - self.start)
        while not place and left > 0:
            passed = self._clean(need * PACE, now)
            if not passed:
                return 0
            left -= passed
            place = self._place(need)
        return place

    def _place(self, need):
        """Where ``need`` words fit now, or 0. Sets LIMIT for those that follow."""
        words = self._words
        head, tail, start = words[HEAD], words[TAIL], self.start
        # Half of the margin is for records that are moved: without it, one live record at
        # HEAD that finds no room would keep the log full when all behind it is dead.
        kept = self._margin() // 2
        if tail < head:
            words[LIMIT] = max(head - self._margin(), tail)
            return tail if tail + need + kept < head else 0
        if start + need + kept < head and (self._thrifty(tail) or not self._extend(tail + need)):
            words[tail] = WRAP
            words[LIMIT] = max(head - self._margin(), start)
            return start
        if self._thrifty(tail):
            words[LIMIT] = 0
        else:
            small = start + max(WINDOW, self.live * THRIFT)
            words[LIMIT] = min(small, max(self.reserved - self._margin(), tail))
        if not self._extend(tail + need):
            left = self.reserved - tail - need
            if left <= 0 or max(left, head - start) <= kept:
                return 0
        return tail

    def _margin(self):
        return (self.reserved - self.start) // SPARE

    def _thrifty(self, tail):
        """Whether going round is better than going on, memory or not."""
        passed = tail - self.start
        return passed > WINDOW and self.live * THRIFT < passed

    def _extend(self, end):
        """Have memory up to ``end`` and a margin beyond; False if there is no more."""
        wanted = end + 1 + self._margin()
        lacking = wanted - self.reserved
        return lacking <= 0 or self._reserve_more(lacking)

    def _reserve_more(self, least):
        """Reserve ``least`` words more, better a step; False if the ring or the memory ends."""
        reserved = self.reserved
        left = self.end - reserved
        for count in (min(max(least, STEP), left), least):
            if 0 < least <= count <= left and self._reserve(reserved * 8, (reserved + count) * 8):
                self._words[RESERVED] = (reserved + count) * TWIN
                return True
        return False

    def _clean(self, budget, now):
        """Pass ``budget`` words at HEAD, moving what is live; return how many it passed."""
        words = self._words
        left = budget
        while left > 0 and words[HEAD] != words[TAIL]:
            head = words[HEAD]
            if head >= self.reserved:
                raise Damage("the log goes on beyond its memory")
            tag = words[head]
            if tag >= SKIP:
                words[HEAD] = self._hop(head, tag)
                left -= 1
                continue
            size = self._size(tag)
            if words[head + R_STATE]:
                expired = words[head + EXPIRES] <= now and self._expire(tag, head, now)
                if not (expired or self._move(tag, head, size) or self._shift(tag, head, size)):
                    break
            left -= size
            if words[HEAD] == head:
                words[HEAD] = head + size
        return budget - left

    def _cleaning_due(self, need):
        words = self._words
        head, tail = words[HEAD], words[TAIL]
        if tail < head:
            return tail + need + self._margin() >= head
        return self._thrifty(tail) or tail + need + self._margin() >= self.end - 1

    def _move(self, tag, record, size):
        """Copy a live record beyond TAIL and end the one here; False if there is no room."""
        words = self._words
        head, tail = words[HEAD], words[TAIL]
        target = tail
        if tail < head:
            if tail + size >= head:
                return False
        elif tail + size >= self.reserved and not self._extend(tail + size):
            if tail + size >= self.reserved:
                if self.start + size >= head:
                    return False
                words[tail] = WRAP
                target = self.start
        entry = self._owner(tag, record)
        self._map[target * 8 : (target + size) * 8] = self._map[record * 8 : (record + size) * 8]
        words[TAIL] = target + size
        words[record + R_STATE] = 0
        self._relink(entry, record, target)
        words[LIMIT] = 0
        words[MOVED] += 1
        return True

    def _shift(self, tag, record, size):
        """Copy a live record at HEAD over dead ones not far behind it, and end the one here.

        For a big one that finds no room beyond TAIL. The dead ones are made one SKIP before
        anything else is written there; the store of the copy's TAG makes it exist, and from
        then on a crash is that of ``_move``. False if there is no place for it.
        """
        words = self._words
        entry = self._owner(tag, record)
        target, room = self._dead_run(record + size, size)
        if not room:
            return False
        words[target] = SKIP | room
        if room > size:
            words[target + size] = SKIP | (room - size)
        self._map[(target + 1) * 8 : (target + size) * 8] = self._map[
            (record + 1) * 8 : (record + size) * 8
        ]
        words[target] = tag
        words[record + R_STATE] = 0
        self._relink(entry, record, target)
        words[MOVED] += 1
        return True

    def _dead_run(self, place, size):
        """The first dead records from ``place`` on that are ``size`` words together.

        :returns: (where they begin, words), or (0, 0) if ``SHIFT`` records have none.
        """
        words = self._words
        begin, tail, end = place, words[TAIL], self.reserved
        for _ in range(SHIFT):
            if place == tail:
                break
            if place >= end:
                raise Damage("the log goes on beyond its memory")
            tag = words[place]
            if tag == WRAP:
                begin = place = self.start
                continue
            live = tag < SKIP and words[place + R_STATE]
            place = self._hop(place, tag) if tag >= SKIP else place + self._size(tag)
            if live:
                begin = place
            elif place - begin >= size:
                return begin, place - begin
        return 0, 0

    def _relink(self, entry, record, target):
        words = self._words
        first = words[entry + FIRST] == record
        before, following = words[record + PREV], words[record + NEXT]
        # A wrong link would have something else overwritten.
        if not first and words[before + NEXT] != record:
            raise Damage("a queue's links do not agree")
        if words[following + PREV] != record if following else words[entry + LAST] != record:
            raise Damage("a queue's links do not agree")
        if first:
            words[entry + FIRST] = target
        else:
            words[before + NEXT] = target
        if following:
            words[following + PREV] = target
        else:
            words[entry + LAST] = target

    def _expire(self, tag, record, now):
        """Drop what has expired in the queue of a record; True if that ended the record."""
        self.drop_expired(self._owner(tag, record), now)
        return not self._words[record + R_STATE]

    def _owner(self, tag, record):
        """The entry of what has to be a live record."""
        entry = self._entry_of((tag >> 32) & 0xFFFFFF)
        if not entry or not self.alive(record, self._words[entry + HASH] & M32):
            raise Damage("the log holds what is no live record")
        return entry

    def _hop(self, place, tag):
        """Where the log goes on behind a tag that is no record's."""
        if tag == WRAP:
            return self.start
        if tag >> 32 != SKIP >> 32 or not tag & M32:
            raise Damage("the log holds what is no record")
        if place + (tag & M32) > self.reserved:
            raise Damage("a gap reaches beyond the log")
        return place + (tag & M32)

    def _verify_ends(self):
        """HEAD, TAIL and RESERVED have to be within the ring."""
        words, start, reserved = self._words, self.start, self.reserved
        if not start <= reserved <= self.end:
            raise Damage("the end of the log's memory is out of range")
        if not (start <= words[HEAD] <= reserved and start <= words[TAIL] <= reserved):
            raise Damage("the log's ends are out of range")

    @staticmethod
    def _size(tag):
        size = tag & M32
        if tag >> 56 != TAG_MAGIC or size < RECORD_WORDS:
            raise Damage("the log holds what is no record")
        return size

    # -- the whole -------------------------------------------------------------------

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

        Where ``walk`` stops, the next place is looked for that holds a whole record.
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
        """Whether a whole record, live or dead, lies at ``place``, its check included."""
        words = self._words
        tag = words[place]
        size = tag & M32
        if tag >> 56 != TAG_MAGIC or size < RECORD_WORDS or place + size > end:
            return False
        entry = self._entry_of((tag >> 32) & 0xFFFFFF)
        return bool(entry) and self.intact(place, words[entry + HASH] & M32)

    def intact(self, place, seed):
        """Whether the lengths and the check of the record at ``place`` hold."""
        words = self._words
        size = words[place] & M32
        lengths = words[place + LENGTHS]
        length = (lengths >> 32) + (lengths & M32)
        if RECORD_WORDS + (length + 7 >> 3) != size:
            return False
        begin = (place + SEQ) * 8
        checked = self._map[begin : begin + 32 + length]
        return _crc32(checked, seed ^ size) & M32 == words[place + CHECK]

    def alive(self, place, seed):
        """Whether the record at ``place`` is intact, and its STATE that of a live one."""
        words = self._words
        state = words[place + R_STATE]
        return state >> 32 ^ words[place + CHECK] == (state & M32) - 1 and self.intact(place, seed)

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
            elif entry and self.alive(place, words[entry + HASH] & M32):
                live.append((entry, words[place + SEQ], place))
                highest = max(highest, words[place + SEQ])
            else:
                words[place + R_STATE] = 0
                dropped += 1
        if damaged:
            self._repack(records)
        words[LIVE] = words[LIMIT] = 0
        self._string(sorted(live))
        if not words[LIVE]:
            words[HEAD] = words[TAIL]
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
        if not (self.start <= head <= end and self.start <= tail <= end):
            # Nothing else is known: the log is what could be read, in one piece.
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
        """Link the live records, given in order of entry and sequence number."""
        words = self._words
        entry = seq = last = 0
        for owner, number, place in live:
            if owner == entry and number == seq and words[place + CHECK] == words[last + CHECK]:
                # Killed between the copy and the end of the old one, when it was moved.
                words[place + R_STATE] = 0
                continue
            previous = last if owner == entry else 0
            words[place + NEXT] = 0
            words[place + PREV] = previous
            self.link(owner, place)
            entry, seq, last = owner, number, place
