"""Where records lie: a ring that cleans itself.

Knows places, what is before HEAD and beyond TAIL, and how space comes back; of a record it knows
its length, whether it is live, and how to move it. The caller holds the lock.

A record is written beyond TAIL, and the store of TAIL makes it exist. Space comes back at HEAD,
which passes over dead and expired records. A live one in its way, when room is needed, is
moved: copied beyond TAIL under the same sequence number, TAIL stored, the old one ended. Killed
in between, two live records have one number and one check, and a rebuild drops one.

Where the next record goes (``make_room``): on at TAIL as long as there is reserved memory.
Round to the start of the ring, behind a WRAP tag, when no more memory can be had, or when
what is live has become so little (1/16) of what has been passed that going on would only
touch more memory: a quiet system stays in the first 64 KiB. Where HEAD is in the way of that,
and where TAIL comes near to HEAD (``_margin``), each send that asks passes over 16 times its own
length at HEAD, so no single one has to clean up for all. Above 7/8 live it is full.

Invariants:

1. From HEAD to TAIL, through WRAP tags, record follows record without a gap. DEAD counts the
   words in between that are in no live one, from a WRAP tag to the end of the ring included.
2. HEAD == TAIL only if nothing is live. TAIL never catches up with HEAD from behind.
3. No byte at or above RESERVED is touched, and one word below it is kept for a WRAP tag.
"""
from asgi_ipc._shm.words import M32, TWIN, Damage, single
from asgi_ipc.layout import (
    DEAD,
    EXPIRES,
    FIRST,
    HEAD,
    LAST,
    LIMIT,
    MOVED,
    NEXT,
    PREV,
    R_STATE,
    RECORD_WORDS,
    RESERVED,
    SKIP,
    TAG_MAGIC,
    TAIL,
    WRAP,
)
from asgi_ipc.records import Records

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

ROOMY = 4
"""One part in so many of the ring may be used with long records that hold their body twice."""

SHIFT = 4096
"""Records among which room is looked for when one at HEAD does not fit beyond TAIL."""

SWEEP, LONG_SWEEP = 128, 512
"""Records that one sweep passes, in passing and when room is needed."""


class Ring(Records):
    """View of the ring.

    :param reserve: called with (first byte, end byte); False if there is no memory.
    :param give_back: called with (first byte, end byte) of memory that is not needed.
    :param start: first word of the ring.
    :param end: the word behind it.
    """

    def __init__(self, words, memory, reserve, give_back, start, end, entry_of, lapsed):
        Records.__init__(self, words, memory, entry_of, lapsed)
        self._reserve = reserve
        self._give_back = give_back
        self.start = start
        self.end = end

    @property
    def live(self):
        """Words in live records: all in between that are not dead.

        To count these takes less than to count the live ones. Who takes the record at HEAD, as
        one does who is the only one to receive, moves HEAD on, and has nothing to count.

        :raises Damage: there would be less than none.
        """
        words = self._words
        live = self.span(words[HEAD], words[TAIL]) - single(words[DEAD])
        if live < 0:
            raise Damage("more is dead than there is")
        return live

    @property
    def reserved(self):
        """The end of that part of the ring that has memory behind it."""
        return single(self._words[RESERVED])

    def span(self, begin, end):
        """Words from one place to another, round the end of the ring where that comes between."""
        if end >= begin:
            return end - begin
        return self.end - begin + end - self.start

    def roomy(self, need):
        """Whether the ring would be mostly empty with so many words more."""
        return self.live + need <= (self.end - self.start) // ROOMY

    def sweep(self, now, records=SWEEP):
        """Advance HEAD over dead and expired records, so many at most."""
        words = self._words
        begin = head = words[HEAD]
        tail, end = words[TAIL], self.reserved
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
                self._pass(begin, head)
                if words[head + EXPIRES] > now or not self._expire(tag, head, now):
                    return
                begin = head = words[HEAD]
        self._pass(begin, head)

    def _pass(self, begin, head):
        """Move HEAD on from ``begin`` over what is dead."""
        words = self._words
        if head != begin:
            words[DEAD] -= self.span(begin, head) * TWIN
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

    def trim(self, now):
        """Give memory back that nothing lies in; True if there was any to speak of.

        Cost: that of ``make_room``, and of the system. A crash inside leaves the memory with
        the segment, which will find that it has it already.
        """
        words = self._words
        self._verify_ends()
        self.sweep(now, LONG_SWEEP)
        tail = words[TAIL]
        if not self.live and tail != self.start:
            # The commit is the second one: until then, and after it, the log is empty.
            words[tail] = WRAP
            words[TAIL] = self.start
            words[HEAD] = self.start
            words[DEAD] = 0
        reserved, end = self.reserved, words[TAIL] + WINDOW
        if words[TAIL] < words[HEAD] or reserved - end < STEP:
            return False
        words[LIMIT] = 0
        words[RESERVED] = end * TWIN
        self._give_back(end * 8, reserved * 8)
        return True

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
        if self._may_go_round(need) and (
            self._thrifty(tail) or not self._extend(tail + need)
        ):
            self._go_round()
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

    def _may_go_round(self, need):
        """Whether ``need`` words fit between the start of the ring and HEAD, and a margin."""
        return self.start + need + self._margin() // 2 < self._words[HEAD]

    def _go_round(self):
        """Have the log go on at the start of the ring."""
        words = self._words
        tail = words[TAIL]
        words[tail] = WRAP
        words[DEAD] += (self.end - tail) * TWIN
        words[TAIL] = self.start

    def _margin(self):
        """Words between TAIL and HEAD that are to stay free, half of them to move records into.

        More than twice what is live are never needed. (A part of the ring alone would be more than
        ``WINDOW`` has, once there was a backlog: then a quiet log would be cleaned all the time.)
        """
        return min((self.reserved - self.start) // SPARE, 2 * self.live + WINDOW // SPARE)

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
                self._pass(head, self._hop(head, tag))
                left -= 1
                continue
            size = self._size(tag)
            if not words[head + R_STATE]:
                self._pass(head, head + size)
            elif words[head + EXPIRES] > now or not self._expire(tag, head, now):
                if not (self._move(tag, head, size) or self._shift(tag, head, size)):
                    break
                words[HEAD] = head + size
            left -= size
        return budget - left

    def _cleaning_due(self, need):
        words = self._words
        head, tail = words[HEAD], words[TAIL]
        if tail < head:
            return tail + need + self._margin() >= head
        if self._thrifty(tail):
            return not self._may_go_round(need)
        return tail + need + self._margin() >= self.end - 1

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
                self._go_round()
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
        words[DEAD] -= size * TWIN
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

    def _hop(self, place, tag):
        """Where the log goes on behind a tag that is no record's."""
        if tag == WRAP:
            return self.start
        if tag >> 32 != SKIP >> 32 or not tag & M32:
            raise Damage("the log holds what is no record")
        if place + (tag & M32) > self.reserved:
            raise Damage("a gap reaches beyond the log")
        return place + (tag & M32)

    @staticmethod
    def _size(tag):
        size = tag & M32
        if tag >> 56 != TAG_MAGIC or size < RECORD_WORDS:
            raise Damage("the log holds what is no record")
        return size

    def _verify_ends(self):
        """HEAD, TAIL and RESERVED have to be within the ring."""
        words, start, reserved = self._words, self.start, self.reserved
        if not start <= reserved <= self.end:
            raise Damage("the end of the log's memory is out of range")
        if not (start <= words[HEAD] <= reserved and start <= words[TAIL] <= reserved):
            raise Damage("the log's ends are out of range")
