"""How long an entry is held back since queues are full whose readers get on.

Knows names and numbers; does not know shared memory, nor Redis. What was kept while Redis or a
bridge was away comes all at once, more than ``capacity``, and faster than any reader reads. But
one queue's reader may be slow or dead, and what is held back for it is late for all others.

So each queue has credit, ``LONGEST`` at first. Each pause takes what it lasts; each message that
its reader took meanwhile gives ``EARNED``. Who reads a hundred a second is waited for as long as it
takes, a slower one for some seconds in all, a dead one once; then its queue goes without, until
its reader takes something, or ``expiry`` has passed, when nothing of what filled it is left.
"""
from __future__ import annotations

from typing import Callable, Dict, NamedTuple

from asgi_ipc._shm import clock

PAUSE = clock.SECOND // 200
"""Nanoseconds after which a full queue is looked at again."""

LONGEST = clock.SECOND
"""Nanoseconds that a queue is waited for of which nothing is taken."""

EARNED = clock.SECOND // 100
"""Nanoseconds that a queue is waited for in return for a message that was taken."""

MANY = 1000
"""Queues above which those are forgotten for which nobody waited lately."""


class _Queue(NamedTuple):
    """``credit``: ns; ``gone``: messages; ``waited_at``: ns, when it was waited for last."""

    credit: int
    gone: int
    waited_at: int


class Pacing:
    """Says whether to wait.

    :param expiry: ns that a message lives.
    """

    def __init__(self, expiry: int, now: Callable[[], int] = clock.now) -> None:
        self._expiry = expiry
        self._now = now
        self._queues: Dict[str, _Queue] = {}

    def waits(self, full: Dict[str, int]) -> bool:
        """Whether to try again after ``PAUSE``, or to give up these queues.

        :param full: as ``MessageStore.deliver`` returns it.
        """
        now = self._now()
        found = False
        for queue, gone in full.items():
            credit, before, waited_at = self._queues.get(queue, (LONGEST, gone, now))
            credit += EARNED * max(gone - before, 0)
            if credit > LONGEST or now - waited_at >= self._expiry:
                credit = LONGEST
            if credit > 0:
                credit, waited_at, found = credit - PAUSE, now, True
            self._queues[queue] = _Queue(credit, gone, waited_at)
        if len(self._queues) > MANY:
            self._forget(now)
        return found

    def _forget(self, now: int) -> None:
        self._queues = {
            queue: known
            for queue, known in self._queues.items()
            if now - known.waited_at < self._expiry
        }
