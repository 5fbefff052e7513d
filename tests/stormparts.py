"""The parts that threads play in a storm: senders, receivers, members, flushers, visitors.

Every part writes a line to its journal before each call, and one after it. Times are in ns.

=============================  ==========================================================
``B n channel time``           about to send message n of this thread (``GB n``: to a group)
``E time``                     sent; ``F``: refused, and so not sent
``R holds time``               about to receive; so many at most are lost if it is killed
``G [channel id sent?]*``      got; pairs of a channel and ``thread:n``
``A channel`` / ``D channel``  about to add or discard a membership; ``M``: done
``FB time`` / ``FE time``      about to flush; flushed
``X text``                     what must not be
=============================  ==========================================================

A *lane* is a set of channels with receivers of its own: what a killed receiver may have lost
is lost in its lane. Parts are named after their lanes.
"""
import time
import zlib

from stormkit import Part

from asgi_ipc._shm import clock
from asgi_ipc.codec import unpack
from asgi_ipc.errors import ChannelFull

BACKLOG = 20
"""Messages that wait for a group's receivers, above which those who send to it pause."""

PAUSE = 0.001

STANDING, STANDING_COUNT = u"standing", 40

LANES = {
    "plain": (u"plain.a", u"plain.b", u"reply?plain"),
    "local": (u"local!one", u"local!two", u"local!three"),
    "bulk": (u"bulk", u"bulk!one", u"bulk!two"),
    "fan": (u"fan!a", u"fan!b", u"fan!c", u"fan.other!x", u"fan.plain"),
    "churn": tuple(u"churn!{0}".format(number) for number in range(8)) + (u"churn.plain",),
}

GROUPS = {"fan": u"steady", "churn": u"churning"}
ROLL = u"roll"
"""A group to which every Member adds channels of its own, and nobody sends."""

NAMES_KEPT = 4


def filling(identity):
    """Bytes of a length and content that only this message has: 0 to 3,000 of them."""
    seed = zlib.crc32(identity.encode("ascii")) & 0xFFFFFFFF
    return identity.encode("ascii") * (seed % 300)


def queues_of(lane):
    """What to receive from to get all channels of a lane."""
    found = []
    for channel in LANES[lane]:
        queue = channel.partition(u"!")[0] + u"!" if u"!" in channel else channel
        if queue not in found:
            found.append(queue)
    return found


class Numbered(Part):
    """A part that numbers its messages."""

    sent = 0

    def message(self):
        """The next message, and its number."""
        self.sent += 1
        identity = u"{0}:{1}".format(self.name, self.sent)
        return self.sent, {u"id": identity, u"fill": filling(identity)}


class Sender(Numbered):
    """Sends to the channels of a lane; pauses when refused."""

    lane = None

    def step(self):
        channel = self.random.choice(LANES[self.lane])
        self.send(self.layer, channel)

    def send(self, layer, channel):
        number, message = self.message()
        self.journal.write("B", number, channel, clock.now())
        try:
            self.call(layer.send, channel, message)
        except ChannelFull:
            self.journal.write("F")
            time.sleep(PAUSE)
            return
        self.journal.write("E", clock.now())


class GroupSender(Numbered):
    """Sends to a group as long as its receivers keep up, so that nothing has to be dropped."""

    lane = None
    dropped = 0

    def step(self):
        number, message = self.message()
        self.journal.write("GB", number, self.lane, clock.now())
        self.call(self.layer.send_group, GROUPS[self.lane], message)
        self.journal.write("E", clock.now())
        if self.layer._drops.total > self.dropped:
            self.dropped = self.layer._drops.total
            memory = self.layer._stores.messages.memory()
            self.journal.write("X", "a group send dropped something: {0}".format(memory))
        while not self.crew.ending and max(map(self.pending, queues_of(self.lane))) > BACKLOG:
            time.sleep(PAUSE)

    def pending(self, queue):
        channel = queue + u"any" if queue.endswith(u"!") else queue
        return self.call(self.layer.channel_statistics, channel)["messages_pending"]


