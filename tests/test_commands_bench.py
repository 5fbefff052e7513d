"""``bench``: figures that are possible, nothing left behind, whatever happens."""
import os

import pytest
from commandkit import Shell
from processkit import children_of

from asgi_ipc._shm import segment
from asgi_ipc.commands import bench


@pytest.fixture
def shell(capsys, monkeypatch):
    monkeypatch.setattr(bench, "QUICK", 0.02)
    monkeypatch.setattr(bench, "BACKLOG", 200)
    return Shell(capsys)


def left():
    prefix = "bench-{0}-".format(os.getpid())
    return [name for name in os.listdir(segment.runtime_folder()) if prefix in name]


def test_figures(shell):
    results = shell.json("bench", "--quick")["results"]
    assert [one["name"].split(",")[0] for one in results] == [
        "send", "receive", "send and receive", "the same",
        "group send to 100 members in 4 processes", "two processes",
    ]  # fmt: skip
    for one in results:
        assert 0 < one["p50"] <= one["p99"]
        assert one["per_second"] > 0
        assert one["count"] >= 10
    assert left() == []


def test_a_table(shell):
    text = shell.fine("bench", "--quick")
    assert "P50" in text
    assert "two processes, there and back" in text


def test_a_failure_leaves_neither_memory_nor_a_process(shell, monkeypatch):
    def silent(layer, _):
        layer.receive([u"bench.nothing"], block=True)

    before = children_of(os.getpid())
    monkeypatch.setattr(bench, "PATIENCE", 0)
    monkeypatch.setattr(bench, "_echo", silent)
    monkeypatch.setitem(bench.MEMORY, "block_timeout", 0.05)
    assert "did not answer" in shell.refused("bench", "--quick")
    assert left() == []
    assert children_of(os.getpid()) == before


def test_percentiles():
    found = bench._result("x", [1000 * number for number in range(1, 101)])
    assert (found["count"], found["p50"], found["p99"]) == (100, 51e-6, 100e-6)
    assert round(found["per_second"]) == 19802
