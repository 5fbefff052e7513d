"""Cost is flat: send + receive beside 100,000 waiting messages, against an empty layer.

The two layers are measured in turn, A B A B, in one process and one run; the verdict is the
median of the ratios of neighbouring rounds. Run it with ``python -m benchmarks.flat_cost``.
"""
from __future__ import print_function

import argparse
import os
import sys
import time

from asgi_ipc import IPCChannelLayer
from asgi_ipc.core import unlink

MESSAGE = {u"type": u"chat.message", u"text": u"hello world", u"user": u"alice"}


def median(values):
    """The middle of the values, or the mean of the two in the middle."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2.0


def round_trips(layer, count):
    """Seconds for ``count`` times send and receive on one channel."""
    channels = [u"measured"]
    started = time.time()
    for _ in range(count):
        layer.send(u"measured", MESSAGE)
        layer.receive(channels)
    return time.time() - started


def measure(waiting, channels, rounds, count):
    """Return (us on the empty layer, us beside the waiting ones, median ratio)."""
    prefixes = ["flat-{0}-{1}".format(os.getpid(), kind) for kind in ("empty", "full")]
    try:
        empty, full = [IPCChannelLayer(prefix, expiry=3600) for prefix in prefixes]
        for number in range(waiting):
            full.send(u"waiting.{0}".format(number % channels), MESSAGE)
        for layer in (empty, full):
            round_trips(layer, count)
        pairs = [(round_trips(empty, count), round_trips(full, count)) for _ in range(rounds)]
        pending = full.global_statistics()["messages_pending"]
        if pending != waiting:
            raise SystemExit("{0} messages wait, {1} were sent".format(pending, waiting))
        for layer in (empty, full):
            layer.close()
    finally:
        for prefix in prefixes:
            unlink(prefix)
    micro = [1e6 * median(column) / count for column in zip(*pairs)]
    return micro[0], micro[1], median([beside / alone for alone, beside in pairs])


def main(arguments=None):
    """Print the figures; exit status 1 if the ratio is above the bound."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--waiting", type=int, default=100000, help="messages (default 100000)")
    parser.add_argument("--channels", type=int, default=5000, help="they wait in (default 5000)")
    parser.add_argument("--rounds", type=int, default=15, help="pairs of rounds (default 15)")
    parser.add_argument("--count", type=int, default=5000, help="round trips a round")
    parser.add_argument("--bound", type=float, default=1.15, help="highest ratio (default 1.15)")
    options = parser.parse_args(arguments)
    alone, beside, ratio = measure(
        options.waiting, options.channels, options.rounds, options.count
    )
    print("send + receive on an empty layer       {0:8.2f} us".format(alone))
    print("the same beside {0:>7} waiting messages {1:6.2f} us".format(options.waiting, beside))
    print("ratio {0:.3f}, bound {1:.2f}".format(ratio, options.bound))
    return 0 if ratio <= options.bound else 1


if __name__ == "__main__":
    sys.exit(main())
