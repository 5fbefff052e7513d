"""What each thread has of a lock: an open file description, a lane, and where it is.

Knows descriptors and threads; does not know how the lock is got.
"""
import os
import threading

from asgi_ipc._shm import lane
from asgi_ipc.errors import LayerClosed

CLOSED = "this channel layer was closed; make a new one"


class Holder(object):
    """One thread's own view of the lock.

    ``descriptor``: of its own open file description. ``lane``: the byte of its flag; 0 for
    none, None before it was asked for one. ``up``: its flag. ``alone``: the board with only that.
    ``inside``: whether it is on its way in, inside, or on its way out. ``slow``: whether it came
    the slow way. ``broken``: whether what it did inside was broken off, and its flag is to stay up.
    ``token``: whether it has one. ``fence``: the next one to use. ``refused``: the frame of a
    handler whose call was refused, until that has abandoned.
    """

    __slots__ = (
        "alone", "broken", "descriptor", "descriptors", "fence", "inside", "lane", "pid", "refused",
        "slow", "token", "up",
    )  # fmt: skip

    def __init__(self, descriptor, descriptors):
        self.descriptor = descriptor
        self.descriptors = descriptors
        self.inside = False
        self.slow = False
        self.broken = False
        self.token = False
        self.refused = None
        self.lane = None
        self.fence = lane.fence()
        self.pid = os.getpid()
        descriptors.add(descriptor)

    def take_lane(self, words, memory):
        """Get a lane, if there is one. The caller is inside."""
        number = lane.take(self.descriptor)
        if number:
            # Up perhaps, if who had it last died.
            memory[number] = lane.DOWN
            words[lane.owner_place(number)] = lane.owner_word(self.pid)
            self.up = lane.flag_of(number)
            self.alone = lane.alone(number)
        self.lane = number

    def close(self):
        """Give the descriptor up, and so the lane. Who takes it out of the set closes it, once."""
        try:
            self.descriptors.remove(self.descriptor)
        except (AttributeError, KeyError):
            # Closed already; or what made this one was interrupted.
            return
        descriptor, self.descriptor = self.descriptor, None
        self.lane = 0
        os.close(descriptor)

    def __del__(self):
        # The thread ended, or the lock was dropped.
        self.close()


class Holders(threading.local):
    """Makes a thread's holder when the thread first comes by."""

    def __init__(self, open_description, descriptors):
        self.mine = Holder(open_description(), descriptors)


class NoHolders(object):
    """Of a lock that was closed before a fork: the parent's holders have no descriptors here."""

    @property
    def mine(self):
        raise LayerClosed(CLOSED)
