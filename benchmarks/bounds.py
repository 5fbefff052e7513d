"""What a run must show: each measure with its bound, its stretch, and whether they were met.

Knows figures by what they are. A measure is the ratio of two figures of one run; it is met
when it keeps to its bound. One that could not be measured is not met.
"""
from benchmarks import peers
from benchmarks.figures import ratio


class Bound(object):
    """One measure.

    :param text: what is compared with what.
    :param over: (workload, measure, peer, parameters) whose time is divided ...
    :param under: ... by that of this one.
    :param bound: the ratio that must be kept; ``stretch``: the one that is hoped for.
    :param at_most: whether less is better; else the ratio says how many times faster.
    """

    def __init__(self, text, over, under, bound, stretch, at_most):
        self.text = text
        self.over = over
        self.under = under
        self.bound = bound
        self.stretch = stretch
        self.at_most = at_most

    def keeps(self, value, limit):
        """Whether a ratio is on the right side of a limit; none at all is not."""
        if value is None:
            return False
        return value <= limit if self.at_most else value >= limit

    def judge(self, figures):
        """What the figures say, as in the JSON's ``verdict``."""
        one, other = [
            figures.find(workload, measure, peer, **parameters)
            for workload, measure, peer, parameters in (self.over, self.under)
        ]
        value = None if one is None or other is None else ratio(one, other)
        return {
            "measure": self.text,
            "value": value,
            "bound": self.bound,
            "stretch": self.stretch,
            "at_most": self.at_most,
            "met": self.keeps(value, self.bound),
            "stretched": self.keeps(value, self.stretch),
        }


def at_most(text, ours, theirs, bound, stretch):
    """Our time, in times of theirs."""
    return Bound(text, ours, theirs, bound, stretch, True)


def times_faster(text, ours, theirs, bound, stretch):
    """Their time, in times of ours."""
    return Bound(text, theirs, ours, bound, stretch, False)


def _round_trip(peer):
    return "round_trip", "round_trip", peer, {}


def _waiting(peer, number):
    return "waiting", "round_trip", peer, {"waiting": number}


def _throughput(peer):
    return "throughput", "message", peer, {"senders": 1, "receivers": 1}


def _group(measure, peer, processes):
    return "groups", measure, peer, {"members": 1000, "processes": processes}


def _latency(peer):
    return "latency", "round_trip", peer, {}


def _megabyte(peer):
    return "sizes", "round_trip", peer, {"size": 1000000}


SYNC, ASYNC = peers.OURS, peers.OURS_ASYNC

BOUNDS = (
    at_most(
        "synchronous round trip in one process, of InMemoryChannelLayer's",
        _round_trip(SYNC), _round_trip(peers.IN_MEMORY), 0.75, 0.5,
    ),
    at_most(
        "asynchronous round trip in one process, of InMemoryChannelLayer's",
        _round_trip(ASYNC), _round_trip(peers.IN_MEMORY), 1.0, 0.75,
    ),
    times_faster(
        "round trip, against asgi_ipc 1.4.2, nothing waiting",
        _waiting(SYNC, 0), _waiting(peers.PUBLISHED, 0), 4, 6,
    ),
    times_faster(
        "round trip, against asgi_ipc 1.4.2, 10,000 messages waiting",
        _waiting(SYNC, 10000), _waiting(peers.PUBLISHED, 10000), 10000, 15000,
    ),
    times_faster(
        "asynchronous round trip, against channels_redis core",
        _round_trip(ASYNC), _round_trip(peers.REDIS_CORE), 100, 200,
    ),
    times_faster(
        "asynchronous round trip, against channels_redis pub/sub",
        _round_trip(ASYNC), _round_trip(peers.REDIS_PUBSUB), 15, 30,
    ),
    at_most(
        "latency between two blocking processes, p50, of a raw pipe's",
        _latency(SYNC), _latency(peers.PIPE), 1.5, 1.25,
    ),
    at_most(
        "round trip with 100,000 messages waiting, of that with none",
        _waiting(SYNC, 100000), _waiting(SYNC, 0), 1.10, 1.03,
    ),
    times_faster(
        "throughput, one sender and one receiver, against multiprocessing.Queue",
        _throughput(SYNC), _throughput(peers.QUEUE), 1.0, 1.5,
    ),
    times_faster(
        "throughput, one sender and one receiver, against faster-fifo (C++)",
        _throughput(SYNC), _throughput(peers.FIFO), 0.5, 1.0,
    ),
    times_faster(
        "group send to 1,000 members in 4 processes, the call, against InMemoryChannelLayer",
        _group("call", ASYNC, 4), _group("call", peers.IN_MEMORY, 1), 30, 100,
    ),
    times_faster(
        "group send to 1,000 members in 4 processes, to the last delivery, against "
        "channels_redis pub/sub",
        _group("delivered", ASYNC, 4), _group("delivered", peers.REDIS_PUBSUB, 4), 1.5, 2.5,
    ),
    at_most(
        "round trip of 1 MB, of msgpack and two copies",
        _megabyte(SYNC), _megabyte(peers.COPIES), 2, 1.5,
    ),
)


def judge(figures, bounds=BOUNDS):
    """The verdict on a run: one dict for each measure, see ``results``."""
    return [bound.judge(figures) for bound in bounds]


def missed(verdict):
    """Those measures that were not met."""
    return [line for line in verdict if not line["met"]]
