#!/usr/bin/env python3
"""Runs the chat: two server processes, a worker that paints, and shared memory between them.

    python3 examples/chat/run.py [--server uvicorn] [--ports 8001 8002]

Ctrl-C ends all of it, and removes the shared memory. A process that ends before is started
anew, and this is said. Each run has a prefix of its own, so that two do not meet, unless the
environment has one in CHAT_PREFIX.

In production a process manager does this part: systemd units, or containers that share
/dev/shm; the three commands in `commands` are what it has to run.
"""
import argparse
import asyncio
import contextlib
import importlib.util
import os
import shlex
import shutil
import signal
import socket
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PROJECT = os.path.dirname(os.path.dirname(HERE))
HOST = "127.0.0.1"
PORTS = (8001, 8002)  # if they are free
READY_PATIENCE = 60  # seconds for a process to start
STOP_PATIENCE = 10  # seconds for a process to end
SHORT_LIFE = 5  # seconds; a process that ends sooner may not be worth another try
TRIES = 3

NEEDED = {
    "daphne": ["asgi_ipc", "django", "channels", "daphne"],
    "uvicorn": ["asgi_ipc", "django", "channels", "uvicorn", "websockets"],
}
PACKAGES = {"django": "Django"}  # where pip and import call it differently
APPLICATION = "mysite.asgi:application"


class Trouble(Exception):
    """A reason to end the run, in words for whoever started it."""


def say(text):
    # A terminal that was closed must not keep us from ending what we started.
    with contextlib.suppress(OSError):
        print(text, flush=True)


# -- before anything is started ------------------------------------------------------------


def check_python(server):
    """See whether all is installed.

    :raises Trouble: with the command that installs what is missing.
    """
    if sys.version_info < (3, 9):
        raise Trouble(f"The chat needs Python 3.9 or later; this is {sys.version.split()[0]}.")
    missing = [name for name in NEEDED[server] if importlib.util.find_spec(name) is None]
    if missing:
        extra = "asgi_ipc" in missing or server == "daphne"
        own = [shlex.quote(f"{PROJECT}[example]")] if extra else []
        others = [PACKAGES.get(name, name) for name in missing if name in ("uvicorn", "websockets")]
        raise Trouble(
            "Not installed: {0}. This installs it:\n\n    {1} -m pip install {2}".format(
                ", ".join(PACKAGES.get(name, name) for name in missing),
                shlex.quote(sys.executable),
                " ".join(own + others) or "channels",
            )
        )


def is_free(port):
    with socket.socket() as trial:
        # As servers do; else a port counts as taken for a minute after its last use.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((HOST, port))
        except OSError:
            return False
        return True


def choose_ports(wanted):
    """Two free ports: those that were asked for, or else the usual ones, or else any.

    :raises Trouble: one that was asked for is taken.
    """
    if wanted:
        for port in wanted:
            if not is_free(port):
                raise Trouble(f"Port {port} is taken. Without --ports, free ones are found.")
        return wanted
    ports = [port for port in PORTS if is_free(port)]
    # Held until all are chosen, so that they differ.
    with contextlib.ExitStack() as trials:
        while len(ports) < len(PORTS):
            trial = trials.enter_context(socket.socket())
            trial.bind((HOST, 0))
            ports.append(trial.getsockname()[1])
    return ports


def commands(server, ports):
    """What is to run: (label, arguments after the interpreter, port or None)."""
    for port in ports:
        if server == "daphne":
            options = ["-v", "0", "-b", HOST, "-p", str(port)]
        else:
            options = ["--log-level", "warning", "--lifespan", "off"]
            options += ["--host", HOST, "--port", str(port)]
        yield f":{port}", ["-m", server, *options, APPLICATION], port
    yield "painter", ["manage.py", "runworker", "pictures"], None


# -- the processes -------------------------------------------------------------------------


