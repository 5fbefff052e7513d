"""Who waits where: doorbells, and the nodes that hang them at channel entries.

Knows bells, nodes and the two words WAIT_FIRST and WAIT_LAST of an entry; does not know
messages, nor how a bell is rung. The caller holds the lock.

A receiver that found its channels empty hangs one node at each of them, in the same critical
section. A sender that finds a node takes the first one off (``summon``) and rings its bell
after releasing the lock: one message wakes one waiter. The node stays its owner's; the owner
sees that it was taken off (SUMMONED), hangs it up again or gives it back.

None of this is a truth: a receiver looks again every second. So a rebuild drops all nodes and
has every bell rung, whereupon the receivers hang themselves up anew; they see from EPOCH that
their nodes are gone. A waiter that has not looked for ``STALE`` is dead or stopped, and is
passed over. A link that does not lead to a node whose links agree with it is damage.

Words of a bell (``_shm/slots.py`` gives the first three)::

    0 STATE  1 GEN  2 LINK  3 NUMBER (random, in the FIFO's name; 0 in a free one)
    4 PID (to be shown)
    5 LOOKED (ns, when its owner last looked)  6 NODES (first of its nodes)
    7 RESERVE (1: hangs behind all others, whenever they come: a bridge to other machines)

Words of a node::

    0 STATE (1 hung up, 2 summoned)  1 GEN  2 LINK  3 NEXT  4 PREV (at the entry)
    5 ENTRY  6 BELL  7 SIBLING (next node of the bell)
"""
from asgi_ipc._shm.clock import SECOND
from asgi_ipc._shm.slots import STATE
from asgi_ipc._shm.words import Damage
from asgi_ipc.layout import BELL_HAND, BELL_WORDS, WAIT_FIRST, WAIT_LAST

NUMBER, PID, LOOKED, OWN_NODES, RESERVE = range(3, 8)
NEXT, PREV, ENTRY, BELL, SIBLING = range(3, 8)
HUNG, SUMMONED = 1, 2

LOOK_AGAIN = 1.0
"""Seconds after which a waiter looks by itself, whatever it was told."""

STALE = int(2.5 * SECOND)
"""Nanoseconds without a look after which a waiter is passed over."""


class Waiter(object):
    """One receiver's side: its doorbell, its bell's slot, the nodes it has hung up.

    :param reserve: it is rung only where nobody else waits.
    """

    __slots__ = ("bell", "doorbell", "epoch", "nodes", "reserve")

    def __init__(self, doorbell, reserve=False):
        self.doorbell = doorbell
        self.reserve = reserve
        self.bell = 0
        self.epoch = 0
        self.nodes = {}


