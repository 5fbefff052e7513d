"""All event loops of a process in which somebody waits.

Knows a ``Watch`` for each of them, and which one is running; does not know what is waited for.

A loop owns its watch, through its readers and timers, and nothing else does. What is kept here
are weak references, and the seat: the waiter, which has to be given back when the loop was closed
or forgotten without notice. So no loop is kept alive, and none has to be closed with care.
"""
from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Sequence, Tuple

from asgi_ipc.errors import IPCError, LockTimeout, ReentrantCall
from asgi_ipc.gate import PAUSE
from asgi_ipc.watch import Watch

if TYPE_CHECKING:
    from asgi_ipc.gate import Gate
    from asgi_ipc.inbox import Inbox
    from asgi_ipc.stores import Stores


class Seat:
    """What the layer keeps of a watch: its waiter, and weak references to the rest."""

    __slots__ = ("_watch", "loop", "store", "waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = weakref.ref(loop)
        self._watch: Optional[weakref.ref[Watch]] = None
        self.store: Any = None
        self.waiter: Any = None

    def seat(self, watch: Watch) -> None:
        """Remember whose it is."""
        self._watch = weakref.ref(watch)

    def watch(self) -> Optional[Watch]:
        """Whose it is, if that is still there."""
        return self._watch() if self._watch is not None else None

    def forgotten(self) -> bool:
        """Whether the loop is gone."""
        loop = self.loop()
        return loop is None or loop.is_closed()

    def give_back(self, current: Any) -> None:
        """Hand the waiter back to its store, if that is the current one."""
        if self.waiter is None:
            return
        self.store.leave(self.waiter)
        if self.store is not current:
            # Nobody will borrow it again.
            self.waiter.doorbell.close()
        self.store = self.waiter = None


class Loops:
    """The watches of one layer in one process.

    :param stores: whose waiters they use.
    :param gate: before the lock of the message store.
    :param tidy: what a watch calls once a second.
    :param lock_timeout: seconds for which a watch tries to get the lock before its receivers
        hear of it.
    """

    inbox: Inbox

    def __init__(
        self, stores: Stores, gate: Gate, tidy: Callable[[], None], lock_timeout: float
    ) -> None:
        self.stores = stores
        self.gate = gate
        self.tidy = tidy
        self.lock_timeout = lock_timeout
        self._seats: Dict[int, Seat] = {}
        self._owed: List[Seat] = []

    def watch(self, loop: asyncio.AbstractEventLoop) -> Watch:
        """The watch of a running loop, made if there is none."""
        seat = self._seats.get(id(loop))
        if seat is not None and seat.loop() is loop:
            watch = seat.watch()
            if watch is not None:
                return watch
        self.sweep()
        seat = self._seats[id(loop)] = Seat(loop)
        watch = Watch(self, loop, seat)
        seat.seat(watch)
        return watch

    def wake(self, queue: str, channels: Sequence[str]) -> None:
        """Wake a receiver of each channel of a queue, in whichever loops there are any."""
        running = _running_loop()
        for watch, loop in self._watches():
            if loop is running:
                watch.wake(queue, channels)
                continue
            there = [channel for channel in channels if channel in watch.pending]
            if there:
                _call(loop, watch.wake, queue, there)

    def announce(self, queue: str, at_once: bool) -> None:
        """Something was posted to a queue: have it delivered, if anybody waits there."""
        running = _running_loop()
        seat = self._seats.get(id(running))
        watch = seat.watch() if seat is not None else None
        if watch is not None and queue in watch.wanted:
            if at_once:
                self.inbox.deliver(queue)
            else:
                watch.deliver_soon(queue)
            return
        for watch, loop in self._watches():
            if queue in watch.wanted and _call(loop, self.inbox.deliver, queue):
                return

    def wanted(self, queue: str) -> bool:
        """Whether anybody waits at a queue, in any loop."""
        return any(queue in watch.wanted for watch, _ in self._watches())

    def end(self, error: BaseException) -> None:
        """End all waits with an exception, and watch no longer."""
        running = _running_loop()
        for watch, loop in self._watches():
            if loop is running:
                watch.end(error)
            else:
                _call(loop, watch.end, error)
        self.sweep()

    def sweep(self) -> None:
        """Take back the waiters of loops that are gone."""
        for key, seat in list(self._seats.items()):
            if seat.forgotten():
                self.release(key, seat)
        owed, self._owed = self._owed, []
        for seat in owed:
            self._give_back(seat)

    def release(self, key: int, seat: Seat) -> None:
        """A watch has ended: give back its waiter."""
        if self._seats.get(key) is seat:
            del self._seats[key]
        self._give_back(seat)

    def forked(self) -> None:
        """In a child: loops and waiters are the parent's; doorbells let go by themselves."""
        self._seats, self._owed = {}, []

    def _give_back(self, seat: Seat) -> None:
        try:
            self.gate.run(seat.give_back, self.stores.messages)
        except (LockTimeout, ReentrantCall):
            # Soon: what it was rung for, another one is told of only then.
            self._owed.append(seat)
            loop = _running_loop()
            if loop is not None:
                loop.call_later(PAUSE, self.sweep)
        except IPCError:
            # The store is of no use any more, nor is its waiter.
            seat.waiter.doorbell.close()
            seat.store = seat.waiter = None

    def _watches(self) -> List[Tuple[Watch, asyncio.AbstractEventLoop]]:
        found = []
        for seat in list(self._seats.values()):
            watch, loop = seat.watch(), seat.loop()
            if watch is not None and loop is not None:
                found.append((watch, loop))
        return found


def _running_loop() -> Optional[asyncio.AbstractEventLoop]:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _call(loop: asyncio.AbstractEventLoop, work: Any, *arguments: Any) -> bool:
    """Have another loop call something; False if it was closed."""
    try:
        loop.call_soon_threadsafe(work, *arguments)
    except RuntimeError:
        # What it was to hear of is still where it was.
        return False
    return True
