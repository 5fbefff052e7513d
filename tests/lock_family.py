"""The lock protocol across a fork: a parent, a child that inherits a descriptor, a stranger.

A flock belongs to the open file description, which parent and child share: the kernel drops the
flock when neither has it open any more, or when either unlocks it. So does a lane. The parent's
fork may fall between any two steps of its use, as when another thread of it forks. Each may die
at any step. Here a look is one step: ``lock_explorer`` has it look at one place after the other.
"""
from collections import namedtuple

from lock_explorer import Search, describe
from lock_model import FLAG, FLOCK, INSIDE, LOOKS, NEW, absent, died, may_find, problem_of, take

PARENT, CHILD, STRANGER = range(3)
NAMES = ("parent", "child", "stranger")

State = namedtuple("State", "shared bits copy places")
"""``bits``: what each open file description has (``lock_model``): the parent's, the child's, the
stranger's, and a dead parent's that lives on in the child, LATE.
``copy``: which one the child has a copy of: PARENT, LATE or None.
``places``: for each the number of its pause; UNBORN, or BORN with the first step to do."""

LATE = 3
UNBORN, BORN = "unborn", "born"


class Family(Search):
    """All states that they can reach.

    :param graph: of one process that nothing interrupts.
    :param first: what the child does before all else with the inherited descriptor: "close",
        as ``SegmentLock.forked``; "unlock", and close; or "keep", and use it.
    :param stranger: whether there is one.
    :param only: the one problem to look for; any, without.
    """

    def __init__(self, graph, first="close", stranger=True, only=None):
        self._pauses = graph.pauses
        self._edges = graph.edges
        self._rest = [pause.step for pause in graph.pauses].index("rest")
        self._first_step = first
        places = (0, UNBORN, 0 if stranger else UNBORN)
        Search.__init__(self, State(NEW, (0, 0, 0, 0), None, places), only)

    def _moves(self, state):
        for who, place in enumerate(state.places):
            if place == UNBORN:
                continue
            yield NAMES[who] + " dies", self._death(state, who), None
            if place == BORN:
                yield "child: " + self._first_step, self._first(state), None
            else:
                for move in self._steps(state, who, place):
                    yield move
        parent, child, _ = state.places
        if child == UNBORN and self._pauses[parent].step != "away":
            yield "parent forks", self._moved(state, CHILD, BORN, copy=PARENT), None

    def _moved(self, state, who, place, **changes):
        places = state.places[:who] + (place,) + state.places[who + 1 :]
        return state._replace(places=places, **changes)

    def _death(self, state, who):
        bits, copy, shared = list(state.bits), state.copy, state.shared
        if who == PARENT and copy is not None:
            # Its open file description lives on in the child.
            bits[LATE] |= bits[PARENT]
            copy = LATE
        else:
            shared = died(shared, bits[who])
        bits[who] = 0
        if who == CHILD:
            shared = died(shared, bits[LATE])
            bits[LATE] = 0
            copy = None
        place = UNBORN if who == CHILD else 0
        return self._moved(state, who, place, bits=tuple(bits), copy=copy, shared=shared)

    def _first(self, state):
        bits, copy, shared = list(state.bits), state.copy, state.shared
        if self._first_step != "keep":
            if copy == LATE or self._first_step == "unlock":
                # The flag stays up, and counts as one of the dead.
                shared = died(shared, bits[copy])
                bits[copy] &= ~(FLOCK | FLAG)
            copy = None
        return self._moved(
            state, CHILD, self._rest, bits=tuple(bits), copy=copy, shared=shared
        )

    def _steps(self, state, who, place):
        pause = self._pauses[place]
        # One that kept the inherited descriptor goes by that.
        mine = who if who != CHILD or state.copy is None else state.copy
        own = state.bits[mine]
        others = [number for number in range(4) if number != mine]
        up = any(state.bits[other] & FLAG for other in others)
        free = not any(state.bits[other] & FLOCK for other in others)
        problem = problem_of(pause, state.shared, own, 1)
        for event, after in self._edges[place].items():
            if pause.step in LOOKS and not may_find(
                event.answer, pause.step, state.shared, up, not up, absent(state.shared)
            ):
                continue
            result = take(pause.step, event.answer, state.shared, own, free)
            if result is None:
                continue
            bits = list(state.bits)
            bits[mine] = result[1]
            new = self._moved(state, who, after, shared=result[0], bits=tuple(bits))
            inside = [place for place in new.places if self._is_inside(place)]
            yield (
                "{0}: {1}".format(NAMES[who], describe(pause, event)),
                new,
                "two inside" if len(inside) > 1 else problem,
            )

    def _is_inside(self, place):
        return place not in (UNBORN, BORN) and self._pauses[place].step in INSIDE
