"""The workload of group sends. See ``workloads`` for the rules."""
from benchmarks import peers
from benchmarks.figures import median
from benchmarks.session import PeerFailed
from benchmarks.workloads import SECOND, Workload, often_enough

DELIVER_SECONDS = 2
"""A peer that needs longer for a group send, as a smaller group lets expect, is left out."""


class Groups(Workload):
    """A group send: the call alone, and to the last delivery."""

    name, needs, most = "groups", "groups", 10

    def __init__(self, members, processes):
        self.members = members
        self.processes = processes
        self.title = "Group send to {0:,} members".format(members)
        self._expected = {}

    def contestants(self, peer):
        if self.needs not in peer.can:
            return []
        # It reaches no other process.
        processes = (1,) if peer.name == peers.IN_MEMORY else self.processes
        return [{"members": self.members, "processes": number} for number in processes]

    def expect(self, figures):
        """Remember how long smaller groups took."""
        for figure in figures:
            if figure.workload == self.name:
                who = figure.peer, figure.parameters["processes"]
                each = figure.median / figure.parameters["members"]
                self._expected[who] = max(each, self._expected.get(who, 0))

    def actors(self, contestant):
        return 1 if self._together(contestant) else 1 + contestant.parameters["processes"]

    @staticmethod
    def _together(contestant):
        return contestant.peer.name == peers.IN_MEMORY

    def prepare(self, contestant):
        processes = contestant.parameters["processes"]
        each = self._expected.get((contestant.peer.name, processes), 0)
        if each * self.members > DELIVER_SECONDS * SECOND:
            raise PeerFailed(
                "a group send would take about {0:.0f} s".format(each * self.members / SECOND)
            )
        contestant.open_all()
        share, more = divmod(self.members, processes)
        contestant.shares = [share + (number < more) for number in range(processes)]
        members = contestant.session.actors if self._together(contestant) else contestant.others
        for actor, number in zip(members, contestant.shares):
            actor.begin("join", group="room", number=number)
        for actor in members:
            actor.finish()

    def _call(self, contestant):
        """Nanoseconds of a group send while nobody waits; then all is received, untimed."""
        started, ended = contestant.first.call("group_send", group="room")
        self._collect(contestant, ready=False)
        return ended - started

    def _collect(self, contestant, ready):
        receivers = contestant.session.actors if self._together(contestant) else contestant.others
        for actor, number in zip(receivers, contestant.shares):
            actor.begin("collect", number=number)
        if ready:
            for actor in receivers:
                actor.await_ready()
            return 0
        return max(actor.finish() for actor in receivers)

    def _deliver(self, contestant):
        """Nanoseconds from the call to the last member's receipt, all of them waiting."""
        if self._together(contestant):
            started, last = contestant.first.call("group_send_here", group="room")
            return last - started
        self._collect(contestant, ready=True)
        started = contestant.first.call("group_send", group="room")[0]
        return max(actor.finish() for actor in contestant.others) - started

    def _both(self, contestant, count):
        calls = [self._call(contestant) for _ in range(count)]
        # Who cannot block can only poll.
        blocks = "latency" in contestant.peer.can or self._together(contestant)
        return calls, [self._deliver(contestant) for _ in range(count)] if blocks else []

    def settle(self, contestant, target):
        contestant.count = often_enough(
            lambda count: sum(map(sum, self._both(contestant, count))), 2 * target, self.most
        )

    def round(self, contestant):
        calls, deliveries = self._both(contestant, contestant.count)
        readings = {"call": (median(calls), calls)}
        if deliveries:
            readings["delivered"] = (median(deliveries), deliveries)
        return readings
