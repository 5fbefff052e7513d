"""What there is under a prefix, seen from outside: nothing is made or opened by looking."""
from __future__ import unicode_literals

import os

import posix_ipc
import pytest

from asgi_ipc import existing
from asgi_ipc._shm import segment


@pytest.fixture(params=["as here", "without files"])
def system(request, monkeypatch):
    """This system, and one that does not show shared memory as files (macOS)."""
    if request.param == "without files":
        monkeypatch.setattr(segment, "SHM_FOLDER", None)


def test_nothing(prefix, system):
    assert existing.find(prefix) == []


def test_both_segments(make_layer, prefix, system):
    layer = make_layer(message_memory=128 * 1024, group_memory=512 * 1024, mode=0o660)
    layer.send("jobs", {})
    messages, groups = existing.find(prefix)
    assert (messages.name, groups.name) == (
        "/{0}-messages".format(prefix),
        "/{0}-groups".format(prefix),
    )
    assert (messages.size, groups.size) == (128 * 1024, 512 * 1024)
    for found, kind in ((messages, "messages"), (groups, "groups")):
        assert found.memory == layer.statistics()[kind]["memory"] > 0
        assert (found.owner, found.group) == (os.geteuid(), os.getegid())
        assert found.mode == 0o660


def test_one_of_two(make_layer, prefix, system):
    make_layer().close()
    segment.unlink("/{0}-messages".format(prefix))
    (found,) = existing.find(prefix)
    assert found.name.endswith("-groups")


def test_what_may_not_be_opened(make_layer, prefix, monkeypatch):
    make_layer()
    monkeypatch.setattr(segment, "SHM_FOLDER", None)

    def refuse(name):
        raise posix_ipc.PermissionsError

    monkeypatch.setattr(posix_ipc, "SharedMemory", refuse)
    assert existing.find(prefix) == []


def test_looking_costs_no_descriptor(make_layer, prefix, system):
    make_layer()
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    existing.find(prefix)
    before = len(os.listdir(folder))
    for _ in range(5):
        existing.find(prefix)
    assert len(os.listdir(folder)) == before


def test_room(monkeypatch):
    room = existing.room()
    if segment.SHM_FOLDER is not None:
        assert room.folder == segment.SHM_FOLDER
        assert 0 <= room.free <= room.total
    monkeypatch.setattr(segment, "SHM_FOLDER", None)
    assert existing.room() is None
