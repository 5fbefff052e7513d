"""A run as JSON, for machines; the schema is told here.

::

    {
      "schema": 1,
      "quick": false,               a quick run: few rounds, some workloads, no verdict
      "environment": {              on what it ran
        "started": "2026-01-31 12:00:00 UTC", "python": "CPython 3.11.7", "cpu": "...",
        "cores": 2, "kernel": "Linux 6.1", "machine": "x86_64",
        "load_before": [0.1, 0.2, 0.3],      over 1, 5 and 15 minutes
        "redis": "Unix socket (...)",        how the peers reach the server; may be absent
        "versions": {"asgi_ipc": "2.0", ...} peer -> what was measured
      },
      "left_out": [                 who did not take part in what, and why
        {"peer": "diskcache", "case": "", "reason": "..."}    case "": in nothing at all
      ],
      "figures": [
        {
          "case": "groups, 1,000 members",   what was measured in turn, A B A B
          "workload": "groups", "measure": "delivered", "peer": "asgi_ipc.aio",
          "parameters": {"members": 1000, "processes": 4},
          "rounds": [812345.0, ...],         nanoseconds, one a round
          "median": 812345.0,                nanoseconds, of the rounds
          "p50": ..., "p90": ..., "p99": ..., "max": ...,   nanoseconds, of single operations;
                                             absent where they were not timed one by one
          "baseline_ratio": 700.1            of msgpack alone, measured in turn with it; may be null
        }
      ],
      "verdict": [
        {
          "measure": "...", "value": 0.61, "bound": 0.75, "stretch": 0.5, "at_most": true,
          "met": true, "stretched": false    value null: not measured, which is not met
        }
      ]
    }

All times are nanoseconds for one operation (throughput: for one message), less is better.
"""
import json
import os

from benchmarks.figures import Figure, Figures

SCHEMA = 1


class WrongSchema(Exception):
    """The file is no run of this benchmark, or of another version's."""


class Run(object):
    """Everything about one run."""

    def __init__(self, environment, quick):
        self.environment = environment
        self.quick = quick
        self.left_out = []
        self.figures = Figures()
        self.verdict = []

    def leave_out(self, peer, case, reason):
        """Remember who did not take part."""
        self.left_out.append({"peer": peer, "case": case, "reason": reason})


def to_json(run):
    """Text, the same for the same run."""
    document = {
        "schema": SCHEMA,
        "quick": run.quick,
        "environment": run.environment,
        "left_out": run.left_out,
        "figures": [_figure_to_dict(figure) for figure in run.figures],
        "verdict": run.verdict,
    }
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _figure_to_dict(figure):
    found = {
        "case": figure.case,
        "workload": figure.workload,
        "measure": figure.measure,
        "peer": figure.peer,
        "parameters": figure.parameters,
        "rounds": [round(value, 1) for value in figure.rounds],
        "median": round(figure.median, 1),
        "baseline_ratio": figure.baseline_ratio and round(figure.baseline_ratio, 4),
    }
    found.update(figure.percentiles)
    return found


def from_json(text):
    """The run that ``to_json`` wrote.

    :raises WrongSchema: it was not.
    """
    try:
        document = json.loads(text)
        if document["schema"] != SCHEMA:
            raise WrongSchema("schema {0}, not {1}".format(document["schema"], SCHEMA))
        run = Run(document["environment"], document["quick"])
        run.left_out = document["left_out"]
        run.verdict = document["verdict"]
        for entry in document["figures"]:
            run.figures.add(_figure_from_dict(entry))
    except (ValueError, KeyError, TypeError) as error:
        raise WrongSchema("no run of this benchmark: {0!r}".format(error))
    return run


def _figure_from_dict(entry):
    figure = Figure(
        entry["case"], entry["workload"], entry["measure"], entry["peer"], entry["parameters"]
    )
    figure.rounds = entry["rounds"]
    figure.baseline_ratio = entry["baseline_ratio"]
    figure.percentiles = {
        name: entry[name] for name in ("p50", "p90", "p99", "max") if name in entry
    }
    return figure


def save(run, path):
    """Write a run to a file, whose folder is made if it is missing."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "w") as stream:
        stream.write(to_json(run))


def load(path):
    """Read a run from a file.

    :raises WrongSchema: the file is no such thing.
    :raises OSError: it cannot be read.
    """
    with open(path) as stream:
        return from_json(stream.read())
