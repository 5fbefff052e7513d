# -*- coding: utf-8 -*-
"""``ls``, ``stat``, ``channels``, ``groups``, ``peek`` and ``check``: what they show, and cost."""
from __future__ import unicode_literals

import os

import pytest
from commandkit import Shell, attached_process, call, listen, started, stopped
from processkit import SIZES, child_inside, die_inside, eventually, run_python
from sandbox import needs_linux
from storekit import put

from asgi_ipc import access, cli, guarded, machine
from asgi_ipc._shm.opening import SHM_FOLDER
from asgi_ipc.commands import look, output

pytestmark = needs_linux
LOOKING = [
    ("stat",), ("channels",), ("groups",), ("groups", "news"), ("peek", "jobs"), ("check",)
]  # fmt: skip


@pytest.fixture
def shell(capsys):
    return Shell(capsys)


@pytest.fixture
def site(layer):
    for number in range(3):
        layer.send("jobs", {"id": number})
    layer.send("mail", {"text": "grüße", "raw": b"\x00\xff", "escape": "\x1b[2J\x9b"})
    layer.send("web.abc!one", {"x": 1})
    layer.send("web.abc!two", {"x": 2})
    for channel in ("jobs", "mail", "web.abc!one"):
        layer.group_add("news", channel)
    layer.group_add("empty.soon", "mail")
    return layer


def arguments_of(command, prefix):
    return (command[0], prefix) + command[1:]


def files(prefix):
    """Modes of all that a prefix has in shared memory."""
    return {
        name: os.stat(os.path.join(SHM_FOLDER, name)).st_mode
        for name in os.listdir(SHM_FOLDER)
        if prefix in name
    }


# -- ls ----------------------------------------------------------------------------------------


def mine(shell, prefix):
    (found,) = [one for one in shell.json("ls") if one["prefix"] == prefix]
    return found


def test_ls_shows_sizes_owner_layout_and_who_is_attached(shell, site, prefix):
    assert mine(shell, prefix)["processes"] == []
    with attached_process(prefix) as process:
        found = mine(shell, prefix)
        (line,) = [one for one in shell.fine("ls").splitlines() if one.startswith(prefix + " ")]
    assert [one["pid"] for one in found["processes"]] == [process.pid]
    assert found["size"] == SIZES["message_memory"] + SIZES["group_memory"]
    assert 0 < found["memory"] <= found["size"]
    assert (found["uid"], found["mode"]) == (os.geteuid(), "0600")
    assert found["layout"] == {kind: machine.LAYOUTS[kind][1] for kind in machine.KINDS}
    assert found["state"] == {"messages": "ours", "groups": "ours"}
    assert "512 KiB" in line
    assert machine.user_name(os.geteuid()) in line


def test_ls_says_what_is_wrong_with_one(shell, layer, prefix):
    os.unlink(os.path.join(SHM_FOLDER, prefix + "-groups"))
    (line,) = [one for one in shell.fine("ls").splitlines() if one.startswith(prefix + " ")]
    assert line.endswith("no groups")
    assert mine(shell, prefix)["state"]["groups"] == "absent"


def test_ls_where_the_system_lists_nothing(shell, monkeypatch):
    monkeypatch.setattr(machine, "SHM_FOLDER", None)
    assert "does not list shared memory" in shell.refused("ls")


@pytest.mark.parametrize(
    "figures, said",
    [
        ({"processes": [1, 2], "listeners": 0, "processes_unseen": 0}, "2"),
        ({"processes": [1, 2], "listeners": 0, "processes_unseen": 4}, "at least 2"),
        ({"processes": [1, 2], "listeners": 1, "processes_unseen": 0}, "at least 3"),
        ({"processes": [], "listeners": 0, "processes_unseen": 0, "processes_known": False}, "?"),
        ({"processes": [], "listeners": 9, "processes_unseen": 0, "processes_known": False},
         "at least 1"),
    ],
)  # fmt: skip
def test_how_many_are_attached_as_far_as_it_is_known(figures, said):
    assert look._how_many(dict({"processes_known": True}, **figures)) == said


# -- stat --------------------------------------------------------------------------------------


