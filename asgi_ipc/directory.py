"""The directory of channels: from a name to its entry, in constant time.

Knows names, hashes and entries; does not know records, nor what waits at an entry (only
that an entry with either must stay). The caller holds the lock.

Nothing tells that a channel is finished with, so an entry is kept while it is in use and for
a while after, and then recycled: each time a new name is entered, a hand moves on over two
entries and frees those that have had nothing for ``IDLE``. Names that come and go, as those
of single-reader channels do, therefore keep about as many entries as there are names in a
minute. When no free entry is left the hand goes further and takes any that is empty.

Invariants:

1. An entry's name and hash are in place before its STATE is set, and do not change until
   it is freed. Only an entry with neither messages nor waiters is freed.
2. HASH is 0 in a free entry. So what ``hints`` remember of a name, its entry and hash, is right
   as long as that entry has that hash.
"""
import re

from asgi_ipc import statistics
from asgi_ipc._shm.clock import SECOND
from asgi_ipc._shm.segment import view_part
from asgi_ipc._shm.slots import LINK, STATE
from asgi_ipc._shm.words import LARGEST_COUNT, Damage
from asgi_ipc.layout import (
    C_START,
    COUNT,
    ENTRY_WORDS,
    FIRST,
    HAND,
    HASH,
    HEADER_RATES,
    LAST,
    NAME,
    NAME_LENGTH,
    RATES,
    TAG_MAGIC,
    WAIT_FIRST,
    WAIT_LAST,
    seed,
)

IDLE = 60 * SECOND
"""Nanoseconds without a send after which an empty entry may be recycled."""

_NAME = re.compile(b"[a-zA-Z0-9._-]{1,99}(?:[?!][a-zA-Z0-9._-]*)?\\Z")
"""What an entry's name can look like; the rules in full are those of ``names``."""

HINTS_KEPT = 20000
STRIDE, LONG_STRIDE = 2, 1024
"""Entries that the hand passes for a new name, and when none is free."""

NO_HINT = 0, None, 0, 0, b"\0" * (8 * ENTRY_WORDS)
"""Of a name that is not known: no word holds such a hash."""


