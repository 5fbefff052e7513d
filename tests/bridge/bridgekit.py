"""Machines, bridges and a Redis for the tests: all of it here, and taken away afterwards.

A "machine" is a prefix of its own; those that belong together have one name at Redis.
"""
import shutil
import subprocess
import sys
import tempfile
import time

import commandkit
from processkit import eventually
from rediskit import RedisServer

from asgi_ipc.core import IPCChannelLayer, unlink

PATIENCE = 20
"""Seconds until a test that waits for a message, or for the end of a bridge, fails."""


def run(*words):
    """Run a command to its end: (exit status, what it said)."""
    status, output, errors = commandkit.call(*words)
    return status, output + errors


class Server(RedisServer):
    """A redis-server in a folder of its own."""

    def __init__(self, keeps=False, options=()):
        self._own_folder = tempfile.mkdtemp(prefix="bridge-")
        RedisServer.__init__(self, self._own_folder, keeps=keeps, options=options)

    def client(self, **options):
        import redis

        return redis.Redis.from_url(self.url, **options)

    def close(self):
        self.kill()
        shutil.rmtree(self._own_folder)


class Bridge:
    """The program, for a machine."""

    def __init__(self, url, prefix, name, *options):
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by ``close``)
        command = [sys.executable, "-m", "asgi_ipc", "bridge", url, "--prefix", prefix]
        self.process = subprocess.Popen(
            [*command, "--name", name, *options],
            stderr=self._log,
            env=commandkit.ENVIRONMENT,
        )

    def log(self):
        self._log.seek(0)
        return self._log.read().decode()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self):
        """Ask it to end; return its exit status."""
        self.process.terminate()
        return self.process.wait(PATIENCE)

    def close(self):
        if self.process.poll() is None:
            self.kill()
        self._log.close()


class Machine:
    """A prefix with a layer, and bridges as they are started."""

    def __init__(self, prefix, name, url, **options):
        self.prefix = prefix
        self._name = name
        self._url = url
        self._options = options
        self.layer = IPCChannelLayer(prefix=prefix, **options)
        self.bridges = []
        self._number = 0

    def start(self, *options):
        """Start a bridge; return it."""
        self.bridges.append(Bridge(self._url, self.prefix, self._name, *options))
        return self.bridges[-1]

    def figures(self):
        return self.layer._stores.messages.bridge()

    def command(self, name):
        """What a command says of this machine's prefix."""
        status, text = run(name, self.prefix)
        assert status == 0
        return text

    def connected(self):
        return eventually(lambda: self.figures()["connected"] and self._reads(), "a connection")

    def _reads(self):
        # A stream that was found to be read from.
        messages = self.layer._stores.messages
        return all(messages.last_id(number) != (0, 0) for number in (0, 1))

    def member(self, group):
        """A new channel of this machine, in a group."""
        self._number += 1
        channel = self.layer.new_channel("member%d?" % self._number)
        self.layer.group_add(group, channel)
        return channel

    def receive(self, channel, seconds=PATIENCE):
        """The next message; None if there is none for so long."""
        deadline = time.monotonic() + seconds
        while True:
            _, message = self.layer.receive([channel])
            if message is not None or time.monotonic() > deadline:
                return message
            time.sleep(0.002)

    def receive_all(self, channel, last, seconds=PATIENCE):
        """What comes, up to and including the message ``last``."""
        found = []
        while not found or found[-1] != last:
            message = self.receive(channel, seconds)
            assert message is not None, "only {0} came".format(found[-3:])
            found.append(message)
        return found

    def close(self):
        for bridge in self.bridges:
            bridge.close()
        assert self.layer.check() == []
        self.layer.close()
        unlink(self.prefix)
