"""The benchmark's own logic, one tiny run of each workload, and that the cost is flat."""
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from benchkit import PROJECT, benchmark

if sys.version_info < (3, 8):
    pytest.skip("the benchmark is for Python 3.8 and later", allow_module_level=True)

flat_cost = benchmark("flat_cost")
figures = benchmark("figures")
peers = benchmark("peers")
results = benchmark("results")
bounds = benchmark("bounds")
compare = benchmark("compare")
report = benchmark("report")
documents = benchmark("documents")
plan = benchmark("plan")
workloads = benchmark("workloads")
apart = benchmark("apart")
group_sends = benchmark("group_sends")
runner = benchmark("runner")
old_python = benchmark("old_python")
redis_server = benchmark("redis_server")
session = benchmark("session")

TINY = plan.Pace(rounds=2, least=1, target=10 ** 6, budget=5, seconds=30)


@pytest.mark.slow
def test_cost_is_flat(capsys):
    assert flat_cost.main([]) == 0, capsys.readouterr().out


# -- figures -------------------------------------------------------------------------


def test_median_and_percentiles():
    assert figures.median([3, 1, 2]) == 2
    assert figures.median([4, 1, 2, 3]) == 2.5
    values = list(range(1, 101))
    assert [figures.percentile(values, share) for share in (0.5, 0.9, 0.99, 1)] == [50, 90, 99, 100]
    assert figures.percentile([7], 0.5) == 7
    assert figures.percentile([1, 2, 3], 0) == 1


def figure_of(workload, measure, peer, parameters, rounds, case="a case"):
    figure = figures.Figure(case, workload, measure, peer, parameters)
    for value in rounds:
        figure.add(value, [value])
    return figure


def test_ratios_of_one_case_are_paired():
    # Twice as long when the machine was quiet, and when it was not; one round was unlucky.
    one = figure_of("w", "m", "one", {}, [10, 30, 40])
    other = figure_of("w", "m", "other", {}, [20, 60, 20])
    assert figures.ratio(other, one) == 2
    # Of different cases, the medians count.
    apart_from_it = figure_of("w", "m", "third", {}, [20, 60, 20], case="another case")
    assert figures.ratio(apart_from_it, one) == 20 / 30


def test_a_figure_knows_percentiles_and_the_baseline():
    baseline = figure_of("baseline", "w", peers.BASELINE, {}, [2, 2])
    figure = figure_of("w", "m", "p", {"b": 2, "a": 1}, [10, 14])
    figure.finish(baseline)
    assert figure.key == "w/m/p/a=1,b=2"
    assert figure.median == 12
    assert figure.percentiles == {"p50": 10, "p90": 14, "p99": 14, "max": 14}
    assert figure.baseline_ratio == 6


def test_as_many_operations_as_a_round_takes():
    # 10 ns each, and 1,000 before the first one.
    assert workloads.often_enough(lambda count: 10 * count, 10000, 10 ** 6) == 1000
    assert workloads.often_enough(lambda count: 1000 + 10 * count, 4000, 10 ** 6, 300) >= 300
    assert workloads.often_enough(lambda count: 10 * count, 10000, 50) == 50
    # Too slow for ``least``.
    assert workloads.often_enough(lambda count: 10 ** 6 * count, 10000, 10 ** 6, 300) == 1


# -- a run as JSON -------------------------------------------------------------------


def run_with(changes=()):
    """A run in which every measure just keeps its bound; ``changes``: figure key -> factor."""
    run = results.Run(
        {"started": "2026-01-01 00:00:00 UTC", "python": "CPython 3.11", "cpu": "a", "cores": 2,
         "kernel": "Linux", "machine": "x", "load_before": [0.0, 0.0, 0.0], "versions": {}},
        quick=False,
    )
    baseline = figure_of("baseline", "w", peers.BASELINE, {"case": "a case"}, [1000.0] * 5)
    values = {}
    for bound in bounds.BOUNDS:
        over, under = [
            (workload, measure, peer, tuple(sorted(parameters.items())))
            for workload, measure, peer, parameters in (bound.over, bound.under)
        ]
        # Measures share figures: whoever is there already stays as it is.
        if over in values:
            values.setdefault(under, values[over] / bound.bound)
        else:
            values[over] = values.setdefault(under, 1e5) * bound.bound
    for (workload, measure, peer, parameters), value in values.items():
        figure = figure_of(workload, measure, peer, dict(parameters), [value] * 5)
        figure.rounds = [value * dict(changes).get(figure.key, 1) for value in figure.rounds]
        figure.finish(baseline)
        run.figures.add(figure)
    run.figures.add(baseline)
    return run


