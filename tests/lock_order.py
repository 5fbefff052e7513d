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

from lock_explorer import Search, all_down, describe, leaves_its_flag, left_up
from lock_model import FLAG, FLOCK, INSIDE, LOOKS, NEW, absent, may_find, problem_of, take

FENCES = ["acquire", "_shut_out", "use_written_out"]
"""The methods that have one."""

ATOMIC = ("semaphore.acquire(0)", "semaphore.release()", "flock(TRY)", "flock(UNLOCK)",
          "lane.take()", "lane.give()")  # fmt: skip
"""Steps that wait for an empty buffer, beside fences; of the first, only if there is a token."""

Memory = namedtuple("Memory", "count flock busy torn slow dead flags")
"""What all see. ``flock``: the number of a process or None; ``flags``: one for each process."""

STORES = {
    "words[BUSY] = pid": ("busy", True),
    "words[BUSY] = 0": ("busy", False),
    "words[SLOW] = 1": ("slow", True),
    "words[SLOW] = 0": ("slow", False),
    "rebuild begins": ("torn", True),
    "rebuild ends": ("torn", False),
    "work begins": ("torn", True),
    "work ends": ("torn", False),
    "memory[mine] = up": ("flag", True),
    "memory[mine] = DOWN": ("flag", False),
    "memory[other] = DOWN": ("dead", False),
}


class Processors(Search):
    """All states that processes of one Graph can reach, each on a processor of its own.

    A state is the memory, and for each process the number of its pause, its buffer, and what it has
    found so far at one of LOOKS (``lock_explorer``).

    :param fences: the methods that have one.
    :param deaths: whether processes die.
    :param only: the one problem to look for; any, without.
    """

    def __init__(self, graph, processes, fences=FENCES, deaths=True, only=None):
        self._graph = graph
        self._fences = fences
        self._deaths = deaths
        memory = Memory(1, None, False, False, False, False, (False,) * processes)
        self._looking = [pause.step in LOOKS for pause in graph.pauses]
        Search.__init__(self, (memory,) + ((0, (), 0),) * processes, only)

    def _moves(self, state):
        return itertools.chain.from_iterable(
            self._moves_of(state, who) for who in range(len(state) - 1)
        )

    def _moves_of(self, state, who):
        memory, (place, buffer, found) = state[0], state[1 + who]
        if buffer:
            flushed = stored(memory, who, buffer[0])
            yield _line(who, "flushes"), self._with(
                state, who, place, buffer[1:], flushed, found
            ), None
        if self._deaths:
            left = memory
            for store in buffer:
                left = stored(left, who, store)
            # Its flag is a dead one's, and its flock is gone.
            left = left._replace(
                dead=left.dead or left.flags[who], flock=None if left.flock == who else left.flock
            )
            gone = left.flags[who]
            left = stored(left, who, ("flag", False))
            yield _line(who, "dies"), self._with(state, who, 0, (), left, 0, gone), None
        pause = self._graph.pauses[place]
        seen = memory
        for store in buffer:
            seen = stored(seen, who, store)
        for event, after in self._graph.edges[place].items():
            if buffer and self._waits(pause, event.answer):
                continue
            taken = self._taken(pause, event.answer, memory, seen, who, found)
            if taken is None:
                continue
            result, store, problem = taken
            gone = memory.flags[who] and leaves_its_flag(pause, event)
            new = self._with(state, who, after, buffer + store, result, 0, gone)
            inside = [self._graph.pauses[place].step in INSIDE for place, _, _ in new[1:]]
            problem = "two inside" if sum(inside) > 1 else problem
            yield _line(who, describe(pause, event)), new, problem

    def _waits(self, pause, answer):
        if pause.step == "fence":
            return pause.where[-1] in self._fences
        return pause.step in ATOMIC and (answer or pause.step != ATOMIC[0])

    def _taken(self, pause, answer, memory, seen, who, found):
        """(memory, what goes into the buffer, problem) of a step; None if it cannot be."""
        step = pause.step
        own = FLOCK * (memory.flock == who) + FLAG * seen.flags[who]
        shared = _shared(seen)
        problem = problem_of(pause, shared, own, 1)
        if step in STORES:
            return memory, (STORES[step],), problem
        if step in LOOKS:
            up = any(flag for other, flag in enumerate(memory.flags) if other != who)
            been_down = all_down(found, who, len(memory.flags))
            possible = may_find(answer, step, shared, up, been_down, found & 7)
            return (memory, (), problem) if possible else None
        result = take(step, answer, shared, own, memory.flock in (None, who))
        if result is None:
            return None
        after = memory._replace(count=result[0].count, dead=memory.dead or result[0].dead)
        if result[1] & FLOCK != own & FLOCK:
            after = after._replace(flock=who if result[1] & FLOCK else None)
        if result[1] & FLAG != own & FLAG:
            after = stored(after, who, ("flag", bool(result[1] & FLAG)))
        return after, (), problem

    def _with(self, state, who, place, buffer, memory, found, gone=False):
        """The state in which one process is there; who looks, looks on.

        :param gone: whether its flag stays up, and counts as a dead one's.
        """
        each = list(state[1:])
        each[who] = place, buffer, found
        for number, (at, stores, bits) in enumerate(each):
            if self._looking[at]:
                seen = memory
                for store in stores:
                    seen = stored(seen, number, store)
                kept = left_up(bits, who) if gone else bits
                down = sum((not flag) * (8 << other) for other, flag in enumerate(memory.flags))
                each[number] = at, stores, kept | absent(_shared(seen)) | down
        return (memory,) + tuple(each)


def _shared(memory):
    return NEW._replace(
        count=memory.count,
        busy=memory.busy,
        torn=memory.torn,
        slow=memory.slow,
        dead=memory.dead,
    )


def stored(memory, who, store):
    """The memory after a store of a process."""
    word, value = store
    if word == "flag":
        flags = memory.flags[:who] + (value,) + memory.flags[who + 1 :]
        return memory._replace(flags=flags)
    return memory._replace(**{word: value})


def _line(who, text):
    return "{0}  {1}".format("ABCDEF"[who], text)
