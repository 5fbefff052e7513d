"""``doctor``: each thing that can be wrong is found, with its remedy, and nothing is changed."""
import os
import resource
import time

import posix_ipc
import pytest
from commandkit import Shell, attached_process, stopped
from processkit import bells, child_inside, die_inside, open_layer
from sandbox import MIB, needs_linux, on_small_shm, skip_without_own_shm
from storekit import Child

from asgi_ipc import cli, codec, machine
from asgi_ipc._shm.opening import SHM_FOLDER
from asgi_ipc.commands import doctor, findings, machine_checks, prefix_checks

pytestmark = needs_linux


@pytest.fixture
def shell(capsys):
    return Shell(capsys)


def path_of(prefix, kind, before=""):
    return os.path.join(SHM_FOLDER, "{0}{1}-{2}".format(before, prefix, kind))


def about(prefix):
    """(level, text, remedy) of all that is found in a prefix."""
    found = prefix_checks.findings(machine.Place(prefix))
    return [(one.level, one.text, one.remedy) for one in found]


def only(found):
    (one,) = found
    return one


# -- a prefix ----------------------------------------------------------------------------------


def test_a_prefix_in_use_is_well(shell, layer, prefix):
    with attached_process(prefix):
        level, text, remedy = only(about(prefix))
        assert (level, remedy) == ("ok", "")
        assert "1 process" in text
        assert "mode 0600" in text
        assert prefix in shell.fine("doctor", prefix)


def test_nobody_attached_is_a_note_with_the_memory(shell, layer, prefix, monkeypatch):
    monkeypatch.setattr(prefix_checks.attached, "_may_use", lambda *_: False)
    level, text, remedy = only(about(prefix))
    assert level == "note"
    assert "nobody is attached" in text
    assert "KiB" in text
    assert "asgi-ipc rm " + prefix in remedy


def test_a_prefix_that_is_not_there(shell, prefix):
    assert only(about(prefix))[0] == "note"
    assert "is no prefix" in shell.refused("doctor", "a/b")


@pytest.mark.parametrize(
    "content, level, said",
    [
        (None, "warning", "in the making"),
        (b"", "warning", "in the making"),
        (b"\x80\x02}." + b"\0" * 10000, "error", "asgi_ipc 1.x"),
        (b"something else" * 1000, "error", "not asgi_ipc's"),
    ],
)
def test_halves_that_are_none(shell, layer, prefix, content, level, said):
    os.unlink(path_of(prefix, "groups"))
    if content is not None:
        with open(path_of(prefix, "groups"), "wb") as target:
            target.write(content)
        os.chmod(path_of(prefix, "groups"), 0o600)
    found = [one for one in about(prefix) if one[0] == level]
    assert said in only(found)[1]
    assert "asgi-ipc rm " + prefix in only(found)[2]
    status, _, _ = shell("doctor", prefix)
    assert status == (1 if level == "error" else 0)


def test_another_layout_is_an_error(layer, prefix):
    with open(path_of(prefix, "messages"), "r+b") as target:
        target.seek(8)
        target.write(b"\x63")
    level, text, remedy = about(prefix)[0]
    assert (level, "another version" in text) == ("error", True)
    assert "asgi-ipc rm" in remedy


def test_a_missing_semaphore(layer, prefix):
    os.unlink(path_of(prefix, "groups", "sem."))
    level, text, _ = about(prefix)[0]
    assert (level, "no semaphore" in text) == ("warning", True)


def test_a_semaphore_that_is_none(layer, prefix):
    # Another file in its place: cut short, it would end those who have it mapped.
    os.unlink(path_of(prefix, "groups", "sem."))
    with open(path_of(prefix, "groups", "sem."), "wb"):
        os.chmod(path_of(prefix, "groups", "sem."), 0o600)
    level, text, _ = about(prefix)[0]
    assert (level, "0 bytes" in text) == ("error", True)


