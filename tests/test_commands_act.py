# -*- coding: utf-8 -*-
"""``send``, ``receive``, ``group-send``, ``flush`` and ``rm``, and messages as JSON."""
from __future__ import unicode_literals

import json
import math
import signal

import pytest
from commandkit import ENVIRONMENT, Shell, attached_process, call, listen, start, started
from processkit import bells, ends, eventually, run_python
from sandbox import needs_linux
from storekit import put

from asgi_ipc import attached, cli, codec, core, machine
from asgi_ipc._shm import segment
from asgi_ipc.commands import act, jsonform

MESSAGE = {
    "text": "grüße, \U0001f600",
    "raw": b"\x00\xff\x80",
    "deep": [{"a": None, "b": True, "c": 1.5}, [], {}, -(2**63), 2**64 - 1],
    "keys": {1: "one", b"two": 2, None: [b""]},
    "mark": {"__bytes__": "no bytes at all"},
    "items": {"__items__": []},
}


@pytest.fixture
def shell(capsys):
    return Shell(capsys)


# -- messages as JSON --------------------------------------------------------------------------


@pytest.mark.parametrize("key", sorted(MESSAGE))
def test_json_and_back(key):
    message = {key: MESSAGE[key]}
    text = json.dumps(jsonform.shown(message))
    assert jsonform.parsed(text) == message


def test_numbers_that_json_lacks():
    shown = jsonform.shown({"a": float("inf"), "b": float("-inf"), "c": float("nan")})
    parsed = jsonform.parsed(json.dumps(shown, allow_nan=False))
    assert (parsed["a"], parsed["b"]) == (float("inf"), float("-inf"))
    assert math.isnan(parsed["c"])


def test_extension_types_are_shown():
    shown = jsonform.shown({"a": codec.msgpack.ExtType(5, b"hello")})
    assert shown == {"a": {"__ext__": [5, "aGVsbG8="]}}


@pytest.mark.skipif(not hasattr(codec.msgpack, "Timestamp"), reason="msgpack before 1.0")
def test_so_are_timestamps():
    assert jsonform.shown({"a": codec.msgpack.Timestamp(1)}) == {"a": {"__ext__": [-1, "AAAAAQ=="]}}


@pytest.mark.parametrize(
    "text, said",
    [
        ("{", "is not JSON"),
        ("", "is not JSON"),
        ("[1]", "a message is a JSON object"),
        ('"text"', "a message is a JSON object"),
        ('{"__bytes__": "AP8="}', "a message is a JSON object"),
        ('{"a": {"__bytes__": "A"}}', "__bytes__"),
        ('{"a": {"__bytes__": 5}}', "__bytes__"),
        ('{"a": {"__bytes__": "AP*8="}}', "is not base64"),
        ('{"a": {"__bytes__": "gr\u00fc"}}', "__bytes__"),
        ('{"a": {"__float__": "one"}}', "__float__"),
        ('{"a": {"__items__": [1]}}', "__items__"),
        ('{"a": {"__items__": [[[1], 2]]}}', "__items__"),
        ('{"a": {"__ext__": [1, "AA=="]}}', "__ext__"),
        ('{"a": ' + "[" * 100000 + "]" * 100000 + "}", "nested too deeply"),
    ],
)
def test_what_is_no_message(text, said, shell, layer, prefix):
    with pytest.raises(ValueError) as caught:
        jsonform.parsed(text)
    assert said in str(caught.value)
    assert said in shell.refused("send", prefix, "jobs", text)
    assert layer.receive(["jobs"]) == (None, None)


# -- send --------------------------------------------------------------------------------------


def test_send_peek_and_receive_agree(layer, prefix):
    text = json.dumps(jsonform.shown(MESSAGE))
    assert call("send", prefix, "jobs", text) == (0, "", "")
    assert call("send", prefix, "jobs", "-", input=text) == (0, "", "")
    status, output, errors = call("peek", prefix, "jobs", "--json")
    assert (status, errors) == (0, "")
    peeked = [one["message"] for one in json.loads(output)]
    status, output, errors = call("receive", prefix, "jobs", "-n", "1")
    assert (status, errors) == (0, "")
    received = json.loads(output)
    assert received["channel"] == "jobs"
    assert peeked == [received["message"]] * 2
    assert jsonform.parsed(json.dumps(received["message"])) == MESSAGE
    # And a process of the site has what was sent.
    assert layer.receive(["jobs"]) == ("jobs", MESSAGE)