def test_stat_has_the_figures(shell, site, prefix):
    found = shell.json("stat", prefix, "--top", "2")
    assert found["prefix"] == prefix
    messages, groups = found["messages"], found["groups"]
    assert (messages["waiting"], messages["sent"], messages["channels"]) == (6, 6, 3)
    assert (groups["groups"], groups["members"]) == (2, 4)
    assert messages["size"] == SIZES["message_memory"]
    assert found["fullest_channels"][0]["channel"] == "jobs"
    assert len(found["fullest_channels"]) == len(found["oldest_channels"]) == 2
    assert found["largest_groups"][0] == {"group": "news", "members": 3}
    assert (messages["holder"], groups["holder"]) == (0, 0)
    assert found["layout"]["messages"] == machine.LAYOUTS["messages"][1]
    text = shell.fine("stat", prefix)
    for said in ("6 in 3 channels", "2 with 4 members", "jobs", "news", "free"):
        assert said in text


def test_stat_shows_drops_receivers_and_rebuilds(shell, make_layer, prefix):
    layer = make_layer(capacity=1)
    layer.send("full", {})
    with pytest.raises(layer.ChannelFull):
        layer.send("full", {})
    die_inside(layer, "groups")
    layer.group_add("a", "b")
    with started(run_python(listen, prefix, "one", "two")) as process:
        eventually(lambda: shell.json("stat", prefix)["receivers"], "a receiver")
        found = shell.json("stat", prefix)
        (receiver,) = found["receivers"]
        assert (receiver["pid"], receiver["alive"]) == (process.pid, True)
        assert receiver["channels"] == ["one", "two"]
        assert [one["pid"] for one in found["processes"]] == [process.pid]
        assert "one, two" in shell.fine("stat", prefix)
        with stopped(process.pid):
            assert "(stopped)" in shell.fine("stat", prefix)
    assert found["messages"]["refused"] == 1
    assert found["groups"]["rebuilds"] == 1


def test_a_receiver_at_work_does_not_wait(shell, make_layer, prefix):
    layer = make_layer(block_timeout=0.05)
    layer.receive(["nothing"], block=True)
    assert "not waiting" in shell.fine("stat", prefix)


def test_a_stopped_holder_is_named(shell, make_layer, prefix, monkeypatch):
    monkeypatch.setattr(access, "LOCK_TIMEOUT", 0.1)
    make_layer()
    child = child_inside(make_layer)
    for command in LOOKING:
        said = shell.refused(*arguments_of(command, prefix))
        assert "process {0}".format(child.pid) in said
        assert "kill -CONT" in said
    child.goes_on()
    assert shell.json("stat", prefix)["messages"]["holder"] == 0


def test_stat_where_the_system_shows_no_files(shell, site, prefix, monkeypatch):
    monkeypatch.setattr(machine, "SHM_FOLDER", None)
    assert shell.json("stat", prefix)["messages"]["holder"] is None
    assert shell.fine("stat", prefix).count("it cannot be seen who holds it") == 2


# -- channels and groups -----------------------------------------------------------------------


def test_channels_and_their_order(shell, site, prefix):
    by_name = shell.json("channels", prefix)
    assert [one["channel"] for one in by_name] == ["jobs", "mail", "web.abc!"]
    assert [one["waiting"] for one in by_name] == [3, 1, 2]
    by_waiting = shell.json("channels", prefix, "--sort", "waiting")
    assert [one["waiting"] for one in by_waiting] == [3, 2, 1]
    assert shell.json("channels", prefix, "--sort", "oldest")[0]["channel"] == "jobs"
    assert shell.fine("channels", prefix).splitlines()[1].split()[:2] == ["jobs", "3"]


def test_groups_and_their_members(shell, site, prefix):
    assert shell.json("groups", prefix) == [
        {"group": "empty.soon", "members": 1}, {"group": "news", "members": 3}
    ]  # fmt: skip
    members = shell.json("groups", prefix, "news")
    assert [one["channel"] for one in members] == ["jobs", "mail", "web.abc!one"]
    assert all(86000 < one["expires"] <= 86400 for one in members)
    assert shell.json("groups", prefix, "nobody") == []
    assert "web.abc!one" in shell.fine("groups", prefix, "news")
    assert "is not a group name" in shell.refused("groups", prefix, "no good name")


# -- peek --------------------------------------------------------------------------------------


