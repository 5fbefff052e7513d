"""A redis-server of the benchmark's own, on a free loopback port, which ends with it."""
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

START_SECONDS = 10
PINGS = 2000

_KEEPER = """
import shutil, subprocess, sys
server = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL)
sys.stdin.read()
server.terminate()
server.wait()
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""
"""Ends the server, and removes the folder, when its standard input ends: also when the
benchmark was killed."""

MISSING = "redis-server is not installed (Debian: apt-get install redis-server)"


class RedisMissing(Exception):
    """There is no redis-server, or it does not start; the text says which."""


class RedisServer(object):
    """Started when made. It keeps everything in memory and writes no file.

    ``url``: of the faster of its two addresses, Unix socket and loopback TCP.
    ``transport``: which that is, with both figures.
    ``tcp_url``: of the TCP address.

    :param host: the TCP address.
    :param before: words of the command before the program, that have it run elsewhere.
    :param networking: context manager in which a socket reaches that address.
    """

    def __init__(self, folder, host="127.0.0.1", before=(), networking=contextlib.nullcontext):
        program = shutil.which("redis-server")
        if program is None:
            raise RedisMissing(MISSING)
        self.version = subprocess.check_output([program, "--version"]).decode().split()[2][2:]
        self._path = os.path.join(folder, "redis.sock")
        self._host, self._port, self._networking = host, _free_port(), networking
        self.tcp_url = "redis://{0}:{1}/0".format(host, self._port)
        command = [sys.executable, "-c", _KEEPER, folder]
        command += [*before, program, "--port", str(self._port), "--bind", host]
        command += ["--unixsocket", self._path, "--dir", folder, "--save", ""]
        command += ["--appendonly", "no", "--daemonize", "no"]
        command += ["--protected-mode", "no"]
        with open(os.path.join(folder, "log-redis"), "wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )
        try:
            self._wait()
            self._choose()
        except BaseException:
            self.close()
            raise

    def _wait(self):
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self._connect_unix().close()
                self._connect_tcp().close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RedisMissing("redis-server does not start")
                time.sleep(0.02)

    def _connect_unix(self):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._path)
        return connection

    def _connect_tcp(self):
        with self._networking():
            connection = socket.create_connection((self._host, self._port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _choose(self):
        """Take the address whose pings are faster, both measured in turn."""
        connections = self._connect_unix(), self._connect_tcp()
        times = [[], []]
        for _ in range(5):
            for connection, found in zip(connections, times):
                found.append(_ping(connection))
        for connection in connections:
            connection.close()
        unix, tcp = [sorted(found)[len(found) // 2] for found in times]
        self.url = "unix://" + self._path if unix <= tcp else self.tcp_url
        self.transport = "{0} (PING {1:.1f} us by Unix socket, {2:.1f} us by loopback TCP)".format(
            "Unix socket" if unix <= tcp else "loopback TCP", unix * 1e6, tcp * 1e6
        )

    def figures(self):
        """What it counts of itself: INFO as a dict of text."""
        connection = self._connect_unix()
        connection.sendall(b"INFO everything\r\n")
        answer = connection.makefile("rb")
        text = answer.read(int(answer.readline()[1:])).decode("utf-8")
        connection.close()
        lines = (line.partition(":") for line in text.splitlines() if ":" in line)
        return {name: value for name, _, value in lines}

    def flush(self):
        """Drop everything that a workload left."""
        connection = self._connect_unix()
        connection.sendall(b"FLUSHALL\r\n")
        connection.recv(16)
        connection.close()

    def close(self):
        """End it."""
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _ping(connection):
    """Seconds that one PING takes."""
    number = PINGS // 5
    started = time.perf_counter()
    for _ in range(number):
        connection.sendall(b"PING\r\n")
        connection.recv(16)
    return (time.perf_counter() - started) / number
