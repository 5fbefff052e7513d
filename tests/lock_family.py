"""The lock protocol across a fork: a parent, a child that inherits a descriptor, a stranger.

A flock belongs to the open file description, which parent and child share: the kernel drops the
flock when neither has it open any more, or when either unlocks it. The parent's fork may fall
between any two steps of its use, as when another thread of it forks. Each may die at any step.
"""
from collections import deque, namedtuple

from lock_explorer import Broken, describe
from lock_model import INSIDE, Shared, problem_of, take

PARENT, CHILD, STRANGER = range(3)
NAMES = ("parent", "child", "stranger")

State = namedtuple("State", "shared flock copy places")
"""``flock``: which open file description has it: PARENT, CHILD, STRANGER, LATE or None.
``copy``: which one the child has a copy of: PARENT, LATE or None.
``places``: for each the number of its pause; UNBORN, or BORN with the first step to do."""

LATE = "the dead parent"
UNBORN, BORN = "unborn", "born"


class Family(object):
    """All states that they can reach.

    :param graph: of one process that nothing interrupts.
    :param first: what the child does before all else with the inherited descriptor: "close",
        as ``SegmentLock.forked``; "unlock", and close; or "keep", and use it.
    :param stranger: whether there is one.
    :param only: the one problem to look for; any, without.
    """

    def __init__(self, graph, first="close", stranger=True, only=None):
        self.states = {}
        self.transitions = 0
        self._pauses = graph.pauses
        self._edges = graph.edges
        self._rest = [pause.step for pause in graph.pauses].index("rest")
        self._first_step = first
        self._beginning = State(
            Shared(1, False, False), None, None, (0, UNBORN, 0 if stranger else UNBORN)
        )
        self._only = only

    def run(self):
        """Visit every state; return the Family.

        :raises Broken: a property does not hold.
        """
        self.states[self._beginning] = None
        queue = deque(self.states)
        while queue:
            state = queue.popleft()
            for line, new, problem in self._moves(state):
                self.transitions += 1
                if problem and self._only in (None, problem):
                    raise Broken(problem, self._trace(state) + [line])
                if new not in self.states:
                    self.states[new] = state, line
                    queue.append(new)
        return self

    def _trace(self, state):
        lines = []
        while self.states[state] is not None:
            state, line = self.states[state]
            lines.append(line)
        return lines[::-1]

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
        flock, copy = state.flock, state.copy
        if who == PARENT and copy is not None:
            # Its open file description lives on in the child.
            flock = LATE if flock == PARENT else flock
            copy = LATE
        elif flock == who or (who == CHILD and flock == LATE):
            flock = None
        if who == CHILD:
            copy = None
        return self._moved(state, who, UNBORN if who == CHILD else 0, flock=flock, copy=copy)

    def _first(self, state):
        flock, copy = state.flock, state.copy
        if self._first_step != "keep":
            if flock == copy and (copy == LATE or self._first_step == "unlock"):
                flock = None
            copy = None
        return self._moved(state, CHILD, self._rest, flock=flock, copy=copy)

    def _steps(self, state, who, place):
        pause = self._pauses[place]
        # One that kept the inherited descriptor goes by that.
        description = who if who != CHILD or state.copy is None else state.copy
        mine = state.flock == description
        problem = problem_of(pause, state.shared, mine, 1)
        for event, after in self._edges[place].items():
            result = take(
                pause.step, event.answer, state.shared, mine, state.flock in (None, description)
            )
            if result is None:
                continue
            flock = description if result[1] else None if mine else state.flock
            new = self._moved(state, who, after, shared=result[0], flock=flock)
            inside = [place for place in new.places if self._is_inside(place)]
            yield (
                "{0}: {1}".format(NAMES[who], describe(pause, event)),
                new,
                "two inside" if len(inside) > 1 else problem,
            )

    def _is_inside(self, place):
        return place not in (UNBORN, BORN) and self._pauses[place].step in INSIDE
