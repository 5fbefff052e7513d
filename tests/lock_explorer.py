"""Explores a model of processes, every interleaving of them: see ``lock_model.py``."""
import itertools
from bisect import insort
from collections import deque

from lock_model import ANSWERS, AT_REST, INSIDE, Event, Shared, problem_of, take

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


class Explorer(object):
    """All states that ``processes`` processes of one Graph can reach.

    A state is a tuple: the number of a Shared, and then for each process its local, sorted:
    twice the number of its pause, plus 1 if it has the flock.

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
            (self._number(Shared(count, False, False)),) + (0,) * processes for count in counts
        ]
        self._inside = [int(pause.step in INSIDE) for pause in graph.pauses for _ in range(2)]

    def _number(self, shared):
        if shared not in self._numbers:
            self._numbers[shared] = len(self._shared)
            self._shared.append(shared)
        return self._numbers[shared]

    def moves(self, local, shared, free):
        """All that can happen to a process: {(new shared, new local): (event, problem)}."""
        key = local, shared, free
        found = self._moves.get(key)
        if found is None:
            found = self._moves[key] = {}
            for event, result, new, problem in self._find_moves(
                local >> 1, bool(local & 1), self._shared[shared], free
            ):
                after = self._number(result)
                if problem or (after, new) not in found:
                    found[after, new] = event, problem
        return found

    def _minds(self, problem):
        return problem == self._only if self._only else problem not in self._ignore

    def _find_moves(self, number, mine, shared, free):
        pause = self.graph.pauses[number]
        problem = problem_of(pause, shared, mine, self._most_tokens)
        if not self._minds(problem):
            problem = None
        for event, after in self.graph.edges[number].items():
            if event.kind in ("raised", "called"):
                yield event, shared, 2 * after + mine, None
                continue
            answer = event.answer[0] if event.kind in BETWEEN else event.answer
            result = take(pause.step, answer, shared, mine, free)
            if result is not None:
                yield event, result[0], 2 * after + result[1], problem
        yield Event("dies", None), shared, 0, None

    def run(self):
        """Visit every state; return the Explorer.

        :raises Broken: a property does not hold.
        """
        states, inside, moves = self.states, self._inside, self.moves
        queue = deque(self._beginnings)
        states.update((state, None) for state in queue)
        while queue:
            state = queue.popleft()
            shared = state[0]
            held = sum([local & 1 for local in state[1:]])
            before = None
            for index in range(1, len(state)):
                local = state[index]
                if local == before:
                    continue
                before = local
                others = state[1:index] + state[index + 1 :]
                found = moves(local, shared, bool(local & 1 or not held))
                self.transitions += len(found)
                for (after, new_local), (_, problem) in found.items():
                    new = list(others)
                    insort(new, new_local)
                    new = (after,) + tuple(new)
                    if problem:
                        raise Broken(problem, self._trace(state, new))
                    if new not in states:
                        states[new] = state
                        if inside[new_local] and sum([inside[other] for other in new[1:]]) > 1:
                            self._refuse("two inside", self._trace(new))
                        queue.append(new)
        return self

    def _trace(self, *states):
        way = list(states[::-1])
        while self.states[way[-1]] is not None:
            way.append(self.states[way[-1]])
        way.reverse()
        lines = ["the count is {0}".format(self._shared[way[0][0]].count)]
        locals_ = list(way[0][1:])
        for state, new in zip(way, way[1:]):
            lines.append(self._step_between(locals_, state[0], new))
        return lines

    def _step_between(self, locals_, shared, new):
        held = any(local & 1 for local in locals_)
        for index, local in enumerate(locals_):
            found = self.moves(local, shared, bool(local & 1 or not held))
            for (after, new_local), (event, _) in found.items():
                changed = sorted(locals_[:index] + [new_local] + locals_[index + 1 :])
                if (after,) + tuple(changed) == new:
                    locals_[index] = new_local
                    return "{0}  {1}".format("ABCDEF"[index], describe(self._pause(local), event))
        raise AssertionError("no step leads there")

    def _pause(self, local):
        return self.graph.pauses[local >> 1]

    # -- that all get in

    def check_progress(self):
        """Whoever moves alone gets in, does its work and leaves; return the worst figures.

        Of every state in which the flock is free, and in all ways in which the steps can be
        answered, but for the end of a process's patience. (Where somebody has the flock, it
        is asked of that one alone, which is then in such a state.)

        * One that is on its way in has the flock after a bounded number of steps, and has
          waited for a token in vain once at most, whatever was lost.
        * One that has the flock is at rest without it after a bounded number of steps.
        * After one use of the lock the next needs no wait; after two the count is 1.

        :returns: (steps to get in, steps to be at rest)
        :raises Broken: one of this does not hold.
        """
        enter = leave = 0
        for local, shared, free in list(self._moves):
            pause = self._pause(local)
            if not free:
                continue
            if local & 1:
                leave = max(leave, self._alone(local, shared, _at_rest)[0])
            elif "acquire" in pause.where and not {"_give_up", "abandon"} & set(pause.where):
                steps, waits, _ = self._alone(local, shared, _has_flock)
                enter = max(enter, steps)
                self._demand(waits <= 1, "more than one wait for a token", pause, shared)
            elif pause.step == "rest":
                self._check_recovery(local, shared)
        return enter, leave

    def _check_recovery(self, local, shared):
        pause = self._pause(local)
        for once in self._alone(local, shared, _at_rest)[2]:
            _, waits, ends = self._alone(once[0], once[1], _at_rest)
            self._demand(not waits, "a token is not back after one use", pause, shared)
            for _, after in ends:
                self._demand(
                    self._shared[after] == Shared(1, False, False), "not clean after two uses",
                    pause, shared,
                )  # fmt: skip

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
            for (after, new), (event, _) in self.moves(local, shared, True).items():
                if event.kind != "done" or event.answer == "detach":
                    continue
                if pause.step == "clock.now() >= deadline" and event.answer:
                    continue
                more = (0, 0, {(new, after)})
                if not arrived(self._pause(new), new & 1):
                    if (new, after) not in known:
                        known[new, after] = None
                        known[new, after] = go(new, after)
                    more = known[new, after]
                    if more is None:
                        raise Broken("alone, and never there", [describe(pause)])
                in_vain = "_take_token" in pause.where and not event.answer
                steps, waits = max(steps, more[0] + 1), max(waits, more[1] + in_vain)
                ends |= more[2]
            return steps, waits, ends

        return go(local, shared)


def _at_rest(pause, mine):
    return pause.step in AT_REST and not mine


def _has_flock(_, mine):
    return mine


def describe(pause, event=None):
    """A line about a step that is taken somewhere."""
    text = " > ".join(pause.where[1:]) + ": " + pause.step
    if event is not None:
        if event.answer is not None:
            text += " -> {0}".format(event.answer)
        if event.kind != "done":
            text += "  [{0}]".format(event.kind)
    return text.lstrip(": ")