def test_modes_that_differ_and_modes_that_admit_all(layer, prefix):
    os.chmod(path_of(prefix, "groups"), 0o660)
    level, text, _ = about(prefix)[0]
    assert (level, "different modes: 0600, 0660" in text) == ("warning", True)
    for kind in machine.KINDS:
        for before in ("", "sem."):
            os.chmod(path_of(prefix, kind, before), 0o666)
    level, text, remedy = about(prefix)[0]
    assert (level, "every user" in text) == ("warning", True)
    assert "0o660" in remedy


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_halves_of_two_owners(layer, prefix):
    os.chown(path_of(prefix, "groups"), 4242, 4242)
    level, text, remedy = about(prefix)[0]
    assert (level, "several users" in text) == ("error", True)
    assert "4242" in text
    assert "asgi-ipc rm " + prefix in remedy


@pytest.mark.parametrize("part", ["messages", "groups"])
def test_a_stopped_holder_is_an_error_and_nothing_waits_for_it(shell, make_layer, prefix, part):
    make_layer()
    child = child_inside(make_layer, part)
    begin = time.time()
    status, text, errors = shell("doctor", prefix)
    # No lock is waited for: that would take seconds more.
    assert time.time() - begin < 60
    assert (status, errors) == (1, "")
    assert "process {0}, which is stopped, holds the lock of /{1}-{2}".format(
        child.pid, prefix, part
    ) in text
    assert text.count("kill -CONT {0}".format(child.pid)) == 1
    child.goes_on()
    assert shell("doctor", prefix)[0] == 0


def test_a_holder_that_died_is_a_note(layer, prefix):
    die_inside(layer, "messages")
    level, text, remedy = about(prefix)[0]
    assert (level, remedy) == ("note", "")
    assert "died inside the lock" in text
    # It has changed nothing: the next call finds the same, and puts it right.
    assert "died inside the lock" in about(prefix)[0][1]
    layer.send(u"a", {})
    assert not any("died inside" in one[1] and "note" in one for one in about(prefix))


def test_a_stopped_process_is_a_warning(layer, prefix):
    with attached_process(prefix) as process, stopped(process.pid):
        level, text, remedy = only(about(prefix))
        assert (level, remedy) == ("warning", "kill -CONT {0}".format(process.pid))
        assert str(process.pid) in text


# -- the machine -------------------------------------------------------------------------------


def of(subject, places=()):
    return [one for one in machine_checks.findings(list(places)) if one.subject == subject]


def test_versions_are_told():
    text = only(of("versions")).text
    for version in (posix_ipc.VERSION, codec.msgpack.version[0]):
        assert str(version) in text


def test_msgpack_without_its_c_part(monkeypatch):
    class Packer(object):
        pass

    Packer.__module__ = "msgpack.fallback"
    monkeypatch.setattr(codec.msgpack, "Packer", Packer)
    assert only(of("msgpack")).level == "warning"


def test_a_system_without_semaphore_values(monkeypatch):
    monkeypatch.setattr(posix_ipc, "SEMAPHORE_VALUE_SUPPORTED", False)
    assert only(of("posix_ipc")).level == "note"


@pytest.mark.parametrize(
    "release, levels",
    [("4.4.0-19041-Microsoft", ["warning"]), ("5.15.90-microsoft-standard-WSL2", ["note"]),
     ("6.1.0", [])],
)  # fmt: skip
def test_wsl(release, levels, monkeypatch):
    monkeypatch.setattr(machine_checks.platform, "release", lambda: release)
    assert [one.level for one in of("platform")] == levels


def limited(name, subject, value):
    """The levels and remedies of what is found, with a limit in force."""
    number = getattr(resource, name)
    resource.setrlimit(number, (value, resource.getrlimit(number)[1]))
    return [(one.level, one.remedy) for one in of(subject)]


def test_limits_that_are_low():
    level, remedy = only(Child(limited, "RLIMIT_NOFILE", "open files", 200).result())
    assert (level, "ulimit -n" in remedy) == ("warning", True)
    level, remedy = only(Child(limited, "RLIMIT_FSIZE", "file size", 1000000).result())
    assert (level, "ulimit -f" in remedy) == ("error", True)


