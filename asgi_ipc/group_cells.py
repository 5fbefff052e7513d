"""What the groups segment looks like, and how all that is derived in it is derived anew.

Knows words, cells and bytes; does not know clocks, locks, or when a membership should begin
or end (``memberships`` does). Whoever calls anything here holds the segment's lock.

The segment::

    header page | first bucket array | second bucket array | cells

    header, words     0-7  the segment's own (``_shm.segment``)
    16 FLUSHED        all memberships up to this sequence number are ended; sealed
    17 SEQUENCE       the last sequence number given to a membership          (derived)
    18 GROUPS         groups stored                                           (derived)
    19 MEMBERSHIPS    memberships stored, expired ones not yet met included   (derived)
    20 EARLIEST       no membership expires before this                       (derived)
    21 ROUND          the same, for what the hand has passed in this round    (derived)
    22 HAND           number of the cell that the sweeping hand looks at next (derived)
    24-27             control words of the cells (``_shm.slots``)

A bucket is the word index of the first cell of its chain, 0 for none. The first array holds
every cell: by the hash of its name, a membership's moved by its group's place. The second
holds memberships by the hash of the channel alone, so that a channel can leave all groups.
Both have one bucket for about three cells: they are reserved at creation, and an idle layer
is to hold little memory.

A cell is 24 words, 192 bytes; a group is one cell and each membership one more::

    word              group cell                       membership cell
    0  STATE          1                                sequence number, 2 and up; 0 is free
    1  GEN            counts changes of membership     counts the times it was freed
    2  LINK           next cell in the bucket of the first array, 0 for none
    3  EXPIRY         0                                nanoseconds of ``clock``; mutable
    4  NEXT           first member                     next member, the group cell after the last
    5  PREV           last member                      previous member, or the group cell
    6  PEER, COUNT    members                          next in the second array's bucket, or 0
    7  BACK           0                                word index of what points here in it
    8  CHECK          CRC-32 of words 0 and 9-23, plus length of the name in bytes << 32
    9  HASH           of the name, keyed by the segment
    10 GROUP          0                                word index of the group cell
    11-23 NAME        of the group, UTF-8              of the channel, UTF-8; zeros after it

Invariants:

1. STATE, EXPIRY and words 8-23 of a cell, and FLUSHED, are the truth. All else is derived
   by ``rebuild``.
2. A membership exists if and only if its STATE is above FLUSHED, CHECK is right, and GROUP
   is a sound group cell. Words 3 and 8-23 are in place before STATE is stored, and words
   0 and 8-23 never change while it exists.
3. A group exists if and only if a membership names it. ``rebuild`` frees other group cells.
4. Sequence numbers rise in a group with each new membership: they are the order of joining.

Worked example, little-endian: the first membership of a new segment of 64 KiB, in the first
cell (word 640). Channel ``web.a!b`` (hash 0x1122334455667788) is alone in group ``chat``, whose
cell is the one behind it (word 664 = 0x298), and expires at 5,000,000,000 ns::

    00  02 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00   STATE 2; GEN 0
    10  00 00 00 00 00 00 00 00  00 f2 05 2a 01 00 00 00   LINK 0; EXPIRY
    20  98 02 00 00 00 00 00 00  98 02 00 00 00 00 00 00   NEXT and PREV: the group
    30  00 00 00 00 00 00 00 00  48 02 00 00 00 00 00 00   PEER 0; BACK 584: bucket 8 of 64
    40  e4 af ac dd 07 00 00 00  88 77 66 55 44 33 22 11   CHECK: CRC, length 7; HASH
    50  98 02 00 00 00 00 00 00  77 65 62 2e 61 21 62 00   GROUP; "web.a!b"
    60  zeros to the end, at c0
"""
import struct

from six.moves import range

from asgi_ipc._shm.segment import EPOCH, KEY, PAGE
from asgi_ipc._shm.slots import LINK, Slots
from asgi_ipc._shm.words import M32, Damage, crc32, sealed, unsealed

SEGMENT_KIND = 2
SEGMENT_LAYOUT = 4

MINIMUM_SIZE = 64 * 1024
"""Bytes of the smallest segment that is made: room for 310 cells."""

NAME_BYTES = 100
"""Bytes that the name of a group or a channel may have."""

