"""Tables of a run in the documents, between two comments, so that they are those of the JSON.

Knows reStructuredText and where the tables go. Each document has, for each block::

    .. benchmark-NAME begins
    .. benchmark-NAME ends

and what is between the two is written anew. ``docs/performance.rst`` has the blocks
``environment``, ``verdict`` and ``figures``; ``README.rst`` has ``summary``.
"""
import os
import re

from benchmarks import peers, report
from benchmarks.session import ROOT

DOCUMENTS = ("README.rst", os.path.join("docs", "performance.rst"))

SUMMARY = (
    ("round trip in one process", "round_trip", "round_trip", {}),
    ("latency between two processes, there and back, p50", "latency", "round_trip", {}),
    ("one message, one sender and one receiver", "throughput", "message",
     {"senders": 1, "receivers": 1}),
    ("group send to 1,000 members in 4 processes, the call", "groups", "call",
     {"members": 1000, "processes": 4}),
    ("the same, to the last delivery", "groups", "delivered",
     {"members": 1000, "processes": 4}),
)
COMPARED = (
    peers.OURS, peers.OURS_ASYNC, peers.IN_MEMORY, peers.REDIS_PUBSUB, peers.REDIS_CORE, peers.LITE
)


class NoPlace(Exception):
    """A document lacks the comments between which a block goes."""


def blocks(run):
    """Dict of block name to the lines that it has."""
    return {
        "environment": _environment(run),
        "verdict": simple_table(report.verdict_table(run.verdict)),
        "figures": _figures(run),
        "summary": simple_table(summary(run)),
    }


def summary(run):
    """The table of README.rst."""
    titles = [peers.by_name()[name].title for name in COMPARED]
    table = report.Table("", [""] + titles)
    for text, workload, measure, parameters in SUMMARY:
        row = [text]
        for name in COMPARED:
            wanted = dict(parameters)
            if name == peers.IN_MEMORY and "processes" in wanted:
                wanted["processes"] = 1
            figure = run.figures.find(workload, measure, name, **wanted)
            row.append(report.duration(figure.median) if figure is not None else "")
        table.add(row, False)
    return table


def _environment(run):
    lines = []
    for name, text in report.environment_lines(run):
        lines += ["{0}".format(name), "    {0}".format(text)]
    return lines


def _figures(run):
    lines = []
    for table in report.tables(run):
        lines += [table.title, "~" * len(table.title), ""]
        lines += simple_table(table) + [""]
    return lines[:-1]


def simple_table(table):
    """Lines of a table as reStructuredText draws it."""
    rows = [[cell or "\\" for cell in row] for row in [table.columns] + table.rows]
    widths = [max(len(row[number]) for row in rows) for number in range(len(rows[0]))]
    rule = "  ".join("=" * width for width in widths)
    drawn = ["  ".join(c.ljust(width) for c, width in zip(row, widths)).rstrip() for row in rows]
    return [rule, drawn[0], rule] + drawn[1:] + [rule]


def insert(text, found):
    """A document's text with its blocks written anew.

    :raises NoPlace: it has none of them.
    """
    number = 0
    for name, lines in found.items():
        pattern = re.compile(
            r"(\.\. benchmark-{0} begins\n\n).*?(\.\. benchmark-{0} ends\n)".format(name), re.DOTALL
        )
        block = "\n".join(lines) + "\n\n"
        text, times = pattern.subn(lambda match, b=block: match.group(1) + b + match.group(2), text)
        number += times
    if not number:
        raise NoPlace("no comment says where the tables go")
    return text


def refresh(run, root=ROOT):
    """Write the documents' tables anew; the paths of those that were changed."""
    found, changed = blocks(run), []
    for name in DOCUMENTS:
        path = os.path.join(root, name)
        with open(path, encoding="utf-8") as stream:
            before = stream.read()
        after = insert(before, found)
        if after != before:
            with open(path, "w", encoding="utf-8") as stream:
                stream.write(after)
            changed.append(path)
    return changed
