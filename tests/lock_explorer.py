"""Explores a model of processes, every interleaving of them: see ``lock_model.py``."""
import itertools
from collections import deque

from lock_model import (
    ANSWERS,
    AT_REST,
    FLAG,
    FLOCK,
    INSIDE,
    LOOKS,
    NEW,
    Event,
    absent,
    died,
    may_find,
    problem_of,
    take,
)

# -- one process, unfolded -----------------------------------------------------------------


CALLS = ("called", "late call")
BETWEEN = ("raised at", "called at")


def events(pause, interrupts, calls):
    """All that can happen to a process at a pause, but for its death."""
    answers = ANSWERS[pause.step]
    found = [Event("done", answer) for answer in answers]
    if pause.step not in AT_REST:
        if may_happen("raised", pause, interrupts):
            found.append(Event("raised", None))
            found.extend(Event("lost", answer) for answer in answers)
        if may_happen("called", pause, interrupts):
            if "called" in calls:
                found.append(Event("called", None))
            if "late call" in calls:
                found.extend(Event("late call", answer) for answer in answers)
    return found


class Graph(object):
    """One process: its pauses, and where each event leads. Number 0 is a new process."""

    def __init__(self):
        self.pauses = []
        self.edges = []
        self.histories = []


def unfold(replay, interrupts=1, calls=(), between=()):
    """Return the Graph of a process.

    :param replay: takes a new process through a history, and returns its Pause.
    :param interrupts: how many handlers may raise in one operation; None is any number.
    :param calls: which of CALLS happen.
    :param between: which of BETWEEN happen, at each bytecode; ``lock_trace`` knows them.
    """
    graph = Graph()
    numbers = {}

    def number(history):
        pause = replay(history)
        if pause is None:
            return None
        if interrupts is None:
            pause = pause._replace(raised=0)
        if pause not in numbers:
            numbers[pause] = len(graph.pauses)
            graph.pauses.append(pause)
            graph.histories.append(history)
        return numbers[pause]

    number(())
    while len(graph.edges) < len(graph.pauses):
        history = graph.histories[len(graph.edges)]
        pause = graph.pauses[len(graph.edges)]
        happens = events(pause, interrupts, calls)
        edges = {event: number(history + (event,)) for event in happens}
        for kind in between:
            if may_happen(kind, pause, interrupts):
                for answer in ANSWERS[pause.step]:
                    _each_bytecode(kind, answer, history, number, edges)
        graph.edges.append(edges)
    return graph


def may_happen(kind, pause, interrupts):
    """Whether a handler may come, now or at a bytecode after this."""
    if kind in ("called", "called at"):
        # Before it is attached, there is no layer that a handler could call.
        return not pause.depth and pause.step != "away" and "attach" not in pause.where
    return interrupts is None or pause.raised < interrupts


def _each_bytecode(kind, answer, history, number, edges):
    """Add to ``edges`` where a handler leads to that comes after a step was answered so."""
    known = {after for event, after in edges.items() if event.answer == answer}
    for bytecode in itertools.count():
        event = Event(kind, (answer, bytecode))
        after = number(history + (event,))
        if after is None:
            return
        if after not in known:
            known.add(after)
            edges[event] = after


def merged(graph):
    """The same Graph, smaller: pauses from which all goes on alike are made one."""
    blocks = [pause[:3] for pause in graph.pauses]
    count = 0
    while len(set(blocks)) > count:
        count = len(set(blocks))
        names = {}
        blocks = [
            names.setdefault(
                (block, tuple((event, blocks[after]) for event, after in edges.items())),
                len(names),
            )
            for block, edges in zip(blocks, graph.edges)
        ]
    small = Graph()
    for number, block in enumerate(blocks):
        if block == len(small.pauses):
            small.pauses.append(graph.pauses[number])
            small.histories.append(graph.histories[number])
            small.edges.append(
                {event: blocks[after] for event, after in graph.edges[number].items()}
            )
    return small


def staying(graph):
    """The Graph of a process that never detaches: it dies some day, and attaches anew."""
    for edges in graph.edges:
        for event in [event for event in edges if event.answer == "detach"]:
            del edges[event]
    return graph


