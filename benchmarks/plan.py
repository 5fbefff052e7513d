"""Which workloads are run, in which order, how often and for how long."""
from collections import namedtuple

from benchmarks.apart import Latency, Throughput
from benchmarks.group_sends import Groups
from benchmarks.workloads import Attach, Membership, Rebuild, RoundTrip, SendReceive, Waiting

Pace = namedtuple("Pace", "rounds least target budget seconds")
"""``rounds`` of each contestant, but after ``least`` no more than ``budget`` seconds; ``target``
ns of one round; ``seconds`` that any one task may take."""

FULL = Pace(rounds=9, least=5, target=150 * 10 ** 6, budget=8, seconds=60)
QUICK = Pace(rounds=3, least=2, target=15 * 10 ** 6, budget=1, seconds=30)


def full():
    """All workloads, in the order in which they run."""
    cases = [RoundTrip(), SendReceive(), Latency()]
    cases += [Throughput(senders, 1) for senders in (1, 2, 4)]
    cases += [Throughput(senders, 2) for senders in (1, 2, 4)]
    cases += [Groups(members, (1, 4, 8)) for members in (10, 100, 1000, 10000)]
    cases += [RoundTrip(size) for size in (50, 1000, 64000, 1000000)]
    return cases + [Waiting((0, 1000, 10000, 100000)), Membership(), Attach(), Rebuild(100000)]


def quick():
    """Some of them, for a look in under a minute."""
    cases = [RoundTrip(), Latency(), Throughput(1, 1), Groups(100, (4,))]
    return cases + [RoundTrip(1000000), Waiting((0, 1000))]
