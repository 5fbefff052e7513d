"""Hosts and actors as the benchmark sees them: started, asked, ended.

Knows processes and the lines they exchange (``host``, ``actor``); does not know what is timed.
What goes wrong with a peer is a ``PeerFailed``, with what the peer wrote last.
"""
import itertools
import json
import os
import signal
import socket
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
START_SECONDS = 60
"""A host that has not imported its packages by then is given up."""

_BOOT = "import sys; sys.path.{0}; from benchmarks import host; host.main({1!r}, {2!r})"


class PeerFailed(Exception):
    """A peer cannot take part, or not go on; the text says why."""


class Lines(object):
    """JSON lines to and from a process, each with a deadline."""

    def __init__(self, connection):
        self._connection = connection
        self._rest = b""

    def write(self, message):
        """Send one line."""
        self._connection.sendall(json.dumps(message).encode("ascii") + b"\n")

    def read_raw(self, seconds):
        """Read one line as bytes.

        :raises PeerFailed: none in so many seconds, or the process is gone.
        """
        self._connection.settimeout(seconds)
        pieces = [self._rest]
        while b"\n" not in pieces[-1]:
            try:
                piece = self._connection.recv(1 << 20)
            except socket.timeout:
                raise PeerFailed("did not answer within {0} s".format(seconds))
            if not piece:
                raise PeerFailed("its process ended")
            pieces.append(piece)
        line, _, self._rest = b"".join(pieces).partition(b"\n")
        return line

    def read(self, seconds):
        """Read one line; an error in it is raised."""
        answer = json.loads(self.read_raw(seconds).decode("ascii"))
        if "error" in answer:
            raise PeerFailed(_last_line(answer["error"]))
        return answer

    def close(self):
        """Close the connection."""
        self._connection.close()


def _last_line(text):
    lines = [line for line in text.strip().split("\n") if line.strip()]
    return lines[-1].strip() if lines else "no reason given"


class Actor(object):
    """One process of a session. ``begin`` and ``finish`` for those that run side by side."""

    def __init__(self, lines, seconds):
        self._lines = lines
        self._seconds = seconds

    def begin(self, task, **arguments):
        """Have it start a task."""
        self._lines.write(dict(arguments, do=task))

    def await_ready(self):
        """Wait until its task waits for others."""
        self._lines.read(self._seconds)

    def finish(self):
        """The result of the task."""
        answer = self._lines.read(self._seconds)
        while "ready" in answer:
            answer = self._lines.read(self._seconds)
        return answer["result"]

    def call(self, task, **arguments):
        """Have it do a task, and wait for the result."""
        self.begin(task, **arguments)
        return self.finish()

    def close(self):
        """Hang up."""
        self._lines.close()


class Session(object):
    """Actors of one peer that share a prefix."""

    def __init__(self, host, number, actors):
        self._host = host
        self._number = number
        self.actors = actors

    def close(self):
        """End them, and remove what they leave."""
        for actor in self.actors:
            actor.close()
        self._host.request({"close": self._number})


class Host(object):
    """The process of one peer that forks its actors.

    :param peer: a ``peers.Peer``.
    :param interpreter: path of the Python to run it with.
    :param isolated: whether that Python's own packages go before this project.
    :param folder: for sockets and logs.
    :param redis: URL of the server, or None.
    :param seconds: how long any one task may take.
    :param before: words of the command before the interpreter, that have it run elsewhere.
    """

    _numbers = itertools.count(1)

    def __init__(self, peer, interpreter, isolated, folder, redis, seconds, before=()):
        self.peer = peer
        self._folder = folder
        self._redis = redis
        self._seconds = seconds
        ours, theirs = socket.socketpair()
        path = "append({0!r})" if isolated else "insert(0, {0!r})"
        boot = _BOOT.format(path.format(ROOT), peer.module, peer.adapter)
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        with open(os.path.join(folder, "log-" + peer.name.replace(" ", "-")), "wb") as log:
            self._process = subprocess.Popen(
                [*before, interpreter, "-c", boot],
                stdin=theirs,
                stdout=theirs,
                stderr=log,
                cwd=folder,
                env=environment,
                start_new_session=True,
            )
        theirs.close()
        self._lines = Lines(ours)
        self.version = self.python = None

    def started(self):
        """Wait until it has imported what it needs."""
        answer = self._lines.read(START_SECONDS)
        self.version, self.python = answer["version"], answer["python"]

    def request(self, request):
        """Ask the host itself."""
        self._lines.write(request)
        return self._lines.read(START_SECONDS)

    def open(self, actors, size=0, prefix=None):
        """Return a session with so many actors, connected, nothing opened yet."""
        number = next(self._numbers)
        settings = {
            "prefix": prefix or "bench-{0}-{1}".format(os.getpid(), number),
            "folder": self._folder,
            "redis": self._redis,
            "size": size,
        }
        with socket.socket(socket.AF_UNIX) as listener:
            address = os.path.join(self._folder, "s{0}".format(number))
            listener.bind(address)
            listener.listen(actors)
            listener.settimeout(START_SECONDS)
            self.request(
                {"open": number, "actors": actors, "address": address, "settings": settings}
            )
            found = {}
            for _ in range(actors):
                lines = Lines(listener.accept()[0])
                index = int(lines.read_raw(START_SECONDS))
                found[index] = Actor(lines, self._seconds)
            os.unlink(address)
        return Session(self, number, [found[index] for index in sorted(found)])

    def close(self):
        """End it, and with it all its actors."""
        self._lines.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def current_interpreter():
    """The Python that runs the benchmark."""
    return sys.executable
