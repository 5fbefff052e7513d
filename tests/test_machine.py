"""What there is on a machine, read from files and headers: nothing is attached, made or changed."""
import gc
import os
import signal

import pytest
from commandkit import attached_process, listen, started
from processkit import SIZES, bells, child_inside, eventually, open_layer, run_python
from sandbox import needs_linux

from asgi_ipc import access, attached, machine
from asgi_ipc._shm.opening import SHM_FOLDER
from asgi_ipc.errors import SegmentError

pytestmark = needs_linux


def path_of(prefix, kind, before=""):
    return os.path.join(SHM_FOLDER, "{0}{1}-{2}".format(before, prefix, kind))


def fill(prefix, kind, content):
    """Put another file in place of a segment, whose users keep what they have."""
    if os.path.exists(path_of(prefix, kind)):
        os.unlink(path_of(prefix, kind))
    with open(path_of(prefix, kind), "wb") as target:
        target.write(content)


def files_of(prefix):
    return sorted(name for name in os.listdir(SHM_FOLDER) if prefix in name)


def states(prefix):
    return [half.state for half in machine.Place(prefix).halves]


def test_a_prefix_that_is_there(layer, prefix):
    place = machine.Place(prefix)
    assert place.sound
    assert states(prefix) == [machine.OURS] * 2
    assert (place.uid, place.mode) == (os.geteuid(), 0o600)
    assert place.size == SIZES["message_memory"] + SIZES["group_memory"]
    assert 0 < place.memory <= place.size
    assert [machine.layout_of(half) for half in place.halves] == [
        machine.LAYOUTS[kind][1] for kind in machine.KINDS
    ]
    assert prefix in machine.prefixes()


def test_what_is_absent_stays_absent(prefix):
    assert states(prefix) == [machine.ABSENT] * 2
    with pytest.raises(SegmentError, match="there is no shared memory of prefix " + prefix):
        access.usable(prefix)
    assert files_of(prefix) == []


@pytest.mark.parametrize("missing", ["messages", "groups"])
def test_one_half_alone_is_refused_and_nothing_made(layer, prefix, missing):
    os.unlink(path_of(prefix, missing))
    before = files_of(prefix)
    with pytest.raises(SegmentError, match="in the making.*asgi-ipc rm " + prefix):
        access.usable(prefix)
    assert files_of(prefix) == before


def test_a_missing_semaphore_is_not_made(layer, prefix):
    os.unlink(path_of(prefix, "groups", "sem."))
    before = files_of(prefix)
    with pytest.raises(SegmentError, match="no semaphore"):
        access.usable(prefix)
    assert files_of(prefix) == before


@pytest.mark.parametrize(
    "content, state, said",
    [
        (b"", machine.UNMADE, "is being made"),
        (b"\0" * 100000, machine.UNMADE, "is being made"),
        (b"\x80\x02}q\x00." + b"\0" * 100000, machine.OLD_RELEASE, "asgi_ipc 1.x"),
        (b"something else" * 10000, machine.FOREIGN, "not asgi_ipc's"),
        (b"short", machine.FOREIGN, "not asgi_ipc's"),
    ],
)
def test_what_is_not_a_segment(layer, prefix, content, state, said):
    fill(prefix, "messages", content)
    assert states(prefix) == [state, machine.OURS]
    assert prefix in machine.prefixes()
    with pytest.raises(SegmentError, match=said):
        access.usable(prefix)
    with open(path_of(prefix, "messages"), "rb") as source:
        assert source.read() == content


def test_another_layout(layer, prefix):
    with open(path_of(prefix, "groups"), "r+b") as target:
        target.seek(8)
        target.write(b"\x63")
    assert states(prefix) == [machine.OURS, machine.OTHER_LAYOUT]
    assert machine.layout_of(machine.Place(prefix).groups) == 0x63
    with pytest.raises(SegmentError, match="another version"):
        access.usable(prefix)


def test_files_of_others_that_are_called_alike_are_not_listed(prefix):
    fill(prefix, "groups", b"of another program")
    try:
        assert prefix not in machine.prefixes()
    finally:
        os.unlink(path_of(prefix, "groups"))


def test_a_link_is_not_followed(layer, prefix, tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"x" * 4096)
    os.unlink(path_of(prefix, "groups"))
    os.symlink(str(target), path_of(prefix, "groups"))
    assert states(prefix) == [machine.OURS, machine.FOREIGN]


# -- where the system shows no files -----------------------------------------------------------


def test_segments_that_are_no_files(layer, prefix, monkeypatch):
    monkeypatch.setattr(machine, "SHM_FOLDER", None)
    assert machine.prefixes() is None
    place = machine.Place(prefix)
    assert place.sound
    assert [half.state for half in place.halves] == [machine.OURS] * 2
    assert place.size == SIZES["message_memory"] + SIZES["group_memory"]
    assert [attached.holder_of(half) for half in place.halves] == [None, None]
    assert access.usable(prefix).prefix == prefix