def test_doorbells_that_dead_receivers_left(prefix, layer):
    waiter = layer._stores.messages.borrow_waiter()
    name = "{0}-messages-{1:016x}.bell".format(prefix, 5)
    os.mkfifo(os.path.join(SHM_FOLDER, name))
    found = only(of("doorbells"))
    assert found.level == "note"
    assert name in found.remedy
    assert waiter.doorbell.path not in found.remedy
    assert len(bells(prefix)) == 2
    layer._stores.messages.leave(waiter)


def left_semaphores():
    """What is said of semaphores, in a /dev/shm of our own."""
    posix_ipc.Semaphore("/left", posix_ipc.O_CREX, initial_value=1).close()
    with open("/dev/shm/sem.left", "rb") as source:
        content = source.read()
    for name, written in (("sem.aB3xYz", content), ("sem.aB3xYy", b"x" * 32), ("aB3xYz", content)):
        with open("/dev/shm/" + name, "wb") as target:
            target.write(written)
    young = [tuple(one) for one in of("semaphores")]
    hour = time.time() - 3600
    for name in os.listdir("/dev/shm"):
        os.utime("/dev/shm/" + name, (hour, hour))
    return young, [tuple(one) for one in of("semaphores")], sorted(os.listdir("/dev/shm"))


def test_semaphores_that_a_killed_process_left_nameless():
    skip_without_own_shm()
    young, old, names = on_small_shm(MIB, left_semaphores)
    assert young == []
    level, _, _, remedy = only(old)
    assert level == "note"
    assert remedy.endswith("rm /dev/shm/sem.aB3xYz")
    # It only says so.
    assert "sem.aB3xYz" in names


def space_of_small():
    with open_layer("small", message_memory=8 * MIB):
        every = [machine.Place(name) for name in machine.prefixes()]
        return [tuple(one) for one in of("space", every)]


@pytest.mark.parametrize(
    "size, level, said",
    [(4, "warning", "may still take"), (64, "warning", "default options"), (200, "ok", "free")],
)
def test_space(size, level, said):
    skip_without_own_shm()
    found = only(on_small_shm(size * MIB, space_of_small, inodes=5000))
    assert (found[0], said in found[2]) == (level, True)
    assert ("--shm-size" in found[3]) == (level == "warning")


def test_few_files_left():
    skip_without_own_shm()
    found = on_small_shm(200 * MIB, space_of_small, inodes=100)
    assert "nr_inodes" in found[-1][3]


def nothing_there(mode=None):
    if mode is not None:
        os.chmod("/dev/shm", mode)
    return cli.main(["doctor"]), machine.prefixes(), [
        (one.level, one.remedy) for one in of("shared memory")
    ]


def test_a_machine_without_prefixes():
    skip_without_own_shm()
    assert on_small_shm(200 * MIB, nothing_there) == (0, [], [])


def test_a_folder_without_sticky_bit():
    skip_without_own_shm()
    _, _, found = on_small_shm(200 * MIB, nothing_there, 0o777)
    assert only(found) == ("warning", "chmod 1777 /dev/shm")


@pytest.mark.parametrize(
    "mounts, level, said",
    [
        ("", "warning", "nothing is mounted"),
        ("overlay /dev/shm overlay rw 0 0\n", "warning", "is a overlay"),
        ("tmpfs /dev/shm tmpfs ro,nosuid 0 0\n", "error", "reading only"),
        ("tmpfs /dev/shm tmpfs rw,nosuid 0 0\n", None, ""),
    ],
)
def test_what_is_mounted(mounts, level, said, monkeypatch, tmp_path):
    table = tmp_path / "mounts"
    table.write_bytes(mounts.encode("ascii"))
    monkeypatch.setattr(machine_checks, "MOUNTS", str(table))
    found = machine_checks._mount()
    if level is None:
        assert found == []
    else:
        assert (only(found).level, said in only(found).text) == (level, True)