def test_a_terminal_that_knows_only_ascii_gets_escapes(layer, prefix):
    layer.send("jobs", {"text": "grüße, \U0001f600"})
    plain = dict(ENVIRONMENT, LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    status, output, errors = call("receive", prefix, "jobs", env=plain)
    assert (status, errors) == (0, "")
    assert json.loads(output)["message"] == {"text": "grüße, \U0001f600"}
    output.encode("ascii")


def test_send_takes_the_options_of_the_layer(shell, layer, prefix):
    shell.fine("send", prefix, "jobs", "{}", "--capacity", "1", "--expiry", "7")
    (found,) = shell.json("peek", prefix, "jobs")
    assert 5 < found["expires"] <= 7
    assert "jobs" in shell.refused("send", prefix, "jobs", "{}", "--capacity", "1")
    assert "expiry" in shell.refused("send", prefix, "jobs", "{}", "--expiry", "0")
    assert len(shell.json("peek", prefix, "jobs")) == 1


def test_send_to_a_local_channel(shell, layer, prefix):
    shell.fine("send", prefix, "web.abc!one", '{"x": 1}')
    assert layer.receive(["web.abc!"]) == ("web.abc!one", {"x": 1})


def test_send_refuses_what_is_too_large(shell, layer, prefix):
    text = json.dumps({"text": "x" * layer.max_message_size})
    assert "allowed" in shell.refused("send", prefix, "jobs", text)
    assert layer.receive(["jobs"]) == (None, None)


@pytest.mark.parametrize("channel", ["no good", "", "x" * 200])
def test_send_refuses_a_wrong_name(shell, layer, prefix, channel):
    assert "is not a channel name" in shell.refused("send", prefix, channel, "{}")


ACTING = [
    ("send", "jobs", "{}"), ("receive", "jobs"), ("group-send", "news", "{}"), ("flush",)
]  # fmt: skip


@pytest.mark.parametrize("command", ACTING)
def test_acting_on_nothing_makes_nothing(shell, prefix, command):
    said = shell.refused(*((command[0], prefix) + command[1:]))
    assert "there is no shared memory of prefix" in said
    assert not machine.Place(prefix).there


@pytest.mark.parametrize("command", ACTING[:3])
def test_unless_it_is_told_to(shell, prefix, command):
    status, _, errors = shell(*((command[0], prefix) + command[1:] + ("--create",)))
    assert (status, errors) == (act.NOTHING_CAME if command[0] == "receive" else 0, "")
    assert machine.Place(prefix).sound
    # And what is there is taken as it is.
    status, _, errors = shell(*((command[0], prefix) + command[1:] + ("--create",)))
    assert errors == ""


# -- receive -----------------------------------------------------------------------------------


def lines(output):
    return [json.loads(line) for line in output.splitlines()]


def test_receive_takes_so_many(shell, layer, prefix):
    for number in range(4):
        layer.send("jobs", {"n": number})
    found = lines(shell.fine("receive", prefix, "jobs", "-n", "3"))
    assert [one["message"]["n"] for one in found] == [0, 1, 2]
    status, output, errors = shell("receive", prefix, "jobs", "-n", "2")
    assert (status, errors) == (act.NOTHING_CAME, "")
    assert len(lines(output)) == 1
    assert shell("receive", prefix, "jobs") == (act.NOTHING_CAME, "", "")


def test_receive_gives_each_channel_its_turn(shell, layer, prefix):
    for channel in ("one", "two"):
        for _ in range(2):
            layer.send(channel, {})
    found = lines(shell.fine("receive", prefix, "one", "two", "-n", "4"))
    assert sorted(one["channel"] for one in found[:2]) == ["one", "two"]


def test_receive_shows_whole_what_cannot_be_decoded(shell, layer, prefix):
    put(layer._stores.messages, "odd", b"\xc1" * 100)
    assert lines(shell.fine("receive", prefix, "odd")) == [
        {"channel": "odd", "undecodable": "c1" * 100}
    ]


def test_receive_waits(layer, prefix):
    with started(start("receive", prefix, "jobs", "--wait", "60")) as process:
        eventually(lambda: bells(prefix), "waiting")
        layer.send("jobs", {"n": 1})
        assert ends(process) == 0
        assert lines(process.stdout.read()) == [{"channel": "jobs", "message": {"n": 1}}]
    assert bells(prefix) == []


def test_wait_and_follow_exclude_each_other(shell, prefix):
    with pytest.raises(SystemExit) as caught:
        shell("receive", prefix, "jobs", "--wait", "1", "--follow")
    assert caught.value.code == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_follow_prints_each_at_once_and_ends_when_told(layer, prefix, number):
    with started(start("receive", prefix, "jobs", "mail", "--follow")) as process:
        for count in range(3):
            layer.send("jobs", {"n": count})
            line = process.stdout.readline()
            assert json.loads(line) == {"channel": "jobs", "message": {"n": count}}
        layer.send("mail", {"n": 3})
        assert json.loads(process.stdout.readline())["channel"] == "mail"
        process.send_signal(number)
        assert ends(process) == 0
        assert (process.stdout.read(), process.stderr.read()) == ("", "")
    assert bells(prefix) == []


def test_ending_a_follow_loses_nothing(make_layer, prefix):
    """Ended in the midst of traffic, again and again: what is not printed is still there."""
    layer = make_layer(capacity=10000)
    total, seen = 0, []
    for _ in range(4):
        for _ in range(200):
            layer.send("jobs", {"n": total})
            total += 1
        with started(start("receive", prefix, "jobs", "--follow")) as process:
            line = process.stdout.readline()
            assert line, (process.wait(), process.stderr.read())
            seen.append(json.loads(line)["message"]["n"])
            process.send_signal(signal.SIGTERM)
            seen += [one["message"]["n"] for one in lines(process.stdout.read())]
            assert ends(process) == 0
            assert process.stderr.read() == ""
    while True:
        channel, message = layer.receive(["jobs"])
        if channel is None:
            break
        seen.append(message["n"])
    assert seen == list(range(total))


def test_what_was_taken_and_cannot_be_written_is_told(layer, prefix):
    layer.send("jobs", {"n": 1})
    layer.send("jobs", {"n": 2})
    with started(start("receive", prefix, "jobs", "-n", "3", "--wait", "60")) as process:
        assert json.loads(process.stdout.readline())["message"]["n"] == 1
        assert json.loads(process.stdout.readline())["message"]["n"] == 2
        process.stdout.close()
        layer.send("jobs", {"n": 3})
        assert ends(process) == 1
        errors = process.stderr.read()
        process.stdout = None
    taken, said = errors.splitlines()
    assert taken.startswith("asgi-ipc receive: " + act.TAKEN.format(""))
    assert json.loads(taken.partition("written: ")[2])["message"] == {"n": 3}
    assert said == "asgi-ipc receive: " + cli.CLOSED_OUTPUT


# -- group-send --------------------------------------------------------------------------------


def test_group_send_says_how_many(shell, layer, prefix):
    for channel in ("web.a!one", "web.a!two", "web.b!one", "jobs"):
        layer.group_add("news", channel)
    found = shell.json("group-send", prefix, "news", '{"x": 1}')
    assert found == {"members": 4, "queues": 3, "full": [], "missed": 0}
    assert "4 members" in shell.fine("group-send", prefix, "news", '{"x": 2}')
    assert layer.receive(["web.b!"]) == ("web.b!one", {"x": 1})
    assert shell.json("group-send", prefix, "nobody", "{}")["members"] == 0


def test_group_send_tells_who_missed_it(shell, layer, prefix):
    for channel in ("web.a!one", "web.a!two", "jobs"):
        layer.group_add("news", channel)
    layer.send("web.a!one", {})
    status, output, errors = shell("group-send", prefix, "news", "{}", "--capacity", "1")
    assert status == 1
    assert "sent to 1 member" in output
    assert errors == "asgi-ipc group-send: 2 members missed it, full: web.a!\n"
    assert layer.receive(["jobs"]) == ("jobs", {})


# -- flush and rm ------------------------------------------------------------------------------


def test_flush(shell, layer, prefix):
    layer.send("jobs", {})
    layer.group_add("news", "jobs")
    assert prefix in shell.fine("flush", prefix)
    assert layer.receive(["jobs"]) == (None, None)
    assert layer.group_channels("news") == []
    assert layer.check() == []


@needs_linux
def test_rm_refuses_while_processes_are_attached(shell, layer, prefix):
    layer.send("jobs", {"n": 1})
    with attached_process(prefix) as process:
        said = shell.refused("rm", prefix)
        assert "{0} (".format(process.pid) in said
        assert "--force" in said
        assert layer.receive(["jobs"]) == ("jobs", {"n": 1})
        assert "removed" in shell.fine("rm", prefix, "--force")
    assert not machine.Place(prefix).there


@needs_linux
def test_rm_names_those_that_it_sees_and_counts_the_others(shell, layer, prefix, monkeypatch):
    found = attached.Attached([attached.Process(7, "web", stopped=False)], 0, 2, known=True)
    monkeypatch.setattr(attached, "attached", lambda _: found)
    said = shell.refused("rm", prefix)
    assert "7 (web) and 2 receivers that cannot be seen from here" in said


@needs_linux
def test_rm_refuses_for_receivers_that_it_cannot_see(
    shell, layer, prefix, monkeypatch, tmp_path
):
    with started(run_python(listen, prefix, "nothing")):
        eventually(lambda: bells(prefix), "waiting")
        (tmp_path / "empty").mkdir()
        monkeypatch.setattr(attached, "PROC", str(tmp_path / "empty"))
        assert "a receiver that cannot be seen" in shell.refused("rm", prefix)
    shell.fine("rm", prefix)


def test_a_site_goes_on_after_a_forced_removal(shell, prefix, make_layer):
    layer = make_layer()
    with started(start("receive", prefix, "jobs", "--wait", "60")) as process:
        eventually(lambda: bells(prefix), "waiting")
        shell.fine("rm", prefix, "--force")
        eventually(lambda: machine.Place(prefix).sound, "a new one")
        with pytest.warns(RuntimeWarning):
            layer.group_add("news", "jobs")
        layer.send("jobs", {"n": 1})
        assert ends(process) == 0
        assert json.loads(process.stdout.read())["message"] == {"n": 1}
        # The layer's own warning, as a sentence of the command.
        errors = process.stderr.read()
    assert errors.startswith("asgi-ipc receive: the shared memory of prefix")
    assert errors.count("\n") == 1


def test_who_only_receives_makes_both_halves_anew(shell, prefix, make_layer, monkeypatch):
    """Woken by the removal, as early as can be: nothing that it makes is removed after it."""
    layer = make_layer()
    ring = core.doorbell.sweep

    def ring_and_be_woken(name):
        removed = ring(name)
        layer._stores.messages._next_look = 0
        layer.receive(["jobs"])
        return removed

    monkeypatch.setattr(core.doorbell, "sweep", ring_and_be_woken)
    status, _, _ = shell("rm", prefix, "--force")
    assert status == 0
    assert machine.Place(prefix).sound
    layer.group_add("news", "jobs")
    assert shell.json("groups", prefix) == [{"group": "news", "members": 1}]


def test_rm_of_another_user_is_a_sentence(shell, layer, prefix, monkeypatch):
    def refuse(_):
        raise segment.posix_ipc.PermissionsError("no")

    monkeypatch.setattr(segment.posix_ipc, "unlink_shared_memory", refuse)
    assert "belongs to another user" in shell.refused("rm", prefix)
    layer.send("jobs", {})
