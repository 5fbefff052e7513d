"""Who waits in one event loop, and the doorbell that wakes them.

Knows one loop, its sleeping receivers, and a waiter of the message store; does not know names,
msgpack, nor how a message is taken: it wakes receivers, and they look. It owns a waiter with its
doorbell, which the loop watches as it watches sockets, and looks by itself every second.

1. A receiver is woken, never handed a message. So it may be cancelled at any point; if it was
   woken and did not take, the next one is woken in its place, here or in another process.
2. When a callback is over, each queue that somebody in the loop waits at either has the waiter
   hung up at it since a moment when it was empty, or a look is planned. So nothing is missed.
3. A waiter hangs at a normal queue only while somebody waits there: it must not catch a ring
   that is meant for others. At the process's own queues, and with its doorbell watched, it may
   stay for a second after the last receive, for the next one usually follows; then all is
   undone. A last receive that ends without a message undoes it at once.

All of it happens in the loop's thread, but for looks into ``pending`` and ``wanted``.
"""
from __future__ import annotations

import weakref
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Set

from asgi_ipc._shm import clock
from asgi_ipc.errors import IPCError, LockTimeout, ReentrantCall
from asgi_ipc.gate import PAUSE, given_up
from asgi_ipc.sleepers import Sleeper, wake
from asgi_ipc.waiters import LOOK_AGAIN
from asgi_ipc.waiting import POLL

if TYPE_CHECKING:
    import asyncio

    from asgi_ipc.loops import Loops, Seat


