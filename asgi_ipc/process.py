"""What one process is to an asynchronous layer: its name, its own channels, who waits in it.

Puts stores, inbox and loops together, and re-makes what has to be another's after a fork. Knows
which channels are the process's own, and that what it sends to those need not go through
shared memory. Knows neither Channels, nor msgpack, nor coroutines: each method is one step, and
one that raises ``LockTimeout`` has done nothing, and may be called again.
"""
from __future__ import annotations

import binascii
import copy
import functools
import os
import time
import weakref
from typing import TYPE_CHECKING, List, Optional

from asgi_ipc._shm import clock, forks
from asgi_ipc.drops import Drops
from asgi_ipc.errors import ChannelFull, IPCError, LayerClosed, LockTimeout
from asgi_ipc.gate import PAUSE, TRY, Gate, given_up
from asgi_ipc.inbox import Inbox
from asgi_ipc.loops import Loops
from asgi_ipc.stores import Stores

if TYPE_CHECKING:
    import asyncio

    from asgi_ipc.options import Options
    from asgi_ipc.watch import Watch

UNREAD = (
    "channels of %s: %d message(s) dropped unread, as their receivers have as many waiting as "
    "capacity says; the last was to %s; read faster or raise capacity"
)


class Process:
    """One layer in this process.

    :param options: ``options.Options``; its ``lock_timeout`` is for all tries together.
    :raises LockTimeout: the segments could not be attached for so long.
    """

    def __init__(self, options: Options) -> None:
        self.name = ""
        self.own = ""
        self.lock_timeout: float = options.lock_timeout
        self.lifetime: int = options.lifetime
        self._group_lifetime: int = options.group_lifetime
        self._drops = Drops()
        self.stores = _attach(options)
        self.gate = Gate()
        self._groups_gate = Gate()
        self.tidy = tidy = functools.partial(_tidy, self.stores, self._groups_gate)
        self._loops = loops = Loops(self.stores, self.gate, tidy, options.lock_timeout)
        self.inbox = Inbox(self.stores, self.gate, loops.wake, loops.announce, Drops(UNREAD))
        loops.inbox = self.inbox
        self._name()
        forks.watch(self)
        # Layers are dropped rather than closed, by Channels as well (``override_settings``).
        weakref.finalize(self, _let_go, self.stores, loops).atexit = False

    @property
    def drops(self) -> int:
        """Messages dropped so far, since channels were full or receivers did not read."""
        return self._drops.total + self.inbox.drops.total

    # -- channels --------------------------------------------------------------------

    def new_name(self, prefix: str) -> str:
        """A name for a channel of this process; whether ``prefix`` may begin one is not asked."""
        return prefix + self.own + _random_part(12)

    def owns(self, queue: str) -> bool:
        """Whether a queue is one from which this layer receives in this process alone."""
        return queue.endswith(self.own)

    def send(self, queue: str, local: str, payload: bytes, capacity: int) -> None:
        """Send; see ``MessageStore.send``."""
        messages = self.stores.messages
        if queue.endswith(self.own) and messages.quiet(queue):
            record = (local, payload, clock.now() + self.lifetime)
            if not self.inbox.post(queue, record, capacity, at_once=True):
                raise ChannelFull(_why_full(queue, capacity))
        else:
            self.gate.run(messages.send, queue, local, payload, self.lifetime, capacity)

    def take(self, channel: str, queue: str, local: str) -> Optional[bytes]:
        """The oldest message of a channel, or None."""
        if queue[-1] == "!":
            return self.inbox.take(channel, queue, local)
        found = self.gate.run(self.stores.messages.receive, [queue])
        payload: Optional[bytes] = found and found[2]
        return payload

    def watch(self, loop: asyncio.AbstractEventLoop) -> Watch:
        """Where receivers wait that run in a loop."""
        return self._loops.watch(loop)

    # -- groups ----------------------------------------------------------------------

    def group_add(self, group: str, channel: str) -> None:
        """Begin or renew a membership."""
        now = clock.now()
        self.stores.attend(now)
        self._groups_gate.run(
            self.stores.group_add, group, channel, now + self._group_lifetime
        )

    def group_discard(self, group: str, channel: str) -> None:
        """End a membership."""
        self.stores.attend(clock.now())
        self._groups_gate.run(self.stores.group_discard, group, channel)

    def send_group(self, group: str, payload: bytes) -> None:
        """Send to all members; what full channels miss is counted and logged."""
        messages = self.stores.messages
        own, others = [], []
        for target in self._groups_gate.run(self.stores.targets, group):
            queue = target[0]
            ours = queue.endswith(self.own) and messages.quiet(queue)
            (own if ours else others).append(target)
        full: List[str] = []
        if others:
            found = self.gate.run(messages.send_each, others, payload, self.lifetime)
            if found:
                full += self.stores.told_of(group, [queue for queue, _ in found])
        # Not before that: it cannot fail, so nobody is sent to twice.
        for queue, locals_, capacity in own:
            record = (locals_.decode("ascii"), payload, clock.now() + self.lifetime)
            if not self.inbox.post(queue, record, capacity, at_once=False):
                full.append(queue)
        if full:
            self._drops.add(group, full)

    # -- the whole -------------------------------------------------------------------

    def flush(self) -> None:
        """Drop all messages and groups."""
        self.stores.attend(clock.now())
        self.gate.run(self.stores.messages.flush)
        self.inbox.clear()
        self._groups_gate.run(self.stores.groups.flush)

    def end_waits(self) -> None:
        """End all waits with LayerClosed, and give back the waiters."""
        self._loops.end(LayerClosed("this channel layer was closed; make a new one"))
        self.inbox.clear()

    def forked(self) -> None:
        """In a child: a name of its own. Who waits, and what was taken, is the parent's."""
        self._name()
        self._loops.forked()
        self.inbox.forked()

    def _name(self) -> None:
        self.name = _random_part(8)
        self.own = ".{0}{1}!".format(self.stores.node, self.name)


def _tidy(stores: Stores, gate: Gate) -> None:
    """End the memberships of channels whose messages expired unread.

    It follows what is done already, and must not undo that by an error: whatever is wrong with
    the groups, the next one to use them hears.
    """
    try:
        gate.run(stores.leave_lapsed)
    except IPCError:
        pass


def _let_go(stores: Stores, loops: Loops) -> None:
    """A layer was dropped: close its descriptors."""
    try:
        loops.sweep()
        stores.close()
    except IPCError:
        # The garbage collector came while its thread was inside a store.
        pass


def _attach(options: Options) -> Stores:
    """Open the stores such that each try of their locks is a short one."""
    brief = copy.copy(options)
    brief.lock_timeout = TRY
    deadline = clock.now() + int(options.lock_timeout * clock.SECOND)
    while True:
        try:
            return Stores(brief)
        except LockTimeout as error:
            if clock.now() >= deadline:
                raise given_up(options.lock_timeout, error) from None
        time.sleep(PAUSE)


def _random_part(size: int) -> str:
    return binascii.hexlify(os.urandom(size)).decode("ascii")


def _why_full(queue: str, capacity: int) -> str:
    return (
        "{0} holds {1} messages, its capacity. Read it faster, send later, or raise capacity "
        "(or channel_capacity for this channel).".format(queue, capacity)
    )