def test_peek_shows_messages_and_leaves_them(shell, site, prefix):
    found = shell.json("peek", prefix, "jobs", "-n", "2")
    assert [one["message"] for one in found] == [{"id": 0}, {"id": 1}]
    assert all(one["intact"] and 0 < one["expires"] <= 60 for one in found)
    assert shell.fine("peek", prefix, "jobs").count("\n") == 3
    assert shell.json("peek", prefix, "nothing") == []
    assert "nothing waits in nothing" in shell.fine("peek", prefix, "nothing")
    assert [site.receive(["jobs"])[1]["id"] for _ in range(3)] == [0, 1, 2]


def test_peek_shows_bytes_and_no_control_characters(shell, site, prefix):
    message = {"text": "grüße", "raw": {"__bytes__": "AP8="}, "escape": "\x1b[2J\x9b"}
    (found,) = shell.json("peek", prefix, "mail")
    assert found["message"] == message
    text = shell.fine("peek", prefix, "mail")
    assert not {"\x1b", "\x9b"} & set(text)
    assert "u009b" in text


def test_peek_at_one_local_channel(shell, site, prefix):
    assert [one["message"]["x"] for one in shell.json("peek", prefix, "web.abc!")] == [1, 2]
    (found,) = shell.json("peek", prefix, "web.abc!two")
    assert (found["message"], found["channels"]) == ({"x": 2}, ["web.abc!two"])
    assert "web.abc!two" in shell.fine("peek", prefix, "web.abc!two")


def test_peek_at_what_cannot_be_decoded(shell, site, prefix):
    put(site._stores.messages, "odd", b"\xc1" * 100)
    put(site._stores.messages, "odd", b"")
    first, second = shell.json("peek", prefix, "odd")
    assert first["undecodable"] == "c1" * 32 + "..."
    assert (second["undecodable"], second["size"]) == ("", 0)
    assert "undecodable" in shell.fine("peek", prefix, "odd")


def test_peek_at_what_is_damaged(shell, site, prefix):
    path = os.path.join(SHM_FOLDER, prefix + "-messages")
    site.send("hurt", {"text": "here it is"})
    with open(path, "r+b") as segment:
        place = segment.read().index(b"here it is")
        segment.seek(place)
        segment.write(b"HERE")
    (found,) = shell.json("peek", prefix, "hurt")
    assert not found["intact"]
    assert "DAMAGED" in shell.fine("peek", prefix, "hurt")


# -- check -------------------------------------------------------------------------------------


def test_check_tells_soundness_and_faults_by_its_status(shell, site, prefix):
    assert "is sound" in shell.fine("check", prefix)
    assert shell.json("check", prefix) == {"messages": [], "groups": []}
    path = os.path.join(SHM_FOLDER, prefix + "-messages")
    with open(path, "r+b") as segment:
        place = segment.read().index(b"gr\xc3\xbc\xc3\x9fe")
        segment.seek(place)
        segment.write(b"GR")
    status, text, _ = shell("check", prefix)
    assert status == 1
    assert "messages: record" in text
    assert "its check" in text


# -- all of them -------------------------------------------------------------------------------


@pytest.mark.parametrize("command", LOOKING)
def test_looking_at_nothing_makes_nothing(shell, prefix, command):
    said = shell.refused(*arguments_of(command, prefix))
    assert "there is no shared memory of prefix " + prefix in said
    assert "asgi-ipc ls" in said
    assert files(prefix) == {}


@pytest.mark.parametrize("command", LOOKING)
def test_looking_changes_no_file_and_no_message(shell, site, prefix, command):
    before = files(prefix)
    shell.fine(*arguments_of(command, prefix))
    assert files(prefix) == before
    assert site.global_statistics()["messages_pending"] == 6
    assert site.check() == []


@pytest.mark.parametrize("mode", [0o640, 0o660, 0o666])
def test_the_mode_stays_what_it_is(shell, make_layer, prefix, mode):
    # What the layer itself does not make, such as 0640, an administrator may have.
    make_layer()
    for before in ("", "sem."):
        for kind in machine.KINDS:
            os.chmod(os.path.join(SHM_FOLDER, "{0}{1}-{2}".format(before, prefix, kind)), mode)
    before = files(prefix)
    assert shell.json("stat", prefix)["mode"] == output.octal(mode)
    assert files(prefix) == before


