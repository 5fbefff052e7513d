"""Figures and how they compare: medians, percentiles, ratios of one run.

Knows nothing of peers or processes. A figure has one value a round, in nanoseconds, and less
is better. Two figures of one case were measured in turn, round by round: their ratio is the
median of the rounds' ratios, so that what the machine does besides meets both. Figures of
different cases are compared by their medians.
"""


def median(values):
    """The middle of the values, or the mean of the two in the middle."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2.0


def percentile(values, share):
    """The smallest value that at least ``share`` of the values do not exceed."""
    ordered = sorted(values)
    rank = int(share * len(ordered))
    if rank < share * len(ordered):
        rank += 1
    return ordered[max(0, rank - 1)]


def key_of(workload, measure, peer, parameters):
    """Text that names one figure, the same in every run."""
    details = ",".join("{0}={1}".format(*item) for item in sorted(parameters.items()))
    return "{0}/{1}/{2}/{3}".format(workload, measure, peer, details)


class Figure(object):
    """What was measured of one peer in one workload with one set of parameters.

    ``case``: what was measured in turn. ``rounds``: nanoseconds. ``percentiles``: of single
    operations, over all rounds; {} where operations were not timed one by one.
    """

    def __init__(self, case, workload, measure, peer, parameters):
        self.case = case
        self.workload = workload
        self.measure = measure
        self.peer = peer
        self.parameters = dict(parameters)
        self.rounds = []
        self.percentiles = {}
        self.baseline_ratio = None
        self._samples = []

    @property
    def key(self):
        """See ``key_of``."""
        return key_of(self.workload, self.measure, self.peer, self.parameters)

    @property
    def median(self):
        """Nanoseconds: the median of the rounds."""
        return median(self.rounds)

    def add(self, value, samples):
        """One round's value, and the single operations that were timed in it."""
        self.rounds.append(float(value))
        self._samples += samples

    def finish(self, baseline):
        """No more rounds: work out what depends on all of them."""
        if self._samples:
            self.percentiles = {
                name: float(percentile(self._samples, share))
                for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))
            }
            self._samples = []
        if baseline is not None and baseline.rounds:
            self.baseline_ratio = ratio(self, baseline)


def ratio(figure, other):
    """How many times as long ``figure`` takes as ``other``."""
    if figure.case == other.case:
        pairs = list(zip(figure.rounds, other.rounds))
        return median([one / another for one, another in pairs])
    return figure.median / other.median


class Figures(object):
    """All figures of a run, found by what they are."""

    def __init__(self, figures=()):
        self._figures = {figure.key: figure for figure in figures}

    def __iter__(self):
        return iter(self._figures.values())

    def __len__(self):
        return len(self._figures)

    def add(self, figure):
        """One more."""
        self._figures[figure.key] = figure

    def find(self, workload, measure, peer, **parameters):
        """A figure, or None if it was not measured."""
        return self._figures.get(key_of(workload, measure, peer, parameters))

    def by_key(self, key):
        """A figure by its ``key``, or None."""
        return self._figures.get(key)
