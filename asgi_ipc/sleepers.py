"""What a receiver awaits in an event loop, and how those that are woken together go on.

Knows asyncio's tasks; does not know what is waited for. A group send wakes hundreds of receivers
of a process at the same moment. With a future for each of them, each has a callback of its own in
the loop: a seventh of what a member costs. So they await what keeps to the protocol of futures, as
far as a task asks for it, and many go on in one callback, all told by one future, which is done.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Generator, Iterable, Iterator, List, Optional

if TYPE_CHECKING:
    import asyncio
    from contextvars import Context


class Sleeper:
    """What one task awaits. It ends with nothing, which means look, or raises ``error``.

    ``awake``: whether the task was woken, or the wait cancelled.
    ``callback`` and ``context``: how the task goes on, once it awaits this.
    """

    __slots__ = (
        "_asyncio_future_blocking", "_cancelled", "_loop", "awake", "callback", "context", "error",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.awake = self._cancelled = False
        self._loop = loop
        self.error: Optional[BaseException] = None
        self.callback: Optional[Callable[[Any], object]] = None
        self.context: Context
        self._asyncio_future_blocking = False

    # -- as the task has it ----------------------------------------------------------

    def __await__(self) -> Generator[Sleeper, None, None]:
        if not self.awake:
            # So a task is told that it was not left by mistake.
            self._asyncio_future_blocking = True
            yield self
        if self.error is not None:
            raise self.error

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop in which all of it happens."""
        return self._loop

    def add_done_callback(self, callback: Callable[[Any], object], *, context: Context) -> None:
        """Say how the task goes on."""
        self.callback = callback
        self.context = context

    def cancel(self, *message: Any, **named: Any) -> bool:
        """The task was cancelled; False if it was woken before."""
        if self.awake:
            return False
        self.awake = self._cancelled = True
        if self.callback is not None:
            told: asyncio.Future[None] = self._loop.create_future()
            told.cancel(*message, **named)
            _go_on_soon([self], told)
        return True

    def done(self) -> bool:
        """For who looks at what a task waits for, as debuggers do."""
        return self.awake

    def cancelled(self) -> bool:
        """Whether the wait was cancelled before the task was woken."""
        return self._cancelled


def wake(sleepers: Iterable[Sleeper], error: Optional[BaseException] = None) -> None:
    """Have the tasks go on, one after the other, or fail. They all are of one loop."""
    waiting = []
    for one in sleepers:
        one.awake = True
        if error is not None:
            one.error = error
        if one.callback is not None:
            waiting.append(one)
    if waiting:
        told: asyncio.Future[None] = waiting[0].get_loop().create_future()
        told.set_result(None)
        _go_on_soon(waiting, told)


def _go_on_soon(waiting: List[Sleeper], told: asyncio.Future[None]) -> None:
    waiting[0].get_loop().call_soon(_go_on, iter(waiting), told)


def _go_on(waiting: Iterator[Sleeper], told: asyncio.Future[None]) -> None:
    """Call the tasks with a future that is done: they ask it for no more than its result."""
    try:
        for one in waiting:
            one.context.run(one.callback, told)  # type: ignore[arg-type]
    finally:
        # What a task raises is its own, but for what ends the loop (SystemExit): the others go on
        # if that is run once more.
        left = list(waiting)
        if left:
            _go_on_soon(left, told)
