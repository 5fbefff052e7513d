"""GroupStore: which channels are in which group, and until when.

Knows group names, channel names and times; does not know what a valid name is (its caller
has looked), nor what is sent to a group. It brings the lock, the names' hashes and a second
try to what ``memberships`` does; what the segment looks like, and how it is put right after
a crash, is in ``group_cells``.

Who sends to groups keeps a ``Snapshot``, and asks ``current`` without the lock: two words
tell whether anything changed.

"""
import logging
import warnings

from asgi_ipc import group_check
from asgi_ipc._shm import clock as system_clock
from asgi_ipc._shm.segment import EPOCH, PAGE, Segment, round_up
from asgi_ipc._shm.slots import GEN
from asgi_ipc.errors import GroupsFull
from asgi_ipc.group_cells import (
    FOREVER,
    MINIMUM_SIZE,
    NAME_BYTES,
    SEGMENT_KIND,
    SEGMENT_LAYOUT,
    fixed_bytes,
    format_header,
)
from asgi_ipc.guarded import Guarded
from asgi_ipc.memberships import Memberships, Snapshot

__all__ = ["GroupStore", "MINIMUM_SIZE", "Snapshot"]

KNOWN_NAMES = 20000
"""Names whose hashes a process remembers; 5 MB at most."""

DROPPED = "{0} cells were damaged and have been dropped"


class GroupStore(Guarded):
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
        segment = Segment(
            "/{0}-groups".format(prefix),
            SEGMENT_KIND,
            SEGMENT_LAYOUT,
            group_memory,
            fixed_bytes,
            format_header,
            mode,
            lock_timeout,
        )
        Guarded.__init__(self, segment)
        self._inside = Memberships(segment, clock)
        self.now = clock
        self._names = {}
        self.requested = group_memory
        self.size = segment.size
        self.created = segment.created
        try:
            self._tell_of_size(prefix)
        except BaseException:
            # A warning that is made an error.
            self.close()
            raise

    def _tell_of_size(self, prefix):
        if self.size != round_up(self.requested, PAGE):
            warnings.warn(
                "{0} exists with {1} bytes, and they stay in force: group_memory={2} is not "
                "heeded. To change it, stop all who use it and remove it with `asgi-ipc rm "
                "{3}`.".format(self._segment.name, self.size, self.requested, prefix),
                RuntimeWarning,
                stacklevel=3,
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
        if not self._run(self._inside.add, group, channel, expires):
            self._refuse()

    def discard(self, group, channel):
        """End a membership, if there is one. Cost: 4 us, constant."""
        names = self._names
        group = names.get(group) or self._learn(group)
        channel = names.get(channel) or self._learn(channel)
        self._run(self._inside.discard, group, channel)

    def members(self, group):
        """Return the names of a group's members in order of joining. Cost: see snapshot."""
        found = self.snapshot(group)
        return found.names if found else []

    def snapshot(self, group):
        """Return a group's members as a ``Snapshot``, None if it has none.

        Cost: 3 us and 1 us a member; ends expired memberships that it meets.
        """
        found = self._run(self._inside.snapshot, self._names.get(group) or self._learn(group))
        if found is not None:
            # Outside of the lock, and all at once. No name has a NUL in it.
            found.names = b"\0".join(found.names).decode("utf-8").split(u"\0")
        return found

    def current(self, snapshot):
        """Whether a snapshot still is what ``snapshot`` would return, before its ``until``.

        Takes no lock. Cost: 0.15 us. False once the store is closed.
        """
        words = self._inside.words
        try:
            return (
                words[snapshot.cell + GEN] == snapshot.gen and words[EPOCH] == snapshot.epoch
            )
        except (TypeError, ValueError):
            return False

    @property
    def cells(self):
        """The table of groups and memberships."""
        return self._inside.cells.slots

    def leave_all(self, channels):
        """End all memberships of the channels; return how many there were, unexpired.

        Cost: 2 us for each. A crash inside leaves each membership either untouched or ended.
        """
        names = self._names
        known = [names.get(channel) or self._learn(channel) for channel in channels]
        return self._run(self._inside.leave_all, known)

    def flush(self):
        """End all memberships, at once. Cost: all cells ever used."""
        lost = self._run(self._inside.flush)
        if lost:
            self._trouble.append((logging.ERROR, DROPPED.format(lost)))
            self._afterwards()

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

    def close(self):
        """Detach; the memberships stay. Twice is once."""
        self._segment.close()
        self._inside.detach()

    def _rebuild(self):
        lost = self._inside.cells.rebuild()
        if lost:
            self._trouble.append((logging.ERROR, DROPPED.format(lost)))

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

    def _check(self):
        return group_check.faults(self._inside.cells)

    def _statistics(self):
        groups, memberships, _, _ = self._inside.counts()
        return {
            "groups": groups,
            "memberships": memberships,
            "memory_used": self._segment.memory_used(),
            "memory_size": self.size,
        }

    def _refuse(self):
        """Say why there was no room, with the lock free again."""
        groups, memberships, used, cells = self._run(self._inside.counts)
        if used + 2 <= cells:
            why = "the system has no shared memory left (Docker: --shm-size)"
        else:
            why = "group_memory is used up"
        raise GroupsFull(
            "no room for another membership in {0}: {1}. It holds {2} memberships of {3} groups, "
            "and group_memory={4} bytes is in force. Raise group_memory, lower group_expiry, or "
            "discard members.".format(self._segment.name, why, memberships, groups, self.size)
        )
