"""Memberships: begin, renew, end, list, in the cells of an attached groups segment.

Knows cells, names with their hashes, and times; does not know the lock, which its caller
holds during every call, nor processes and damage: what contradicts itself raises (one of
``words.DAMAGE``), and the caller has ``Cells.rebuild`` run before anything else is done.

Every operation makes at most one thing happen at a time, by its commit: the store of a
membership's STATE (it begins, or ends), of its EXPIRY (it is renewed), or of FLUSHED (all
end). What the commit makes visible is in place before it; chains, lists and counts follow
after it, and are derived anew if they did not come about.

1. A group's GEN is counted up before each commit that changes its membership or brings an
   expiry forward, and when its cell is freed; EPOCH before a flush and in each rebuild. So
   whoever reads both without the lock sees that what it knows is no longer so.
2. A snapshot's ``until`` is not above the earliest expiry of its members.
3. EARLIEST is not above any expiry.

Expired memberships end when somebody meets them. For those that nobody meets, each ``add``
looks at a few cells (the hand), and one that finds no room looks at all; both only if
EARLIEST has come, so that there may be something to be found.
"""
from six.moves import range

from asgi_ipc._shm.segment import EPOCH
from asgi_ipc._shm.slots import GEN, LINK
from asgi_ipc._shm.words import Damage, sealed
from asgi_ipc.group_cells import (
    BODY,
    CHECK,
    COUNT,
    EARLIEST,
    EXPIRY,
    FLUSHED,
    FOREVER,
    GROUP,
    GROUP_STATE,
    GROUPS,
    HAND,
    HASH,
    LAST_SEQUENCE,
    MEMBERSHIPS,
    NAME,
    NAME_BYTES,
    NEXT,
    PEER,
    PREV,
    ROUND,
    SEQUENCE,
    WIDTH,
    Cells,
    check_word,
)

HAND_CELLS = 3
"""Cells that an add looks at for expired memberships."""

_NAME_OFFSET = NAME * 8
_BODY_OFFSET = HASH * 8


class Snapshot(object):
    """The members of a group at one moment.

    ``names``: in order of joining. ``until``: nanoseconds of the clock; before it, nobody in
    here expires. The rest is for ``GroupStore.current``.
    """

    __slots__ = ("names", "until", "cell", "gen", "epoch")

    def __init__(self, names, until, cell, gen, epoch):
        self.names = names
        self.until = until
        self.cell = cell
        self.gen = gen
        self.epoch = epoch


