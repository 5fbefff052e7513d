"""What a run has to say, as plain text in rows: for the terminal and for the documents.

Knows figures, peers and units; does not know how a table is drawn.
"""
from benchmarks import peers
from benchmarks.figures import ratio

MEASURES = {
    ("round_trip", "round_trip"): "",
    ("sizes", "round_trip"): "",
    ("waiting", "round_trip"): "",
    ("alone", "send"): "send alone",
    ("alone", "receive"): "receive alone, from a backlog",
    ("latency", "round_trip"): "round trip",
    ("latency", "one_way"): "one way",
    ("throughput", "message"): "",
    ("groups", "call"): "the call alone",
    ("groups", "delivered"): "to the last delivery",
    ("membership", "add"): "join",
    ("membership", "discard"): "leave",
    ("attach", "attach"): "",
    ("rebuild", "rebuild"): "",
}
"""(workload, measure) -> what is said of it beside the case's title; the order of tables."""

NO_RATIO = "-"


class Table(object):
    """``columns``: titles. ``rows``: lists of text; ``ours``: for each, whether it is of ours."""

    def __init__(self, title, columns):
        self.title = title
        self.columns = columns
        self.rows = []
        self.ours = []

    def add(self, row, ours):
        """One more row."""
        self.rows.append(row)
        self.ours.append(ours)


def duration(nanoseconds):
    """Three significant digits and a unit."""
    for unit, least in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if nanoseconds >= least:
            return significant(nanoseconds / least) + " " + unit
    return significant(nanoseconds) + " ns"


def significant(value):
    """Three significant digits, thousands grouped, never an exponent."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.995 else 3
    return "{0:,.{1}f}".format(value, digits)


def times(value):
    """A ratio."""
    return NO_RATIO if value is None else significant(value) + " x"


def tables(run):
    """One table for each measure of each case, in the order in which they were measured."""
    found = {}
    for figure in run.figures:
        if (figure.workload, figure.measure) in MEASURES:
            found.setdefault((figure.case, figure.workload, figure.measure), []).append(figure)
    return [_table(run, key, figures) for key, figures in found.items()]


def _table(run, key, figures):
    case, workload, measure = key
    extra = MEASURES[workload, measure]
    named = [name for name in sorted(figures[0].parameters) if _varies(figures, name)]
    has_rate, has_p99 = workload == "throughput", any(f.percentiles for f in figures)
    columns = ["peer"] + named + ["median"]
    columns += ["messages/s"] * has_rate + ["p99"] * has_p99
    columns += ["of asgi_ipc", "of asgi_ipc.aio", "of msgpack"]
    table = Table(case + (": " + extra if extra else ""), columns)
    by_name = peers.by_name()
    for figure in figures:
        row = [by_name[figure.peer].title if figure.peer in by_name else figure.peer]
        row += ["{0:,}".format(figure.parameters[name]) for name in named]
        row.append(duration(figure.median))
        if has_rate:
            row.append("{0:,.0f}".format(1e9 / figure.median))
        if has_p99:
            row.append(duration(figure.percentiles["p99"]) if figure.percentiles else "")
        row += [times(_of(run, figure, peer)) for peer in (peers.OURS, peers.OURS_ASYNC)]
        row.append(times(figure.baseline_ratio))
        table.add(row, figure.peer in (peers.OURS, peers.OURS_ASYNC))
    return table


def _varies(figures, name):
    return len({figure.parameters[name] for figure in figures}) > 1


def _of(run, figure, peer):
    """How many times as long a figure takes as a peer's of the same parameters."""
    other = run.figures.find(figure.workload, figure.measure, peer, **figure.parameters)
    return None if other is None else ratio(figure, other)


def limit(line, value):
    """A bound or stretch of the verdict."""
    if line["at_most"]:
        return "at most {0:g} x".format(value)
    return "at least {0:,g} x faster".format(value) if value != 1 else "at least as fast"


def reached(line):
    """What the run showed."""
    if line["value"] is None:
        return "not measured"
    return significant(line["value"]) + (" x" if line["at_most"] else " x faster")


def outcome(line):
    """In one word."""
    if line["value"] is None:
        return "not measured"
    if not line["met"]:
        return "MISSED"
    return "stretch" if line["stretched"] else "met"


def verdict_table(verdict):
    """The verdict."""
    table = Table("What it must show", ["measure", "bound", "stretch", "reached", "verdict"])
    for line in verdict:
        row = [line["measure"], limit(line, line["bound"]), limit(line, line["stretch"])]
        table.add(row + [reached(line), outcome(line)], False)
    return table


def environment_lines(run):
    """On what it ran, as (name, text)."""
    environment = run.environment
    lines = [
        ("measured", environment["started"] + (" (quick)" if run.quick else "")),
        ("Python", environment["python"]),
        ("processor", "{0}, {1} cores".format(environment["cpu"], environment["cores"])),
        ("system", "{0}, {1}".format(environment["kernel"], environment["machine"])),
        ("load before", " ".join(str(load) for load in environment["load_before"])),
    ]
    if "redis" in environment:
        lines.append(("Redis", environment["redis"]))
    return lines + sorted(environment["versions"].items())


def moved_text(change):
    """One figure that moved, in a sentence."""
    figure = change.figure
    details = ", ".join("{0}={1}".format(*item) for item in sorted(figure.parameters.items()))
    return "{0}: {1} {2}{3}: {4} x msgpack, was {5} x ({6} x as long)".format(
        figure.peer,
        figure.workload,
        figure.measure,
        " (" + details + ")" if details else "",
        significant(change.now),
        significant(change.before),
        significant(change.times),
    )