def differences(one, other):
    """The first ways in which two Graphs differ: (history, what the one does, the other)."""
    found = []
    histories = {(0, 0): ()}
    queue = deque(histories)
    while queue and len(found) < 3:
        pair = queue.popleft()
        pauses = one.pauses[pair[0]][:4], other.pauses[pair[1]][:4]
        if pauses[0] != pauses[1]:
            found.append((histories[pair],) + pauses)
            continue
        for event, after in one.edges[pair[0]].items():
            new = after, other.edges[pair[1]][event]
            if new not in histories:
                histories[new] = histories[pair] + (event,)
                queue.append(new)
    return found


# -- several processes, every interleaving -------------------------------------------------


def answer_of(event):
    """What the step was answered at which it happens."""
    return event.answer[0] if event.kind in BETWEEN else event.answer


def leaves_its_flag(pause, event):
    """Whether a flag that is up stays up, and counts from now on as a dead one's."""
    return event.kind == "dies" or pause.step == "lane.give()"


def left_up(found, who):
    """What a look has found, when a flag is left up: unless seen to be down, it is a dead one's."""
    return found if found & 8 << who else found & ~4


def all_down(found, who, processes):
    """Whether a look of ``who`` has found the flag of each other process down."""
    return found >> 3 | 1 << who == (1 << processes) - 1


class Broken(Exception):
    """A property does not hold; ``trace`` is a shortest way to see it, a line a step."""

    def __init__(self, problem, trace):
        Exception.__init__(self, problem)
        self.problem = problem
        self.trace = trace

    def __str__(self):
        return "\n    ".join([self.problem] + self.trace)


BITS = 2
OWN = (1 << BITS) - 1
"""Of a local: how many bits say what a process has, and which."""


