"""Workloads between processes: latency and throughput. See ``workloads`` for the rules."""
from benchmarks.figures import percentile
from benchmarks.session import PeerFailed
from benchmarks.workloads import Workload, counted, often_enough


class Latency(Workload):
    """Two processes that block, a message going to and fro."""

    name, needs, most = "latency", "latency", 2000
    title = "Latency between two processes that block"

    def actors(self, contestant):
        return 2

    def prepare(self, contestant):
        contestant.open_all()
        contestant.inboxes = [
            actor.call("inbox", name="inbox.{0}".format(number))
            for number, actor in enumerate(contestant.session.actors)
        ]

    def _do(self, contestant, count):
        here, there = contestant.inboxes
        other = contestant.session.actors[1]
        other.begin("pong", there=here, here=there, count=count)
        other.await_ready()
        round_trips = contestant.first.call("ping", there=there, here=here, count=count)
        return round_trips, other.finish()

    def settle(self, contestant, target):
        contestant.count = often_enough(
            lambda count: sum(self._do(contestant, count)[0]), target, self.most, self.least
        )

    def round(self, contestant):
        round_trips, one_ways = self._do(contestant, contestant.count)
        return {
            "round_trip": (percentile(round_trips, 0.5), round_trips),
            "one_way": (percentile(one_ways, 0.5), one_ways),
        }


class Throughput(Workload):
    """Some processes send without a pause, one or more receive."""

    name, least, most = "throughput", 500, 50000

    def __init__(self, senders, receivers):
        self.senders = senders
        self.receivers = receivers
        self.needs = "competing" if receivers > 1 else "throughput"
        self.title = "Throughput, {0} to {1}".format(
            counted(senders, "sender"), counted(receivers, "receiver")
        )

    def contestants(self, peer):
        if self.needs not in peer.can:
            return []
        return [{"senders": self.senders, "receivers": self.receivers}]

    def actors(self, contestant):
        return self.senders + self.receivers

    def prepare(self, contestant):
        contestant.open_all()
        receiver = contestant.session.actors[self.senders]
        contestant.channel = receiver.call("inbox", name="inbox.0")

    def _do(self, contestant, count):
        """Nanoseconds from the first send to the last receipt of ``count`` from each sender."""
        actors, channel = contestant.session.actors, contestant.channel
        senders, receivers = actors[: self.senders], actors[self.senders :]
        total = count * self.senders
        for actor in receivers:
            if self.receivers > 1:
                actor.begin("absorb_until_stop", channel=channel)
            else:
                actor.begin("absorb", channel=channel, count=total)
        for actor in receivers:
            actor.await_ready()
        for actor in senders:
            actor.begin("emit", channel=channel, count=count)
        started = min(actor.finish()[0] for actor in senders)
        if self.receivers == 1:
            return receivers[0].finish() - started
        senders[0].call("emit_stops", channel=channel, count=self.receivers)
        found = [actor.finish() for actor in receivers]
        received = sum(number for number, _ in found)
        if received != total:
            what = "loses some" if received < total else "hands some out twice"
            raise PeerFailed("{0} of {1} messages received: it {2}".format(received, total, what))
        return max(last for number, last in found if number) - started

    def settle(self, contestant, target):
        contestant.count = often_enough(
            lambda count: self._do(contestant, count),
            target,
            self.most // self.senders,
            self.least,
        )

    def round(self, contestant):
        elapsed = self._do(contestant, contestant.count)
        return {"message": (elapsed / (contestant.count * self.senders), [])}
