"""Watching for a moment before going to sleep.

Knows words that are not zero when there is something; does not know what. To sleep, to be rung
and to wake up again costs two processes 20 us and more, and an answer often takes less. So a
receiver that blocks looks at its queues' words for ``LONGEST``, without the lock, before it is
hung up at them: meanwhile nobody has to ring it. What it sees is a hint, no more: it takes a
message as anybody does, and one that it misses it finds when it is hung up.

Between two looks it gives way to whoever else has work for its processor (``sched_yield``):
where that is the very sender that it waits for, the two change places with no doorbell at all.

It has to pay. Each watch in vain in a row doubles the number of waits that then go without one,
up to ``MOST_LEFT_OUT``; one that sees a message in time ends that. So where messages come seldom,
soon one wait of a thousand begins with a watch, and what waits takes no processor time. In a
process of several threads there is none: it would keep the others from running, and one of them
may have the message in its hands.
"""
import threading
from itertools import repeat

from asgi_ipc._shm import clock
from asgi_ipc._shm.lane import BOARD, EMPTY

LONGEST = 50 * 1000
"""Nanoseconds that a watch lasts: about twice what it saves if it sees something."""

LOOKS = 100
"""Looks of one watch at most, whatever the clock says. One takes 0.7 us and more."""

MOST_LEFT_OUT = 1023
"""Waits without a watch after those that were in vain."""


class Spin(object):
    """The watches of one process, as long as they pay. Its counts need not be exact."""

    def __init__(self):
        self._left_out = 0
        self._to_leave_out = 0

    def sees(self, words, memory, places):
        """Watch, if that is due; True as soon as one of the places is not zero, and nobody inside.

        :param words: those of a segment, which may be closed meanwhile: that is True as well.
        :param memory: what they are a view of.
        """
        if self._to_leave_out:
            self._to_leave_out -= 1
            return False
        give_way = clock.give_way
        if give_way is None:
            return False
        seen = late = alone = False
        end = clock.now() + LONGEST
        try:
            for _ in repeat(None, LOOKS):
                give_way()
                for place in places:
                    if words[place]:
                        seen = True
                        break
                late = clock.now() >= end
                # Whoever laid it there may have the lock still.
                if late or (seen and memory[BOARD] == EMPTY):
                    break
                if not alone:
                    if threading.active_count() > 1:
                        break
                    alone = True
        except (TypeError, ValueError):
            return True
        if seen and not late:
            self._left_out = 0
        else:
            # Also if it is there by now: a doorbell would have told earlier.
            self.in_vain()
        return seen

    def in_vain(self):
        """The watch did not lead to a message."""
        self._left_out = min(2 * self._left_out + 1, MOST_LEFT_OUT)
        self._to_leave_out = self._left_out