class Memberships(object):
    """The operations on one segment.

    A name is a pair (UTF-8 and a NUL, hash), so that it is encoded and hashed only once.

    :param segment: an attached groups segment.
    :param clock: returns nanoseconds.
    """

    def __init__(self, segment, clock):
        self.cells = Cells(segment)
        self.words = segment.words
        self._memory = segment.map
        self._clock = clock

    def detach(self):
        """Let go of the segment's memory."""
        self.words = self._memory = self.cells = None

    def add(self, group_name, channel, expires):
        """Begin or renew a membership; False if there is no room."""
        words = self.words
        now = self._clock()
        if now >= words[EARLIEST]:
            self._sweep(HAND_CELLS, now)
        if expires < words[EARLIEST]:
            words[EARLIEST] = expires
        if expires < words[ROUND]:
            words[ROUND] = expires
        holder = self._find(group_name, 0)
        group = words[holder] if holder else 0
        if group:
            holder = self._find(channel, group)
            if holder:
                cell = words[holder]
                before = words[cell + EXPIRY]
                if before > now:
                    if expires < before:
                        words[group + GEN] += 1
                    words[cell + EXPIRY] = expires
                    return True
                self._end(cell, holder)
                # That may have been the last in the group.
                return self.add(group_name, channel, expires)
        return self._join(group_name, group, channel, expires) or (
            now >= words[EARLIEST]
            and self._sweep(self.cells.slots.high, now)
            and self.add(group_name, channel, expires)
        )

    def _join(self, group_name, group, channel, expires):
        """Begin a membership in a group cell, 0 for one to be made; False if full."""
        words, cells = self.words, self.cells
        cell = cells.slots.take()
        if not cell:
            return False
        if not group:
            group = cells.slots.take()
            if not group:
                cells.slots.give(cell)
                return False
            self._fill(group, GROUP_STATE, group_name, 0, 0)
            cells.empty(group)
            words[group] = GROUP_STATE
            cells.link_group(group, group_name[1])
        sequence = words[SEQUENCE] + 1
        if sequence > LAST_SEQUENCE or sequence <= words[words[group + PREV]]:
            raise Damage("the sequence number is out of range")
        words[SEQUENCE] = sequence
        self._fill(cell, sequence, channel, group, expires)
        words[group + GEN] += 1
        # The commit.
        words[cell] = sequence
        cells.link(cell, group, channel[1])
        return True

    def _fill(self, cell, state, name, group, expires):
        """Write all of a cell that its STATE makes visible."""
        words = self.words
        key, hashed = name
        body = BODY.pack(hashed, group, key)
        offset = cell * 8 + _BODY_OFFSET
        self._memory[offset : offset + BODY.size] = body
        words[cell + CHECK] = check_word(state, body, len(key) - 1)
        words[cell + EXPIRY] = expires

    def discard(self, group_name, channel):
        """End a membership, if there is one."""
        holder = self._find(group_name, 0)
        if holder:
            holder = self._find(channel, self.words[holder])
            if holder:
                self._end(self.words[holder], holder)

    def _end(self, cell, holder):
        """End a membership and free its cell; its group's too if it was the last."""
        words, cells = self.words, self.cells
        group = words[cell + GROUP]
        if words[group] != GROUP_STATE or words[cell] <= GROUP_STATE:
            raise Damage("cell {0} is no membership of a group".format(cell))
        words[group + GEN] += 1
        # The commit.
        words[cell] = 0
        cells.unlink(cell, group, holder)
        cells.slots.give(cell)
        if not words[group + COUNT]:
            holder = cells.holder_of(group)
            words[group] = 0
            words[holder] = words[group + LINK]
            words[GROUPS] -= 1
            cells.slots.give(group)

    def _sweep(self, number, now):
        """Have the hand look at a number of cells, ending expired memberships; True if any.

        When it has been round, EARLIEST is what it saw and what was added meanwhile.
        """
        words, cells = self.words, self.cells
        start, high = cells.start, cells.slots.high
        whole_round = number >= high
        hand = 0 if whole_round else words[HAND]
        if whole_round:
            words[ROUND] = FOREVER
        found = False
        for _ in range(min(number, high)):
            if hand >= high:
                break
            cell = start + hand * WIDTH
            if words[cell] > GROUP_STATE:
                expiry = words[cell + EXPIRY]
                if expiry <= now:
                    self._end(cell, cells.holder_of(cell))
                    found = True
                elif expiry < words[ROUND]:
                    words[ROUND] = expiry
            hand += 1
        if hand >= high:
            hand = 0
            words[EARLIEST] = words[ROUND]
            words[ROUND] = FOREVER
        words[HAND] = hand
        return found

    def snapshot(self, name):
        """Return a group's ``Snapshot``, its names still in UTF-8; None if it has no members."""
        words, memory = self.words, self._memory
        holder = self._find(name, 0)
        if not holder:
            return None
        group = words[holder]
        now = self._clock()
        names = []
        expired = []
        until = FOREVER
        if words[group + COUNT] > self.cells.max:
            raise Damage("a group has more members than there are cells")
        cell = words[group + NEXT]
        for _ in range(words[group + COUNT]):
            expiry = words[cell + EXPIRY]
            if expiry <= now:
                expired.append(cell)
            else:
                offset = cell * 8 + _BODY_OFFSET
                body = memory[offset : offset + BODY.size]
                check = words[cell + CHECK]
                state = words[cell]
                length = check >> 32
                if (
                    check_word(state, body, length) != check
                    or words[cell + GROUP] != group
                    or not GROUP_STATE < state <= LAST_SEQUENCE
                    or length > NAME_BYTES
                ):
                    raise Damage("cell {0} is no member of its group".format(cell))
                names.append(body[16 : 16 + length])
                if expiry < until:
                    until = expiry
            cell = words[cell + NEXT]
        if cell != group or len(set(names)) != len(names):
            raise Damage("a group's list is not as long as it should be")
        for cell in expired:
            self._end(cell, self.cells.holder_of(cell))
        if not names:
            return None
        return Snapshot(names, until, group, words[group + GEN], words[EPOCH])

    def leave_all(self, channels):
        """End all memberships of the channels; return how many there were, unexpired."""
        words, cells = self.words, self.cells
        now = self._clock()
        ended = 0
        for key, hashed in channels:
            holder = cells.second + (hashed & cells.mask)
            for _ in cells.bound:
                cell = words[holder]
                if not cell:
                    break
                offset = cell * 8 + _NAME_OFFSET
                if words[cell + HASH] == hashed and self._memory[offset : offset + len(key)] == key:
                    ended += words[cell + EXPIRY] > now
                    # What follows it takes its place in the holder.
                    self._end(cell, cells.holder_of(cell))
                else:
                    holder = cell + PEER
            else:
                raise Damage("a chain has no end")
        return ended

    def flush(self):
        """End all memberships; return how many damaged cells were met."""
        words, cells = self.words, self.cells
        newest = words[SEQUENCE]
        if cells.newest() > newest:
            raise Damage("a membership is newer than the newest")
        words[EPOCH] = words[EPOCH] + 1 & FOREVER
        # The commit.
        words[FLUSHED] = sealed(newest)
        return cells.rebuild()

    def counts(self):
        """Return (groups, memberships) stored, and (cells in use, cells there are)."""
        words = self.words
        return words[GROUPS], words[MEMBERSHIPS], self.cells.slots.used, self.cells.max

    def _find(self, name, group):
        """Return the word in the first array's chain that names the cell, 0 if none does.

        ``name`` is what ``_learn`` returned, ``group`` a group cell or, to find that, 0.
        """
        words = self.words
        cells = self.cells
        key, hashed = name
        holder = cells.first + (hashed + (group >> 3) & cells.mask)
        for _ in cells.bound:
            cell = words[holder]
            if not cell:
                return 0
            if words[cell + HASH] == hashed and words[cell + GROUP] == group:
                offset = cell * 8 + _NAME_OFFSET
                if self._memory[offset : offset + len(key)] == key:
                    return holder
            holder = cell + LINK
        raise Damage("a chain has no end")
