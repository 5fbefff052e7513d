"""GroupStore: which channels are in which group, and until when.

Knows group names, channel names and times; does not know what a valid name is (its caller
has looked), nor what is sent to a group. What the segment looks like, and how it is put
right after a crash, is in ``group_cells``.

How it works. Every operation takes the segment's lock, and does at most one thing that
makes it happen, its commit: the store of a membership's STATE (it begins, or ends), of its
EXPIRY (it is renewed), or of FLUSHED (all end). What the commit makes visible is in place
before it; chains, lists and counts follow after it, and are derived anew if they did not
come about.

Who sends to groups keeps a ``Snapshot``, and asks ``current`` without the lock. Therefore:

1. A group's GEN is counted up before each commit that changes its membership or brings an
   expiry forward, and when its cell is freed; EPOCH before a flush and in each rebuild.
2. A snapshot's ``until`` is not above the earliest expiry of its members.

Expired memberships end when somebody meets them. For those that nobody meets, each add
looks at a few cells (the hand), and one that finds no room looks at all; both only if the
EARLIEST expiry has come, so that there is something to be found.

What damage is met in passing is put right by a rebuild, and the operation tried once more.
"""
import logging
import warnings

from six.moves import range

from asgi_ipc import group_check
from asgi_ipc._shm import clock as system_clock
from asgi_ipc._shm.segment import EPOCH, PAGE, Segment, round_up
from asgi_ipc._shm.slots import GEN, LINK
from asgi_ipc.errors import GroupsFull, SegmentError
from asgi_ipc.group_cells import (
    BODY,
    CHECK,
    COUNT,
    CRC_MASK,
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
    MINIMUM_SIZE,
    NAME,
    NAME_BYTES,
    NEXT,
    PEER,
    ROUND,
    SEGMENT_KIND,
    SEGMENT_LAYOUT,
    SEQUENCE,
    WIDTH,
    Cells,
    Damage,
    check_word,
    fixed_bytes,
    format_header,
    sealed,
)

__all__ = ["GroupStore", "MINIMUM_SIZE", "Snapshot"]

KNOWN_NAMES = 20000
"""Names whose hashes a process remembers; 5 MB at most."""

HAND_CELLS = 3
"""Cells that an add looks at for expired memberships."""

_NAME_OFFSET = NAME * 8
_DAMAGE = (Damage, IndexError, ValueError, OverflowError)
"""What reading words that contradict each other can raise."""

_log = logging.getLogger(__name__)


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