class Directory(object):
    """View of the buckets and entries of a message segment.

    ``hints`` maps a name to (entry, hash, seed, tag, words) for those who look before they call:
    valid while ``words[HASH]`` is that hash. ``seed`` begins the check of records, ``tag`` is
    theirs but for the size, ``words`` are the entry's own.
    """

    def __init__(self, segment, slots, geometry):
        self._segment = segment
        self._words = segment.words
        self._map = segment.map
        self._first_bucket = geometry.first_bucket
        self._buckets = geometry.buckets
        self.slots = slots
        self.hints = {}

    def find(self, name):
        """Return the hint of a name, or None if the channel has no entry."""
        hint = self.hints.get(name)
        if hint is not None and self._words[hint[0] + HASH] == hint[1]:
            return hint
        encoded = name.encode("ascii")
        number = self._segment.hash(encoded)
        entry = self._search(encoded, number)
        return self._remember(name, entry, number) if entry else None

    def obtain(self, name, now, spared=()):
        """Return the hint of a name, making an entry if it has none; None if all are in use.

        :param spared: entries that are not to be recycled, because something is about to be
            sent to them.
        """
        hint = self.find(name)
        if hint is not None:
            return hint
        self._recycle(now - IDLE, STRIDE, spared)
        entry = self.slots.take()
        if not entry:
            # All in use, or no memory: any that is empty will do. Also one that is younger than
            # ``now``, which was asked for before the lock was.
            if not self._recycle(LARGEST_COUNT, LONG_STRIDE, spared):
                return None
            entry = self.slots.take()
        encoded = name.encode("ascii")
        number = self._segment.hash(encoded)
        self._enter(entry, encoded, number)
        # Its first window begins now, which also protects it from the hand until its first send.
        self._words[entry + RATES + C_START] = now
        if now >= self._words[HEADER_RATES + C_START] + SECOND:
            statistics.roll(self._words, HEADER_RATES, now, counted=0)
        return self._remember(name, entry, number)

    def name_of(self, entry):
        """The name of an entry, as text."""
        return self._encoded_name(entry).decode("ascii")

    def number_of(self, entry):
        """The number of an entry, as records have it."""
        return (entry - self.slots.start) // ENTRY_WORDS

    def entry_of(self, number):
        """The entry with a number, or 0 if there is none in use."""
        entry = self.slots.start + number * ENTRY_WORDS
        if number >= self.slots.high or not self._words[entry + STATE]:
            return 0
        return entry

    def all(self):
        """Return the entries in use."""
        words = self._words
        return [entry for entry in self.slots.all() if words[entry + STATE]]

    def rebuild(self):
        """Derive buckets and free entries from the names; all queues are empty afterwards.

        Where name and hash do not agree, one of them was written over. The hash is made anew:
        if it was the name, no check of a record holds under it, and the entry stays empty.
        Cost: all entries ever used.
        """
        words = self._words
        begin = self._first_bucket * 8
        self._map[begin : begin + self._buckets * 8] = b"\0" * (self._buckets * 8)
        self.hints.clear()
        self.slots.repair()
        known = set()
        for entry in self.slots.rebuild():
            for word in (FIRST, LAST, COUNT, WAIT_FIRST, WAIT_LAST):
                words[entry + word] = 0
            for word in range(RATES, NAME_LENGTH):
                if words[entry + word] > LARGEST_COUNT:
                    words[entry + word] = 0
            encoded = self._encoded_name(entry)
            if encoded in known or _NAME.match(encoded) is None:
                self._free(entry)
                continue
            known.add(encoded)
            words[entry + HASH] = number = self._segment.hash(encoded)
            self._chain(entry, number)
        for entry in self.slots.all():
            if not words[entry + STATE]:
                words[entry + HASH] = 0

    def faults(self):
        """Return what is wrong with buckets and entries, as sentences."""
        words = self._words
        found = self.slots.faults()
        if found:
            return found
        chained = set()
        for bucket in range(self._first_bucket, self._first_bucket + self._buckets):
            entry = words[bucket]
            while entry:
                if entry in chained or not self.slots.contains(entry) or not words[entry + STATE]:
                    found.append("bucket {0}: the chain is broken at {1}".format(bucket, entry))
                    break
                chained.add(entry)
                number = self._segment.hash(self._encoded_name(entry))
                if number != words[entry + HASH] or bucket != self._bucket(number):
                    found.append("entry {0}: in the wrong bucket".format(entry))
                entry = words[entry + LINK]
        for entry in set(self.all()) - chained:
            found.append("entry {0} ({1}): in no bucket".format(entry, self.name_of(entry)))
        return found

    def _bucket(self, number):
        return self._first_bucket + (number & self._buckets - 1)

    def _encoded_name(self, entry):
        begin = (entry + NAME) * 8
        length = min(self._words[entry + NAME_LENGTH], (ENTRY_WORDS - NAME) * 8)
        return self._map[begin : begin + length]

    def _search(self, encoded, number):
        words = self._words
        entry = words[self._bucket(number)]
        steps = self.slots.high
        while entry:
            if words[entry + HASH] == number and self._encoded_name(entry) == encoded:
                return entry
            entry = words[entry + LINK]
            steps -= 1
            if steps < 0:
                raise Damage("a bucket's chain has no end")
        return 0

    def _remember(self, name, entry, number):
        if len(self.hints) >= HINTS_KEPT:
            self.hints.clear()
        tag = TAG_MAGIC << 56 | self.number_of(entry) << 32
        own = view_part(self._map, self._words, entry, ENTRY_WORDS)
        hint = (entry, number, seed(number), tag, own)
        self.hints[name] = hint
        return hint

    def _enter(self, entry, encoded, number):
        words = self._words
        for word in range(FIRST, NAME):
            words[entry + word] = 0
        begin = (entry + NAME) * 8
        self._map[begin : begin + len(encoded)] = encoded
        words[entry + NAME_LENGTH] = len(encoded)
        words[entry + HASH] = number
        words[entry + STATE] = 1
        self._chain(entry, number)

    def _free(self, entry):
        self._words[entry + HASH] = 0
        self.slots.give(entry)

    def _chain(self, entry, number):
        bucket = self._bucket(number)
        self._words[entry + LINK] = self._words[bucket]
        self._words[bucket] = entry

    def _unchain(self, entry):
        words = self._words
        before, behind = self._bucket(words[entry + HASH]), 0
        steps = self.slots.high
        while words[before + behind] != entry:
            before, behind = words[before + behind], LINK
            steps -= 1
            if not before or steps < 0:
                raise Damage("an entry is not in its bucket")
        words[before + behind] = words[entry + LINK]

    def _recycle(self, before, stride, spared):
        """Move the hand on, and free what is empty with no send since ``before``."""
        words, slots = self._words, self.slots
        high = slots.high
        freed = 0
        for _ in range(min(stride, high)):
            number = words[HAND] % high
            words[HAND] = number + 1
            entry = slots.start + number * ENTRY_WORDS
            if (
                words[entry + STATE]
                and not words[entry + COUNT]
                and not words[entry + WAIT_FIRST]
                and words[entry + RATES + C_START] < before
                and entry not in spared
            ):
                self._unchain(entry)
                self._free(entry)
                freed += 1
                if stride > STRIDE:
                    break
        return freed
