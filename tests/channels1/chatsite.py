"""Runs ``examples/channels1_chat`` the way its README says: one Daphne and some workers.

Knows processes, the port, the logs and the shared memory's prefix. Must not know what is
being tested or measured: the tests here and ``benchmarks/channels1_http.py`` both drive it.

How it works:

1. The listening socket is made here, on port 0 of the loopback, and handed to Daphne open:
   no other process can take the port, and a request sent early waits instead of failing.
2. Children are ended by their own process ids, SIGTERM first; one that does not follow is
   killed, and its exit status tells.
3. Everything that a run left in shared memory goes with :func:`unlink`.
"""
from __future__ import unicode_literals

import binascii
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time

from six import PY2
from six.moves import http_client

HERE = os.path.dirname(os.path.abspath(__file__))
PROJECT = os.path.dirname(os.path.dirname(HERE))
EXAMPLE = os.path.join(PROJECT, "examples", "channels1_chat")

HOST = "127.0.0.1"
SHM_FOLDER = "/dev/shm"

PATIENCE = 30  # seconds for anything that merely has to happen, on a busy machine
STOP_PATIENCE = 15  # seconds from SIGTERM to the end of a child

DAPHNE = "from daphne.cli import CommandLineInterface as c; c.entrypoint()"


def make_prefix():
    """A prefix of no other run, short enough for the 31 bytes of a name on macOS."""
    random_part = binascii.hexlify(os.urandom(3)).decode("ascii")
    return "ch1-%d-%s" % (os.getpid() % 1000000, random_part)


def unlink(prefix):
    """Remove all shared memory of ``prefix``, whichever release of asgi_ipc made it."""
    import posix_ipc

    try:
        from asgi_ipc.core import unlink as unlink_all
    except ImportError:
        # The published release, which has no such function.
        pass
    else:
        unlink_all(prefix)
    for name in ("/%s-messages" % prefix, "/%s-groups" % prefix):
        for remove in (posix_ipc.unlink_shared_memory, posix_ipc.unlink_semaphore):
            try:
                remove(name)
            except posix_ipc.ExistentialError:
                pass
    # Doorbells of processes that ended without closing their layer, as killed ones do.
    for name in leftovers(prefix):
        if name.startswith(prefix + "-") and name.endswith(".bell"):
            os.unlink(os.path.join(SHM_FOLDER, name))


def leftovers(prefix):
    """Names in shared memory that still belong to ``prefix``; none where they cannot be listed."""
    if not os.path.isdir(SHM_FOLDER):
        return []
    return sorted(name for name in os.listdir(SHM_FOLDER) if prefix in name)


def wait_until(condition, seconds=PATIENCE, every=0.01):
    """Call ``condition`` until it is true or ``seconds`` have passed; return its last answer."""
    deadline = time.time() + seconds
    answer = condition()
    while not answer and time.time() < deadline:
        time.sleep(every)
        answer = condition()
    return answer


def outcome(process, seconds=STOP_PATIENCE):
    """The exit status of a process told to stop; one that stays is killed, hence -9.

    It is told once, by the caller: a second SIGTERM would meet an interpreter that is
    shutting down and has put its own signal handlers away.
    """
    if not wait_until(lambda: process.poll() is not None, seconds):
        process.kill()
    return process.wait()


def receive_text(client, seconds=PATIENCE):
    """The next text frame that a websocket client gets, parsed as JSON.

    ``client.recv()`` would begin its timeout anew at each of Daphne's pings, for ever.
    """
    import websocket

    deadline = time.time() + seconds
    while time.time() < deadline:
        client.settimeout(max(deadline - time.time(), 0.01))
        opcode, data = client.recv_data(control_frame=True)
        if opcode == websocket.ABNF.OPCODE_TEXT:
            return json.loads(data.decode("utf-8"))
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            raise RuntimeError("the server closed the websocket: %r" % data)
    raise RuntimeError("nothing came within %s seconds" % seconds)