class Waiters(object):
    """View of the bells and nodes of a message segment."""

    def __init__(self, words, bells, nodes):
        self._words = words
        self.bells = bells
        self.nodes = nodes

    def admit(self, waiter, pid, now):
        """See that a waiter has a bell; False if all are in use."""
        words = self._words
        if self.admitted(waiter):
            words[waiter.bell + LOOKED] = now
            return True
        bell = self.bells.take()
        if not bell:
            return False
        words[bell + NUMBER] = waiter.doorbell.number
        words[bell + PID] = pid
        words[bell + LOOKED] = now
        words[bell + OWN_NODES] = 0
        words[bell + RESERVE] = waiter.reserve
        words[bell + STATE] = 1
        waiter.bell = bell
        waiter.nodes.clear()
        return True

    def admitted(self, waiter):
        """Whether a waiter has a bell still."""
        bell = waiter.bell
        return bell and self._words[bell + NUMBER] == waiter.doorbell.number

    def hang(self, waiter, entry):
        """Hang a waiter up at an entry, behind the others; False if all nodes are in use.

        There is one reserve at an entry at most: before it, if it comes last.
        """
        words = self._words
        node = waiter.nodes.get(entry)
        if node is None:
            node = self.nodes.take()
            if not node:
                return False
            bell = waiter.bell
            # Not hung up before it is in its place below.
            words[node + STATE] = SUMMONED
            words[node + ENTRY] = entry
            words[node + BELL] = bell
            words[node + SIBLING] = words[bell + OWN_NODES]
            words[bell + OWN_NODES] = node
            waiter.nodes[entry] = node
        else:
            self._verify(node, entry, waiter.bell)
            if words[node + STATE] == HUNG:
                return True
        last = words[entry + WAIT_LAST]
        if last and (not self.nodes.contains(last) or words[last + ENTRY] != entry):
            raise Damage("a list of waiters ends in what is none of them")
        behind = 0
        if last and words[words[last + BELL] + RESERVE] and not waiter.reserve:
            behind, last = last, words[last + PREV]
        words[node + PREV] = last
        words[node + NEXT] = behind
        words[node + STATE] = HUNG
        words[last + NEXT if last else entry + WAIT_FIRST] = node
        words[behind + PREV if behind else entry + WAIT_LAST] = node
        return True

    def waiting(self, entry):
        """How many wait at an entry, a reserve not counted. Cost: they."""
        words = self._words
        node, number = words[entry + WAIT_FIRST], 0
        while node and number < self.nodes.high:
            number += not words[words[node + BELL] + RESERVE]
            node = words[node + NEXT]
        return number

    def summon(self, entry, now):
        """Take the first waiter off an entry; return (its bell, the bell's number) or None."""
        words = self._words
        while True:
            node = words[entry + WAIT_FIRST]
            if not node:
                return None
            self._take_off(node, entry)
            words[node + STATE] = SUMMONED
            bell = words[node + BELL]
            if not self.bells.contains(bell):
                raise Damage("a node belongs to no bell")
            # A stopped one is rung as well if nobody waits behind it: it may go on.
            if now - words[bell + LOOKED] < STALE or not words[entry + WAIT_FIRST]:
                return bell, words[bell + NUMBER]

    def dismiss(self, waiter):
        """Give back all nodes of a waiter; return the entries at which it was summoned."""
        words = self._words
        summoned = []
        for entry, node in waiter.nodes.items():
            self._verify(node, entry, waiter.bell)
            if words[node + STATE] == HUNG:
                self._take_off(node, entry)
            else:
                summoned.append(entry)
            self.nodes.give(node)
        waiter.nodes.clear()
        words[waiter.bell + OWN_NODES] = 0
        return summoned

    def strike(self, bell, number):
        """Free a bell whose owner is gone (or leaves), and its nodes."""
        words = self._words
        if not self.bells.contains(bell) or not words[bell + STATE]:
            return
        if words[bell + NUMBER] != number:
            return
        node = words[bell + OWN_NODES]
        while node:
            self._verify(node, words[node + ENTRY], bell)
            following = words[node + SIBLING]
            if words[node + STATE] == HUNG:
                self._take_off(node, words[node + ENTRY])
            self.nodes.give(node)
            node = following
        words[bell + NUMBER] = 0
        self.bells.give(bell)

    def suspects(self, now, count):
        """Return some (bell, number) that have not looked for long, a hand moving on."""
        words, bells = self._words, self.bells
        found = []
        high = bells.high
        for _ in range(min(count, high)):
            index = words[BELL_HAND] % high
            words[BELL_HAND] = index + 1
            bell = bells.start + index * BELL_WORDS
            if words[bell + STATE] and now - words[bell + LOOKED] >= STALE:
                found.append((bell, words[bell + NUMBER]))
        return found

    def all_bells(self):
        """Return (bell, number) of all."""
        words = self._words
        return [
            (bell, words[bell + NUMBER]) for bell in self.bells.all() if words[bell + STATE]
        ]

    def rebuild(self):
        """Drop all nodes, keep the bells. The entries' lists are empty already."""
        words = self._words
        self.bells.repair()
        for bell in self.bells.rebuild():
            words[bell + OWN_NODES] = 0
        self.nodes.repair()
        for node in self.nodes.all():
            words[node + STATE] = 0
        self.nodes.rebuild()

    def faults(self, entries):
        """Return what is wrong with bells, nodes and the lists at ``entries``, as sentences."""
        words = self._words
        found = self.bells.faults() + self.nodes.faults()
        if found:
            return found
        hung = set()
        for entry in entries:
            node, before = words[entry + WAIT_FIRST], 0
            while node and node not in hung:
                if words[node + STATE] != HUNG or words[node + ENTRY] != entry:
                    found.append("node {0}: hangs at a wrong entry".format(node))
                if words[node + PREV] != before:
                    found.append("node {0}: its PREV is wrong".format(node))
                hung.add(node)
                before, node = node, words[node + NEXT]
            if words[entry + WAIT_LAST] != before:
                found.append("entry {0}: its WAIT_LAST is wrong".format(entry))
        owned = set()
        for bell, _ in self.all_bells():
            node = words[bell + OWN_NODES]
            while node and node not in owned:
                if words[node + BELL] != bell:
                    found.append("node {0}: belongs to another bell".format(node))
                owned.add(node)
                node = words[node + SIBLING]
        in_use = {node for node in self.nodes.all() if words[node + STATE]}
        if owned != in_use or not hung <= in_use:
            found.append("nodes in use, hung up and owned by bells do not agree")
        return found

    def _verify(self, node, entry, bell):
        """A node in use has to be of this entry and this bell."""
        words = self._words
        if (
            not self.nodes.contains(node)
            or words[node + STATE] not in (HUNG, SUMMONED)
            or words[node + ENTRY] != entry
            or words[node + BELL] != bell
        ):
            raise Damage("{0} is not the node that it should be".format(node))

    def _take_off(self, node, entry):
        words = self._words
        before, following = words[node + PREV], words[node + NEXT]
        if (
            not self.nodes.contains(node)
            or words[before + NEXT if before else entry + WAIT_FIRST] != node
            or words[following + PREV if following else entry + WAIT_LAST] != node
        ):
            # Not to write over whatever is there.
            raise Damage("the neighbours of node {0} do not know it".format(node))
        words[before + NEXT if before else entry + WAIT_FIRST] = following
        words[following + PREV if following else entry + WAIT_LAST] = before
