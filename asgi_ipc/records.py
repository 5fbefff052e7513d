"""Records of messages, and the queues of them that channels have.

Knows what a record consists of, when it is one, and the list of records that an entry's FIRST
and LAST begin and end; does not know where in the log a record may lie, nor names of channels
beyond their entries. The caller holds the lock.

A record ends with the store of 0 as its STATE; it begins with something that is not its own
(``ring``). Invariant: a record is handed out or moved only if its check sum holds, which binds it
to its channel and is in its STATE. Any other is damage, which is found before anything is written.
(That of a small one, ``receive`` verifies with the lock free, and drops it.)

A long record may have its *body*, payload and names, twice: to write a second one and to compare
the two takes an eighth of what two check sums of it do. Its number of words tells which form it
has.
"""
from asgi_ipc._shm.words import M32, TWIN, Damage, adler32, equals
from asgi_ipc.layout import (
    BEGINNING_BYTES,
    CHECKED_BYTES,
    COUNT,
    DEAD,
    EXPIRES,
    FIRST,
    HASH,
    HEAD,
    LAST,
    LENGTHS,
    NEXT,
    R_STATE,
    RECORD_BYTES,
    ROUND_UP,
    SENT_AT,
    SEQ,
    SEQ_TWIN,
    check_of,
    live_state,
    offset_of,
    pack_beginning,
    pack_checked,
    seed,
)

SMALL = 16383
"""Bytes of a body up to which a record is written, and read, in one piece, and has it once."""

WRONG_LAST = "a queue does not end in an earlier record of its channel"
WRONG_COUNT = "a queue's count is wrong"
NO_RECORD = "a queue leads to what is no live record"
WRONG_CHECK = "a record's check does not hold"


def words_of(length, twice=False):
    """The words of a record that has a body of so many bytes."""
    return (2 * length if twice else length) + ROUND_UP >> 3


def stored_by(size, length):
    """Bytes that a record of ``size`` words holds of its body of ``length``: once or twice that.

    :raises Damage: it would have other words.
    """
    if words_of(length) == size:
        return length
    if words_of(length, twice=True) == size:
        return 2 * length
    raise Damage(NO_RECORD)


def check_holds(state, raw, length, start):
    """Whether a record's check sum holds, and a body that is there twice is the same both times.

    :param state: its STATE, which has the sum in it.
    :param raw: its bytes from SENT_AT on.
    :param length: bytes of its body.
    :param start: the entry's seed.
    """
    once = CHECKED_BYTES + length
    if len(raw) > once:
        if raw[CHECKED_BYTES:once] != raw[once:]:
            return False
        raw = raw[:CHECKED_BYTES]
    return adler32(raw, start) == check_of(state)


