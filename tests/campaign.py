"""Long runs and their share: how much of a test of endurance is done, from which seed.

A test that has more to try than an ordinary run has time for asks the fixture ``campaign``
what to try: a share that is drawn anew in each run, from a seed that is printed, or with
``--full`` (``tox -e soak``) all of it. What was tried is noted, and printed at the end.
"""
import os
import random
import struct
import zlib


class Campaign(object):
    """What one test may try, and what it notes of it.

    ``full``: whether it is to try everything. ``random``: its own generator, which depends
    on the seed and on the test's name alone.
    """

    def __init__(self, test, seed, full, notes):
        self.full = full
        self.random = random.Random(seed ^ zlib.crc32(test.encode("utf-8")))
        self._test = test
        self._notes = notes

    def amount(self, share, whole):
        """``share`` in an ordinary run, ``whole`` in a full one: rounds, cases, seconds."""
        return whole if self.full else share

    def choose(self, items, share):
        """All of ``items`` in a full run, else at most ``share`` of them, in their order."""
        items = list(items)
        if self.full or len(items) <= share:
            return items
        return [items[index] for index in sorted(self.random.sample(range(len(items)), share))]

    def note(self, text):
        """Have a sentence with figures printed at the end of the run, whatever its outcome."""
        self._notes.append("{0}: {1}".format(self._test, text))


def add_options(parser):
    """The command line's part."""
    group = parser.getgroup("campaigns")
    group.addoption("--full", action="store_true", help="try everything, however long it takes")
    group.addoption(
        "--seed", type=int, default=None, help="of what is drawn by chance; a new one if not given"
    )


def configure(config):
    """Draw the seed, if none was given."""
    config.campaign_notes = []
    config.campaign_seed = config.getoption("--seed")
    if config.campaign_seed is None:
        config.campaign_seed = struct.unpack("=H", os.urandom(2))[0]


def header(config):
    """The line that lets a run be repeated."""
    extent = "all of each campaign" if config.getoption("--full") else "a share of each campaign"
    return "{0}, drawn with --seed {1}".format(extent, config.campaign_seed)


def summarize(reporter, config):
    """Print what was tried."""
    if config.campaign_notes:
        reporter.section("campaigns ({0})".format(header(config)))
        for line in config.campaign_notes:
            reporter.line(line)