class Receiver(Part):
    """Receives from all queues of a lane; by turns it waits, and does not."""

    lane = None
    wait = 0.5

    def step(self):
        queues = queues_of(self.lane)
        self.random.shuffle(queues)
        block = self.random.random() < 0.7
        self.journal.write("R", 1, clock.now())
        waiting = self.layer.block_timeout if block else 0
        channel, message = self.call(self.layer.receive, queues, block, waiting=waiting)
        self.note([] if channel is None else [(channel, message)])
        if channel is None:
            time.sleep(PAUSE)

    def note(self, found):
        fields = []
        for channel, message in found:
            identity = message[u"id"]
            if message != {u"id": identity, u"fill": filling(identity)}:
                self.journal.write("X", "not as it was sent: {0!r}".format(message)[:200])
            fields += [channel, identity]
        self.journal.write("G", *fields)


class BatchReceiver(Receiver):
    """Receives from one queue of a lane at a time, up to so many at once."""

    limit = 5

    def step(self):
        queue = self.random.choice(queues_of(self.lane))
        names = sum(channel.startswith(queue) for channel in LANES[self.lane])
        self.journal.write("R", self.limit * names, clock.now())
        batch = self.call(self.layer._stores.messages.receive_batch, queue, self.limit)
        self.note(
            [
                (queue + local, unpack(payload))
                for names, payload, _ in batch
                for local in names.split(u"\n")
            ]
        )
        if not batch:
            time.sleep(5 * PAUSE)


class Visitor(Sender):
    """Makes a layer of its own, sends a few messages with it, and closes it."""

    lane = "plain"

    def step(self):
        layer = self.call(self.crew.storm.open_layer)
        for _ in range(3):
            self.send(layer, self.random.choice(LANES[self.lane]))
        self.call(layer.close)


class Member(Part):
    """Joins and leaves the roll with channels that nobody else has; who belongs is exact."""

    def __init__(self, *args):
        Part.__init__(self, *args)
        self._channels = [
            u"roll{0}!{1}".format(number % 2, self.name) + u".{0}".format(number)
            for number in range(NAMES_KEPT)
        ]
        self._joined = set()

    def step(self):
        channel = self.random.choice(self._channels)
        if self.random.random() < 0.5:
            self.journal.write("A", channel)
            self.call(self.layer.group_add, ROLL, channel)
            self._joined.add(channel)
        else:
            self.journal.write("D", channel)
            self.call(self.layer.group_discard, ROLL, channel)
            self._joined.discard(channel)
        self.journal.write("M")
        if self.random.random() < 0.05:
            listed = self.call(self.layer.group_channels, ROLL)
            mine = self._joined.symmetric_difference(set(listed).intersection(self._channels))
            if mine or len(set(listed)) != len(listed):
                self.journal.write("X", "the roll is wrong about {0}".format(sorted(mine)))
        time.sleep(PAUSE)


class Churner(Part):
    """Adds and discards the members of the churning group."""

    def step(self):
        change = self.random.choice((self.layer.group_add, self.layer.group_discard))
        self.call(change, GROUPS["churn"], self.random.choice(LANES["churn"]))
        time.sleep(2 * PAUSE)


class Auditor(Part):
    """Looks now and then whether all is sound, in the midst of it."""

    def step(self):
        faults = self.call(self.layer.check)
        if faults:
            self.journal.write("X", "check: {0}".format(faults)[:1000])
        self.call(self.layer.global_statistics)
        time.sleep(0.05)


class Flusher(Part):
    """Drops everything, again and again."""

    def step(self):
        self.journal.write("FB", clock.now())
        self.call(self.layer.flush)
        self.journal.write("FE", clock.now())
        time.sleep(self.random.expovariate(1 / 0.05))


def on(lane, kind):
    """The part of a kind that serves a lane."""
    return type("{0}.{1}".format(kind.__name__, lane), (kind,), {"lane": lane})
