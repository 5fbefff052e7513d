"""Explores a model of processes, every interleaving of them: see ``lock_model.py``."""
import itertools
from bisect import insort
from collections import deque

from lock_model import (
    ANSWERS,
    AT_REST,
    FLAG,
    FLOCK,
    INSIDE,
    NEW,
    SEEN,
    Event,
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


class Broken(Exception):
    """A property does not hold; ``trace`` is a shortest way to see it, a line a step."""

    def __init__(self, problem, trace):
        Exception.__init__(self, problem)
        self.problem = problem
        self.trace = trace

    def __str__(self):
        return "\n    ".join([self.problem] + self.trace)


BITS = 5
OWN = (1 << BITS) - 1
"""Of a local: how many bits say what a process has, and which."""


def _joined(shared, local, others, cleared):
    """A state of these; ``others`` lose the bits ``cleared``."""
    if cleared:
        others = [other & ~cleared for other in others]
    new = list(others)
    insort(new, local)
    if cleared:
        new.sort()
    return (shared,) + tuple(new)


class Explorer(object):
    """All states that ``processes`` processes of one Graph can reach.

    A state is a tuple: the number of a Shared, and then for each process its local, sorted:
    the number of its pause, and below that the bits of what it has.

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
        self._numbers = {}
        self._moves = {}
        self._beginnings = [
            (self._number(NEW._replace(count=count)),) + (0,) * processes for count in counts
        ]
        self._inside = [pause.step in INSIDE for pause in graph.pauses]
        self._looking = [pause.step == "flags" for pause in graph.pauses]

    def _number(self, shared):
        if shared not in self._numbers:
            self._numbers[shared] = len(self._shared)
            self._shared.append(shared)
        return self._numbers[shared]

    def moves(self, local, shared, free):
        """All that can happen to a process: {(new shared, new local): (event, problem, cleared)}.

        ``cleared``: the bits that all others lose.
        """
        key = local, shared, free
        found = self._moves.get(key)
        if found is None:
            found = self._moves[key] = {}
            for event, result, after, problem in self._find_moves(
                local >> BITS, local & OWN, self._shared[shared], free
            ):
                new = self._number(result[0]), after << BITS | result[1]
                if problem or new not in found:
                    found[new] = event, problem, result[2]
        return found

    def _minds(self, problem):
        return problem == self._only if self._only else problem not in self._ignore

    def _find_moves(self, number, own, shared, free):
        pause = self.graph.pauses[number]
        problem = problem_of(pause, shared, own, self._most_tokens)
        if not self._minds(problem):
            problem = None
        # Whoever leaves off looking at the flags, looks at all of them the next time.
        seen = SEEN if pause.step == "flags" else 0
        for event, after in self.graph.edges[number].items():
            if event.kind in ("raised", "called"):
                yield event, (shared, own, seen), after, None
                continue
            answer = event.answer[0] if event.kind in BETWEEN else event.answer
            result = take(pause.step, answer, shared, own, free)
            if result is not None:
                yield event, (result[0], result[1], result[2] | seen), after, problem
        yield Event("dies", None), (shared, 0, seen), 0, None

    def run(self):
        """Visit every state; return the Explorer.

        :raises Broken: a property does not hold.
        """
        states, inside = self.states, self._inside
        queue = deque(self._beginnings)
        states.update((state, None) for state in queue)
        while queue:
            state = queue.popleft()
            for new, problem in self._successors(state):
                self.transitions += 1
                if problem:
                    raise Broken(problem, self._trace(state, new))
                if new not in states:
                    states[new] = state
                    if sum([inside[local >> BITS] for local in new[1:]]) > 1:
                        self._refuse("two inside", self._trace(new))
                    queue.append(new)
        return self

    def _successors(self, state):
        return [(new, problem) for new, problem, _, _ in self._steps(state)]

    def _steps(self, state):
        """(new state, problem, index of who moves, event) of each move of each process."""
        shared = state[0]
        held = sum([local & FLOCK for local in state[1:]])
        before = None
        for index in range(1, len(state)):
            local = state[index]
            if local == before:
                continue
            before = local
            others = state[1:index] + state[index + 1 :]
            found = self.moves(local, shared, bool(local & FLOCK or not held))
            if self._looking[local >> BITS]:
                for step in self._look_on(state, index, others, found):
                    yield step
                continue
            for (after, new_local), (event, problem, cleared) in found.items():
                yield _joined(after, new_local, others, cleared), problem, index, event

    def _look_on(self, state, index, others, found):
        """Of one who looks at the flags: at one after the other, in any order."""
        local = state[index]
        unseen = [other for other in others if not other & SEEN]
        for (after, new_local), (event, problem, cleared) in found.items():
            if event.kind in ("done", "lost", "late call") or event.kind in BETWEEN:
                answer = event.answer[0] if event.kind in BETWEEN else event.answer
                if unseen if not answer else not any(other & FLAG for other in unseen):
                    continue
            yield _joined(after, new_local, others, cleared), problem, index, event
        for number, other in enumerate(others):
            if not other & (SEEN | FLAG):
                looked = others[:number] + (other | SEEN,) + others[number + 1 :]
                yield _joined(state[0], local, looked, 0), None, index, Event("looks", None)

    def _trace(self, *states):
        way = list(states[::-1])
        while self.states[way[-1]] is not None:
            way.append(self.states[way[-1]])
        way.reverse()
        lines = ["the count is {0}".format(self._shared[way[0][0]].count)]
        for state, new in zip(way, way[1:]):
            # Which of them it is, is not kept: they are alike.
            _, _, index, event = next(step for step in self._steps(state) if step[0] == new)
            lines.append(describe(self._pause(state[index]), event))
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
        * After one use of the lock the next needs no wait; after two the door is open, and the
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
        if not self._shared[shared].door:
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
            for (after, new), (event, _, _) in self.moves(local, shared, True).items():
                if event.kind != "done" or event.answer == "detach":
                    continue
                if event.answer and pause.step in ("patience.over()", "flags"):
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
    return own & FLOCK or pause.step == "words[busy]"


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


