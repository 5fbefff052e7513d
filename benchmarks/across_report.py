"""What group sends to several machines came to: as JSON, as a table, and what it must show.

::

    {
      "schema": 1, "quick": false,
      "environment": {...},         as in ``results``
      "machines": "namespaces",     or why they were prefixes on one machine
      "left_out": {"channels_redis.core": "..."},   who did not take part, and why
      "peers": {
        "asgi_ipc.aio": {
          "version": "2.0.0",
          "delivered": {"p50": ..., "p99": ...},  ns from a send to the last of all deliveries
          "call": {"p50": ..., "p99": ...},       ns of the send itself, while nobody waits
          "alone": {"p50": ..., "p99": ...},      the same with no bridge on the machine
          "message": ...,     ns for each message, where they are sent without a pause; of such:
          "web": ...,         ns of the processor for each message, in all web processes together
          "bridges": ...,     the same, in all bridges
          "redis": ...,       the same, in Redis
          "commands": ...,    that Redis carries out for each message, those in scripts as well
          "entries": ...,     that are added to streams for each message
          "bytes_in": ..., "bytes_out": ...       to and from Redis for each message
        }
      }
    }
"""
import json
import os

from benchmarks import documents, peers
from benchmarks.figures import median, percentile
from benchmarks.report import Table, duration, significant
from benchmarks.session import ROOT

SCHEMA = 1
SINGLE = ("delivered", "call", "alone")
DOCUMENT = os.path.join(ROOT, "docs", "scaling.rst")
DEARER = 3000
"""Nanoseconds that the bridge may add to a group send."""

ROWS = (
    ("to the last of 3,000 deliveries, p50", ("delivered", "p50"), duration),
    ("the same, p99", ("delivered", "p99"), duration),
    ("the send itself, p50", ("call", "p50"), duration),
    ("the same on a machine without a bridge, p50", ("alone", "p50"), duration),
    ("messages a second, sent without a pause", ("message",), lambda ns: significant(1e9 / ns)),
    ("processor for each, in the web processes", ("web",), duration),
    ("the same, in the bridges", ("bridges",), duration),
    ("the same, in Redis", ("redis",), duration),
    ("commands at Redis for each", ("commands",), significant),
    ("entries added to streams for each", ("entries",), significant),
    ("bytes to Redis for each", ("bytes_in",), significant),
    ("bytes from Redis for each", ("bytes_out",), significant),
)


def new(environment, obstacle, quick):
    """A result with nothing in it yet."""
    return {
        "schema": SCHEMA,
        "quick": quick,
        "environment": environment,
        "machines": obstacle or "namespaces",
        "left_out": {},
        "peers": {},
    }


def add(result, name, contestant):
    """What a contestant came to, all its rounds done."""
    found = {"version": contestant.version}
    for kind in SINGLE:
        samples = contestant.samples[kind]
        if not samples:
            continue
        found[kind] = {"p50": percentile(samples, 0.5), "p99": percentile(samples, 0.99)}
    for kind, values in contestant.counts.items():
        found[kind] = round(median(values), 2)
    result["peers"][name] = found


def write(result, path):
    """Write the JSON."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(json.dumps(result, indent=1, sort_keys=True) + "\n")


def load(path):
    """The result that ``write`` wrote."""
    with open(path, encoding="utf-8") as stream:
        return json.load(stream)


def value(result, name, path):
    """A figure, or None."""
    found = result["peers"].get(name)
    for step in path:
        found = None if found is None else found.get(step)
    return found


def table(result):
    """The comparison."""
    shown = [
        (name, title)
        for name, title in (
            (peers.OURS_ASYNC, "asgi_ipc with bridges"),
            (peers.REDIS_PUBSUB, "channels_redis pub/sub"),
            (peers.REDIS_CORE, "channels_redis core"),
        )
        if name in result["peers"]
    ]
    found = Table("A group send to 3 machines", [""] + [title for _, title in shown])
    for text, path, words in ROWS:
        row = [text]
        for name, _ in shown:
            figure = value(result, name, path)
            row.append(words(figure) if figure else "")
        found.add(row, ours=False)
    return found


def verdict(result):
    """What it must show: (sentence, what was reached, whether it holds)."""
    ours = result["peers"].get(peers.OURS_ASYNC)
    if ours is None:
        return [("asgi_ipc with bridges takes part", "not measured", False)]
    alone = value(result, peers.OURS_ASYNC, ("alone", "p50"))
    dearer = None if alone is None else ours["call"]["p50"] - alone
    theirs = value(result, peers.REDIS_PUBSUB, ("delivered", "p50"))
    return [
        (
            "a group send is one entry in a stream",
            significant(ours["entries"]),
            abs(ours["entries"] - 1) < 0.01,
        ),
        (
            "the bridge adds at most 3 us to a group send",
            "not measured" if dearer is None else "{0:.2f} us".format(dearer / 1000),
            dearer is not None and dearer <= DEARER,
        ),
        (
            "the last delivery comes sooner than by channels_redis pub/sub",
            "not measured" if theirs is None else "{0} against {1}".format(
                duration(ours["delivered"]["p50"]), duration(theirs)
            ),
            theirs is not None and ours["delivered"]["p50"] < theirs,
        ),
    ]


def missed(result):
    """The sentences that do not hold."""
    return [sentence for sentence, _, holds in verdict(result) if not holds]


def text(result):
    """All of it, for the terminal."""
    lines = ["machines: " + result["machines"]]
    if result["machines"] != "namespaces":
        lines.insert(0, "NO NAMESPACES: the machines were prefixes on this one")
    lines += ["LEFT OUT: {0}: {1}".format(*item) for item in sorted(result["left_out"].items())]
    lines += documents.simple_table(table(result))
    for sentence, reached, holds in verdict(result):
        lines.append("{0}: {1}: {2}".format("met" if holds else "MISSED", sentence, reached))
    return "\n".join(lines)


def block(result):
    """The table of ``docs/scaling.rst``."""
    return {"across": documents.simple_table(table(result))}


def refresh(result):
    """Write the table of the document anew."""
    with open(DOCUMENT, encoding="utf-8") as stream:
        before = stream.read()
    with open(DOCUMENT, "w", encoding="utf-8") as stream:
        stream.write(documents.insert(before, block(result)))
