"""Records of messages, and the queues of them that channels have.

Knows what a record consists of, when it is one, and the list of records that an entry's FIRST
and LAST begin and end; does not know where in the log a record may lie, nor names of channels
beyond their entries. The caller holds the lock.

A record ends with the store of 0 as its STATE; it begins with something that is not its own
(``ring``). Invariant: a record is handed out or moved only if its check holds, which binds it to
its channel, and if its STATE is sealed by that check. Any other is damage, which is found before
anything is written. (That of a small one, ``receive`` verifies with the lock free, and drops it.)

A long record may have its *body*, payload and names, twice: to write a second one and to compare
the two takes an eighth of what two CRCs of it do. Its number of words tells which form it has.
"""
from asgi_ipc._shm.words import M32, TWIN, Damage, crc32
from asgi_ipc.layout import (
    BEGINNING,
    BEGINNING_BYTES,
    CHECK,
    CHECKED,
    CHECKED_BYTES,
    COUNT,
    EXPIRES,
    FIRST,
    HASH,
    HEAD,
    LAST,
    LENGTHS,
    LIVE,
    NEXT,
    R_STATE,
    RECORD_BYTES,
    ROUND_UP,
    SENT_AT,
    SEQ,
    TAIL,
    check_word,
    live_state,
)

SMALL = 16383
"""Bytes of a body up to which a record is written, and read, in one piece, and has it once."""

NOT_SMALL = M32 - SMALL << 32 | M32
"""The bits of LENGTHS that are 0 where there are no names, and ``SMALL`` bytes at most."""

WRONG_LAST = "a queue does not end in an earlier record of its channel"
WRONG_COUNT = "a queue's count is wrong"
NO_RECORD = "a queue leads to what is no live record"
WRONG_CHECK = "a record's check does not hold"

_pack_beginning = BEGINNING.pack
_pack_checked = CHECKED.pack


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


def check_holds(check, raw, length, start, seq):
    """Whether a record's CHECK holds, and a body that is there twice is the same both times.

    :param raw: its bytes from SENT_AT on.
    :param length: bytes of its body.
    :param start: the entry's seed, xor the words of the record.
    """
    once = CHECKED_BYTES + length
    if len(raw) > once:
        if raw[CHECKED_BYTES:once] != raw[once:]:
            return False
        raw = raw[:CHECKED_BYTES]
    return check == check_word(crc32(raw, start), seq)


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

    def write(self, place, previous, tag, seed, seq, now, expires, payload, names):
        """Write a record at ``place``; it does not exist until TAIL is stored.

        :param previous: the channel's last record, or 0.
        :param tag: the record's.
        :param seed: of the entry's checks.
        :raises Damage: ``previous`` is not a record of the channel, or not an earlier one.
        """
        words = self._words
        if previous and ((words[previous] ^ tag) >> 32 or words[previous + SEQ] >= seq):
            raise Damage(WRONG_LAST)
        length = len(payload) + len(names)
        checked = _pack_checked(now, expires, len(payload) << 32 | len(names))
        if length <= SMALL:
            checked += payload + names
        check = crc32(checked, seed ^ tag & M32)
        twice = tag & M32 != words_of(length)
        if length > SMALL and not twice:
            check = crc32(names, crc32(payload, check))
        begin = place * 8
        beginning = _pack_beginning(
            tag, live_state(check), 0, previous, check_word(check, seq), seq
        )
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
        last = words[entry + LAST]
        if last:
            words[last + NEXT] = record
        else:
            words[entry + FIRST] = record
        words[entry + LAST] = record
        words[entry + COUNT] += 1
        words[LIVE] += (words[record] & M32) * TWIN

    def read(self, record, seed):
        """Return (payload, names, offset of the first name to serve) of a live record.

        :raises Damage: its check does not hold, or it is not live.
        """
        words = self._words
        size = words[record] & M32
        lengths = words[record + LENGTHS]
        length, more = lengths >> 32, lengths & M32
        state = words[record + R_STATE]
        check = words[record + CHECK] & M32
        offset = (state & M32) - 1
        twice = length + more + ROUND_UP >> 3 != size
        if twice:
            # Raises where it is neither.
            stored_by(size, length + more)
        if state >> 32 ^ check != offset:
            raise Damage(NO_RECORD)
        memory = self._map
        begin = (record + SENT_AT) * 8
        body = begin + CHECKED_BYTES
        end = body + length
        second = end + more
        # Each part by itself: what is long is copied as little as can be.
        payload, names = memory[body:end], memory[end:second]
        found = crc32(memory[begin:body], seed ^ size)
        if twice:
            end = second + length
            if payload != memory[second:end] or names != memory[end : end + more]:
                raise Damage(WRONG_CHECK)
        else:
            found = crc32(names, crc32(payload, found))
        if found != check:
            raise Damage(WRONG_CHECK)
        return payload, names, offset if more else 0

    def serve(self, record, offset):
        """Move the cursor of a record on to the name at ``offset``: a commit."""
        words = self._words
        words[record + R_STATE] = live_state(words[record + CHECK] & M32, offset)

    def end_first(self, entry, record):
        """End the first record of an entry's queue: THE COMMIT, then unlink it."""
        words = self._words
        following = words[record + NEXT]
        count = words[entry + COUNT] - 1
        size = words[record] & M32
        live = words[LIVE] - size * TWIN
        if count < 0 or live < 0 or (not following) != (not count):
            # Found before the commit, so that what is tried again is not done twice.
            raise Damage(WRONG_COUNT)
        words[record + R_STATE] = 0
        words[entry + FIRST] = following
        if not following:
            words[entry + LAST] = 0
        words[entry + COUNT] = count
        words[LIVE] = live
        if not live:
            words[HEAD] = words[TAIL]
        elif words[HEAD] == record:
            # What ``Ring.sweep`` would find, which has less to do then.
            words[HEAD] = record + size

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

    def intact(self, place, seed):
        """Whether the lengths and the check of the record at ``place`` hold, its number's too."""
        words = self._words
        size = words[place] & M32
        lengths = words[place + LENGTHS]
        length = (lengths >> 32) + (lengths & M32)
        begin = (place + SENT_AT) * 8
        try:
            end = begin + CHECKED_BYTES + stored_by(size, length)
        except Damage:
            return False
        raw = self._map[begin:end]
        return check_holds(words[place + CHECK], raw, length, seed ^ size, words[place + SEQ])

    def alive(self, place, seed):
        """Whether the record at ``place`` is intact, and its STATE that of a live one."""
        words = self._words
        state = words[place + R_STATE]
        offset = (state & M32) - 1
        return state >> 32 ^ words[place + CHECK] & M32 == offset and self.intact(place, seed)

    def _owner(self, tag, record):
        """The entry of what has to be a live record."""
        entry = self._entry_of((tag >> 32) & 0xFFFFFF)
        if not entry or not self.alive(record, self._words[entry + HASH] & M32):
            raise Damage("the log holds what is no live record")
        return entry
