"""faster-fifo: a queue in shared memory, in C++."""
from importlib import metadata

import faster_fifo

from benchmarks.peers.base import MEBIBYTE, Adapter
from benchmarks.peers.queues import NAMES


class FasterFifo(Adapter):
    """``faster_fifo.Queue``, put and get one by one, inherited by forked processes."""

    def version(self):
        return "faster-fifo " + metadata.version("faster-fifo")

    def share(self):
        self.queues = {name: faster_fifo.Queue(max_size_bytes=8 * MEBIBYTE) for name in NAMES}

    def sender(self, channel):
        return self.queues[channel].put

    def receiver(self, channel):
        return self.queues[channel].get
