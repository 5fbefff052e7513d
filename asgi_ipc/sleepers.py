"""What a receiver awaits in an event loop, and how those that are woken together go on.

Knows asyncio's tasks; does not know what is waited for. A group send wakes hundreds of receivers
of a process at the same moment. With a future for each of them, each has a callback of its own in
the loop: a seventh of what a member costs. So they await what keeps to the protocol of futures, as
far as a task asks for it, and many go on in one callback.
"""
from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Callable, Generator, Iterable, Iterator, List, Optional

if TYPE_CHECKING:
    from contextvars import Context


class Sleeper:
    """What one task awaits: ``outcome``, None or the exception that ends the wait, as a value.

    ``awake``: whether the task was woken, or the wait cancelled.
    ``callback`` and ``context``: how the task goes on, once it awaits this.
    """

    __slots__ = (
        "_asyncio_future_blocking", "_cancelled", "_loop", "_message", "awake", "callback",
        "context", "outcome",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.awake = self._cancelled = False
        self._loop = loop
        self._message: Any = None
        self.outcome: Optional[BaseException] = None
        self.callback: Optional[Callable[[Sleeper], object]] = None
        self.context: Context
        self._asyncio_future_blocking = False

    # -- as the task has it ----------------------------------------------------------

    def __await__(self) -> Generator[Sleeper, None, Optional[BaseException]]:
        if not self.awake:
            # So a task is told that it was not left by mistake. It asks for the result itself.
            self._asyncio_future_blocking = True
            yield self
        return self.outcome

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop in which all of it happens."""
        return self._loop

    def add_done_callback(self, callback: Callable[[Sleeper], object], *, context: Context) -> None:
        """Say how the task goes on."""
        self.callback = callback
        self.context = context

    def cancel(self, msg: Any = None) -> bool:
        """The task was cancelled; False if it was woken before."""
        if self.awake:
            return False
        self._cancelled = True
        self._message = msg
        wake((self,))
        return True

    def done(self) -> bool:
        """For who looks at what a task waits for, as debuggers do."""
        return self.awake

    def cancelled(self) -> bool:
        """Whether the wait was cancelled before the task was woken."""
        return self._cancelled

    def result(self) -> Optional[BaseException]:
        """What the task asks for before it goes on; raises only if it was cancelled."""
        if self._cancelled:
            raise asyncio.CancelledError(*(() if self._message is None else (self._message,)))
        return self.outcome


def wake(sleepers: Iterable[Sleeper], outcome: Optional[BaseException] = None) -> None:
    """Have the tasks go on, one after the other. They all are of one loop."""
    waiting = []
    for one in sleepers:
        one.awake = True
        one.outcome = outcome
        if one.callback is not None:
            waiting.append(one)
    _go_on_soon(waiting)


def _go_on_soon(waiting: List[Sleeper]) -> None:
    if waiting:
        waiting[0].get_loop().call_soon(_go_on, iter(waiting))


def _go_on(waiting: Iterator[Sleeper]) -> None:
    try:
        for one in waiting:
            one.context.run(one.callback, one)  # type: ignore[arg-type]
    finally:
        # What a task raises is its own, but for what ends the loop (SystemExit): the others go on
        # if that is run once more.
        _go_on_soon(list(waiting))
