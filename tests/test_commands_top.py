# -*- coding: utf-8 -*-
"""``top``: tables, JSON and a screen, keys, and ends that leave the terminal as it was."""
from __future__ import unicode_literals

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time

import pytest
from commandkit import ENVIRONMENT, Shell, call, start, started
from processkit import child_inside, ends, eventually

from asgi_ipc import access, core
from asgi_ipc.commands import top

try:
    import rich
except ImportError:
    rich = None
needs_rich = pytest.mark.skipif(rich is None, reason="rich is not installed: no screen to test")


@pytest.fixture
def shell(capsys):
    return Shell(capsys)


@pytest.fixture
def site(make_layer):
    layer = make_layer(capacity=5)
    for _ in range(3):
        layer.send("jobs", {})
    layer.send("a.mail", {})
    for _ in range(5):
        layer.send("full", {})
    with pytest.raises(layer.ChannelFull):
        layer.send("full", {})
    layer.group_add("news", "jobs")
    return layer


def plain(shell, prefix, *arguments):
    return shell("top", prefix, "--plain", "--interval", "0.05", *arguments)


def test_plain_tables(shell, site, prefix):
    status, text, errors = plain(shell, prefix, "--count", "2")
    assert (status, errors) == (0, "")
    assert text.count(prefix + "  ") == 2
    for said in ("waiting 9", "refused", "1 group with 1 member", "lock free"):
        assert text.count(said) >= 2
    # Which is for terminals only.
    assert "\x1b" not in text


@pytest.mark.parametrize(
    "sort, first",
    [("waiting", "full"), ("oldest", "jobs"), ("refused", "full"), ("name", "a.mail")],
)
def test_sorts(shell, site, prefix, sort, first):
    _, text, _ = plain(shell, prefix, "--count", "1", "--sort", sort)
    lines = text.splitlines()
    (headings,) = [number for number, line in enumerate(lines) if line.startswith("CHANNEL")]
    assert lines[headings + 1].split()[0] == first


def test_rows(shell, site, prefix):
    _, text, _ = plain(shell, prefix, "--count", "1", "--rows", "1")
    assert "full" in text
    assert "jobs" not in text


def test_json_is_a_line_each(shell, site, prefix):
    output = shell.fine("top", prefix, "--json", "--count", "2", "--interval", "0.05")
    first, second = [json.loads(line) for line in output.splitlines()]
    assert first["messages"]["waiting"] == second["messages"]["waiting"] == 9
    assert first["channels"][0]["channel"] == "full"
    assert first["holders"] == {"messages": 0, "groups": 0}


def test_without_rich_it_says_what_to_install(shell, site, prefix, monkeypatch):
    monkeypatch.setitem(sys.modules, "asgi_ipc.commands.screen", None)
    monkeypatch.delattr("asgi_ipc.commands.screen", raising=False)
    status, text, errors = shell("top", prefix, "--count", "2", "--interval", "0.05")
    assert status == 0
    assert text.count(prefix + "  ") == 2
    assert errors.count("asgi_ipc[cli]") == 1


def test_a_prefix_that_is_not_there(shell, prefix):
    assert "there is no shared memory" in shell.refused("top", prefix)


def test_a_stopped_holder_is_shown(shell, site, make_layer, prefix, monkeypatch):
    """It goes on looking, and says who it is."""
    monkeypatch.setattr(access, "LOCK_TIMEOUT", 0.1)
    child = []
    look = top._look

    def look_twice(place, stores, sort, rows, stop):
        view = look(place, stores, sort, rows, stop)
        if not child:
            child.append(child_inside(make_layer))
        return view

    monkeypatch.setattr(top, "_look", look_twice)

    def let_go(*_):
        # Else the end of the command, which detaches, would wait for it.
        if len(child) == 1 and looks[0] == 2:
            child.append(child[0].goes_on())
        looks[0] += 1
        return ""

    looks = [0]
    monkeypatch.setattr(top._Keys, "wait", let_go)
    status, text, errors = plain(shell, prefix, "--count", "4")
    assert (status, errors) == (0, "")
    assert "locked for more than 0.1 s by process {0}".format(child[0].pid) in text
    assert text.count("CHANNEL") >= 2


def test_a_segment_that_was_made_anew_is_followed(shell, site, prefix, make_layer, monkeypatch):
    looks = []

    def replace(*_):
        looks.append(1)
        if len(looks) == 1:
            core.unlink(prefix)
            make_layer().send("newcomer", {})
        return ""

    monkeypatch.setattr(top._Keys, "wait", replace)
    _, text, _ = plain(shell, prefix, "--count", "2")
    assert text.index("waiting 9") < text.index("waiting 1,")
    assert "newcomer" in text


