"""docs/tutorial.rst keeps its word: its files are written and its commands given, in its order."""
import contextlib
import json
import os
import re
import socket
import subprocess
import urllib.request

import pytest
from docblocks import blocks_of, commands_of
from listed import TUTORIAL, reason_for_command
from runkit import (
    PATIENCE,
    command_with_prefix,
    environment,
    kill_group,
    subcommands,
    wait_until,
    with_prefix,
)
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from asgi_ipc._shm import segment

HOST = "127.0.0.1"
PORTS = ("8001", "8002")
"""Those of the page; the test has others in their place."""


def free_ports(number):
    trials = [socket.create_server((HOST, 0)) for _ in range(number)]
    ports = [trial.getsockname()[1] for trial in trials]
    for trial in trials:
        trial.close()
    return ports


class Shell:
    """One shell, to which commands are given as by hand; its background jobs are its own."""

    def __init__(self, folder):
        self._log = folder / "shell.log"
        with open(self._log, "wb") as log:
            self.process = subprocess.Popen(
                ["bash"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=str(folder),
                env=environment(folder),
                start_new_session=True,
            )
        self._count = 0
        self.pids = []
        self.run("set -m")

    def run(self, command):
        """Give a command; return what it prints, once it has ended well."""
        self._count += 1
        before = len(self.output())
        end = re.compile(rf"^end {self._count} (\d+) ?(\d*)$", re.MULTILINE)
        # "jobs" is what a prompt does: it takes note of jobs that have ended.
        self.process.stdin.write(
            f"{command}\necho end {self._count} $? $!; jobs > /dev/null 2>&1\n"
        )
        self.process.stdin.flush()
        found = wait_until(lambda: end.search(self.output(), before))
        assert found, f"{command} did not end: {self.output()[before:]}"
        output = self.output()[before:found.start()]
        assert found.group(1) == "0", f"{command}: {output}"
        if command.endswith("&"):
            self.pids.append(int(found.group(2)))
        return output

    def output(self):
        return self._log.read_text(encoding="utf-8", errors="replace")

    def end(self):
        """End the shell and its jobs, each of which leads a process group."""
        for pid in self.pids:
            self.process.stdin.write(f"kill -9 {pid} 2> /dev/null\n")
        self.process.stdin.close()
        try:
            self.process.wait(PATIENCE)
        finally:
            kill_group(self.process)


class Page:
    """The page of one server: what its JavaScript sends and shows."""

    def __init__(self, port, stack):
        self._host = f"{HOST}:{port}"
        wait_for_port(port)
        with urllib.request.urlopen(f"http://{self._host}/tea/", timeout=PATIENCE) as answer:
            text = answer.read().decode()
        path = re.search(r"`ws://\$\{location\.host\}(/[^`]*)`", text).group(1)
        assert path == "/ws/tea/"
        opened = connect(f"ws://{self._host}{path}", origin=f"http://{self._host}")
        self._socket = stack.enter_context(opened)

    def say(self, text):
        self._socket.send(json.dumps({"text": text}))

    def hear(self):
        """The next line that it shows."""
        return json.loads(self._socket.recv(timeout=PATIENCE))["text"]

    def is_cut_off(self):
        with pytest.raises(ConnectionClosed):
            self._socket.recv(timeout=PATIENCE)
        return True

    def close(self):
        self._socket.close()


def wait_for_port(port):
    def answers():
        try:
            socket.create_connection((HOST, port), timeout=PATIENCE).close()
        except OSError:
            return False
        return True

    assert wait_until(answers), f"nobody listens on {port}"


class Walk:
    """Goes through the page: ``on`` has what is to be looked at after a command."""

    def __init__(self, folder, prefix):
        self.folder = folder
        self.prefix = prefix
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self.shell = Shell(folder)
        self.written = []
        self.ran = []
        self.project = None

    def go(self, visit):
        for block in blocks_of(TUTORIAL):
            if block.language == "console":
                for command in commands_of(block):
                    if not reason_for_command(command):
                        visit(command.text, self.give(command.text))
            else:
                assert block.caption, f"{block.name} is no file, as it has no caption"
                self.write(block)

    def give(self, text):
        name = re.match(r"asgi-ipc ([\w-]+)", text)
        if name and name.group(1) not in subcommands():
            return None  # test_docs_blocks.py says so
        if name:
            text = command_with_prefix(text, self.prefix)
        text = re.sub("|".join(PORTS), lambda found: str(self.ports[found.group()]), text)
        self.ran.append(text)
        output = self.shell.run(text)
        if text.startswith("cd "):
            self.project = self.folder / text[3:]
        return output

    def write(self, block):
        path = self.project / block.caption
        if path.parent.name == "templates":
            path.parent.mkdir(exist_ok=True)
        text = with_prefix(block.text, self.prefix) if block.language == "python" else block.text
        path.write_text(text, encoding="utf-8")
        self.written.append(block.caption)


@pytest.fixture
def walk(tmp_path, prefix):
    walk = Walk(tmp_path, prefix)
    yield walk
    walk.shell.end()


class Reader:
    """Does with the two windows what the page tells its reader to do."""

    def __init__(self, walk, stack):
        self.stack = stack
        self.ports = list(walk.ports.values())
        self.walk = walk
        self.first = self.second = None
        self.seen = []

    def visit(self, command, output):
        for words, look in self.looks.items():
            if words in command:
                look(self, output)
                self.seen.append(words)

    def windows_open(self, _):
        if self.first is None:
            return
        # After the second start of the first server.
        self.first = Page(self.ports[0], self.stack)
        self.first.say("I am back")
        assert [self.first.hear(), self.second.hear()] == ["I am back"] * 2

    def both_windows_open(self, _):
        self.first, self.second = (Page(port, self.stack) for port in self.ports)
        for page, text in ((self.first, "hello"), (self.second, "hello yourself")):
            page.say(text)
            assert [self.first.hear(), self.second.hear()] == [text] * 2

    def the_kettle_boils(self, _):
        assert [self.first.hear(), self.second.hear()] == ["The kettle boils."] * 2

    def the_first_is_gone(self, _):
        assert self.first.is_cut_off()
        self.second.say("anybody here?")
        assert self.second.hear() == "anybody here?"

    def the_second_hears(self, _):
        assert self.second.hear() == "Still here."

    def group_is_shown(self, output):
        assert output is None or "chat.tea" in output

    def nobody_listens(self, _):
        self.first.close()
        self.second.close()
        for port in self.ports:
            with pytest.raises(OSError):
                socket.create_connection((HOST, port), timeout=PATIENCE)

    def nothing_is_left(self, _):
        names = os.listdir(segment.runtime_folder())
        assert [name for name in names if self.walk.prefix in name] == []

    looks = {
        "daphne -p 8001": windows_open,
        "daphne -p 8002": both_windows_open,
        "asgi-ipc groups": group_is_shown,
        "The kettle boils.": the_kettle_boils,
        "kill -9": the_first_is_gone,
        "Still here.": the_second_hears,
        "wait": nobody_listens,
        "asgi-ipc rm": nothing_is_left,
    }


def test_the_tutorial(walk):
    with contextlib.ExitStack() as stack:
        reader = Reader(walk, stack)
        walk.go(reader.visit)
    assert set(reader.seen) == set(reader.looks)
    assert "tell.py" in walk.written
    for port in PORTS:
        log = (walk.project / f"{walk.ports[port]}.log").read_text()
        assert "Traceback" not in log, log
