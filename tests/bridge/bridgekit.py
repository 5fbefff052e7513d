"""Machines, bridges and a Redis for the tests: all of it here, and taken away afterwards.

A "machine" is a prefix of its own; those that belong together have one name at Redis.
"""
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from asgi_ipc.core import IPCChannelLayer, unlink

PATIENCE = 20
"""Seconds until a test that waits for something fails."""

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGE = os.path.dirname(os.path.dirname(HERE))


def until(reached, what="it", seconds=PATIENCE):
    """Wait until a function returns something that is true; return that."""
    deadline = time.monotonic() + seconds
    while True:
        found = reached()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError("{0} did not come about".format(what))
        time.sleep(0.01)


def run(*words):
    """Run a command to its end: (exit status, what it said)."""
    done = subprocess.run(
        [sys.executable, "-m", "asgi_ipc", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join([PACKAGE, *sys.path])),
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stdout.decode()


class Server:
    """A redis-server at a socket in a folder of its own."""

    def __init__(self, keeps=False):
        self._folder = tempfile.mkdtemp(prefix="bridge-")
        self._keeps = keeps
        self.socket = os.path.join(self._folder, "redis.sock")
        self.url = "unix://" + self.socket
        self._process = None
        self.start()

    def start(self):
        command = ["redis-server", "--port", "0", "--unixsocket", self.socket, "--save", ""]
        command += ["--dir", self._folder, "--appendonly", "yes" if self._keeps else "no"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until(lambda: os.path.exists(self.socket) and self._answers(), "Redis")

    def _answers(self):
        try:
            return self.client().ping()
        except Exception:
            return False

    def client(self):
        import redis

        return redis.Redis.from_url(self.url)

    def kill(self):
        """As a power cut would."""
        self._process.kill()
        self._process.wait()
        if os.path.exists(self.socket):
            os.unlink(self.socket)

    def pause(self):
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self._process.send_signal(signal.SIGCONT)

    def close(self):
        self._process.send_signal(signal.SIGCONT)
        self.kill()
        shutil.rmtree(self._folder)


class Bridge:
    """The program, for a machine."""

    def __init__(self, url, prefix, name, *options):
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by ``close``)
        command = [sys.executable, "-m", "asgi_ipc", "bridge", url, "--prefix", prefix]
        self.process = subprocess.Popen(
            [*command, "--name", name, *options],
            stderr=self._log,
            env=dict(os.environ, PYTHONPATH=os.pathsep.join([PACKAGE, *sys.path])),
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
        return until(lambda: self.figures()["connected"] and self._reads(), "a connection")

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
