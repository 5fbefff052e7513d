"""Workloads: what the actors of a peer are asked to do, and which figures come of it.

Here is what all have in common, and those that take one process; those between processes are
in ``apart``, groups in ``group_sends``, and which are run in ``plan``.

Knows sessions and tasks by name; does not know rounds, nor what is done with the figures. A
workload serves any number of contestants (a peer with parameters) at the same time:

``contestants(peer)``  with which parameters a peer takes part, [] if it cannot.
``actors(contestant)`` how many processes it takes.
``prepare(contestant)`` everything that is not timed.
``settle(contestant, target)`` find how many operations take ``target`` ns: also the warm-up.
``round(contestant)``  one round: {measure: (ns for one operation, [ns of single ones])}.
"""
from benchmarks.figures import median
from benchmarks.session import PeerFailed

BATCH = 300 * 10 ** 3
"""ns of one batch: of a round of quick operations the median of the batches counts, so that
those in which the system gave the processor to somebody else do not."""

SINGLE_SHARE, MOST_SINGLE = 4, 1000
"""A 4th of the operations of a round, at most 1,000, is timed one by one as well."""

PER_CHANNEL = 100
"""Messages that wait in one channel: the default capacity."""

FILL_SECONDS = 60
"""A peer that needs longer to get its waiting messages does not take part with so many."""

SECOND = 10 ** 9


def often_enough(measure, target, most, least=1):
    """How many operations take ``target`` ns; ``measure(count)`` returns the ns of so many.

    At least ``least``, unless these take too long: a few are no measure of quick operations, for
    the beginning, or somebody else who has the processor for a moment, is all that is seen.
    """
    count = 1
    while True:
        elapsed = max(1, measure(count))
        enough = count >= least or elapsed >= 4 * target
        if count >= most or (enough and elapsed >= target / 4):
            break
        count = min(most, 4 * count)
    return max(min(least, count), min(most, int(count * target / elapsed)), 1)


class Contestant(object):
    """One peer with parameters, while a case runs."""

    def __init__(self, peer, parameters):
        self.peer = peer
        self.parameters = parameters
        self.session = None
        self.count = self.batch = 1
        self.channel = "measured"

    @property
    def first(self):
        """The actor that sends, or does everything."""
        return self.session.actors[0]

    @property
    def others(self):
        """The actors that receive."""
        return self.session.actors[1:]

    def open_all(self):
        """Have every actor open its layer."""
        for actor in self.session.actors:
            actor.call("prepare")


class Workload(object):
    """What all have in common."""

    name = needs = ""
    title = ""
    size = 0
    least, most = 100, 200000

    def contestants(self, peer):
        return [{}] if self.needs in peer.can else []

    def actors(self, contestant):
        return 1

    def prepare(self, contestant):
        contestant.open_all()
        contestant.channel = contestant.first.call("inbox", name="measured")


