"""A region of equal slots: taken, given back, and put right after a crash.

Knows word views and numbers; does not know what a slot is used for. Not safe by itself: the
caller holds the segment's lock.

The region's control words, at ``control`` in the segment::

    +0 START     word index of the first slot
    +1 MAX       slots there is room for
    +2 HIGH      slots ever used; those beyond are zeros, and possibly not reserved memory
    +3 RESERVED  slots whose memory is reserved
    +4 FREE      word index of the first free slot below HIGH, 0 for none; chained by LINK
    +5 USED      slots in use

Every slot begins with::

    +0 STATE  0 means free; the owner's commit word
    +1 GEN    counts up each time the slot is freed, and is never reset: a (slot, GEN) pair
              that was remembered names the same content for ever
    +2 LINK   chains free slots; the owner's while the slot is in use

STATE is the truth. FREE and USED are derived from it (``rebuild``); HIGH may be too high
after a crash by the one slot that was being taken.
"""

START, MAX, HIGH, RESERVED, FREE, USED = range(6)
CONTROL_WORDS = 6
STATE, GEN, LINK = range(3)


class Slots(object):
    """View of one region of slots.

    :param words: the segment's word view.
    :param control: word index of the region's control words.
    :param width: words in a slot.
    :param reserve: called with (first byte, end byte), returns False if there is no memory.
    :param step: slots to reserve at a time.
    """

    def __init__(self, words, control, width, reserve, step):
        self._words = words
        self._control = control
        self._reserve = reserve
        self._step = step
        self.width = width
        self.start = words[control + START]
        self.max = words[control + MAX]

    @staticmethod
    def format(words, control, start, maximum):
        """Lay the control words of a new, empty region."""
        words[control + START] = start
        words[control + MAX] = maximum
        for word in (HIGH, RESERVED, FREE, USED):
            words[control + word] = 0

    @property
    def used(self):
        """Slots in use."""
        return self._words[self._control + USED]

    @property
    def high(self):
        """Slots ever used."""
        return self._words[self._control + HIGH]

    def take(self):
        """Return the word index of a free slot, or 0. It stays free until its STATE is set.

        Cost: constant; a reservation of memory once in ``step`` slots. A crash inside leaves
        the slot free, and found so by ``rebuild``.
        """
        words, control = self._words, self._control
        slot = words[control + FREE]
        if slot:
            words[control + FREE] = words[slot + LINK]
        else:
            high = words[control + HIGH]
            if high >= words[control + RESERVED] and not self._grow(high):
                return 0
            words[control + HIGH] = high + 1
            slot = self.start + high * self.width
        words[control + USED] += 1
        return slot

    def give(self, slot):
        """Free a slot: what remembers its GEN is told, and it is the next to be taken."""
        words, control = self._words, self._control
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

    def rebuild(self):
        """Derive FREE and USED from the states; return the word indexes of those in use.

        Cost: all slots ever used.
        """
        words, control = self._words, self._control
        words[control + HIGH] = min(words[control + HIGH], words[control + RESERVED])
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

    def faults(self, name):
        """Return what is wrong with the chain of free slots, as sentences."""
        words, control = self._words, self._control
        free = set()
        slot = words[control + FREE]
        while slot:
            if slot in free or not self.contains(slot):
                return ["{0}: the chain of free slots is broken at {1}".format(name, slot)]
            free.add(slot)
            slot = words[slot + LINK]
        in_use = [slot for slot in self.all() if words[slot + STATE]]
        found = []
        if any(slot in free for slot in in_use):
            found.append("{0}: a slot in use is in the free chain".format(name))
        if len(in_use) != self.used or len(in_use) + len(free) != self.high:
            found.append(
                "{0}: {1} slots in use, {2} counted; {3} free of {4}".format(
                    name, len(in_use), self.used, len(free), self.high
                )
            )
        return found

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
