"""InMemoryChannelLayer of Channels."""
import channels
from channels.layers import InMemoryChannelLayer

from benchmarks.peers.base import CAPACITY, EXPIRY, Channels


class InMemory(Channels):
    """It reaches no other process; sender and members share one event loop."""

    def version(self):
        return "channels " + channels.__version__

    def open(self):
        self.layer = InMemoryChannelLayer(expiry=EXPIRY, capacity=CAPACITY)