class Explorer(object):
    """All states that ``processes`` processes of one Graph can reach.

    A state is the number of a Shared; for each process its local, sorted: the number of its
    pause, and below that the bits of what it has; and for each what it has found so far, if it is
    at one of LOOKS: as bits, three for ``absent``, and above them one for each process that has not
    had its flag up at some moment of the look. What can be found absent is found at once: that
    leaves more ways open, not fewer, for what is there can be found whenever it is there.

    :param counts: the semaphore's count in the beginning; each is tried.
    :param ignore: problems that are not to be minded.
    :param only: the one problem that is.
    """

    def __init__(self, graph, processes=3, counts=(0, 1), ignore=(), only=None):
        self.graph = graph
        self.states = {}
        self.transitions = 0
        self._ignore = ignore
        self._only = only
        self._most_tokens = max(1, *counts)
        self._shared = []
        self._absent = []
        self._numbers = {}
        self._moves = {}
        self._beginnings = [
            (self._number(NEW._replace(count=count)), (0,) * processes, (0,) * processes)
            for count in counts
        ]
        self._nothing = (0,) * processes
        self._inside = [pause.step in INSIDE for pause in graph.pauses]
        self._looking = [pause.step in LOOKS for pause in graph.pauses]

    def _number(self, shared):
        if shared not in self._numbers:
            self._numbers[shared] = len(self._shared)
            self._shared.append(shared)
            self._absent.append(absent(shared))
        return self._numbers[shared]

    def moves(self, local, shared, free):
        """All that can happen to a process: {(new shared, new local): [(event, problem)]}."""
        key = local, shared, free
        found = self._moves.get(key)
        if found is None:
            found = self._moves[key] = {}
            looking = self._looking[local >> BITS]
            for event, result, after, problem in self._find_moves(
                local >> BITS, local & OWN, self._shared[shared], free
            ):
                new = self._number(result[0]), after << BITS | result[1]
                ways = found.setdefault(new, [])
                # Of those that lead to the same one will do, if they do not hang on the others.
                if looking or not ways:
                    ways.append((event, problem))
                elif problem:
                    ways[0] = event, problem
        return found

    def _minds(self, problem):
        return problem == self._only if self._only else problem not in self._ignore

    def _find_moves(self, number, own, shared, free):
        pause = self.graph.pauses[number]
        problem = problem_of(pause, shared, own, self._most_tokens)
        if not self._minds(problem):
            problem = None
        for event, after in self.graph.edges[number].items():
            if event.kind in ("raised", "called"):
                yield event, (shared, own), after, None
                continue
            result = take(pause.step, answer_of(event), shared, own, free)
            if result is not None:
                yield event, result, after, problem
        yield Event("dies", None), (died(shared, own), 0), 0, None

    def run(self):
        """Visit every state; return the Explorer.

        :raises Broken: a property does not hold.
        """
        states, inside = self.states, self._inside
        queue = deque(self._beginnings)
        states.update((state, None) for state in queue)
        while queue:
            state = queue.popleft()
            for new, problem, _, _ in self._steps(state):
                self.transitions += 1
                if problem:
                    raise Broken(problem, self._trace(state, new))
                if new not in states:
                    states[new] = state
                    if sum([inside[local >> BITS] for local in new[1]]) > 1:
                        self._refuse("two inside", self._trace(new))
                    queue.append(new)
        return self

    def _steps(self, state):
        """(new state, problem, index of who moves, event) of each move of each process."""
        shared, locals_, found = state
        held = sum([local & FLOCK for local in locals_])
        alike = found == self._nothing
        for index, local in enumerate(locals_):
            if alike and index and local == locals_[index - 1]:
                continue
            looking = self._looking[local >> BITS]
            moves = self.moves(local, shared, bool(local & FLOCK or not held))
            for (after, new_local), ways in moves.items():
                for event, problem in ways:
                    if looking and not self._may_happen(event, state, index):
                        continue
                    seen = found
                    if local & FLAG and leaves_its_flag(self.graph.pauses[local >> BITS], event):
                        seen = [left_up(bits, index) for bits in found]
                    new = self._joined(after, locals_, seen, index, new_local)
                    yield new, problem, index, event

    def _may_happen(self, event, state, index):
        """Whether an event at one of LOOKS agrees with what there is to be found."""
        if event.kind in ("raised", "called", "dies"):
            return True
        shared, locals_, found = state
        others = locals_[:index] + locals_[index + 1 :]
        up = any(local & FLAG for local in others)
        been_down = all_down(found[index], index, len(locals_))
        step = self.graph.pauses[locals_[index] >> BITS].step
        return may_find(
            answer_of(event), step, self._shared[shared], up, been_down, found[index] & 7
        )

    def _joined(self, shared, locals_, found, index, new_local):
        """The state in which one process has another local; who looks, looks on."""
        locals_ = list(locals_)
        locals_[index] = new_local
        looking = [self._looking[local >> BITS] for local in locals_]
        if not any(looking):
            locals_.sort()
            return shared, tuple(locals_), self._nothing
        down = self._absent[shared]
        for number, local in enumerate(locals_):
            if not local & FLAG:
                down |= 8 << number
        # Who moved begins anew, if at all.
        found = [
            (bits if number != index else 0) | down if looks else 0
            for number, (bits, looks) in enumerate(zip(found, looking))
        ]
        order = sorted(range(len(locals_)), key=locals_.__getitem__)
        return (
            shared,
            tuple([locals_[number] for number in order]),
            tuple([self._in_order(found[number], order) for number in order]),
        )

    def _in_order(self, bits, order):
        if not bits:
            return 0
        return bits & 7 | sum([(bits >> 3 + old & 1) << 3 + new for new, old in enumerate(order)])

    def _trace(self, *states):
        way = list(states[::-1])
        while self.states[way[-1]] is not None:
            way.append(self.states[way[-1]])
        way.reverse()
        lines = ["the count is {0}".format(self._shared[way[0][0]].count)]
        for state, new in zip(way, way[1:]):
            # Which of them it is, is not kept: they are alike.
            _, _, index, event = next(step for step in self._steps(state) if step[0] == new)
            lines.append(describe(self._pause(state[1][index]), event))
        return lines

    def _pause(self, local):
        return self.graph.pauses[local >> BITS]

    # -- that all get in

    def check_progress(self):
        """Whoever moves alone gets in, does its work and leaves; return the worst figures.

        Of every state in which the flock is free and nobody else's flag is up, and in all ways in
        which the steps can be answered, but for the end of a process's patience. (Where somebody
        has the flock, it is asked of that one alone, which is then in such a state.)

        * One that is on its way in has the flock, or is inside, after a bounded number of steps,
          and has waited for a token in vain once at most, whatever was lost.
        * One that has the flock, or its flag up, is at rest without after a bounded number of
          steps.
        * After one use of the lock the next needs no wait; after two the board is empty, and the
          count 1, if they had to do with it.

        :returns: (steps to get in, steps to be at rest)
        :raises Broken: one of this does not hold.
        """
        enter = leave = 0
        for local, shared, free in list(self._moves):
            pause = self._pause(local)
            if not free:
                continue
            if local & (FLOCK | FLAG):
                leave = max(leave, self._alone(local, shared, _at_rest)[0])
            elif "acquire" in pause.where and not {"_give_up", "abandon"} & set(pause.where):
                steps, waits, _ = self._alone(local, shared, _is_in)
                enter = max(enter, steps)
                self._demand(waits <= 1, "more than one wait for a token", pause, shared)
            elif pause.step == "rest":
                self._check_recovery(local, shared)
        return enter, leave

    def _check_recovery(self, local, shared):
        pause = self._pause(local)
        clean = [NEW]
        if self._absent[shared] == 7:
            # By the fast way it neither takes nor puts back a token.
            clean.append(NEW._replace(count=self._shared[shared].count))
        for once in self._alone(local, shared, _at_rest)[2]:
            _, waits, ends = self._alone(once[0], once[1], _at_rest)
            self._demand(not waits, "a token is not back after one use", pause, shared)
            for _, after in ends:
                found = self._shared[after]
                self._demand(found in clean, "not clean after two uses", pause, shared)

    def _demand(self, holds, problem, pause, shared):
        if not holds:
            self._refuse(problem, [describe(pause), str(self._shared[shared])])

    def _refuse(self, problem, trace):
        if self._minds(problem):
            raise Broken(problem, trace)

    def _alone(self, local, shared, arrived):
        """(steps at most, waits in vain at most, where it arrives), one step at least."""
        known = {}

        def go(local, shared):
            steps = waits = 0
            ends = set()
            pause = self._pause(local)
            moves = self.moves(local, shared, True).items()
            for (after, new), event in [(new, way[0]) for new, ways in moves for way in ways]:
                if event.kind != "done" or event.answer == "detach":
                    continue
                if event.answer and pause.step == "patience.over()":
                    continue
                if pause.step in LOOKS and not may_find(
                    event.answer,
                    pause.step,
                    self._shared[shared],
                    False,
                    True,
                    self._absent[shared],
                ):
                    continue
                more = (0, 0, {(new, after)})
                if not arrived(self._pause(new), new & OWN):
                    if (new, after) not in known:
                        known[new, after] = None
                        known[new, after] = go(new, after)
                    more = known[new, after]
                    if more is None:
                        raise Broken("alone, and never there", [describe(pause)])
                in_vain = {"_wait", "_take_token"} <= set(pause.where) and not event.answer
                steps, waits = max(steps, more[0] + 1), max(waits, more[1] + in_vain)
                ends |= more[2]
            return steps, waits, ends

        return go(local, shared)


def _at_rest(pause, own):
    return pause.step in AT_REST and not own & (FLOCK | FLAG)


def _is_in(pause, own):
    return own & FLOCK or pause.step in INSIDE


class Search(object):
    """All states that can be reached from one, without thought of symmetries.

    ``_moves(state)`` gives (a line about it, the state after it, the problem with it or None) of
    all that can happen.

    :param only: the one problem to look for; any, without.
    """

    def __init__(self, beginning, only=None):
        self.states = {beginning: None}
        self.transitions = 0
        self._only = only

    def run(self):
        """Visit every state; return the Search.

        :raises Broken: a property does not hold.
        """
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

    def _moves(self, state):
        raise NotImplementedError

    def _trace(self, state):
        lines = []
        while self.states[state] is not None:
            state, line = self.states[state]
            lines.append(line)
        return lines[::-1]


def describe(pause, event=None):
    """A line about a step that is taken somewhere."""
    text = " > ".join(pause.where[1:]) + ": " + pause.step
    if event is not None:
        if event.answer is not None:
            text += " -> {0}".format(event.answer)
        if event.kind != "done":
            text += "  [{0}]".format(event.kind)
    return text.lstrip(": ")


