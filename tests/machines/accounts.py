"""What became of each numbered message: who got it, when, how often.

Reads what agents (``agent.py``) remember. A *case* is a message and the agent that is to get it;
each of an agent's members is to get it once.
"""
import collections
import time

from fleetkit import PATIENCE

Case = collections.namedtuple("Case", "receiver origin number sent")


class Account:
    """All messages of some agents, as of now."""

    def __init__(self, agents, members):
        self.sent = {agent.name: agent.sent()["stamps"] for agent in agents}
        self._members = members
        self._places = {agent.name: agent.place.number for agent in agents}
        self._heard = {agent.name: agent.heard() for agent in agents}
        self._times = {}  # receiver -> (origin, number) -> members, each as often as it got it
        for receiver, records in self._heard.items():
            found = self._times[receiver] = collections.defaultdict(list)
            for origin, number, member, _, _ in records:
                found[origin, number].append(member)

    @property
    def total(self):
        return sum(len(stamps) for stamps in self.sent.values())

    def doubled(self):
        """What a member got more than once."""
        return [
            (receiver, message, members)
            for receiver, found in self._times.items()
            for message, members in found.items()
            if len(members) != len(set(members))
        ]

    def disordered(self):
        """What a member got before an earlier message of the same agent."""
        found = []
        for receiver, records in self._heard.items():
            last = collections.defaultdict(lambda: -1)
            for origin, number, member, _, _ in records:
                if number < last[origin, member]:
                    found.append((receiver, origin, number, last[origin, member]))
                last[origin, member] = number
        return found

    def missing(self, near=None):
        """The cases of which not all members, or none, got it.

        :param near: True for those alone that stay on one machine, False for the others.
        """
        return [
            Case(receiver, origin, number, stamp)
            for receiver, found in self._times.items()
            for origin, stamps in self.sent.items()
            if near is None or near == (self._places[receiver] == self._places[origin])
            for number, stamp in enumerate(stamps)
            if len(set(found.get((origin, number), ()))) != self._members
        ]

    def late(self, seconds):
        """What was received more than so many seconds after it was sent."""
        return [
            (receiver, *record)
            for receiver, records in self._heard.items()
            for record in records
            if record[4] - record[3] > seconds
        ]

    def slowest(self, near):
        """The most seconds that a message took, on its machine or between two."""
        times = [
            record[4] - record[3]
            for receiver, records in self._heard.items()
            for record in records
            if near == (self._places[receiver] == self._places[record[0]])
        ]
        return max(times, default=0)

    def summary(self):
        far = self.missing(near=False)
        text = "{0} messages, {1} not heard elsewhere, {2} twice; the slowest took {3:.3f} s here"
        text = text.format(self.total, len(far), len(self.doubled()), self.slowest(near=True))
        return text + ", {0:.3f} s elsewhere".format(self.slowest(near=False))


def take(agents, members, within=PATIENCE):
    """End all flows; return the account once everybody has everything, or after some seconds."""
    expected = sum(agent.still() for agent in agents) * members
    deadline = time.monotonic() + within
    while time.monotonic() < deadline and any(agent.count() < expected for agent in agents):
        time.sleep(0.1)
    # What comes twice may come after all the rest.
    time.sleep(0.3)
    return Account(agents, members)
