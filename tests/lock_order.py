"""The lock's protocol on processors that have others see their stores late.

In ``lock_model.py`` a store is seen by all at once. A real processor keeps its stores in a buffer
for a while, and goes on: its loads come ahead of stores that nobody else has seen yet. x86
lets the buffer out in order, at any time; loads find what is in their own; and an atomic
instruction waits until it is empty (total store order). So do the kernel's calls, and the end of
a process.

``Processors`` explores the same Graph with such a buffer for each process: one store or load at a
time, one flush of one store at a time, in every order.

Source: P. Sewell et al., "x86-TSO: a rigorous and usable programmer's model for x86
multiprocessors" (Communications of the ACM 53(7), 2010).
"""
import itertools
from collections import namedtuple

from lock_explorer import Search, describe
from lock_model import FLAG, FLOCK, INSIDE, NEW, problem_of, take

FENCES = ["fence.first()", "fence.second()"]

ATOMIC = ("semaphore.acquire(0)", "semaphore.release()", "flock(TRY)", "flock(UNLOCK)",
          "lane.take()", "lane.give()")  # fmt: skip
"""Steps that wait for an empty buffer, beside fences; of the first, only if there is a token."""

Memory = namedtuple("Memory", "count flock busy torn door latest flags")
"""What all see. ``flock`` is the number of a process or None; ``door`` and ``latest`` are 0, "SLOW"
or one of LANES; ``flags`` has one for each process."""

LANES = ("lane A", "lane B", "lane C")

STORES = {
    "words[busy] = pid": ("busy", True),
    "words[busy] = 0": ("busy", False),
    "rebuild begins": ("torn", True),
    "rebuild ends": ("torn", False),
    "work begins": ("torn", True),
    "work ends": ("torn", False),
    "words[DOOR] = mine": ("door", "mine"),
    "words[DOOR] = SLOW": ("door", "SLOW"),
    "words[DOOR] = 0": ("door", 0),
    "words[LATEST] = mine": ("latest", "mine"),
    "words[LATEST] = SLOW": ("latest", "SLOW"),
    "words[mine] = mine": ("flag", True),
    "words[mine] = 0": ("flag", False),
}


class Processors(Search):
    """All states that processes of one Graph can reach, each on a processor of its own.

    A state is the memory, and for each process the number of its pause and its buffer.

    :param fences: those that there are.
    :param deaths: whether processes die.
    :param only: the one problem to look for; any, without.
    """

    def __init__(self, graph, processes, fences=FENCES, deaths=True, only=None):
        self._graph = graph
        self._fences = fences
        self._deaths = deaths
        memory = Memory(1, None, False, False, 0, 0, (False,) * processes)
        Search.__init__(self, (memory,) + ((0, ()),) * processes, only)

    def _moves(self, state):
        return itertools.chain.from_iterable(
            self._moves_of(state, who) for who in range(len(state) - 1)
        )

    def _moves_of(self, state, who):
        memory, (place, buffer) = state[0], state[1 + who]
        if buffer:
            flushed = stored(memory, who, buffer[0])
            yield _line(who, "flushes"), _with(state, who, place, buffer[1:], flushed), None
        if self._deaths:
            left = memory
            for store in buffer:
                left = stored(left, who, store)
            # Its flag counts no more, and its flock is gone.
            left = stored(left, who, ("flag", False))
            left = left._replace(flock=None if left.flock == who else left.flock)
            yield _line(who, "dies"), _with(state, who, 0, (), left), None
        pause = self._graph.pauses[place]
        seen = memory
        for store in buffer:
            seen = stored(seen, who, store)
        for event, after in self._graph.edges[place].items():
            if pause.step in self._waits_for(event.answer) and buffer:
                continue
            found = self._taken(pause, event.answer, memory, seen, who)
            if found is None:
                continue
            result, store, problem = found
            new = _with(state, who, after, buffer + store, result)
            inside = [self._graph.pauses[place].step in INSIDE for place, _ in new[1:]]
            problem = "two inside" if sum(inside) > 1 else problem
            yield _line(who, describe(pause, event)), new, problem

    def _waits_for(self, answer):
        return self._fences + [step for step in ATOMIC if answer or step != ATOMIC[0]]

    def _taken(self, pause, answer, memory, seen, who):
        """(memory, what goes into the buffer, problem) of a step; None if it cannot be."""
        step = pause.step
        own = FLOCK * (memory.flock == who) + FLAG * seen.flags[who]
        door = seen.door if seen.door in (0, "SLOW") else "lane"
        shared = NEW._replace(count=memory.count, busy=seen.busy, torn=seen.torn, door=door)
        problem = problem_of(pause, shared, own, 1)
        if step in STORES:
            return memory, (STORES[step],), problem
        if step == "words[DOOR]":
            found = {0: 0, "SLOW": "SLOW", LANES[who]: "mine"}.get(seen.door, "other")
            return (memory, (), problem) if answer == found else None
        if step == "words[LATEST]":
            found = "mine" if seen.latest == LANES[who] else "other"
            return (memory, (), problem) if answer == found else None
        if step == "flags":
            up = any(flag for other, flag in enumerate(memory.flags) if other != who)
            return (memory, (), problem) if answer == up else None
        result = take(step, answer, shared, own, memory.flock in (None, who))
        if result is None:
            return None
        after = memory._replace(count=result[0].count)
        if result[1] & FLOCK != own & FLOCK:
            after = after._replace(flock=who if result[1] & FLOCK else None)
        if result[1] & FLAG != own & FLAG:
            after = stored(after, who, ("flag", bool(result[1] & FLAG)))
        return after, (), problem


def stored(memory, who, store):
    """The memory after a store of a process."""
    word, value = store
    if word == "flag":
        flags = memory.flags[:who] + (value,) + memory.flags[who + 1 :]
        return memory._replace(flags=flags)
    return memory._replace(**{word: LANES[who] if value == "mine" else value})


def _with(state, who, place, buffer, memory):
    return (memory,) + state[1 : 1 + who] + ((place, buffer),) + state[2 + who :]


def _line(who, text):
    return "{0}  {1}".format("ABCDEF"[who], text)