def run_group(command, seconds, log, **options):
    """Run ``command`` with a bound; its whole process group goes with it.

    :param log: path of the file that takes its output.
    :returns: the exit status, or ``None`` when the time was up.
    """
    options.update({"preexec_fn": os.setsid} if PY2 else {"start_new_session": True})
    with io.open(log, "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **options)
    try:
        ended = wait_until(lambda: process.poll() is not None, seconds, every=0.05)
        return process.returncode if ended else None
    finally:
        # The group was made for this child: nobody else is in it.
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except OSError:
            pass
        process.wait()


def child_environment(prefix, settings, paths=(), extra=None):
    """The environment of every process of one site.

    :param paths: folders whose packages come before the installed ones.
    """
    environment = dict(os.environ)
    # A worker's lines must be in its log when a test wants to show them.
    environment.update(
        CHAT_PREFIX=prefix, DJANGO_SETTINGS_MODULE=settings, PYTHONUNBUFFERED="1"
    )
    environment.update(extra or {})
    inherited = environment.get("PYTHONPATH", "").split(os.pathsep)
    environment["PYTHONPATH"] = os.pathsep.join([p for p in list(paths) + inherited if p])
    # Python 2 wants no unicode here.
    return {str(name): str(value) for name, value in environment.items()}


class Site(object):
    """One Daphne and ``workers`` workers over one prefix; a context manager.

    :param prefix: of the shared memory, unlinked when the site stops.
    :param log_dir: folder for the output of each process.
    :param settings: module of the Django settings.
    :param paths: folders whose packages come before the installed ones.
    :param extra: more environment variables.
    """

    def __init__(self, prefix, log_dir, workers=2, settings="chat.settings", paths=(), extra=None):
        self.prefix = prefix
        self.log_dir = str(log_dir)
        self.workers = workers
        self.environment = child_environment(prefix, settings, paths, extra)
        self.port = None
        self.processes = []  # (name, Popen), Daphne first

    def __enter__(self):
        try:
            self._start_daphne()
            for number in range(self.workers):
                self._start(
                    "worker%d" % (number + 1), [sys.executable, "manage.py", "runworker", "-v", "1"]
                )
            self._wait_for_workers()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info):
        self.stop()

    def _start_daphne(self):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.bind((HOST, 0))
            listener.listen(128)
            self.port = listener.getsockname()[1]
            fd = listener.fileno()
            command = [sys.executable, "-c", DAPHNE, "--fd", str(fd), "chat.asgi:channel_layer"]
            # Python 2 lets every child inherit; Python 3 only what is named.
            self._start("daphne", command, **({} if PY2 else {"pass_fds": (fd,)}))
        finally:
            listener.close()

    def _start(self, name, command, **options):
        with io.open(self.log_path(name), "wb") as output:
            process = subprocess.Popen(
                command,
                cwd=EXAMPLE,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                **options
            )
        self.processes.append((name, process))

    def _wait_for_workers(self):
        """Until each worker listens: one alone would answer a request as well."""
        workers = self.processes[1:]

        def settled():
            return all(
                process.poll() is not None or "Listening on channels" in self.log(name)
                for name, process in workers
            )

        in_time = wait_until(settled)
        ended = [name for name, process in self.processes if process.poll() is not None]
        if ended or not in_time:
            raise RuntimeError(
                "The site did not start (ended: %s).\n%s" % (", ".join(ended), self.logs())
            )

    def log_path(self, name):
        return os.path.join(self.log_dir, "%s-%s.log" % (self.prefix, name))

    def log(self, name):
        with io.open(self.log_path(name), encoding="utf-8", errors="replace") as lines:
            return lines.read()

    def logs(self):
        """The end of what each process wrote, for a failure's report."""
        return "\n".join(
            "--- %s\n%s" % (name, self.log(name)[-3000:]) for name, _ in self.processes
        )

    @property
    def pids(self):
        return {name: process.pid for name, process in self.processes}

    def http(self):
        """A new connection, for requests one after the other."""
        return http_client.HTTPConnection(HOST, self.port, timeout=PATIENCE)

    def get(self, path="/"):
        """``(status, text)`` of one page."""
        connection = self.http()
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode("utf-8")
        finally:
            connection.close()

    def websocket(self, room="lobby"):
        """A client of a room, in the group once this returns."""
        import websocket

        return websocket.create_connection(
            "ws://%s:%d/ws/%s/" % (HOST, self.port, room), timeout=PATIENCE
        )

    def stop(self):
        """End all processes and remove what they shared; ``{name: exit status}``."""
        # All are told before any is waited for.
        for _, process in self.processes:
            if process.poll() is None:
                process.terminate()
        try:
            return {name: outcome(process) for name, process in self.processes}
        finally:
            unlink(self.prefix)