def test_one_that_was_removed_is_an_error(shell, site, prefix, monkeypatch):
    monkeypatch.setattr(top._Keys, "wait", lambda *_: core.unlink(prefix) and "")
    status, _, errors = plain(shell, prefix)
    assert status == 1
    assert "there is no shared memory" in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_well(site, prefix, number):
    with started(start("top", prefix, "--plain", "--interval", "60")) as process:
        line = process.stdout.readline()
        assert line.startswith(prefix)
        process.send_signal(number)
        assert ends(process) == 0
        assert process.stderr.read() == ""
    assert site.check() == []


# -- on a terminal -----------------------------------------------------------------------------


class Terminal(object):
    """``top`` at a terminal of 24 lines of 100 characters."""

    def __init__(self, *arguments):
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.text = ""
        self.process = start(
            "top", *arguments, stdin=slave, stdout=slave, stderr=slave,
            env=dict(ENVIRONMENT, TERM="xterm-256color", LANG="C.UTF-8")
        )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self.slave)

    def press(self, key):
        os.write(self._master, key.encode("ascii"))

    def shows(self, pattern):
        """Read on until a pattern has come since the last one."""
        deadline = time.time() + 60
        while not re.search(pattern, self.text):
            assert time.time() < deadline, self.text
            self._read(0.1)
        self.text = ""

    def end(self):
        """Read until it has ended; return (status, all that came)."""
        eventually(lambda: self._read(0.05) or self.process.poll() is not None, "the end")
        while self._read(0.05):
            pass
        return self.process.returncode, self.text

    def _read(self, seconds):
        if not select.select([self._master], [], [], seconds)[0]:
            return False
        self.text += os.read(self._master, 65536).decode("utf-8", "replace")
        # More may come, and the process is to end all the same.
        return self.process.poll() is not None


def test_plain_on_a_terminal_clears_it_and_hears_keys(site, prefix):
    with Terminal(prefix, "--plain", "--interval", "0.2") as terminal:
        terminal.shows(r"\x1b\[H\x1b\[2J[^\x1b]*sorted by waiting")
        terminal.press("n")
        terminal.shows("sorted by name")
        terminal.press("x")
        terminal.press("r")
        terminal.shows("sorted by refused")
        terminal.press("q")
        status, _ = terminal.end()
        assert status == 0
        assert termios.tcgetattr(terminal.slave) == terminal.before


@needs_rich
def test_the_screen(site, prefix):
    with Terminal(prefix, "--interval", "0.2") as terminal:
        terminal.shows(r"(?s)\x1b\[\?1049h.*" + prefix + ".*waiting 9.*CHANNEL.*full.*jobs.*a.mail")
        terminal.press("n")
        # What is first on it now: the names in their order.
        terminal.shows(r"(?s)CHANNEL.*a\.mail.*full.*jobs")
        terminal.press("q")
        status, text = terminal.end()
        assert status == 0
        # The terminal's own screen is back, and its cursor.
        assert "\x1b[?1049l" in text
        assert "\x1b[?25h" in text
        assert "Traceback" not in text
        assert termios.tcgetattr(terminal.slave) == terminal.before


@needs_rich
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_gives_the_screen_back(site, prefix, number):
    with Terminal(prefix, "--interval", "60") as terminal:
        terminal.shows("CHANNEL")
        terminal.process.send_signal(number)
        status, text = terminal.end()
        assert status == 0
        assert "\x1b[?1049l" in text
        assert termios.tcgetattr(terminal.slave) == terminal.before


@needs_rich
def test_the_screen_ends_by_itself_and_fits(make_layer, prefix):
    layer = make_layer()
    for number in range(60):
        layer.send("channel.{0:02}".format(number), {})
    with Terminal(prefix, "--count", "2", "--interval", "0.05", "--sort", "name") as terminal:
        status, text = terminal.end()
    assert status == 0
    assert "channel.15" in text
    assert "channel.16" not in text


@needs_rich
def test_a_terminal_that_is_only_the_output(site, prefix):
    """Without keys it ends after its count."""
    status, text, errors = call("top", prefix, "--count", "1")
    assert (status, errors) == (0, "")
    assert "waiting 9" in text
    assert "\x1b" not in text