def test_a_run_survives_json():
    run = run_with()
    run.leave_out(peers.DISK, "", "not installed")
    run.verdict = bounds.judge(run.figures)
    text = results.to_json(run)
    again = results.from_json(text)
    assert results.to_json(again) == text
    assert sorted(f.key for f in again.figures) == sorted(f.key for f in run.figures)
    assert again.left_out == [{"peer": peers.DISK, "case": "", "reason": "not installed"}]


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 2}', '{"schema": 1, "quick": false}'])
def test_what_is_no_run_is_refused(text):
    with pytest.raises(results.WrongSchema):
        results.from_json(text)


def test_the_schema_is_told_in_full():
    document = json.loads(results.to_json(run_with()))
    for name in list(document) + list(document["figures"][0]) + list(document["environment"]):
        assert '"{0}"'.format(name) in results.__doc__


# -- the verdict ---------------------------------------------------------------------


def test_bounds_that_are_just_kept_are_met():
    verdict = bounds.judge(run_with().figures)
    assert len(verdict) == len(bounds.BOUNDS)
    assert bounds.missed(verdict) == []
    assert not any(line["stretched"] for line in verdict)


@pytest.mark.parametrize("number", range(len(bounds.BOUNDS)))
def test_each_bound_is_missed_by_a_bad_figure(number):
    bound = bounds.BOUNDS[number]
    # The figure that is the denominator or numerator of this measure goes one percent bad.
    worse = bound.over if bound.at_most else bound.under
    workload, measure, peer, parameters = worse
    key = figures.key_of(workload, measure, peer, parameters)
    verdict = bounds.judge(run_with({key: 1.01}).figures)
    assert bound.text in [line["measure"] for line in bounds.missed(verdict)]


def test_each_stretch_is_reached_by_a_good_figure():
    for bound in bounds.BOUNDS:
        workload, measure, peer, parameters = bound.over if bound.at_most else bound.under
        key = figures.key_of(workload, measure, peer, parameters)
        factor = bound.stretch / bound.bound if bound.at_most else bound.bound / bound.stretch
        verdict = bounds.judge(run_with({key: factor * 0.99}).figures)
        assert [line["stretched"] for line in verdict if line["measure"] == bound.text] == [True]


def test_what_was_not_measured_is_missed():
    verdict = bounds.judge(figures.Figures())
    assert len(bounds.missed(verdict)) == len(bounds.BOUNDS)
    assert {report.outcome(line) for line in verdict} == {"not measured"}


# -- against an earlier run ----------------------------------------------------------


def test_what_moved_is_told_whatever_the_machine():
    key = figures.key_of("round_trip", "round_trip", peers.OURS, {})
    found = compare.moved(run_with({key: 1.5}), run_with(), tolerance=1.3)
    assert [change.figure.key for change in found] == [key]
    assert found[0].times == pytest.approx(1.5)
    assert compare.moved(run_with({key: 1.2}), run_with(), tolerance=1.3) == []
    faster = compare.moved(run_with({key: 0.5}), run_with(), tolerance=1.3)
    assert faster[0].times == pytest.approx(0.5)
    assert "0.500 x as long" in report.moved_text(faster[0])


# -- text ----------------------------------------------------------------------------


