"""Runs ``examples/chat`` on real servers, and talks to it as pages do.

Knows processes, ports, logs, shared memory and the frames of a page. Must not know what is
being tested.

Each process gets a session of its own, is ended by its own id, and everything that it started
is looked for when it has ended: :meth:`Site.stop` returns what it left.
"""
import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import psutil
from websockets.asyncio.client import connect

HERE = os.path.dirname(os.path.abspath(__file__))
PROJECT = os.path.dirname(os.path.dirname(HERE))
EXAMPLE = os.path.join(PROJECT, "examples", "chat")

HOST = "127.0.0.1"
SHM_FOLDER = "/dev/shm"
APPLICATION = "mysite.asgi:application"

PATIENCE = 60  # seconds for anything that merely has to happen, on a busy machine
STOP_PATIENCE = 20  # seconds from a signal to the end of a process

STRAY = re.compile(
    r"Traceback|\bError\b|\bERROR\b|\bCRITICAL\b|[Ee]xception|Event loop is closed"
    r"|Task was destroyed|never awaited|never retrieved|took too long|[Ww]arning"
)
"""What must not stand in a log."""


def free_port():
    with socket.socket() as trial:
        trial.bind((HOST, 0))
        return trial.getsockname()[1]


def wait_until(condition, seconds=PATIENCE, every=0.02):
    """Call ``condition`` until it is true or ``seconds`` have passed; return its last answer."""
    deadline = time.monotonic() + seconds
    answer = condition()
    while not answer and time.monotonic() < deadline:
        time.sleep(every)
        answer = condition()
    return answer


def get(port, path="/"):
    """``(status, text)`` of a page."""
    with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=PATIENCE) as response:
        return response.status, response.read().decode("utf-8")


def shared_memory(prefix):
    """Names in shared memory that belong to a prefix."""
    return sorted(name for name in os.listdir(SHM_FOLDER) if prefix in name)


def kept_in_shared_memory(prefix):
    """The names that a prefix keeps there while nobody uses it."""
    names = [f"{prefix}-groups", f"{prefix}-messages"]
    return sorted(names + [f"sem.{name}" for name in names])


def environment(prefix, **more):
    """The environment of a process of the example; the package is the one that we test."""
    paths = [path for path in sys.path if path and path != HERE]
    return dict(
        os.environ,
        CHAT_PREFIX=prefix,
        PYTHONUNBUFFERED="1",
        PYTHONPATH=os.pathsep.join(paths),
        **more,
    )