class GroupStore(object):
    """The groups of one prefix, shared by all processes that open it.

    :param prefix: the segment and its semaphore are called "/<prefix>-groups".
    :param group_memory: bytes, at least ``MINIMUM_SIZE``; one that exists keeps its size.
    :param mode: permission bits of the segment.
    :param lock_timeout: seconds to wait for a live holder of the lock.
    :param clock: returns nanoseconds; the same in all processes.
    :raises SegmentError: the segment is not ours, or there is no memory for it.

    ``created`` tells whether it was made here, ``requested`` and ``size`` are the bytes asked
    for and in force. Groups and channels are text; times are nanoseconds of ``clock``, and a
    membership has expired when its time is reached.
    """

    def __init__(
        self, prefix, group_memory, mode=0o600, lock_timeout=10.0, clock=system_clock.now
    ):
        self._segment = segment = Segment(
            "/{0}-groups".format(prefix),
            SEGMENT_KIND,
            SEGMENT_LAYOUT,
            group_memory,
            fixed_bytes(round_up(group_memory, PAGE)),
            format_header,
            mode,
            lock_timeout,
        )
        try:
            self._cells = Cells(segment)
        except BaseException:
            segment.close()
            raise
        self._words = segment.words
        self._memory = segment.map
        self._lock = segment.lock
        self._clock = clock
        self._names = {}
        self._trouble = []
        self.requested = group_memory
        self.size = segment.size
        self.created = segment.created
        if self.size != round_up(group_memory, PAGE):
            warnings.warn(
                "{0} exists with {1} bytes, and they stay in force: group_memory={2} is not "
                "heeded. To change it, stop all who use it and remove it with `asgi-ipc rm "
                "{3}`.".format(segment.name, self.size, group_memory, prefix),
                RuntimeWarning,
                stacklevel=2,
            )

    def add(self, group, channel, expires):
        """Make a channel a member until ``expires``, or renew it. Cost: 5 us, constant.

        :raises GroupsFull: no room, even after all expired memberships were ended.
        """
        if not 0 <= expires <= FOREVER:
            expires = FOREVER if expires > 0 else 0
        names = self._names
        group = names.get(group) or self._learn(group)
        channel = names.get(channel) or self._learn(channel)
        if not self._run(self._add, group, channel, expires):
            self._refuse()

    def discard(self, group, channel):
        """End a membership, if there is one. Cost: 4 us, constant."""
        names = self._names
        group = names.get(group) or self._learn(group)
        channel = names.get(channel) or self._learn(channel)
        self._run(self._discard, group, channel)

    def members(self, group):
        """Return the names of a group's members in order of joining. Cost: see snapshot."""
        found = self.snapshot(group)
        return found.names if found else []

    def snapshot(self, group):
        """Return a group's members as a ``Snapshot``, None if it has none.

        Cost: 3 us and 1 us a member; ends expired memberships that it meets.
        """
        found = self._run(self._snapshot, self._names.get(group) or self._learn(group))
        if found is not None:
            # Outside of the lock, and all at once. No name has a NUL in it.
            found.names = b"\0".join(found.names).decode("utf-8").split(u"\0")
        return found

    def current(self, snapshot):
        """Whether a snapshot still is what ``snapshot`` would return, before its ``until``.

        Takes no lock. Cost: 0.15 us. False once the store is closed.
        """
        words = self._words
        try:
            return (
                words[snapshot.cell + GEN] == snapshot.gen and words[EPOCH] == snapshot.epoch
            )
        except (TypeError, ValueError):
            return False

    def leave_all(self, channels):
        """End all memberships of the channels; return how many there were, unexpired.

        Cost: 2 us for each. A crash inside leaves each membership either untouched or ended.
        """
        names = self._names
        known = [names.get(channel) or self._learn(channel) for channel in channels]
        return self._run(self._leave_all, known)

    def flush(self):
        """End all memberships, at once. Cost: all cells ever used."""
        self._run(self._flush)

    def check(self):
        """Return all that is wrong with the segment, as sentences; [] when it is sound.

        Cost: all cells ever used, with the lock held.
        """
        return self._run(self._check)

    def statistics(self):
        """Return counts, and bytes held and in force.

        Expired memberships that nobody has met yet are counted.
        """
        return self._run(self._statistics)

    def replaced(self):
        """Whether the segment was unlinked, so that others no longer come here."""
        return self._segment.replaced()

    def close(self):
        """Detach; the memberships stay. Twice is once."""
        self._segment.close()
        self._words = self._memory = self._cells = None

    def _run(self, work, *arguments):
        """Do ``work`` under the lock, after a rebuild if one is due."""
        lock = self._lock
        try:
            if lock.acquire():
                self._rebuild()
            result = work(*arguments)
            lock.release()
        except BaseException as error:
            lock.abandon()
            if not isinstance(error, _DAMAGE):
                raise
            result = self._run_again(error, work, arguments)
        if self._trouble:
            self._report()
        return result

    def _run_again(self, damage, work, arguments):
        """The last try met damage: rebuild first."""
        lock = self._lock
        try:
            lock.acquire()
            self._rebuild()
            result = work(*arguments)
            lock.release()
        except BaseException as error:
            lock.abandon()
            if not isinstance(error, _DAMAGE):
                raise
            raise SegmentError(
                "{0} is damaged beyond repair ({1}). Remove it with `asgi-ipc rm {2}`; groups "
                "begin anew then.".format(
                    self._segment.name, error, self._segment.name.strip("/").rsplit("-", 1)[0]
                )
            )
        self._trouble.append("links were wrong ({0}) and have been rebuilt".format(damage))
        return result

    def _rebuild(self):
        lost = self._cells.rebuild()
        if lost:
            self._trouble.append("{0} cells were damaged and have been dropped".format(lost))

    def _report(self):
        """Log what was found, not before the lock is free: a handler may take its time."""
        while self._trouble:
            _log.error("%s: %s", self._segment.name, self._trouble.pop(0))

    def _learn(self, name):
        """Return and remember (name in UTF-8 and a NUL, hash)."""
        encoded = name.encode("utf-8")
        if not 0 < len(encoded) <= NAME_BYTES or b"\0" in encoded:
            raise ValueError(
                "a name has 1 to {0} bytes, none of them NUL: {1!r}".format(NAME_BYTES, name)
            )
        known = (encoded + b"\0", self._segment.hash(encoded))
        if len(self._names) >= KNOWN_NAMES:
            self._names.clear()
        self._names[name] = known
        return known

    def _find(self, name, group):
        """Return the word in the first array's chain that names the cell, 0 if none does.

        ``name`` is what ``_learn`` returned, ``group`` a group cell or, to find that, 0.
        """
        words = self._words
        cells = self._cells
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

    def _add(self, group_name, channel, expires):
        """Begin or renew a membership; False if there is no room."""
        words = self._words
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
                return self._add(group_name, channel, expires)
        return self._join(group_name, group, channel, expires) or (
            now >= words[EARLIEST]
            and self._sweep(self._cells.high(), now)
            and self._add(group_name, channel, expires)
        )

    def _join(self, group_name, group, channel, expires):
        """Begin a membership in a group cell, 0 for one to be made; False if full."""
        words, cells = self._words, self._cells
        cell = self._take()
        if not cell:
            return False
        if not group:
            group = self._take()
            if not group:
                cells.slots.give(cell)
                return False
            self._fill(group, GROUP_STATE, group_name, 0, 0)
            cells.empty(group)
            words[group] = GROUP_STATE
            cells.link_group(group, group_name[1])
        sequence = words[SEQUENCE] + 1
        if sequence > LAST_SEQUENCE:
            raise Damage("the sequence number is out of range")
        words[SEQUENCE] = sequence
        self._fill(cell, sequence, channel, group, expires)
        words[group + GEN] += 1
        # The commit.
        words[cell] = sequence
        cells.link(cell, group, channel[1])
        return True

    def _take(self):
        """Return a free cell, 0 if there is none."""
        cells = self._cells
        cell = cells.slots.take()
        if cell and (self._words[cell] or not cells.slots.contains(cell)):
            raise Damage("cell {0} is in the free chain and in use".format(cell))
        return cell

    def _fill(self, cell, state, name, group, expires):
        """Write all of a cell that its STATE makes visible."""
        words = self._words
        key, hashed = name
        body = BODY.pack(hashed, group, key)
        offset = cell * 8 + HASH * 8
        self._memory[offset : offset + BODY.size] = body
        words[cell + CHECK] = check_word(state, body, len(key) - 1)
        words[cell + EXPIRY] = expires

    def _discard(self, group_name, channel):
        holder = self._find(group_name, 0)
        if holder:
            holder = self._find(channel, self._words[holder])
            if holder:
                self._end(self._words[holder], holder)

    def _end(self, cell, holder):
        """End a membership and free its cell; its group's too if it was the last."""
        words, cells = self._words, self._cells
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
        words, cells = self._words, self._cells
        start, high = cells.start, cells.high()
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

    def _snapshot(self, name):
        words, memory = self._words, self._memory
        holder = self._find(name, 0)
        if not holder:
            return None
        group = words[holder]
        now = self._clock()
        names = []
        expired = []
        until = FOREVER
        if words[group + COUNT] > self._cells.max:
            raise Damage("a group has more members than there are cells")
        cell = words[group + NEXT]
        for _ in range(words[group + COUNT]):
            expiry = words[cell + EXPIRY]
            if expiry <= now:
                expired.append(cell)
            else:
                offset = cell * 8 + HASH * 8
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
        if cell != group:
            raise Damage("a group's list is not as long as it should be")
        for cell in expired:
            self._end(cell, self._cells.holder_of(cell))
        if not names:
            return None
        return Snapshot(names, until, group, words[group + GEN], words[EPOCH])

    def _leave_all(self, channels):
        words, cells = self._words, self._cells
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

    def _flush(self):
        words = self._words
        newest = words[SEQUENCE]
        if self._cells.newest() > newest:
            raise Damage("a membership is newer than the newest")
        words[EPOCH] = words[EPOCH] + 1 & FOREVER
        # The commit.
        words[FLUSHED] = sealed(newest)
        self._rebuild()

    def _check(self):
        return group_check.faults(self._cells)

    def _statistics(self):
        words = self._words
        return {
            "groups": words[GROUPS],
            "memberships": words[MEMBERSHIPS],
            "memory_used": self._segment.memory_used(),
            "memory_size": self.size,
        }

    def _refuse(self):
        """Say why there was no room, with the lock free again."""
        cells_used, cells = self._run(self._room)
        counts = self.statistics()
        if cells_used + 2 <= cells:
            why = "the system has no shared memory left (Docker: --shm-size)"
        else:
            why = "group_memory is used up"
        raise GroupsFull(
            "no room for another membership in {0}: {1}. It holds {2} memberships of {3} groups, "
            "and group_memory={4} bytes is in force. Raise group_memory, lower group_expiry, or "
            "discard members.".format(
                self._segment.name, why, counts["memberships"], counts["groups"], self.size
            )
        )

    def _room(self):
        return self._cells.slots.used, self._cells.max
