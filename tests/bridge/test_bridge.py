"""The bridge against a real Redis: what reaches whom, once."""
import pytest
from bridgekit import run
from processkit import eventually

from asgi_ipc.crossing import OUTBOX
from asgi_ipc.errors import ChannelFull, NoBridge

QUIET = 0.3
"""Seconds after which what has not come is taken not to come."""


def test_a_group_on_three_machines(machines):
    here, there, third = machines(3)
    members = [machine.member("room") for machine in (here, there, third)]
    other = there.member("another")
    for number in range(20):
        here.layer.send_group("room", {"n": number})
    for machine, member in zip((here, there, third), members):
        found = machine.receive_all(member, {"n": 19})
        assert found == [{"n": number} for number in range(20)]
        assert machine.receive(member, QUIET) is None
    assert there.receive(other, 0) is None
    eventually(lambda: here.figures()["sent"] == 20, "all of it sent")
    assert there.figures()["received"] == 20
    assert here.figures()["received"] == 0


def test_a_group_without_members_here(machines):
    here, there = machines(2)
    member = there.member("room")
    here.layer.send_group("room", {"n": 1})
    assert there.receive(member) == {"n": 1}


def test_one_entry_for_a_group_send(machines, server):
    """However many members there are, on whichever side."""
    here, there = machines(2)
    for _ in range(5):
        here.member("room")
        there.member("room")
    last = there.member("room")
    here.layer.send_group("room", {"n": 1})
    there.receive(last)
    (key,) = server.client().keys("*:groups")
    assert server.client().xlen(key) == 1


def test_a_channel_of_another_machine(machines):
    here, there = machines(2)
    channel = there.layer.new_channel("reply?")
    here.layer.send(channel, {"to": "you"})
    assert there.receive(channel) == {"to": "you"}
    with pytest.raises(TypeError, match="another machine"):
        here.layer.channel_statistics(channel)
    for channels in ([channel], ["jobs", channel]):
        with pytest.raises(TypeError, match="another machine"):
            here.layer.receive(channels)


def test_a_member_of_another_machine(machines):
    here, there, third = machines(3)
    channel = there.layer.new_channel("reply?")
    here.layer.group_add("room", channel)
    eventually(lambda: there.layer.group_channels("room") == [channel], "the membership")
    assert here.layer.group_channels("room") == []
    third.layer.send_group("room", {"n": 1})
    assert there.receive(channel) == {"n": 1}
    assert there.receive(channel, QUIET) is None
    here.layer.group_discard("room", channel)
    eventually(lambda: there.layer.group_channels("room") == [], "the end of the membership")


def test_normal_channels_stay_here(machines):
    here, there = machines(2)
    here.layer.send("jobs", {"n": 1})
    assert there.receive("jobs", QUIET) is None
    assert here.receive("jobs") == {"n": 1}


def test_without_a_bridge(machines):
    here, there = machines(2, bridges=False)
    channel = there.layer.new_channel("reply?")
    for call in (
        lambda: here.layer.send(channel, {}),
        lambda: here.layer.group_add("room", channel),
        lambda: here.layer.group_discard("room", channel),
    ):
        with pytest.raises(NoBridge, match="asgi-ipc bridge"):
            call()
    member = here.member("room")
    here.layer.send_group("room", {"n": 1})
    assert here.receive(member) == {"n": 1}
    assert here.figures()["waiting"] == 0


def test_told_to_end_it_sends_what_it_has(machines):
    here, there = machines(2)
    member = there.member("room")
    for number in range(50):
        here.layer.send_group("room", {"n": number})
    assert here.bridges[0].end() == 0
    assert len(there.receive_all(member, {"n": 49})) == 50
    with pytest.raises(NoBridge):
        here.layer.send(member, {})


def test_it_waits_for_shared_memory(server, machines):
    (here,) = machines(1)
    from bridgekit import Bridge, Machine

    late = here.prefix + "-late"
    bridge = Bridge(server.url, late, here._name)
    eventually(lambda: "no shared memory" in bridge.log(), "its word")
    machine = Machine(late, here._name, server.url)
    machine.bridges.append(bridge)
    try:
        machine.connected()
        member = machine.member("room")
        here.layer.send_group("room", {"n": 1})
        assert machine.receive(member) == {"n": 1}
    finally:
        machine.close()


def test_the_outbox_is_bounded(machines, server):
    """What it has no room for is counted; members here have it all the same."""
    here, there = machines(2, "--outbox", "5", capacity=1000)
    member, far = here.member("room"), there.member("room")
    server.freeze()
    for number in range(20):
        here.layer.send_group("room", {"n": number})
    assert len(here.receive_all(member, {"n": 19})) == 20
    with pytest.raises(ChannelFull, match="--outbox"):
        here.layer.send(far, {})
    assert here.figures()["overflowed"] == 16
    assert here.figures()["waiting"] == 5
    server.thaw()
    assert there.receive(far) == {"n": 0}


def test_capacities_are_those_that_it_is_told(machines):
    here, there = machines(
        2, "--capacity", "7", "--channel-capacity", "member1?*=3", "--channel-capacity", "member*=5"
    )
    channels = [there.member("room") for _ in range(2)] + [there.layer.new_channel("other?")]
    there.layer.group_add("room", channels[2])
    for number in range(10):
        here.layer.send_group("room", {"n": number})
    eventually(lambda: there.figures()["received"] == 10, "all of it")
    figures = [there.layer.channel_statistics(channel) for channel in channels]
    assert [one["messages_pending"] for one in figures] == [3, 5, 7]


