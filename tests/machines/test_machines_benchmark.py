"""The benchmark of group sends across machines: its verdict, its table, and one tiny run."""
import copy
import os

import pytest
from benchkit import benchmark

for package in ("channels", "channels_redis"):
    pytest.importorskip(package)

across = benchmark("across")
report = benchmark("across_report")
documents = benchmark("documents")
peers = benchmark("peers")


@pytest.fixture
def result():
    """The committed one."""
    return report.load(across.COMMITTED)


def test_the_committed_run_shows_what_it_must(result):
    assert not result["quick"]
    assert result["machines"] == "namespaces"
    assert result["left_out"] == {}
    assert report.missed(result) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda ours: ours.update(entries=12.0),
        lambda ours: ours["call"].update(p50=ours["alone"]["p50"] + 3001),
        lambda ours: ours["delivered"].update(p50=10 ** 12),
    ],
    ids=["entries", "call", "delivered"],
)
def test_each_bound_is_missed_by_a_bad_figure(result, change):
    bad = copy.deepcopy(result)
    change(bad["peers"][peers.OURS_ASYNC])
    assert len(report.missed(bad)) == 1
    assert "MISSED" in report.text(bad)


def test_what_was_not_measured_is_missed(result):
    del result["peers"][peers.REDIS_PUBSUB]
    assert len(report.missed(result)) == 1
    del result["peers"][peers.OURS_ASYNC]
    assert report.missed(result)
    assert report.table(result).columns == ["", "channels_redis core"]


def test_prefixes_are_told_from_machines(result):
    assert "NO NAMESPACES" not in report.text(result)
    result["machines"] = "no right to make them"
    assert report.text(result).startswith("NO NAMESPACES")


def test_the_page_has_the_figures_of_the_committed_run(result):
    with open(report.DOCUMENT, encoding="utf-8") as stream:
        text = stream.read()
    assert "3,000 deliveries" in text
    assert documents.insert(text, report.block(result)) == text


def test_what_redis_counts():
    before = {"cmdstat_xadd": "calls=1,usec=3", "cmdstat_info": "calls=1,usec=1",
              "total_net_input_bytes": "10", "total_net_output_bytes": "10",
              "used_cpu_user": "1.5", "used_cpu_sys": "0.5"}
    after = {"cmdstat_xadd": "calls=5,usec=3", "cmdstat_info": "calls=9,usec=1",
             "cmdstat_xread": "calls=2,usec=3", "total_net_input_bytes": "110",
             "total_net_output_bytes": "30", "used_cpu_user": "2.0", "used_cpu_sys": "1.0"}
    assert across.redis_costs(before, after) == {
        "commands": 6, "entries": 4, "bytes_in": 100, "bytes_out": 20, "redis": 10 ** 9
    }


def test_words_for_the_other_benchmark_are_left_to_it(capsys):
    assert across.main(["--workload", "latency"]) == 0
    assert "--workload latency" in capsys.readouterr().out


def test_a_tiny_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(across, "MEMBERS", 3)
    monkeypatch.setattr(across, "PROCESSES", 1)
    monkeypatch.setattr(across, "QUICK", across.Pace(rounds=1, single=2, burst=5, calls=10))
    path = str(tmp_path / "across.json")
    assert across.main(["--quick", "--output", path]) == 0
    found = report.load(path)
    assert found["left_out"] == {}
    assert set(found["peers"]) == set(across.CONTESTANTS)
    for name, figures in found["peers"].items():
        wanted = {"delivered", "call", "message", "web", "redis", "commands", "bytes_in"}
        assert wanted <= set(figures), name
        assert 0 < figures["delivered"]["p50"] <= figures["delivered"]["p99"] < 60 * 10 ** 9
    ours = found["peers"][peers.OURS_ASYNC]
    assert ours["entries"] == 1
    assert found["peers"][peers.REDIS_PUBSUB]["entries"] == 0
    assert "a group send is one entry in a stream" in capsys.readouterr().out
    mine = "across-{0}".format(os.getpid())
    assert [name for name in os.listdir("/dev/shm") if mine in name] == []