def test_durations_have_three_digits_and_a_unit():
    texts = [report.duration(value) for value in (999, 1000, 12345, 123456789, 2.5e9)]
    assert texts == ["999 ns", "1.00 us", "12.3 us", "123 ms", "2.50 s"]
    assert report.significant(1234567) == "1,234,567"
    assert report.significant(0.061) == "0.061"


def test_tables_tell_ratios_to_both_faces():
    run = run_with()
    table = report.tables(run)[0]
    ours = next(row for row in table.rows if row[0] == "asgi_ipc")
    assert ours[table.columns.index("of asgi_ipc")] == "1.00 x"
    assert any(table.ours)


def test_documents_have_their_tables_between_comments():
    text = "a\n\n.. benchmark-verdict begins\n\nold\n\n.. benchmark-verdict ends\n\nb\n"
    run = run_with()
    run.verdict = bounds.judge(run.figures)
    after = documents.insert(text, documents.blocks(run))
    assert "old" not in after
    assert bounds.BOUNDS[0].text in after
    assert documents.insert(after, documents.blocks(run)) == after
    with pytest.raises(documents.NoPlace):
        documents.insert("nothing here\n", documents.blocks(run))


def test_the_documents_have_the_figures_of_the_committed_run():
    path = os.path.join(PROJECT, "benchmarks", "results", "latest.json")
    if not os.path.exists(path):
        pytest.skip("no run of the benchmarks is committed yet")
    found = documents.blocks(results.load(path))
    for name in documents.DOCUMENTS:
        with open(os.path.join(PROJECT, name), encoding="utf-8") as stream:
            text = stream.read()
        assert documents.insert(text, found) == text, name + ": run `python -m benchmarks --save`"


def show(tmp_path, factor):
    """The exit status for a run in which one bound is kept (1) or missed (1.01)."""
    key = figures.key_of("round_trip", "round_trip", peers.OURS, {})
    source = str(tmp_path / "no such folder yet" / "run.json")
    results.save(run_with({key: factor}), source)
    command = benchmark("__main__")
    return command.main(["--from", source, "--output", str(tmp_path / "out")])


def test_the_exit_status_is_the_verdict(tmp_path, capsys, monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setattr(benchmark("__main__"), "publish", lambda run, options: [])
    for factor, status in ((1, 0), (1.01, 1)):
        assert show(tmp_path, factor) == status
        output = capsys.readouterr().out
        assert "What it must show" in output
        assert ("MISSED" in output) == bool(status)


@pytest.mark.slow
def test_plots_are_drawn(tmp_path):
    pytest.importorskip("rich")
    pytest.importorskip("matplotlib")
    show(tmp_path, 1)
    plots = [name + kind for name in ("backlog", "groups", "latency") for kind in (".png", ".svg")]
    assert sorted(os.listdir(str(tmp_path / "out"))) == sorted([*plots, "run.json"])


# -- tiny runs -----------------------------------------------------------------------


def tiny_cases():
    return [
        workloads.RoundTrip(),
        workloads.RoundTrip(1000),
        workloads.SendReceive(),
        apart.Latency(),
        apart.Throughput(2, 1),
        apart.Throughput(2, 2),
        group_sends.Groups(10, (1, 2)),
        group_sends.Groups(30, (2,)),
        workloads.Waiting((0, 200)),
        workloads.Membership(),
        workloads.Attach(),
        workloads.Rebuild(200),
    ]


MEASURED = {
    ("round_trip", "round_trip"),
    ("sizes", "round_trip"),
    ("alone", "send"),
    ("alone", "receive"),
    ("latency", "round_trip"),
    ("latency", "one_way"),
    ("throughput", "message"),
    ("groups", "call"),
    ("groups", "delivered"),
    ("waiting", "round_trip"),
    ("membership", "add"),
    ("membership", "discard"),
    ("attach", "attach"),
}


def tiny_run(peer):
    with runner.Runner(TINY, runner.Listener(), True, [peer]) as one:
        for case in tiny_cases():
            one.measure(case)
    return one.run


def of_benchmark():
    mine = "bench-{0}".format(os.getpid())
    return [name for name in os.listdir("/dev/shm") if mine in name]


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="there is no /dev/shm to look into")
@pytest.mark.parametrize(
    ("peer", "needs", "more"),
    [
        (peers.OURS, "asgi_ipc", {("rebuild", "rebuild")}),
        (peers.OURS_ASYNC, "asgi_ipc.aio", set()),
    ],
)
def test_every_workload_of_asgi_ipc_once(peer, needs, more):
    pytest.importorskip(needs)
    run = tiny_run(peer)
    assert run.left_out == []
    ours = [figure for figure in run.figures if figure.peer == peer]
    assert {(figure.workload, figure.measure) for figure in ours} == MEASURED | more
    for figure in ours:
        assert len(figure.rounds) == TINY.rounds
        assert min(figure.rounds) > 0
        assert figure.baseline_ratio > 0
    assert {figure.parameters["waiting"] for figure in ours if figure.workload == "waiting"} == {
        0,
        200,
    }
    assert of_benchmark() == []


