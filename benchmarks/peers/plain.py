"""What nobody can be faster than: packing, and packing with the copies that memory takes."""
import mmap

import msgpack

from benchmarks.peers.base import Adapter


class Packing(Adapter):
    """Pack and unpack, and nothing else: the baseline to which each run's figures relate."""

    def version(self):
        return "msgpack {0}.{1}.{2}".format(*msgpack.version)

    def open(self):
        self._packed = b""

    def sender(self, channel):
        pack = msgpack.packb

        def send(message):
            self._packed = pack(message)

        return send

    def receiver(self, channel):
        unpack = msgpack.unpackb

        def receive():
            return unpack(self._packed)

        return receive


class Copies(Packing):
    """Pack, copy into shared memory, copy out of it, unpack."""

    def open(self):
        self._memory = mmap.mmap(-1, 2 * self.settings["size"] + 4096)
        self._size = 0
        for place in range(0, len(self._memory), 4096):
            self._memory[place] = 1  # nobody is to pay for pages that were not there

    def sender(self, channel):
        pack, memory = msgpack.packb, self._memory

        def send(message):
            packed = pack(message)
            self._size = size = len(packed)
            memory[:size] = packed

        return send

    def receiver(self, channel):
        unpack, memory = msgpack.unpackb, self._memory

        def receive():
            return unpack(memory[: self._size])

        return receive
