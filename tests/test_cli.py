"""``asgi-ipc``: what it removes and refuses, and a whole run of the demonstration."""
import os
import re
import signal
import subprocess
import sys
import time

import pytest

import asgi_ipc
from asgi_ipc import cli, demo
from asgi_ipc._shm import segment
from asgi_ipc._shm.clock import SECOND
from asgi_ipc.core import IPCChannelLayer
from asgi_ipc.errors import SegmentError

try:
    import argcomplete
except ImportError:
    argcomplete = None


def left_of(prefix):
    folder = segment.runtime_folder()
    return [name for name in os.listdir(folder) if prefix in name]


def call(*arguments):
    """Run the command in a process of its own; return (status, output, errors)."""
    return called(*arguments)[:3]


def called(*arguments):
    """The same, and its pid."""
    process = subprocess.Popen(
        [sys.executable, "-m", "asgi_ipc"] + list(arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
    )
    output, errors = process.communicate()
    return process.returncode, output, errors, process.pid


def test_version():
    status, output, errors = call("--version")
    assert (status, (output + errors).strip()) == (0, "asgi_ipc " + asgi_ipc.__version__)


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "demo" in text
    assert "rm" in text


@pytest.mark.parametrize("arguments", [[], ["rm"], ["no-such-command"], ["demo", "more"]])
def test_a_wrong_command_line_is_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: asgi-ipc" in capsys.readouterr().err


def test_every_command_can_be_learned_from_its_help(capsys):
    """What it does, what it costs where it costs anything, an example, and its statuses."""
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    text = capsys.readouterr().out
    names = re.findall(r"^    ([a-z-]+)\s", text, re.MULTILINE)
    assert {"ls", "stat", "top", "channels", "groups", "peek", "send", "receive", "group-send",
            "check", "flush", "rm", "doctor", "bridge", "bench", "demo"} == set(names)  # fmt: skip
    assert "exit status:" in text
    for name in names:
        with pytest.raises(SystemExit) as caught:
            cli.main([name, "--help"])
        assert caught.value.code == 0
        about = capsys.readouterr().out
        assert "\n    asgi-ipc {0}".format(name) in about
        assert "Exit status: 0" in about
        assert max(len(line) for line in about.splitlines()) <= 100


@pytest.mark.skipif(argcomplete is None, reason="argcomplete is not installed")
@pytest.mark.parametrize("words, completed", [("st", ["stat"]), ("stat {0}", ["{0}"])])
def test_shells_complete_commands_and_prefixes(words, completed, prefix, tmp_path):
    IPCChannelLayer(prefix=prefix).close()
    line = "asgi-ipc " + words.format(prefix[:-1])
    answer = tmp_path / "answer"
    process = subprocess.Popen(
        [sys.executable, "-m", "asgi_ipc"],
        env=dict(
            os.environ, PYTHONPATH=os.pathsep.join(sys.path), _ARGCOMPLETE="1", COMP_LINE=line,
            COMP_POINT=str(len(line)), COMP_TYPE="9", _ARGCOMPLETE_STDOUT_FILENAME=str(answer)
        )
    )  # fmt: skip
    assert process.wait() == 0
    found = answer.read_text().replace("\x0b", " ").split()
    assert found == [word.format(prefix) for word in completed]


def test_a_shell_that_asks_in_vain(monkeypatch, capsys):
    """Without argcomplete the command is as it would be."""
    monkeypatch.setenv("_ARGCOMPLETE", "1")
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    assert cli.main(["rm", ""]) == 1
    assert "is no prefix" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["stat", "x", "--top", "-1"], ["top", "x", "--count", "0"],
              ["send", "x", "y", "{}", "--expiry", "soon"], ["peek", "x", "y", "-n", "1.5"]]
)  # fmt: skip
def test_a_wrong_number_is_a_wrong_command_line(words, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    assert "is not a" in capsys.readouterr().err


def test_prefixes_are_offered(prefix):
    IPCChannelLayer(prefix=prefix).close()
    assert prefix in cli._known_prefixes()


# -- rm ----------------------------------------------------------------------------------------


def test_rm_removes_all_of_a_prefix(prefix, capsys):
    IPCChannelLayer(prefix=prefix).close()
    assert left_of(prefix)
    assert cli.main(["rm", prefix]) == 0
    assert prefix in capsys.readouterr().out
    assert left_of(prefix) == []


def test_rm_says_when_there_is_nothing(prefix, capsys):
    assert cli.main(["rm", prefix]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("asgi-ipc rm: there is no shared memory of prefix " + prefix)
    assert err.count("\n") == 1


@pytest.mark.parametrize("wrong", ["", "a/b", "/dev/shm/x"])
def test_rm_refuses_what_is_no_prefix(wrong, capsys):
    assert cli.main(["rm", wrong]) == 1
    assert "is no prefix" in capsys.readouterr().err


def test_rm_leaves_prefixes_that_begin_alike(prefix):
    other = prefix + "-messages"
    with IPCChannelLayer(prefix=other) as layer:
        waiter = layer._stores.messages.borrow_waiter()
        IPCChannelLayer(prefix=prefix).close()
        before = left_of(other + "-")
        assert cli.main(["rm", prefix]) == 0
        assert left_of(other + "-") == before
        assert os.path.exists(waiter.doorbell.path)
        # Nor are they taken for what is left of this one.
        assert cli.main(["rm", prefix]) == 1
        os.unlink(waiter.doorbell.path)
        os.mkfifo(waiter.doorbell.path, 0o600)
        assert cli.main(["rm", prefix]) == 1
        layer._stores.messages.leave(waiter)
    assert cli.main(["rm", other]) == 0


def test_rm_removes_what_a_killed_receiver_left(prefix):
    code = "import sys, asgi_ipc; asgi_ipc.IPCChannelLayer(sys.argv[1]).receive([u'x'], True)"
    process = subprocess.Popen(
        [sys.executable, "-c", code, prefix],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
    )
    deadline = time.time() + 30
    while not any(name.endswith(".bell") for name in left_of(prefix)):
        assert time.time() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert cli.main(["rm", prefix]) == 0
    assert left_of(prefix) == []


def test_rm_leaves_the_doorbell_of_a_living_receiver(prefix):
    with IPCChannelLayer(prefix=prefix) as layer:
        waiter = layer._stores.messages.borrow_waiter()
        assert cli.main(["rm", prefix]) == 0
        assert os.path.exists(waiter.doorbell.path)
        # It was told to look.
        assert waiter.doorbell.wait(0)
        layer._stores.messages.leave(waiter)


def test_rm_is_the_remedy_that_a_segment_of_another_kind_names(prefix):
    path = os.path.join(segment.runtime_folder(), prefix + "-messages")
    with open(path, "wb") as foreign:
        foreign.write(b"pickled data of an older release" * 1000)
    with pytest.raises(SegmentError, match="asgi-ipc rm " + prefix):
        IPCChannelLayer(prefix=prefix)
    assert cli.main(["rm", prefix]) == 0
    IPCChannelLayer(prefix=prefix).close()


# -- demo --------------------------------------------------------------------------------------


def test_demo_shows_all_parts_and_leaves_nothing():
    status, output, errors, pid = called("demo")
    assert (status, errors) == (0, "")
    for part in ("1. ", "2. ", "3. ", "4. "):
        assert "\n" + part in output
    for said in ("round trips", "p50", "p99", "SIGKILL", "none lost", "sound"):
        assert said in output
    assert left_of("demo-{0}-".format(pid)) == []


def test_demo_without_shared_memory_is_one_sentence(monkeypatch, capsys):
    def no_memory(prefix):
        raise SegmentError("no shared memory left")

    monkeypatch.setattr(demo, "IPCChannelLayer", no_memory)
    assert cli.main(["demo"]) == 1
    assert capsys.readouterr().err == "asgi-ipc demo: no shared memory left\n"


def test_demo_reports_a_failure_and_cleans_up(monkeypatch, capsys):
    def lose(cast):
        cast.start("answer")
        raise demo.Failure("3 messages were lost")

    monkeypatch.setattr(demo, "talk", lose)
    assert demo.run() == 1
    assert "FAILED: 3 messages were lost" in capsys.readouterr().out
    assert left_of("demo-{0}-".format(os.getpid())) == []


LINE = SECOND


def judge(tales, counts, may_lack=0):
    demo._judge_crowd(tales, counts, may_lack)


def test_the_demo_would_notice_a_loss():
    tales = [[(3, 1, LINE), (3, 3, LINE)], [(3, 4, LINE)]]
    with pytest.raises(demo.Failure, match="1 messages were lost"):
        judge(tales, {3: [(4, 0)]})
    judge(tales, {3: [(4, 0)]}, may_lack=1)


def test_the_demo_would_notice_a_gap_in_what_a_killed_sender_sent():
    with pytest.raises(demo.Failure, match="lost"):
        judge([[(3, 1, LINE), (3, 3, LINE)]], {3: []})
    judge([[(3, 1, LINE), (3, 2, LINE)]], {3: []})
    judge([[]], {3: []})


def test_the_demo_would_notice_what_came_twice_or_out_of_order():
    with pytest.raises(demo.Failure, match="twice"):
        judge([[(3, 1, LINE)], [(3, 1, LINE)]], {3: [(1, 0)]})
    with pytest.raises(demo.Failure, match="out of order"):
        judge([[(3, 2, LINE), (3, 1, LINE)]], {3: [(2, 0)]})


def test_the_workers_are_ended_whatever_happens(monkeypatch):
    pids = []

    def interrupted(cast):
        pids.extend(worker.pid for worker in cast.start("answer"))
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "talk", interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo.run()
    with pytest.raises(OSError):
        os.kill(pids[0], 0)