@pytest.mark.parametrize(
    "lines, removes",
    [("", True), ("#RemoveIPC=no", True), ("RemoveIPC=no", False), ("RemoveIPC = yes", True)],
)
def test_removal_at_logout(lines, removes, layer, prefix, monkeypatch, tmp_path):
    config = tmp_path / "logind.conf"
    config.write_bytes(b"[Login]\n" + lines.encode("ascii") + b"\n")
    monkeypatch.setattr(machine_checks, "SYSTEMD", str(tmp_path))
    monkeypatch.setattr(machine_checks, "LOGIND", (str(config), str(tmp_path / "none")))
    monkeypatch.setattr(machine_checks, "FIRST_PERSON", os.geteuid())
    found = of("systemd", [machine.Place(prefix)])
    assert len(found) == removes
    monkeypatch.setattr(machine_checks, "FIRST_PERSON", os.geteuid() + 1)
    assert of("systemd", [machine.Place(prefix)]) == []


def test_unreadable_processes(monkeypatch, tmp_path):
    monkeypatch.setattr(machine_checks, "PROC", str(tmp_path))
    assert only(of("processes")).level == "warning"


@pytest.mark.parametrize(
    "number, levels", [(0xEFFFFFFC, []), (None, []), (4026532000, ["note"])]
)
def test_pid_namespaces(number, levels, monkeypatch):
    assert machine_checks._pid_namespace() == os.stat("/proc/self/ns/pid").st_ino
    monkeypatch.setattr(machine_checks, "_pid_namespace", lambda: number)
    assert [one.level for one in machine_checks._processes()] == levels


@pytest.mark.parametrize(
    "system, level, said", [("Darwin", "note", "does not show"), ("Linux", "error", "no /dev/shm")]
)
def test_no_shared_memory_to_be_seen(system, level, said, monkeypatch):
    monkeypatch.setattr(machine_checks, "SHM_FOLDER", None)
    monkeypatch.setattr(machine_checks.platform, "system", lambda: system)
    found = only(of("shared memory"))
    assert (found.level, said in found.text) == (level, True)
    assert of("space") == of("processes") == of("semaphores") == []


def test_a_folder_that_cannot_be_written_to(monkeypatch):
    monkeypatch.setattr(machine_checks.os, "access", lambda *_: False)
    found = only(machine_checks._folder())
    assert (found.level, found.remedy) == ("error", "chmod 1777 /dev/shm")


def test_settings_of_logind_in_a_folder(monkeypatch, tmp_path):
    (tmp_path / "50-site.conf").write_bytes(b"[Login]\nRemoveIPC=no\n")
    monkeypatch.setattr(machine_checks, "LOGIND", (str(tmp_path / "none"), str(tmp_path)))
    assert not machine_checks._logind_removes()


def test_one_who_holds_the_lock_for_long_is_a_note(make_layer, prefix, monkeypatch):
    make_layer()
    child = child_inside(make_layer)
    monkeypatch.setattr(
        prefix_checks.attached, "process",
        lambda pid: prefix_checks.attached.Process(pid, "busy", stopped=False),
    )  # fmt: skip
    level, text, _ = about(prefix)[0]
    assert level == "note"
    assert "process {0} held the lock of /{1}-messages twice".format(child.pid, prefix) in text
    child.goes_on()


# -- the command -------------------------------------------------------------------------------


def test_json_and_text_say_the_same(shell, layer, prefix):
    with attached_process(prefix):
        found = shell.json("doctor", prefix)
        text = shell.fine("doctor", prefix)
    assert {one["level"] for one in found} <= set(findings.LEVELS)
    assert all(one["remedy"] for one in found if one["level"] in ("warning", "error"))
    for one in found:
        assert one["subject"] + ": " in text
    assert [one["subject"] for one in found][-1] == prefix


def test_every_finding_that_is_no_ok_is_counted(shell, monkeypatch):
    monkeypatch.setattr(
        doctor.machine_checks,
        "findings",
        lambda _: [findings.note("a", "b")] * 2 + [findings.warning("c", "d", "e")],
    )
    monkeypatch.setattr(machine, "prefixes", list)
    output = shell.fine("doctor")
    assert output.splitlines()[-1] == "2 notes, 1 warning"
    assert "-> e" in output
