"""Whose shared memory the command acts on: root as the owner, others on their own alone.

With real users, in forked children of root, on a /dev/shm of their own.
"""
import gc
import json
import os
import sys

import pytest
import six
from sandbox import (
    MIB,
    as_user,
    needs_linux,
    on_small_shm,
    skip_without_own_shm,
    skip_without_users,
)

from asgi_ipc import IPCChannelLayer, access, cli, integrity, machine
from asgi_ipc._shm import doorbell

pytestmark = needs_linux
ANN, BEN, TEAM = 65534, 4242, 5555
SMALL = {"message_memory": 256 * 1024, "group_memory": 64 * 1024}

# A child that is another user may be unable to read the files of the package.
integrity.faults  # noqa: B018


@pytest.fixture(scope="module", autouse=True)
def _users():
    skip_without_own_shm()
    skip_without_users()
    # Layers of root that other tests have left would be opened anew by a child that is another
    # user, where forks are looked for, and cannot be.
    gc.collect()


def make(mode=0o600):
    with IPCChannelLayer("site", mode=mode, **SMALL) as layer:
        layer.send(u"jobs", {u"n": 1})


def run(*arguments):
    """Run the command in this process; (status, output, errors)."""
    before = sys.stdout, sys.stderr
    # StringIO of six takes what print gives on each Python.
    sys.stdout, sys.stderr = out, err = six.StringIO(), six.StringIO()
    try:
        status = cli.main(list(arguments))
    finally:
        sys.stdout, sys.stderr = before
    return status, out.getvalue(), err.getvalue()


def files():
    """Owners and groups of all that is in /dev/shm."""
    found = set()
    for name in os.listdir("/dev/shm"):
        status = os.stat("/dev/shm/" + name)
        found.add((status.st_uid, status.st_gid))
    return found


def root_on_anns():
    as_user(ANN, ANN, make).result()
    seen = []
    doorbells = doorbell.Doorbell.__init__

    def noted(bell, name, mode):
        doorbells(bell, name, mode)
        seen.append(os.stat(bell.path).st_uid)

    doorbell.Doorbell.__init__ = noted
    results = [
        run("ls", "--json"),
        run("stat", "site", "--json"),
        run("peek", "site", "jobs", "--json"),
        run("send", "site", "jobs", "{}"),
        run("receive", "site", "jobs", "-n", "3", "--wait", "0.1"),
        run("check", "site"),
        run("flush", "site"),
        run("doctor", "site"),
    ]
    ids = os.geteuid(), os.getegid(), os.getgroups()
    left = files()
    results.append(run("rm", "site"))
    return results, seen, left, ids


def test_root_acts_as_the_owner():
    groups = os.getgroups()
    results, seen, left, ids = on_small_shm(16 * MIB, root_on_anns)
    assert [status for status, _, _ in results] == [0, 0, 0, 0, 3, 0, 0, 0, 0]
    assert [errors for _, _, errors in results] == [""] * 9
    (listed,) = json.loads(results[0][1])
    assert (listed["uid"], listed["state"]["messages"]) == (ANN, "ours")
    assert json.loads(results[1][1])["messages"]["waiting"] == 1
    assert len(results[4][1].splitlines()) == 2
    # The doorbell that it waited at was the owner's too, and nothing has come to be root's.
    assert seen == [ANN]
    assert left == {(ANN, ANN)}
    assert ids == (0, os.getegid(), groups)


def ben_on_anns(mode):
    as_user(ANN, TEAM, make, mode).result()
    commands = [
        ("ls",), ("doctor", "site"), ("stat", "site"), ("send", "site", "jobs", "{}"),
        ("send", "site", "jobs", "{}", "--create"), ("rm", "site", "--force"),
    ]  # fmt: skip
    found = [as_user(BEN, BEN, run, *words, groups=[TEAM]).result() for words in commands]
    return found, machine.Place("site").sound


def test_others_do_not_get_at_it():
    found, sound = on_small_shm(16 * MIB, ben_on_anns, 0o600)
    assert sound
    (status, listed, errors), doctored = found[:2]
    assert (status, errors) == (0, "")
    assert listed.splitlines()[1].endswith("not yours")
    assert (doctored[0], doctored[2]) == (0, "")
    assert "run this as that user" in doctored[1]
    for status, output, errors in found[2:]:
        assert (status, output) == (1, "")
        assert "belongs to" in errors
        assert errors.count("\n") == 1


def test_whom_the_mode_admits_does():
    found, sound = on_small_shm(16 * MIB, ben_on_anns, 0o660)
    assert sound
    assert [status for status, _, _ in found[:5]] == [0] * 5
    assert "not yours" not in found[0][1]
    # In a folder with the sticky bit, its owner alone removes it.
    status, _, errors = found[5]
    assert status == 1
    assert "belongs to another user" in errors


def refused_root():
    as_user(ANN, ANN, make).result()

    become = os.setegid

    def refuse(gid):
        if gid:
            raise OSError(1, "Operation not permitted")
        become(gid)

    access.os.setegid = refuse
    return run("stat", "site"), os.geteuid()


def test_a_root_that_may_not_act_as_others_says_so():
    (status, output, errors), euid = on_small_shm(16 * MIB, refused_root)
    assert (status, output, euid) == (1, "", 0)
    assert "this root may not act as that user" in errors
