"""A run in the terminal: progress while it runs, and then the tables. Needs rich."""
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks import peers, report
from benchmarks.compare import moved
from benchmarks.environment import loaded
from benchmarks.runner import Listener

WIDTH = 140
"""Columns, where the output goes to no terminal."""

OURS, WARNING, GOOD = "bold cyan", "bold red", "bold green"


class Terminal(Listener):
    """Draws two bars, the cases and the one under way, and prints what is to be known."""

    def __init__(self, cases):
        self.console = Console(highlight=False)
        if not self.console.is_terminal:
            self.console = Console(highlight=False, width=WIDTH)
        self._progress = Progress(
            TextColumn("{task.description:60.60}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
        )
        self._all = self._progress.add_task("all", total=cases)
        self._one = self._progress.add_task("starting the peers", total=None)
        self._begun = False

    def __enter__(self):
        self._progress.start()
        return self

    def __exit__(self, *_):
        self._progress.stop()

    def note(self, text):
        self.console.print(text, markup=False)

    def left_out(self, peer, case, reason):
        where = case or "the whole run"
        self.console.print(
            "LEFT OUT of {0}: {1}: {2}".format(where, peer.title, reason),
            style=WARNING,
            markup=False,
        )

    def case(self, title, steps):
        if self._begun:
            self._progress.advance(self._all)
        self._begun = True
        if not self.console.is_terminal:
            # Nobody sees the bars.
            self.console.print(title, markup=False)
        self._progress.update(self._all, description=title)
        self._progress.reset(self._one, total=steps)

    def step(self, title):
        self._progress.update(self._one, description="  " + title, advance=1)

    def finished(self):
        """The last case is done."""
        self._progress.advance(self._all)


def show(console, run):
    """Print everything that a run has to say, but the verdict."""
    show_environment(console, run)
    for table in report.tables(run):
        _print(console, table)
    for left in run.left_out:
        peer = peers.by_name()[left["peer"]].title
        where = left["case"] or "the whole run"
        text = "left out of {0}: {1}: {2}".format(where, peer, left["reason"])
        console.print(text, style=WARNING, markup=False)


def show_environment(console, run):
    """Print on what it ran."""
    table = Table(show_header=False, box=None, title="Environment", title_justify="left")
    for name, text in report.environment_lines(run):
        table.add_row(name, text)
    console.print(table)
    warning = loaded(run.environment)
    if warning:
        console.print(warning, style=WARNING)


def _print(console, table):
    drawn = Table(title=table.title, title_justify="left", header_style="bold")
    for number, column in enumerate(table.columns):
        drawn.add_column(column, justify="right" if number else "left", no_wrap=bool(number))
    for row, ours in zip(table.rows, table.ours):
        drawn.add_row(*row, style=OURS if ours else None)
    console.print(drawn)


def show_verdict(console, run):
    """Print what the run had to show, and whether it did."""
    table = report.verdict_table(run.verdict)
    drawn = Table(title=table.title, title_justify="left", header_style="bold")
    for number, column in enumerate(table.columns):
        drawn.add_column(column, no_wrap=bool(number))
    for row, line in zip(table.rows, run.verdict):
        drawn.add_row(*row, style=GOOD if line["met"] else WARNING)
    console.print(drawn)


def show_comparison(console, run, earlier, tolerance):
    """Print which figures moved against an earlier run."""
    found = moved(run, earlier, tolerance)
    console.print(
        "Against the run of {0}, by ratio to msgpack alone, tolerance {1:g} x: {2}".format(
            earlier.environment["started"],
            tolerance,
            "{0} figures moved".format(len(found)) if found else "nothing moved",
        ),
        style="bold",
    )
    ours = (peers.OURS, peers.OURS_ASYNC)
    for change in sorted(found, key=lambda change: change.figure.peer not in ours):
        slower = change.times > 1 and change.figure.peer in ours
        style = WARNING if slower else None
        console.print("  " + report.moved_text(change), style=style, markup=False)