class Child:
    """One process, started anew when it ends by itself."""

    def __init__(self, label, arguments, port, environment):
        self.label = label
        self.port = port
        self._arguments = arguments
        self._environment = environment
        self._process = None
        self._is_ready = None  # an asyncio.Event, of the present process
        self._forwarding = None
        self.stopping = False

    @property
    def pid(self):
        return self._process.pid

    async def start(self):
        """Start the process, and wait until it serves.

        :raises Trouble: it does not.
        """
        self._is_ready = asyncio.Event()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *self._arguments,
            cwd=HERE,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            # A Ctrl-C of the terminal is for this program alone, which passes it on.
            start_new_session=True,
        )
        self._forwarding = asyncio.ensure_future(self._forward(self._process.stdout))
        if self.port is not None:
            self._answering = asyncio.ensure_future(self._until_it_answers())
        ended = asyncio.ensure_future(self._process.wait())
        ready = asyncio.ensure_future(self._is_ready.wait())
        await asyncio.wait(
            [ended, ready], timeout=READY_PATIENCE, return_when=asyncio.FIRST_COMPLETED
        )
        ready.cancel()
        if not self._is_ready.is_set() and not self.stopping:
            how = f"ended: {outcome(ended.result())}" if ended.done() else "does not answer"
            ended.cancel()
            await asyncio.sleep(0.2)  # for the last of its output
            raise Trouble(f"{self.label} {how}")

    async def _forward(self, output):
        """Show what the process writes, with its label in front."""
        while True:
            try:
                line = await output.readline()
            except ValueError:
                continue  # one line of more than 64 KiB, of which the rest follows
            if not line:
                return
            text = line.decode("utf-8", "replace").rstrip()
            if self.port is None and "Running worker for channels" in text:
                self._is_ready.set()
            elif text and not self.stopping:
                say(f"{self.label:>8} | {text}")

    async def _until_it_answers(self):
        """Ask for a page until there is one."""
        request = f"GET / HTTP/1.0\r\nHost: {HOST}:{self.port}\r\n\r\n".encode("ascii")
        while self._process.returncode is None:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(HOST, self.port)
                try:
                    writer.write(request)
                    if b" 200 " in await reader.readline():
                        self._is_ready.set()
                        return
                finally:
                    writer.close()
            await asyncio.sleep(0.05)

    async def keep_up(self):
        """Start the process anew whenever it ends, until we are stopping.

        :raises Trouble: it ends again and again.
        """
        tries = 0
        while True:
            began = time.monotonic()
            status = await self._process.wait()
            if self.stopping:
                return
            tries = tries + 1 if time.monotonic() - began < SHORT_LIFE else 1
            say(f"{self.label:>8} | process {self.pid} ended: {outcome(status)}")
            if tries >= TRIES:
                raise Trouble(f"{self.label} ended {TRIES} times, each time after a few seconds")
            await self.start()
            if not self.stopping:
                say(f"{self.label:>8} | started again, as process {self.pid}")

    async def stop(self):
        """End the process, by force if it takes too long."""
        self.stopping = True
        if self._process is None:
            return
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGINT)
        try:
            await asyncio.wait_for(self._process.wait(), STOP_PATIENCE)
        except asyncio.TimeoutError:
            say(f"{self.label:>8} | process {self.pid} did not end, and is killed")
            self.kill()
            await self._process.wait()
        if self._forwarding is not None:
            await self._forwarding

    def kill(self):
        if self._process is not None and self._process.returncode is None:
            self._process.kill()


def outcome(status):
    """An exit status in words."""
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


# -- the run -------------------------------------------------------------------------------


def introduce(children, prefix):
    """Say where the chat is, and what to try."""
    say("The chat is there. Open both addresses, each in a window of its own:\n")
    for child in children:
        where = f"http://{HOST}:{child.port}/" if child.port else "the painter"
        say(f"    {where:<24}process {child.pid}")
    python = "python3" if shutil.which("python3") == sys.executable else sys.executable
    manage = os.path.relpath(os.path.join(HERE, "manage.py"))
    say("\nTo say something to the browsers from a script, in another terminal:\n")
    say(f'    CHAT_PREFIX={prefix} {python} {manage} announce lobby "Tea is ready"\n')
    say(f"To see a server die and come back: kill -9 {children[0].pid}")
    say("To end everything: Ctrl-C\n")


async def run(server, ports, prefix):
    """Run all until a signal comes.

    :raises Trouble: a process does not stay up.
    """
    environment = dict(os.environ, CHAT_PREFIX=prefix, CHAT_DEBUG="1", PYTHONUNBUFFERED="1")
    children = [Child(*command, environment) for command in commands(server, ports)]
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop():
        if stopped.is_set():
            for child in children:
                child.kill()
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)
    try:
        await until_stopped(stopped, children, prefix)
    finally:
        say("\nStopping.")
        stopped.set()
        await asyncio.gather(*[child.stop() for child in children])


async def until_stopped(stopped, children, prefix):
    """Start all, say so, keep them up."""
    stop = asyncio.ensure_future(stopped.wait())
    starting = asyncio.gather(*[child.start() for child in children])
    await asyncio.wait([stop, starting], return_when=asyncio.FIRST_COMPLETED)
    if starting.done():
        starting.result()
        introduce(children, prefix)
        keeping = [asyncio.ensure_future(child.keep_up()) for child in children]
        done, pending = await asyncio.wait([stop, *keeping], return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        for task in done:
            task.result()
    else:
        starting.cancel()


def main():
    """Run the chat; return the exit status."""
    parser = argparse.ArgumentParser(description="Runs the chat, two servers and a worker.")
    parser.add_argument("--server", choices=sorted(NEEDED), default="daphne")
    parser.add_argument("--ports", type=int, nargs=2, metavar="PORT", help="default: free ones")
    arguments = parser.parse_args()
    prefix = os.environ.get("CHAT_PREFIX") or f"chat-{os.getpid()}"
    status = 0
    try:
        check_python(arguments.server)
        ports = choose_ports(arguments.ports)
        from asgi_ipc.core import unlink
    except Trouble as trouble:
        say(str(trouble))
        return 1
    try:
        asyncio.run(run(arguments.server, ports, prefix))
    except Trouble as trouble:
        say(str(trouble))
        status = 1
    finally:
        unlink(prefix)
    say("All processes have ended, and their shared memory is removed.")
    return status


if __name__ == "__main__":
    sys.exit(main())