class RoundTrip(Workload):
    """Send and receive in one process."""

    name, needs = "round_trip", "round_trip"
    title = "Round trip in one process"

    def __init__(self, size=0):
        self.size = size
        if size:
            self.name = "sizes"
            self.title = "Round trip in one process, message of {0}".format(size_text(size))

    def contestants(self, peer):
        if self.needs in peer.can or (self.size and "sizes" in peer.can):
            return [{"size": self.size} if self.size else {}]
        return []

    def _do(self, contestant, count, batches, single):
        return contestant.first.call(
            "round_trips",
            count=count,
            batches=batches,
            single=single,
            size=self.size,
            channel=contestant.channel,
        )

    def settle(self, contestant, target):
        contestant.count = often_enough(
            lambda count: self._do(contestant, count, 1, 0)["batches"][0],
            target,
            self.most,
            self.least,
        )
        contestant.batch = max(1, contestant.count * BATCH // target)

    def round(self, contestant):
        count = contestant.batch
        batches = max(1, contestant.count // count)
        single = min(MOST_SINGLE, max(1, contestant.count // SINGLE_SHARE))
        found = self._do(contestant, count, batches, single)
        return {"round_trip": (median(found["batches"]) / count, found["samples"])}


class Baseline(RoundTrip):
    """msgpack alone, measured in turn with the contestants of any case."""

    def contestants(self, peer):
        return [{}] if "baseline" in peer.can else []


class SendReceive(Workload):
    """Sends alone, then receives alone from that backlog."""

    name, needs, most = "alone", "send", 2000
    title = "Send alone, receive alone from a backlog"

    def _do(self, contestant, count):
        return contestant.first.call(
            "sends_and_receives", count=count, channel=contestant.channel
        )

    def settle(self, contestant, target):
        contestant.count = often_enough(
            lambda count: sum(map(sum, self._do(contestant, count).values())), target, self.most
        )

    def round(self, contestant):
        found = self._do(contestant, contestant.count)
        readings = {"send": (median(found["sent"]), found["sent"])}
        if "receive" in contestant.peer.can:
            readings["receive"] = (median(found["received"]), found["received"])
        return readings


class Waiting(RoundTrip):
    """Round trips beside messages that wait in other channels."""

    name, needs = "waiting", "waiting"
    title = "Round trip beside messages that wait in other channels"

    def __init__(self, levels):
        RoundTrip.__init__(self)
        self.levels = levels

    def contestants(self, peer):
        if self.needs not in peer.can:
            return []
        return [{"waiting": level} for level in self.levels]

    def prepare(self, contestant):
        RoundTrip.prepare(self, contestant)
        fill(contestant, contestant.parameters["waiting"])


def fill(contestant, number):
    """Leave so many messages waiting, if that can be done in good time."""
    channels = number // PER_CHANNEL
    if not channels:
        return
    tried = contestant.first.call("fill", channels=min(channels, 10), each=PER_CHANNEL)
    seconds = tried / SECOND / min(channels, 10) * channels
    if seconds > FILL_SECONDS:
        raise PeerFailed("to send {0:,} messages takes about {1:.0f} s".format(number, seconds))
    if channels > 10:
        # From the beginning again would put 200 into the first ones.
        contestant.first.call("fill", channels=channels - 10, each=PER_CHANNEL, first=10)


class Membership(Workload):
    """Members join groups, and leave them."""

    name, needs, most = "membership", "membership", 1000
    title = "Join a group, leave a group"

    def _do(self, contestant, count):
        return contestant.first.call("memberships", count=count)

    def settle(self, contestant, target):
        contestant.count = often_enough(
            lambda count: sum(map(sum, self._do(contestant, count).values())), target, self.most
        )

    def round(self, contestant):
        found = self._do(contestant, contestant.count)
        return {
            "add": (median(found["added"]), found["added"]),
            "discard": (median(found["discarded"]), found["discarded"]),
        }


class Attach(Workload):
    """Make a layer where others are at work already, and have a message through it."""

    name, needs, most = "attach", "attach", 50
    title = "Attach, and a first message through"

    def settle(self, contestant, target):
        contestant.count = often_enough(
            lambda count: sum(contestant.first.call("attach", count=count)), target, self.most
        )

    def round(self, contestant):
        samples = contestant.first.call("attach", count=contestant.count)
        return {"attach": (median(samples), samples)}


class Rebuild(Workload):
    """A process dies with the lock in its hand; how long the next one's send takes."""

    name, needs = "rebuild", "rebuild"

    def __init__(self, records):
        self.records = records
        self.title = "Send after a crash, {0:,} messages to rebuild".format(records)

    def contestants(self, peer):
        return [{"records": self.records}] if self.needs in peer.can else []

    def prepare(self, contestant):
        Workload.prepare(self, contestant)
        fill(contestant, self.records)

    def settle(self, contestant, target):
        contestant.first.call("rebuild")

    def round(self, contestant):
        elapsed = contestant.first.call("rebuild")
        return {"rebuild": (elapsed, [elapsed])}


def counted(number, noun):
    """``1 sender``, ``2 senders``."""
    return "{0} {1}{2}".format(number, noun, "" if number == 1 else "s")


def size_text(size):
    """``50 B``, ``64 KB``, ``1 MB``."""
    for unit, least in (("MB", 10 ** 6), ("KB", 10 ** 3)):
        if size >= least:
            return "{0:g} {1}".format(size / least, unit)
    return "{0} B".format(size)