def test_what_is_missing_where_there_are_no_files(layer, prefix, monkeypatch):
    monkeypatch.setattr(machine, "SHM_FOLDER", None)
    os.unlink(path_of(prefix, "messages", "sem."))
    os.unlink(path_of(prefix, "groups"))
    place = machine.Place(prefix)
    assert [half.state for half in place.halves] == [machine.OURS, machine.ABSENT]
    assert [half.semaphore for half in place.halves] == [None, True]
    assert place.mode == 0o600
    assert not machine.Place(prefix + "x").there
    fill(prefix, "groups", b"")
    assert machine.Place(prefix).groups.state == machine.UNMADE


# -- looking, and being told to stop -----------------------------------------------------------


class Census(object):
    """One that is asked to stop in its second step."""

    def __init__(self):
        self.steps, self.collects = 0, []

    def step(self):
        self.steps += 1
        self.collects.append(gc.isenabled())
        if self.steps == 2:
            os.kill(os.getpid(), signal.SIGINT)
            # Here still, for a step is not to be ended inside a lock.
            self.steps = 10
        return self.steps < 100


def test_a_census_ends_between_two_steps():
    census = Census()
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        access.complete(census)
    assert census.steps == 10
    assert census.collects == [False, False]
    assert gc.isenabled()
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_census_that_nobody_stops_is_complete():
    class Three(object):
        left = 3

        def step(self):
            self.left -= 1
            return self.left > 0

    assert access.complete(Three()).left == 0


# -- who is attached ---------------------------------------------------------------------------


def pids(prefix):
    return [one.pid for one in attached.attached(machine.Place(prefix)).processes]


def test_attached_processes_are_found_and_we_are_not_among_them(layer, prefix):
    assert pids(prefix) == []
    with attached_process(prefix) as process:
        found = attached.attached(machine.Place(prefix))
        assert [one.pid for one in found.processes] == [process.pid]
        assert " -c import sys" in found.processes[0].command
        assert not found.processes[0].stopped
        assert found.listeners == 0
        assert attached.anybody(found)
    assert pids(prefix) == []


def test_one_who_waits_is_known_by_its_doorbell_where_it_cannot_be_seen(
    layer, prefix, monkeypatch, tmp_path
):
    with started(run_python(listen, prefix, "nothing")):
        eventually(lambda: bells(prefix), "waiting")
        eventually(lambda: attached.attached(machine.Place(prefix)).processes, "attaching")
        assert attached.attached(machine.Place(prefix)).listeners == 0
        # As from another pid namespace.
        (tmp_path / "empty").mkdir()
        monkeypatch.setattr(attached, "PROC", str(tmp_path / "empty"))
        found = attached.attached(machine.Place(prefix))
        assert (found.processes, found.known) == ([], False)
        assert found.listeners == 1
        assert attached.anybody(found)
    # Killed, it leaves its doorbell, at which nobody is.
    assert bells(prefix)
    assert not attached.anybody(attached.attached(machine.Place(prefix)))


def test_our_own_doorbell_is_not_another_process(layer, prefix):
    waiter = layer._stores.messages.borrow_waiter()
    assert len(machine.bells(prefix)) == 1
    assert machine.is_living(machine.bells(prefix)[0])
    assert attached.attached(machine.Place(prefix)).listeners == 0
    layer._stores.messages.leave(waiter)


@pytest.mark.parametrize("part, free", [("messages", 1), ("groups", 0)])
def test_the_holder_of_a_lock(make_layer, prefix, part, free):
    place_of = lambda: machine.Place(prefix).halves  # noqa: E731
    make_layer()
    assert [attached.holder_of(half) for half in place_of()] == [0, 0]
    child = child_inside(make_layer, part)
    holders = [attached.holder_of(half) for half in place_of()]
    assert holders[1 - free] == child.pid
    assert holders[free] == 0
    assert attached.process(child.pid).stopped
    child.goes_on()
    assert [attached.holder_of(half) for half in place_of()] == [0, 0]


def test_who_may_be_attached_and_cannot_be_looked_at(layer, prefix, monkeypatch, tmp_path):
    """Of processes that let nobody look, only those count that the mode admits."""
    place = machine.Place(prefix)
    stranger = place.uid + 1

    def status(uid, more="VmSize: 1 kB\n"):
        return "Name:\tx\nUid:\t{0}\t{0}\t{0}\t{0}\nGid:\t{1}\nGroups:\t7\n".format(
            uid, place.gid + 1
        ) + more

    for pid, text in (
        (1, status(stranger)),
        (2, status(place.uid)),
        (3, status(place.uid, more="")),
        (4, status(stranger).replace("Groups:\t7", "Groups:\t{0}".format(place.gid))),
    ):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "status").write_text(type(u"")(text))
    monkeypatch.setattr(attached, "PROC", str(tmp_path))
    assert [attached._may_use(pid, place) for pid in (1, 2, 3, 4)] == [False, True, False, False]
    with open_layer(prefix, mode=0o660):
        place = machine.Place(prefix)
        assert place.mode == 0o660
        assert [attached._may_use(pid, place) for pid in (1, 2, 3, 4)] == [
            False, True, False, True
        ]  # fmt: skip