class Watch:
    """Who waits in one loop. Made by ``Loops.watch``."""

    def __init__(self, loops: Loops, loop: asyncio.AbstractEventLoop, seat: Seat) -> None:
        # Those who wait and were not woken, by key, the first of them and those behind him; how
        # many they are, by queue; and how many were woken, but have not left since.
        self.pending: Dict[str, Sleeper] = {}
        self._behind: Dict[str, List[Sleeper]] = {}
        self.wanted: Dict[str, int] = {}
        self.awake = 0
        self._loops = loops
        self._loop = weakref.ref(loop)
        self._seat = seat
        self._hung: Set[str] = set()
        self._reading: Optional[int] = None
        self._planned = False
        self._owes = False
        self._ended = False
        self._stuck_since = 0
        self._timer: Optional[asyncio.TimerHandle] = loop.call_later(LOOK_AGAIN, self._tick)

    # -- receivers -------------------------------------------------------------------

    def enter(self, key: str, queue: str, again: bool = False) -> Sleeper:
        """Begin to wait for what comes to a key, by way of a queue.

        To await the sleeper ends when it is time to look, or raises what ends the wait.

        :param again: one that was woken in vain goes on waiting, as the first of them.
        """
        sleeper = Sleeper(self._alive())
        if key not in self.pending:
            self.pending[key] = sleeper
        elif again:
            self._behind.setdefault(key, []).insert(0, self.pending[key])
            self.pending[key] = sleeper
        else:
            self._behind.setdefault(key, []).append(sleeper)
        self.wanted[queue] = self.wanted.get(queue, 0) + 1
        if again:
            self.awake -= 1
        return sleeper

    def attend(self, queue: str) -> None:
        """See to it that what comes into a queue rings, and what is there wakes."""
        if queue not in self._hung and not self._planned:
            self._look()

    def deliver_soon(self, queue: str) -> None:
        """Have what was posted to a queue delivered when the loop is free."""
        self._alive().call_soon(self._loops.inbox.deliver, queue)

    def wake(self, queue: str, keys: Sequence[str]) -> None:
        """Wake the first who waits for each key; they all are of one queue."""
        struck: List[Optional[Sleeper]] = []
        crowd = bool(self._behind) and not self._behind.keys().isdisjoint(keys)
        try:
            if crowd:
                for key in keys:
                    self._strike(key, queue, struck)
            else:
                # One step for all: half of what it costs one by one.
                struck.extend(map(self.pending.pop, keys, repeat(None)))
        finally:
            # Also if a signal's handler has raised: nobody wakes them any more.
            woken = [one for one in struck if one is not None and not one.awake]
            self.awake += len(woken)
            wake(woken)
            number = 0 if crowd else len(struck) - struck.count(None)
            if number:
                self._unwant(queue, number)

    def _strike(self, key: str, queue: str, struck: List[Optional[Sleeper]]) -> None:
        """Strike off the first who waits for a key, and those before him who were cancelled."""
        while key in self.pending:
            sleeper = self.pending[key]
            struck.append(sleeper)
            self._move_up(key, queue)
            if not sleeper.awake:
                return

    def leave(self, key: str, queue: str, sleeper: Sleeper, took: bool) -> None:
        """End a wait, with a message or without."""
        woken = sleeper.awake and (took or not sleeper.cancelled())
        if woken:
            self.awake -= 1
        else:
            self._forget(key, queue, sleeper)
        if self._ended or self._seat.forgotten():
            # In a loop that is gone it is the garbage collector that ends it.
            return
        if not took:
            if woken and key in self._loops.inbox:
                self._loops.wake(queue, (key,))
            if not (self.pending or self.awake or self._loops.inbox):
                self._undo()
                return
        if queue[-1] == "!":
            return
        if (woken and not took) or (queue in self._hung and queue not in self.wanted):
            # What is there, or will be, is for others, who are told by our going away.
            self._owes = True
            if not self._planned:
                self._look()

    def end(self, error: BaseException) -> None:
        """End all waits with an exception, and watch no longer."""
        self._fail(error)
        self._ended = True
        self._undo()

    # -- rung, and looking -----------------------------------------------------------

    def _rang(self) -> None:
        """The loop's reader: somewhere there is something."""
        waiter = self._seat.waiter
        if waiter is None:
            return
        waiter.doorbell.silence()
        hung, self._hung = self._hung, set()
        try:
            for queue in hung.difference(self.wanted):
                # Another loop may wait for what we were told.
                if self._loops.wanted(queue):
                    self._loops.inbox.drain(queue)
        except IPCError:
            # At their next look.
            pass
        if len(self.wanted) == 1:
            # No need to ask where.
            (queue,) = self.wanted
            if not queue.endswith("!"):
                self.wake(queue, (queue,))
                self._plan(0)
                return
            try:
                self._loops.inbox.drain(queue)
            except IPCError:
                # The look meets it again, and knows what to do.
                pass
        if self.wanted:
            self._look()

    def _look(self) -> None:
        """Hang up where there is nothing, and wake somebody where there is something."""
        wanted = list(self.wanted)
        try:
            ready = self._listen(wanted)
            self._owes = False
            self._stuck_since = 0
            self._hung = set(wanted).difference(ready)
            for queue in ready:
                if queue.endswith("!"):
                    self._loops.inbox.drain(queue)
                else:
                    self.wake(queue, (queue,))
        except LockTimeout as error:
            self._stuck(error)
        except ReentrantCall:
            # A finalizer that was called while this thread is inside the store.
            self._plan(PAUSE)
        except Exception as error:  # noqa: BLE001 (whatever it is, the receivers raise it)
            self._fail(error)
        else:
            if ready:
                self._plan(0)

    def _listen(self, wanted: List[str]) -> Sequence[str]:
        """Hang the waiter up at the queues that are empty; return the others."""
        messages, seat = self._loops.stores.messages, self._seat
        if seat.store is not messages:
            self._sit_down(messages)
        if seat.waiter is None:
            # No doorbell to be had: whoever waits looks, and often.
            self._plan(POLL)
            return wanted
        ready: List[str] = self._loops.gate.run(messages.listen, seat.waiter, wanted)
        if wanted and not ready and not seat.waiter.nodes:
            # No room among those that can be rung: likewise.
            self._plan(POLL)
        return ready

    def _sit_down(self, messages: Any) -> None:
        """Get a waiter of the store that is in use now, in place of any other."""
        self._stand_up()
        seat, loop = self._seat, self._alive()
        seat.store = messages
        try:
            seat.waiter = self._loops.gate.run(messages.borrow_waiter)
        except OSError:
            return
        self._reading = seat.waiter.doorbell.fileno()
        loop.add_reader(self._reading, self._rang)

    def _stand_up(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            self._alive().remove_reader(reading)
        self._loops.gate.run(self._seat.give_back, self._loops.stores.messages)

    # -- looking by itself -----------------------------------------------------------

    def _plan(self, seconds: float) -> None:
        """Look again in so many seconds, once."""
        if not self._planned:
            self._planned = True
            loop = self._alive()
            if seconds:
                loop.call_later(seconds, self._look_as_planned)
            else:
                loop.call_soon(self._look_as_planned)

    def _look_as_planned(self) -> None:
        self._planned = False
        if (self.wanted or self._owes) and not self._ended:
            self._look()

    def _tick(self) -> None:
        """Once a second: what was missed, what has expired, whether anybody waits at all."""
        loops, inbox = self._loops, self._loops.inbox
        self._timer = None
        try:
            now = clock.now()
            inbox.expire(now)
            loops.tidy()
            loops.stores.attend(now)
            for queue in list(self.wanted):
                inbox.deliver(queue)
        except LockTimeout:
            pass
        except Exception as error:  # noqa: BLE001 (whatever it is, the receivers raise it)
            self._fail(error)
        for queue, channel in inbox.channels():
            self.wake(queue, (channel,))
        if not (self.pending or self.awake or inbox):
            self._undo()
            return
        self._timer = self._alive().call_later(LOOK_AGAIN, self._tick)
        if self._seat.waiter is None:
            # Perhaps there is one by now.
            self._seat.store = None
        if self.wanted:
            self._look()

    # -- the end ---------------------------------------------------------------------

    def _fail(self, error: BaseException) -> None:
        waiting = [*self.pending.values(), *chain.from_iterable(self._behind.values())]
        self.pending.clear()
        self._behind.clear()
        self.wanted.clear()
        sleepers = [one for one in waiting if not one.awake]
        self.awake += len(sleepers)
        wake(sleepers, error)

    def _stuck(self, error: LockTimeout) -> None:
        """The lock could not be had: try again later, but not for ever."""
        now = clock.now()
        self._stuck_since = self._stuck_since or now
        if now - self._stuck_since >= self._loops.lock_timeout * clock.SECOND:
            self._stuck_since = 0
            self._fail(given_up(self._loops.lock_timeout, error))
        self._plan(PAUSE)

    def _undo(self) -> None:
        """Leave nothing in the loop, and give the waiter back."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        self._hung.clear()
        self._owes = False
        loop = self._alive()
        reading, self._reading = self._reading, None
        if reading is not None:
            loop.remove_reader(reading)
        self._loops.release(id(loop), self._seat)

    def _forget(self, key: str, queue: str, sleeper: Sleeper) -> None:
        """Strike off one that was not woken."""
        behind = self._behind.get(key, [])
        if self.pending.get(key) is sleeper:
            self._move_up(key, queue)
        elif sleeper in behind:
            behind.remove(sleeper)
            if not behind:
                del self._behind[key]
            self._unwant(queue, 1)

    def _move_up(self, key: str, queue: str) -> None:
        """The first of those who wait for a key goes."""
        behind = self._behind.get(key)
        if behind is None:
            del self.pending[key]
        else:
            self.pending[key] = behind.pop(0)
            if not behind:
                del self._behind[key]
        self._unwant(queue, 1)

    def _unwant(self, queue: str, number: int) -> None:
        left = self.wanted[queue] - number
        if left:
            self.wanted[queue] = left
        else:
            del self.wanted[queue]

    def _alive(self) -> asyncio.AbstractEventLoop:
        loop = self._loop()
        if loop is None:
            raise RuntimeError("the event loop is gone")
        return loop