class Remembering(runner.Listener):
    def __init__(self):
        self.left = []

    def left_out(self, peer, case, reason):
        self.left.append((peer.name, case, reason))


class Hopeless(workloads.RoundTrip):
    """Asks one peer for a task that there is not."""

    def round(self, contestant):
        if contestant.peer.name == peers.OURS:
            return contestant.first.call("no_such_task")
        return workloads.RoundTrip.round(self, contestant)


def test_a_peer_that_fails_leaves_and_the_others_go_on():
    heard = Remembering()
    with runner.Runner(TINY, heard, True, [peers.OURS]) as one:
        one.measure(Hopeless())
    assert [(peer, case) for peer, case, _ in heard.left] == [(peers.OURS, Hopeless.title)]
    assert "no_such_task" in heard.left[0][2]
    assert one.run.figures.find("round_trip", "round_trip", peers.OURS) is None
    assert one.run.figures.find("round_trip", "round_trip", peers.BASELINE) is not None


def test_peers_whose_programs_are_missing_are_left_out_loudly(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setattr(old_python.interpreter, "__defaults__", (str(tmp_path / "none"),))
    heard = Remembering()
    wanted = [peers.REDIS_CORE, peers.PUBLISHED]
    with runner.Runner(TINY, heard, True, wanted) as one:
        one.measure(workloads.RoundTrip())
    assert sorted(heard.left) == [
        (peers.PUBLISHED, "", "there is no Python 3.7 on PATH or in pyenv"),
        (peers.REDIS_CORE, "", redis_server.MISSING),
    ]
    assert [left["peer"] for left in one.run.left_out] == [left[0] for left in heard.left]


def test_a_hung_actor_is_given_up():
    pace = TINY._replace(seconds=0.3)
    with runner.Runner(pace, runner.Listener(), True, [peers.OURS]) as one:
        host = one._hosts[peers.OURS]
        opened = host.open(1)
        opened.actors[0].call("prepare")
        with pytest.raises(session.PeerFailed, match="did not answer"):
            # Nobody ever sends.
            opened.actors[0].call("absorb", channel="silent", count=1)
        opened.close()
    assert of_benchmark() == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_killed_leaves_nothing(number, tmp_path):
    pytest.importorskip("rich")
    command = [sys.executable, "-m", "benchmarks", "--workload", "latency", "--peer", peers.OURS]
    # Has a server to end as well, where there is one.
    command += ["--peer", peers.REDIS_CORE, "--output", str(tmp_path)]
    run = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL)
    try:
        deadline = time.time() + 30
        mine = "bench-{0}-".format(run.pid)
        while not any(mine in name for name in os.listdir("/dev/shm")):
            assert time.time() < deadline
            assert run.poll() is None
            time.sleep(0.05)
        group = psutil.Process(run.pid).children(recursive=True)
        assert group
        run.send_signal(number)
        run.wait(30)
        _, alive = psutil.wait_procs(group, timeout=30)
        assert alive == []
        assert not any(mine in name for name in os.listdir("/dev/shm"))
    finally:
        run.kill()
        run.wait()
