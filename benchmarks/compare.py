"""A run against an earlier one, perhaps on another machine.

What is compared is each figure's ratio to msgpack alone, which was measured in turn with it:
a slower machine slows both. A figure has moved when that ratio changed by more than the
tolerance, in either direction.
"""
TOLERANCE = 1.3
"""Times: 30 % more or less is what two runs of a loaded machine differ by."""


class Moved(object):
    """A figure whose ratio to the baseline has changed: ``times`` above 1 is slower."""

    def __init__(self, figure, before):
        self.figure = figure
        self.before = before.baseline_ratio
        self.now = figure.baseline_ratio
        self.times = self.now / self.before


def moved(run, earlier, tolerance=TOLERANCE):
    """Figures that moved by more than the tolerance, the slower ones first."""
    return [
        change
        for change in changes(run, earlier)
        if change.times > tolerance or change.times < 1 / tolerance
    ]


def changes(run, earlier):
    """All figures that both runs have, the slower ones first."""
    found = []
    for figure in run.figures:
        before = earlier.figures.by_key(figure.key)
        if before is None or not (before.baseline_ratio and figure.baseline_ratio):
            continue
        if figure.workload != "baseline":
            found.append(Moved(figure, before))
    return sorted(found, key=lambda change: -change.times)
