"""``python -m benchmarks``: measure, compare, judge. ``--help`` says how."""
import argparse
import os
import signal
import sys

from benchmarks import bounds, peers, plan, results
from benchmarks.compare import TOLERANCE
from benchmarks.session import ROOT

COMMITTED = os.path.join(ROOT, "benchmarks", "results", "latest.json")
IMAGES = os.path.join(ROOT, "docs", "images")
OUTPUT = os.path.join(ROOT, "build", "benchmarks")

EPILOG = """\
exit status: 0 when every bound is kept, 1 when one is missed or could not be measured,
2 when nothing could be measured. A quick run, and one of some peers or workloads only, shows
the bounds that it can, and ends with 0.
"""


def parse(arguments):
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure asgi_ipc and its peers in turn, and judge the ratios.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="some workloads, under a minute")
    parser.add_argument(
        "--peer", action="append", metavar="NAME", help="only this one; may be repeated"
    )
    parser.add_argument(
        "--workload", action="append", metavar="NAME", help="only this one; may be repeated"
    )
    parser.add_argument("--output", default=OUTPUT, help="folder for run.json and plots")
    parser.add_argument(
        "--save",
        action="store_true",
        help="make this run the committed one: JSON, plots and the tables of the documents",
    )
    parser.add_argument("--from", dest="source", metavar="JSON", help="show a run, measure none")
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, help="of the comparison (%(default)g x)"
    )
    options = parser.parse_args(arguments)
    known = set(peers.by_name())
    if options.peer and not set(options.peer) <= known:
        parser.error("peers are: " + ", ".join(sorted(known)))
    if options.save and (options.quick or options.peer or options.workload):
        parser.error("--save takes a whole run")
    return options


def measure(options, terminal_module):
    """Run the cases that were asked for."""
    from benchmarks.runner import Runner

    cases = plan.quick() if options.quick else plan.full()
    if options.workload:
        cases = [case for case in plan.full() if case.name in options.workload]
    pace = plan.QUICK if options.quick else plan.FULL
    with terminal_module.Terminal(len(cases)) as listener:
        with Runner(pace, listener, options.quick, options.peer) as runner:
            for case in cases:
                runner.measure(case)
            listener.finished()
            return runner.run


def keep(run, options):
    """Write a run's JSON, before anything else can go wrong; the run as it says, to a digit."""
    path = os.path.join(options.output, "run.json")
    os.makedirs(options.output, exist_ok=True)
    results.save(run, path)
    return results.load(path)


def publish(run, options):
    """Draw the plots, and with ``--save`` write the committed ones and the documents."""
    from benchmarks import documents, plots

    written = plots.draw(run, options.output)
    if options.save:
        results.save(run, COMMITTED)
        os.makedirs(IMAGES, exist_ok=True)
        written += plots.draw(run, IMAGES)
        written += documents.refresh(run)
    return written


def earlier_run():
    """The committed run, or None."""
    try:
        return results.load(COMMITTED)
    except (OSError, results.WrongSchema):
        return None


def main(arguments=None):
    """Measure and report; returns the exit status."""
    options = parse(arguments)
    # So that a run that is told to stop ends its processes.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        from benchmarks import terminal
    except ImportError as error:
        print("{0}; python -m pip install -e '.[bench]'".format(error), file=sys.stderr)
        return 2
    earlier = earlier_run()
    run = results.load(options.source) if options.source else measure(options, terminal)
    if not len(run.figures):
        print("nothing could be measured", file=sys.stderr)
        return 2
    run.verdict = bounds.judge(run.figures)
    run = keep(run, options)
    whole = not (run.quick or options.peer or options.workload)
    console = terminal.Terminal(0).console
    terminal.show(console, run)
    if earlier is not None:
        terminal.show_comparison(console, run, earlier, options.tolerance)
    terminal.show_verdict(console, run)
    for path in publish(run, options):
        console.print("written: " + os.path.relpath(path, ROOT), markup=False)
    return 1 if whole and bounds.missed(run.verdict) else 0


if __name__ == "__main__":
    sys.exit(main())