FOREVER = 2 ** 64 - 1
"""The latest time that fits into a word."""

FLUSHED, SEQUENCE, GROUPS, MEMBERSHIPS, EARLIEST, ROUND, HAND = range(16, 23)
CONTROL = 24

EXPIRY, NEXT, PREV, PEER, BACK, CHECK, HASH, GROUP, NAME = range(3, 12)
COUNT = PEER

WIDTH = 24
WIDTH_BYTES = WIDTH * 8
BODY_OFFSET = HASH * 8
BODY = struct.Struct("=QQ104s")
"""Words 9 to 23 of a cell, as ``pack(hash, group, name)``."""

GROUP_STATE = 1
LAST_SEQUENCE = 2 ** 48 - 1

_STEP = 512


def geometry(size):
    """Return (buckets in an array, word index of the first cell, cells) for ``size`` bytes."""
    cells = (size - PAGE) // WIDTH_BYTES
    buckets = 1 << ((cells // 3).bit_length() - 1)
    start = PAGE // 8 + 2 * buckets
    return buckets, start, (size - start * 8) // WIDTH_BYTES


def fixed_bytes(size):
    """Bytes to be reserved at creation: the header and the bucket arrays."""
    return geometry(size)[1] * 8


def format_header(words, size):  # noqa: ARG001 (what every kind of segment is called with)
    """Lay the header of a new segment, all of whose other bytes are zeros."""
    words[FLUSHED] = sealed(GROUP_STATE)
    words[SEQUENCE] = GROUP_STATE
    words[EARLIEST] = words[ROUND] = FOREVER
    # Starts anywhere: a snapshot of a segment that was removed must not seem current in this.
    words[EPOCH] = words[KEY] >> 1


def check_word(state, body, length):
    """The CHECK word of a cell with this STATE and these words 9-23.

    A STATE has 48 bits, and folds into the CRC's start so that each single bit counts.
    """
    start = (state ^ state >> 16 ^ length << 24) & M32
    return crc32(body, start) | length << 32


class Cells(object):
    """View of one segment's cells and buckets.

    :param segment: an attached ``Segment`` of ``SEGMENT_KIND``.
    """

    def __init__(self, segment):
        words = segment.words
        self.words = words
        self.memory = segment.map
        buckets, self.start, self.max = geometry(segment.size)
        self.first = PAGE // 8
        self.second = self.first + buckets
        self.mask = buckets - 1
        self.bound = range(self.max + 1)
        self.slots = Slots(
            "cells", words, CONTROL, self.start, self.max, WIDTH, segment.reserve, _STEP
        )

    def body(self, cell):
        """Words 9-23 of a cell as bytes."""
        offset = cell * 8 + BODY_OFFSET
        return self.memory[offset : offset + BODY.size]

    def sound(self, cell):
        """Whether a cell in use holds what its CHECK word says, and could be what it is."""
        words = self.words
        state = words[cell]
        check = words[cell + CHECK]
        length = check >> 32
        if not 0 < length <= NAME_BYTES or state > LAST_SEQUENCE:
            return False
        return (
            check_word(state, self.body(cell), length) == check
            and (state == GROUP_STATE) == (words[cell + GROUP] == 0)
        )

    def rebuild(self):
        """Derive all that is derived from the truth; return how many cells were damaged.

        Cost: all cells ever used, 3 us for each in use. A crash inside leaves it to the
        next caller, who finds the same truth.

        :raises SegmentError: the system has no memory left for what is stored.
        """
        words = self.words
        words[EPOCH] = words[EPOCH] + 1 & FOREVER
        self.slots.repair()
        lost = 0
        flushed = unsealed(words[FLUSHED])
        if flushed is None:
            lost = 1
            flushed = GROUP_STATE
        buckets = self.mask + 1
        self.memory[self.first * 8 : self.start * 8] = b"\0" * (16 * buckets)
        groups, members, damaged = self._survivors(flushed)
        damaged += self._link_members(groups, members)
        self._link_groups(groups)
        self.slots.rebuild()
        words[SEQUENCE] = members[-1][0] if members else GROUP_STATE
        # Nothing is left of what was flushed, so the numbers may be given again.
        words[FLUSHED] = sealed(GROUP_STATE)
        return lost + damaged

    def empty(self, group):
        """Make the list of a group's members an empty ring."""
        words = self.words
        words[group + NEXT] = words[group + PREV] = group
        words[group + COUNT] = 0

    def link_group(self, group, hashed):
        """Make a group found by its name."""
        words = self.words
        bucket = self.first + (hashed & self.mask)
        words[group + LINK] = words[bucket]
        words[bucket] = group
        words[GROUPS] += 1

    def link(self, cell, group, hashed):
        """Make a membership found: by group and name, by group, and by channel."""
        words, mask = self.words, self.mask
        bucket = self.first + (hashed + (group >> 3) & mask)
        words[cell + LINK] = words[bucket]
        words[bucket] = cell
        last = words[group + PREV]
        words[cell + NEXT] = group
        words[cell + PREV] = last
        words[last + NEXT] = cell
        words[group + PREV] = cell
        words[group + COUNT] += 1
        bucket = self.second + (hashed & mask)
        peer = words[bucket]
        words[cell + PEER] = peer
        words[cell + BACK] = bucket
        if peer:
            words[peer + BACK] = cell + PEER
        words[bucket] = cell
        words[MEMBERSHIPS] += 1

    def unlink(self, cell, group, holder):
        """Undo ``link``; ``holder`` is the word in the first array's chain that names it."""
        words = self.words
        after, before = words[cell + NEXT], words[cell + PREV]
        peer, back = words[cell + PEER], words[cell + BACK]
        if words[before + NEXT] != cell or words[after + PREV] != cell or words[back] != cell:
            # Not to write over whatever is there.
            raise Damage("the neighbours of cell {0} do not know it".format(cell))
        words[holder] = words[cell + LINK]
        words[before + NEXT] = after
        words[after + PREV] = before
        words[back] = peer
        if peer:
            words[peer + BACK] = back
        words[group + COUNT] -= 1
        words[MEMBERSHIPS] -= 1

    def holder_of(self, cell):
        """The word that names ``cell`` in its chain of the first array."""
        words = self.words
        holder = self.first + (words[cell + HASH] + (words[cell + GROUP] >> 3) & self.mask)
        for _ in self.bound:
            following = words[holder]
            if following == cell:
                return holder
            if not following:
                break
            holder = following + LINK
        raise Damage("cell {0} is not in its chain".format(cell))

    def newest(self):
        """The highest sequence number in any cell. Cost: all cells ever used."""
        words = self.words
        return max([GROUP_STATE] + [words[cell] for cell in self.slots.all()])

    def _survivors(self, flushed):
        """Free what is damaged or flushed; return groups, members in order, damaged cells."""
        words, sound = self.words, self.sound
        groups = {}
        members = []
        damaged = 0
        for cell in self.slots.all():
            state = words[cell]
            if not state:
                continue
            if not sound(cell):
                words[cell] = 0
                damaged += 1
            elif state != GROUP_STATE:
                if state > flushed:
                    members.append((state, cell))
                else:
                    words[cell] = 0
            elif groups.setdefault(self.body(cell), cell) != cell:
                words[cell] = 0
                damaged += 1
        members.sort()
        return sorted(groups.values()), members, damaged

    def _link_members(self, groups, members):
        """Put the members into lists and buckets; free and count those without a group."""
        words, link = self.words, self.link
        for group in groups:
            self.empty(group)
        words[MEMBERSHIPS] = 0
        known = set(groups)
        seen = set()
        earliest = FOREVER
        for _, cell in members:
            group = words[cell + GROUP]
            body = self.body(cell)
            if group in known and body not in seen:
                seen.add(body)
                link(cell, group, words[cell + HASH])
                if words[cell + EXPIRY] < earliest:
                    earliest = words[cell + EXPIRY]
            else:
                words[cell] = 0
        words[EARLIEST] = earliest
        words[ROUND] = FOREVER
        words[HAND] = 0
        return len(members) - len(seen)

    def _link_groups(self, groups):
        """Put the groups into their buckets; free those that nobody is in."""
        words = self.words
        words[GROUPS] = 0
        for group in groups:
            if words[group + COUNT]:
                self.link_group(group, words[group + HASH])
            else:
                words[group] = 0