class Records(object):
    """View of the records, and of the queues of them that entries hold.

    :param entry_of: number in a record's tag -> entry in use, or 0.
    :param lapsed: called with (entry, [local names]) for a message to process-specific
        channels that expired unread.
    """

    def __init__(self, words, memory, entry_of, lapsed):
        self._words = words
        self._map = memory
        self._entry_of = entry_of
        self._lapsed = lapsed

    def last_of(self, entry):
        """The newest record of an entry's queue, or 0."""
        words = self._words
        return words[entry + LAST] if words[entry + FIRST] else 0

    def write(self, place, previous, tag, start, seq, now, expires, payload, names):
        """Write a record at ``place``; it does not exist until TAIL is stored.

        :param previous: the channel's last record, or 0.
        :param tag: the record's.
        :param start: the entry's seed.
        :raises Damage: ``previous`` is not a record of the channel, or not an earlier one.
        """
        words = self._words
        if previous and ((words[previous] ^ tag) >> 32 or words[previous + SEQ] >= seq):
            raise Damage(WRONG_LAST)
        length = len(payload) + len(names)
        checked = pack_checked(now, expires, len(names), len(payload))
        if length <= SMALL:
            checked += payload + names
        check = adler32(checked, start)
        twice = tag & M32 != words_of(length)
        if length > SMALL and not twice:
            check = adler32(names, adler32(payload, check))
        begin = place * 8
        beginning = pack_beginning(tag, 1, check, 0, previous, seq, seq)
        self._map[begin : begin + BEGINNING_BYTES + len(checked)] = beginning + checked
        if length > SMALL:
            self._write_body(begin + RECORD_BYTES, payload, names)
        if twice:
            self._write_body(begin + RECORD_BYTES + length, payload, names)

    def _write_body(self, begin, payload, names):
        end = begin + len(payload)
        self._map[begin:end] = payload
        self._map[end : end + len(names)] = names

    def link(self, entry, record):
        """Append a record that exists to its entry's queue."""
        words = self._words
        last = self.last_of(entry)
        if last:
            words[last + NEXT] = record
        else:
            words[entry + FIRST] = record
        words[entry + LAST] = record
        words[entry + COUNT] += 1

    def read(self, record, start):
        """Return (payload, names, offset of the first name to serve) of a live record.

        :raises Damage: its check does not hold, or it is not live.
        """
        words = self._words
        size = words[record] & M32
        lengths = words[record + LENGTHS]
        length, more = lengths >> 32, lengths & M32
        state = words[record + R_STATE]
        if not state:
            raise Damage(NO_RECORD)
        twice = length + more + ROUND_UP >> 3 != size
        if twice:
            # Raises where it is neither.
            stored_by(size, length + more)
        memory = self._map
        begin = (record + SENT_AT) * 8
        body = begin + CHECKED_BYTES
        end = body + length
        second = end + more
        # Each part by itself: what is long is copied as little as can be.
        payload, names = memory[body:end], memory[end:second]
        found = adler32(memory[begin:body], start)
        if twice:
            if not (equals(payload, memory, second) and equals(names, memory, second + length)):
                raise Damage(WRONG_CHECK)
        else:
            found = adler32(names, adler32(payload, found))
        if found != check_of(state):
            raise Damage(WRONG_CHECK)
        return payload, names, offset_of(state)

    def serve(self, record, offset):
        """Move the cursor of a record on to the name at ``offset``: a commit."""
        words = self._words
        words[record + R_STATE] = live_state(check_of(words[record + R_STATE]), offset)

    def end_first(self, entry, record):
        """End the first record of an entry's queue: THE COMMIT, then unlink it."""
        words = self._words
        following = words[record + NEXT]
        count = words[entry + COUNT] - 1
        size = words[record] & M32
        if count < 0 or (not following) != (not count):
            # Found before the commit, so that what is tried again is not done twice.
            raise Damage(WRONG_COUNT)
        words[record + R_STATE] = 0
        words[entry + FIRST] = following
        words[entry + COUNT] = count
        if words[HEAD] == record:
            # What ``Ring.sweep`` would find, which has less to do then.
            words[HEAD] = record + size
        else:
            words[DEAD] += size * TWIN

    def drop_expired(self, entry, now):
        """End the records at the front of a queue whose time is up; True if there were any."""
        words = self._words
        dropped = False
        record = words[entry + FIRST]
        while record and words[record + EXPIRES] <= now:
            _, names, offset = self.read(record, seed(words[entry + HASH]))
            self.end_first(entry, record)
            if names:
                self._lapsed(entry, names[offset:].decode("ascii").split("\n"))
            dropped = True
            record = words[entry + FIRST]
        return dropped

    def alive(self, place, start):
        """Whether the record at ``place`` is live, and all of it as it was written."""
        words = self._words
        state = words[place + R_STATE]
        if not state or words[place + SEQ] != words[place + SEQ_TWIN]:
            return False
        lengths = words[place + LENGTHS]
        length = (lengths >> 32) + (lengths & M32)
        begin = (place + SENT_AT) * 8
        try:
            end = begin + CHECKED_BYTES + stored_by(words[place] & M32, length)
        except Damage:
            return False
        return check_holds(state, self._map[begin:end], length, start)

    def _owner(self, tag, record):
        """The entry of what has to be a live record."""
        entry = self._entry_of((tag >> 32) & 0xFFFFFF)
        if not entry or not self.alive(record, seed(self._words[entry + HASH])):
            raise Damage("the log holds what is no live record")
        return entry