def test_expired_ones_do_not_arrive(machines, server):
    here, there = machines(2, expiry=1)
    member = there.member("room")
    there.bridges[0].kill()
    here.layer.send_group("room", {"n": 0})
    eventually(lambda: here.figures()["sent"] == 1, "the first one sent")
    eventually(lambda: server.client().exists(*server.client().keys("*:groups")), "an entry")
    import time

    time.sleep(1.1)
    here.layer.send_group("room", {"n": 1})
    there.start()
    assert there.receive(member) == {"n": 1}
    assert there.figures()["expired"] == 1


GARBAGE = [
    {"d": b""},
    {"d": b"x" * 500},
    {"other": b"x"},
    {"d": b"\x01" + b"\0" * 20},
    {"d": b"\x02" + b"\0" * 100},
]


def test_what_is_no_entry_is_passed_over(machines, server):
    here, there = machines(2)
    member = there.member("room")
    here.layer.send_group("room", {"n": 0})
    assert there.receive(member) == {"n": 0}
    (key,) = server.client().keys("*:groups")
    for fields in GARBAGE:
        server.client().xadd(key, fields)
    here.layer.send_group("room", {"n": 1})
    assert there.receive(member) == {"n": 1}
    assert there.figures()["refused"] == len(GARBAGE)
    assert "refused" in there.bridges[0].log()


def test_the_outbox_is_no_channel(machines):
    (here,) = machines(1, bridges=False)
    with pytest.raises(TypeError):
        here.layer.send(OUTBOX, {})
    with pytest.raises(TypeError):
        here.layer.receive([OUTBOX])


def test_with_keys(machines, tmp_path):
    fernet = pytest.importorskip("cryptography.fernet")
    old, new = fernet.Fernet.generate_key(), fernet.Fernet.generate_key()
    files = {}
    for name, keys in {"old": [old], "both": [new, old], "new": [new]}.items():
        files[name] = tmp_path / name
        files[name].write_bytes(b"# a comment\n" + b"\n".join(keys) + b"\n")
        files[name].chmod(0o600)
    (first,) = machines(1, "--key-file", str(files["old"]))
    (both,) = machines(1, "--key-file", str(files["both"]))
    (last,) = machines(1, "--key-file", str(files["new"]))
    members = [machine.member("room") for machine in (first, both, last)]
    first.layer.send_group("room", {"n": "old"})
    assert both.receive(members[1]) == {"n": "old"}
    both.layer.send_group("room", {"n": "new"})
    assert both.receive(members[1]) == {"n": "new"}
    assert last.receive(members[2]) == {"n": "new"}
    assert first.receive(members[0]) == {"n": "old"}
    assert first.receive(members[0], QUIET) is None
    assert first.figures()["refused"] == 1


def test_it_goes_on_when_the_shared_memory_is_removed(machines):
    from asgi_ipc.core import unlink

    here, there = machines(2)
    before = here.layer._stores.node
    there.member("room")
    unlink(here.prefix)
    with pytest.warns(RuntimeWarning):
        member = here.member("room")
    assert here.layer._stores.node == before
    here.connected()
    there.layer.send_group("room", {"n": 1})
    assert here.receive(member) == {"n": 1}
    here.layer.send_group("room", {"n": 2})
    assert here.receive(member) == {"n": 2}
    assert here.receive(member, QUIET) is None


def test_the_figures(machines, server):
    here, there = machines(2)
    member = there.member("room")
    here.layer.send_group("room", {"n": 1})
    there.receive(member)
    figures = here.layer.statistics()["bridge"]
    assert (figures["attached"], figures["connected"]) == (True, True)
    assert figures["pid"] == here.bridges[0].process.pid
    assert figures["node"] == here.layer._stores.node
    assert there.layer.statistics()["bridge"]["received"] == 1
    assert 0 <= there.layer.statistics()["bridge"]["lag"] < 5
    shown = here.command("stat")
    assert "has Redis" in shown
    assert "1 out, 0 in" in shown
    server.kill()
    eventually(lambda: not here.layer.statistics()["bridge"]["connected"], "notice")
    assert "NO REDIS" in here.command("stat")
    here.bridges[0].end()
    assert not here.layer.statistics()["bridge"]["attached"]
    assert "none runs" in here.command("stat")


@pytest.mark.parametrize(
    "options,said",
    [
        (["http://nowhere"], "redis://"),
        (["redis://localhost", "--expiry", "0"], "--expiry"),
        (["redis://localhost", "--key-file", "/nowhere/keys"], "No such file"),
        (["redis://localhost", "--prefix", "a/b"], "no prefix"),
        (["redis://localhost", "--channel-capacity", "a"], "PATTERN=N"),
        (["redis://localhost", "--channel-capacity", "=1"], "PATTERN=N"),
        (["redis://localhost", "--channel-capacity", "a=0"], "at least 1"),
    ],
)
def test_a_wrong_command_line(options, said):
    pytest.importorskip("redis", reason="NO BRIDGE WAS TESTED: redis-py is not installed")
    status, text = run("bridge", *options)
    assert status in (1, 2)
    assert said in text
    assert "Traceback" not in text
