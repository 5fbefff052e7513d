"""What the standard library has to pass messages between processes."""
import fcntl
import multiprocessing
import os
import platform
import time

import msgpack

from benchmarks.peers.base import MEBIBYTE, Adapter

NAMES = ("measured", "inbox.0", "inbox.1")
"""Channels that these peers can have: each is a queue or pipe, made before the processes."""

_SET_SIZE = 1031  # F_SETPIPE_SZ, in fcntl from Python 3.10 on


class StandardQueue(Adapter):
    """``multiprocessing.Queue``, inherited by processes that are forked."""

    def version(self):
        return "Python " + platform.python_version()

    def share(self):
        context = multiprocessing.get_context("fork")
        self.queues = {name: context.Queue() for name in NAMES}

    def sender(self, channel):
        return self.queues[channel].put

    def receiver(self, channel):
        return self.queues[channel].get

    def settle(self, channel):
        # A thread of the sender writes what was put; nothing public says that it is done.
        while self.queues[channel]._buffer:  # noqa: SLF001
            time.sleep(0.001)
        time.sleep(0.005)


class Pipe(Adapter):
    """A pipe that carries packed messages; what two processes can do at best, with a copy."""

    def version(self):
        return "msgpack {0}.{1}.{2}".format(*msgpack.version)

    def share(self):
        self.pipes = {name: os.pipe() for name in NAMES}
        for _, writer in self.pipes.values():
            fcntl.fcntl(writer, _SET_SIZE, MEBIBYTE)

    def destroy(self):
        for pipe in self.pipes.values():
            for descriptor in pipe:
                os.close(descriptor)

    def sender(self, channel):
        descriptor, write, pack = self.pipes[channel][1], os.write, msgpack.packb

        def send(message):
            write(descriptor, pack(message))

        return send

    def receiver(self, channel):
        """For one message at a time: all that is there is one."""
        descriptor, read, unpack = self.pipes[channel][0], os.read, msgpack.unpackb
        most = self.settings["size"] + 4096

        def receive():
            return unpack(read(descriptor, most))

        return receive

    def stream(self, channel):
        """Reads as much as there is, and hands out one by one."""
        descriptor, read = self.pipes[channel][0], os.read
        unpacker = msgpack.Unpacker()

        def receive():
            for message in unpacker:
                return message
            while True:
                unpacker.feed(read(descriptor, 65536))
                for message in unpacker:
                    return message

        return receive
