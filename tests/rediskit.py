"""A redis-server of a test's own, which it may kill, and start again with its data or without.

Knows processes, files and addresses; must not know what anybody keeps in it. Python 2.7 as well.
"""
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time

import pytest

PROGRAM = "redis-server"
PATIENCE = 30  # seconds for a server to start, on a busy machine
SET_PDEATHSIG = 1  # of prctl(2)


def _has_server():
    try:
        return subprocess.call([PROGRAM, "--version"], stdout=subprocess.PIPE) == 0
    except OSError:
        return False


HAS_SERVER = _has_server()
needs_redis = pytest.mark.skipif(
    not HAS_SERVER, reason="needs redis-server (Debian: apt-get install redis-server)"
)


def end_with_parent():
    """In a child, before it becomes another program: be killed when the test run is."""
    # A run that is killed has no time to end anybody.
    ctypes.CDLL(None).prctl(SET_PDEATHSIG, signal.SIGKILL)


def free_port():
    """One that was free a moment ago; a cluster's server has another one, 10,000 above it."""
    port = 65535
    while port + 10000 > 65535:
        trial = socket.socket()
        try:
            trial.bind(("127.0.0.1", 0))
            port = trial.getsockname()[1]
        finally:
            trial.close()
    return port


class RedisServer(object):
    """Started when made.

    :param folder: an empty one, for its data and its log.
    :param host: the address to listen on.
    :param before: words of the command before the program, such as those that enter a namespace.
    :param keeps: whether each write is on disk before it is answered, so that a kill loses none.
    :param options: further words of its command.

    ``environment``: variables that it gets besides, when it is started again.
    """

    def __init__(
        self, folder, host="127.0.0.1", port=None, before=(), keeps=True, options=()
    ):
        self.host, self.port = host, port or free_port()
        self.url = "redis://{0}:{1}/0".format(self.host, self.port)
        self._folder, self._before = str(folder), list(before)
        self._options = ["--appendonly", "no"]
        if keeps:
            self._options = ["--appendonly", "yes", "--appendfsync", "always"]
        self._options += options
        self._data = os.path.join(self._folder, "redis-data")
        self._process = None
        self.environment = {}
        self.start()

    def start(self):
        """Start it, and wait until it answers."""
        if not os.path.isdir(self._data):
            os.mkdir(self._data)
        command = self._before + [PROGRAM] + self._first_words()
        command += ["--bind", self.host, "--port", str(self.port), "--dir", self._data]
        command += ["--protected-mode", "no"] + self._options
        with open(self.log_path(), "ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=dict(os.environ, **self.environment),
                preexec_fn=end_with_parent,  # noqa: PLW1509 (it does one call of the system)
            )
        deadline = time.time() + PATIENCE
        # With a password it has an answer, too.
        while not self.command("PING").startswith(("PONG", "NOAUTH")):
            assert self._process.poll() is None, self.log()
            assert time.time() < deadline, self.log()
            time.sleep(0.02)

    def _first_words(self):
        """What its command begins with."""
        return ["--save", ""]

    def log_path(self):
        return os.path.join(self._folder, "redis.log")

    def log(self):
        with open(self.log_path()) as lines:
            return lines.read()

    def command(self, *words):
        """What it answers to a command, as ``redis-cli`` prints it."""
        command = self._before + ["redis-cli", "-h", self.host, "-p", str(self.port)]
        process = subprocess.Popen(
            command + list(words),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        # Whatever bytes there are.
        return process.communicate()[0].decode("latin-1").strip()

    def freeze(self):
        """Have it do nothing any more, until it is killed or goes on."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self):
        """Have it go on."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self):
        """End it at once, as a crash does."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def forget(self):
        """While it does not run: have all its data lost."""
        assert self._process.poll() is not None
        shutil.rmtree(self._data)