def descendants(process):
    """All that a process has started and that lives."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(process.pid).children(recursive=True)
    return []


def heed_interrupts():
    """A shell has what it starts in the background ignore SIGINT, and that is handed down."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Site:
    """Processes of the example over one prefix; a context manager that leaves none of them."""

    def __init__(self, prefix, log_folder):
        self.prefix = prefix
        self.environment = environment(prefix)
        self._folder = str(log_folder)
        self._processes = {}  # name -> Popen, those that run

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end_all()

    def use_settings(self, module):
        """Have what is started from now on use settings of this folder."""
        self.environment["DJANGO_SETTINGS_MODULE"] = module
        self.environment["PYTHONPATH"] += os.pathsep + HERE

    def start(self, name, *arguments, cwd=EXAMPLE):
        """Start a Python with some arguments; its output goes to a log of that name."""
        with open(self.log_path(name), "ab") as log:
            self._processes[name] = subprocess.Popen(
                self.command(*arguments, cwd=cwd),
                cwd=cwd,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=heed_interrupts,  # noqa: PLW1509 (it does one call of the system)
            )
        return self._processes[name]

    def command(self, *arguments, cwd):
        """The command that runs a Python with some arguments."""
        return [sys.executable, *arguments]

    def get(self, port):
        """The first page of a server: ``(status, text)``."""
        return get(port)

    def log_path(self, name):
        return os.path.join(self._folder, f"{name}.log")

    def log(self, name):
        with open(self.log_path(name), encoding="utf-8", errors="replace") as lines:
            return lines.read()

    def wait_for_log(self, name, words):
        """Until a process has written some words."""
        process = self._processes[name]
        wait_until(lambda: words in self.log(name) or process.poll() is not None)
        assert words in self.log(name), self.log(name)

    def wait_for_port(self, name, port):
        """Until a process answers."""
        process = self._processes[name]

        def answers():
            try:
                return self.get(port)[0] == 200
            except OSError:
                return process.poll() is not None

        assert wait_until(answers), self.log(name)
        assert process.poll() is None, self.log(name)

    def start_worker(self):
        self.start("worker", "manage.py", "runworker", "pictures")

    def wait_for_worker(self):
        self.wait_for_log("worker", "Running worker for channels")

    def runs(self, name):
        """Whether a process runs, as far as we have not ended it."""
        return name in self._processes and self._processes[name].poll() is None

    def end(self, name, number=signal.SIGTERM):
        """Send a signal to a process; return its status and what it left, once it has ended."""
        process = self._processes.pop(name)
        started = descendants(process)
        if process.poll() is None:
            process.send_signal(number)
        try:
            status = process.wait(STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = "killed, because it did not end"
        left = psutil.wait_procs(started, timeout=2)[1]
        for child in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        return status, [child.pid for child in left]

    def end_all(self):
        """End at once all that runs."""
        for name in list(self._processes):
            self.end(name, signal.SIGKILL)

    def announce(self, room, text):
        """What a cron job does; returns its output."""
        return subprocess.check_output(
            self.command("manage.py", "announce", room, text, cwd=EXAMPLE),
            cwd=EXAMPLE,
            env=self.environment,
            universal_newlines=True,
            timeout=PATIENCE,
        )


# -- as a page ---------------------------------------------------------------------------------


class Page:
    """One websocket of the chat, in the room once :meth:`open` has returned."""

    def __init__(self, socket, hello):
        self._socket = socket
        self.process = hello["process"]
        self.present = {}  # process -> count, as last told

    @classmethod
    async def open(cls, port, name, room="lobby", sock=None):
        """Connect as the page of a person does, through a socket that is connected, if given."""
        address = f"ws://{HOST}:{port}/ws/{room}/"
        origin = f"http://{HOST}:{port}"
        socket = await connect(
            address, origin=origin, compression=None, proxy=None, open_timeout=PATIENCE,
            max_queue=None, sock=sock,
        )
        page = cls(socket, await hello_of(socket))
        await page.send(kind="name", name=name)
        return page

    async def send(self, **content):
        await self._socket.send(json.dumps(content))

    async def send_frame(self, frame):
        """Text or bytes as they are."""
        await self._socket.send(frame)

    async def say(self, text, line_id=None):
        await self.send(kind="say", id=line_id or text, text=text)

    async def next(self, *kinds, patience=PATIENCE):
        """The next message of one of some kinds; what tells who is there is only kept.

        :param patience: seconds.
        """
        # Who is there is told for ever: the time is for all of them together.
        deadline = time.monotonic() + patience
        while True:
            left = max(deadline - time.monotonic(), 0)
            message = json.loads(await asyncio.wait_for(self._socket.recv(), left))
            if message["kind"] == "present":
                self.present[message["process"]] = message["count"]
            if message["kind"] in kinds:
                return message
            assert message["kind"] in ("present", "job"), message

    async def lines(self, count):
        """The next lines that are said: pairs of name and text."""
        lines = [await self.next("line") for _ in range(count)]
        return [(line["name"], line["text"]) for line in lines]

    async def close(self):
        await self._socket.close()

    async def closed(self):
        """Wait until the server has closed the connection."""
        await asyncio.wait_for(self._socket.wait_closed(), PATIENCE)


async def hello_of(socket):
    hello = json.loads(await asyncio.wait_for(socket.recv(), PATIENCE))
    assert hello["kind"] == "hello"
    return hello
