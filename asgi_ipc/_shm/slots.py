"""A region of equal slots: taken, given back, and put right after a crash.

Knows word views and numbers; does not know what a slot is used for. Not safe by itself: the
caller holds the segment's lock.

Where the region lies and how many slots it has room for follows from the size of the segment,
which its header seals. The region's control words, at ``control`` in the segment::

    +0 HIGH      slots ever used; those beyond are zeros, and possibly not reserved memory
    +1 RESERVED  slots whose memory is reserved
    +2 FREE      word index of the first free slot below HIGH, 0 for none; chained by LINK
    +3 USED      slots in use

Every slot begins with::

    +0 STATE  0 means free; the owner's commit word
    +1 GEN    counts up each time the slot is freed, and is not set back: a (slot, GEN) pair
              that was remembered names the same content for ever
    +2 LINK   chains free slots; the owner's while the slot is in use

STATE is the truth. FREE and USED are derived from it (``rebuild``); HIGH may be too high
after a crash by the one slot that was being taken. What is met that contradicts this raises
``Damage`` before anything is written by it.
"""
from asgi_ipc._shm.words import LARGEST_COUNT, Damage
from asgi_ipc.errors import SegmentError

HIGH, RESERVED, FREE, USED = range(4)
CONTROL_WORDS = 4
STATE, GEN, LINK = range(3)


class Slots(object):
    """View of one region of slots.

    :param name: what the slots are, for texts.
    :param words: the segment's word view.
    :param control: word index of the region's control words.
    :param start: word index of the first slot.
    :param maximum: slots there is room for.
    :param width: words in a slot.
    :param reserve: called with (first byte, end byte), returns False if there is no memory.
    :param step: slots to reserve at a time.
    """

    def __init__(self, name, words, control, start, maximum, width, reserve, step):
        self.name = name
        self._words = words
        self._control = control
        self._reserve = reserve
        self._step = step
        self.start = start
        self.max = maximum
        self.width = width

    @property
    def used(self):
        """Slots in use."""
        return self._words[self._control + USED]

    @property
    def high(self):
        """Slots ever used."""
        high = self._words[self._control + HIGH]
        if high > self.max:
            raise Damage("HIGH of the {0} is out of range".format(self.name))
        return high

    @property
    def all_used(self):
        """Whether there is no slot that was never used: then more memory would not help."""
        return self._words[self._control + HIGH] >= self.max

    def take(self):
        """Return the word index of a free slot, or 0. It stays free until its STATE is set.

        Cost: constant; a reservation of memory once in ``step`` slots. A crash inside leaves
        the slot free, and found so by ``rebuild``.
        """
        words, control = self._words, self._control
        slot = words[control + FREE]
        if slot:
            if not self.contains(slot) or words[slot + STATE]:
                raise Damage("the free {0} lead to what is none".format(self.name))
            words[control + FREE] = words[slot + LINK]
        else:
            high = self.high
            if high >= words[control + RESERVED] and not self._grow(high):
                return 0
            if high >= self.max:
                raise Damage("RESERVED of the {0} is out of range".format(self.name))
            slot = self.start + high * self.width
            if words[slot + STATE]:
                raise Damage("HIGH of the {0} is too low".format(self.name))
            words[control + HIGH] = high + 1
        words[control + USED] += 1
        return slot

    def give(self, slot):
        """Free a slot: what remembers its GEN is told, and it is the next to be taken."""
        words, control = self._words, self._control
        if not self.contains(slot):
            raise Damage("{0} is none of the {1}".format(slot, self.name))
        words[slot + GEN] += 1
        words[slot + STATE] = 0
        words[slot + LINK] = words[control + FREE]
        words[control + FREE] = slot
        words[control + USED] -= 1

    def all(self):
        """Iterate over the word indexes of all slots ever used, free ones included."""
        return range(self.start, self.start + self.high * self.width, self.width)

    def contains(self, slot):
        """Whether ``slot`` is the word index of a slot ever used."""
        offset = slot - self.start
        return 0 <= offset < self.high * self.width and offset % self.width == 0

    def repair(self):
        """Put HIGH and RESERVED right, and any GEN that is about to overflow.

        Before all else in a rebuild. The caller counts up what tells processes to forget
        what they remember by GEN. Cost: the slots that were ever used.

        :raises SegmentError: the system has no memory left for what is stored.
        """
        words, control = self._words, self._control
        high = min(words[control + HIGH], self.max)
        reach = max(high, min(words[control + RESERVED], self.max))
        if not self._have_memory(reach):
            reach = high
            if not self._have_memory(high):
                raise SegmentError(
                    "no shared memory left for the {0} {1} of a segment; free some in /dev/shm, "
                    "or enlarge it (Docker: --shm-size)".format(high, self.name)
                )
        words[control + RESERVED] = reach
        # What was never used is zeros. If anything else is there, HIGH was damaged.
        while reach > high:
            last = self.start + (reach - 1) * self.width
            if words[last + STATE] or words[last + GEN]:
                break
            reach -= 1
        words[control + HIGH] = reach
        for slot in self.all():
            if words[slot + GEN] >= LARGEST_COUNT:
                words[slot + GEN] = 0

    def rebuild(self):
        """Derive FREE and USED from the states; return the word indexes of those in use.

        After ``repair``. Cost: all slots ever used.
        """
        words, control = self._words, self._control
        used = []
        free = 0
        for slot in reversed(self.all()):
            if words[slot + STATE]:
                used.append(slot)
            else:
                words[slot + GEN] += 1
                words[slot + LINK] = free
                free = slot
        words[control + FREE] = free
        words[control + USED] = len(used)
        used.reverse()
        return used

    def faults(self):
        """Return what is wrong with the control words and the free slots, as sentences."""
        words, control = self._words, self._control
        high, reserved = words[control + HIGH], words[control + RESERVED]
        if not high <= reserved <= self.max:
            return [
                "{0}: HIGH {1}, RESERVED {2}, room for {3}".format(
                    self.name, high, reserved, self.max
                )
            ]
        free = set()
        slot = words[control + FREE]
        while slot:
            if slot in free or not self.contains(slot):
                return ["{0}: the chain of free slots is broken at {1}".format(self.name, slot)]
            free.add(slot)
            slot = words[slot + LINK]
        in_use = [slot for slot in self.all() if words[slot + STATE]]
        found = [
            "{0}: GEN of {1} is {2}".format(self.name, slot, words[slot + GEN])
            for slot in self.all()
            if words[slot + GEN] > 2 * LARGEST_COUNT
        ]
        if any(slot in free for slot in in_use):
            found.append("{0}: a slot in use is in the free chain".format(self.name))
        if len(in_use) != self.used or len(in_use) + len(free) != high:
            found.append(
                "{0}: {1} slots in use, {2} counted; {3} free of {4}".format(
                    self.name, len(in_use), self.used, len(free), high
                )
            )
        return found

    def _have_memory(self, slots):
        first = self.start * 8
        return self._reserve(first, first + slots * self.width * 8)

    def _grow(self, high):
        """Reserve memory for more slots; False if the region or the memory is used up."""
        words, control = self._words, self._control
        wanted = min(high + self._step, self.max)
        if wanted <= high:
            return False
        first = (self.start + high * self.width) * 8
        end = (self.start + wanted * self.width) * 8
        if not self._reserve(first, end):
            return False
        words[control + RESERVED] = wanted
        return True