@pytest.mark.parametrize("command", LOOKING)
@pytest.mark.parametrize("wrong", ["", "a/b"])
def test_what_is_no_prefix(shell, command, wrong):
    assert "is no prefix" in shell.refused(*arguments_of(command, wrong))


PIECEMEAL = [command for command in LOOKING if command[0] != "check"]


@pytest.mark.parametrize("command", PIECEMEAL)
def test_no_look_copies_more_than_a_piece_under_one_lock(
    shell, make_layer, prefix, command, monkeypatch
):
    """What is under the lock is one piece of a table, or one message, however many there are."""
    layer = make_layer(message_memory=4 * 1024 * 1024, group_memory=1024 * 1024, capacity=1000)
    for number in range(600):
        layer.send("c{0:04}".format(number), {"n": number})
        layer.send("jobs", {"n": number})
        layer.group_add("g{0:04}".format(number), "jobs")
        layer.group_add("news", "c{0:04}".format(number))
    copied, holds = [], []
    copy, run = guarded.Guarded._copy, guarded.Guarded._run

    def counted_copy(store, begin, end):
        copied.append(end - begin)
        return copy(store, begin, end)

    def counted_run(store, work, *arguments):
        del copied[:]
        try:
            return run(store, work, *arguments)
        finally:
            holds.append(sum(copied))

    monkeypatch.setattr(guarded.Guarded, "_copy", counted_copy)
    monkeypatch.setattr(guarded.Guarded, "_run", counted_run)
    found = shell.json(*arguments_of(command, prefix))
    assert found
    tables = layer._stores.groups.cells, layer._stores.messages.entries
    widest = max(table.width for table in tables)
    assert max(holds) <= guarded.PIECE * widest
    if command[0] in ("stat", "channels"):
        assert len(holds) > 600 // guarded.PIECE
    if command[0] == "peek":
        # One for each message that is shown.
        assert len(found) <= len(holds) < 2 * len(found)


def test_a_site_works_while_it_is_looked_at(shell, site, prefix):
    """As a process of its own: nothing is lost, and all is sound after it."""
    with attached_process(prefix):
        for command in LOOKING:
            status, _, errors = call(*[str(word) for word in arguments_of(command, prefix)])
            assert (status, errors) == (0, "")
    assert [site.receive(["jobs"])[1]["id"] for _ in range(3)] == [0, 1, 2]


def test_closed_output_is_one_sentence(site, prefix):
    reader, writer = os.pipe()
    os.close(reader)
    status, _, errors = call("stat", prefix, stdout=writer)
    os.close(writer)
    assert status == 1
    assert errors == "asgi-ipc stat: nobody reads the output any more\n"


def test_what_the_layer_logs_is_a_sentence_of_the_command(site, prefix):
    site.send("hurt", {"text": "here it is"})
    path = os.path.join(SHM_FOLDER, prefix + "-messages")
    with open(path, "r+b") as segment:
        place = segment.read().index(b"here it is")
        segment.seek(place)
        segment.write(b"HERE")
    status, _, errors = call("receive", prefix, "hurt")
    assert status == 3
    assert errors.startswith("asgi-ipc receive: ")
    assert "damaged" in errors
    assert all(line.startswith("asgi-ipc receive: ") for line in errors.splitlines())


def test_an_interruption_is_a_status(shell, site, prefix, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(look, "figures_of", interrupt)
    assert shell("stat", prefix) == (cli.INTERRUPTED, "", "")


# -- figures -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "count, text",
    [(0, "0 B"), (999, "999 B"), (1024, "1.0 KiB"), (120 * 1024, "120 KiB"),
     (1023 * 1024, "1.0 MiB"), (100 * 1024**2, "100 MiB"), (3 * 1024**4, "3.0 TiB")],
)  # fmt: skip
def test_sizes(count, text):
    assert output.size(count) == text


@pytest.mark.parametrize(
    "value, text",
    [(0, "0 s"), (0.0000032, "3.2 us"), (0.0123, "12 ms"), (1.25, "1.2 s"), (59, "59 s"),
     (300, "5 min"), (86400, "24 h"), (864000, "10 d")],
)  # fmt: skip
def test_times(value, text):
    assert output.seconds(value) == text
