"""This machine's side of the bridge: its shared memory, the lease, and whose turn it is.

Knows stores and files; does not know Redis. Its calls take the lock for microseconds, inline. A
live process that holds the lock for long (a stopped one) is waited for with ``persist``.

Of several bridges of one prefix one works: who has the ``flock`` on a file beside the segments.
The kernel gives it back however its holder ends, and the next one has it within ``TRY``.
"""
from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from typing import AbstractSet, Any, Callable, Dict, Optional, Sequence

from asgi_ipc import names
from asgi_ipc._shm import clock
from asgi_ipc._shm.segment import runtime_folder
from asgi_ipc.bridge.link import MILLISECOND, Id
from asgi_ipc.crossing import BRIDGE_LOCK, OUTBOX
from asgi_ipc.drops import Drops
from asgi_ipc.errors import ChannelFull, GroupsFull, LayerClosed, LockTimeout

TRY = 0.25
"""Seconds after which one who stands by looks whether it is its turn."""

LOOK = 1.0
"""Seconds after which one who waits for the outbox looks by itself."""


class Gone(Exception):
    """The shared memory was removed: begin anew with what has taken its place."""


class Turn:
    """Whose turn it is to work for a prefix."""

    def __init__(self, prefix: str) -> None:
        self._path = os.path.join(runtime_folder(), prefix + BRIDGE_LOCK)
        self._descriptor: Optional[int] = None

    def take(self) -> bool:
        """Take the turn, if nobody has it."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # One that ends takes the file with it: what was opened may have no name any more.
            if os.fstat(descriptor).st_ino == os.stat(self._path).st_ino:
                self._descriptor, descriptor = descriptor, -1
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.ENOENT):
                raise
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        return self._descriptor is not None

    def give(self) -> None:
        """Give it to the next one."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        try:
            if os.fstat(descriptor).st_ino == os.stat(self._path).st_ino:
                os.unlink(self._path)
        except OSError as error:
            # `asgi-ipc rm` takes it with the rest.
            if error.errno != errno.ENOENT:
                raise
        finally:
            os.close(descriptor)


class Station:
    """One node, while it is this bridge's turn.

    :param stores: ``stores.Stores`` of the prefix.
    :param expiry: ns that the lease lasts: so long a successor finds the outbox filled.
    :param limit: messages that the outbox holds.
    """

    def __init__(self, stores: Any, expiry: int, limit: int) -> None:
        self.stores = stores
        self.messages = stores.messages
        self.node: str = stores.node
        self.expiry = expiry
        self._limit = limit
        self._drops = Drops()
        self._bell = asyncio.Event()
        self._summons = asyncio.Event()
        self._reserve: Any = None
        self._waiter: Any = self.messages.borrow_waiter()
        self._waiter.doorbell.silence()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._waiter.doorbell.fileno(), self._rang)

    async def persist(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Do something with shared memory, however long somebody holds the lock.

        :raises Gone: it was removed.
        """
        while True:
            try:
                return work(*arguments)
            except LockTimeout:
                await asyncio.sleep(TRY)
            except LayerClosed:
                raise Gone from None

    def look(self) -> None:
        """Renew the lease.

        :raises Gone: the shared memory was removed.
        """
        if self.messages.replaced() or self.stores.groups.replaced():
            raise Gone
        self.messages.lease(clock.now() + self.expiry, self._limit)

    async def rung(self) -> None:
        """Wait until there is something in the outbox, or for a second."""
        self._bell.clear()
        if await self.persist(self.messages.listen, self._waiter, [OUTBOX]):
            return
        try:
            await asyncio.wait_for(self._bell.wait(), LOOK)
        except asyncio.TimeoutError:
            pass

    def stand_by(self, queues: Sequence[str]) -> None:
        """Be rung for what comes into these queues while nobody else waits there."""
        if self._reserve is None:
            self._reserve = self.messages.stand_in()
            descriptor = self._reserve.doorbell.fileno()
            asyncio.get_running_loop().add_reader(descriptor, self._was_rung)
        self.messages.hang_up(self._reserve, queues)

    def was_summoned(self) -> bool:
        """Whether that happened since this was asked last."""
        rung = self._summons.is_set()
        self._summons.clear()
        return rung

    async def summoned(self, seconds: float) -> None:
        """Wait until that happens, so long at most."""
        try:
            await asyncio.wait_for(self._summons.wait(), seconds)
        except asyncio.TimeoutError:
            pass

    def _was_rung(self) -> None:
        self._reserve.doorbell.silence()
        self._summons.set()

    def ring(self) -> None:
        """Have who waits look now."""
        self._bell.set()

    def deliver(
        self,
        stream: int,
        entry: Id,
        channel: str,
        payload: bytes,
        left: float,
        given_up: AbstractSet[str],
    ) -> Dict[str, int]:
        """Deliver an entry to a channel here; ``left``: ms that it has to live.

        :param given_up: queues that go without it if they are full.
        :returns: if others are full, nothing was done: as ``MessageStore.deliver`` has it.
        """
        queue, local = names.split_local(channel)
        target = (queue, local.encode("ascii"), self.stores.capacity_of(channel))
        return self._deliver(stream, entry, channel, [target], payload, left, given_up)

    def deliver_to_group(
        self,
        stream: int,
        entry: Id,
        group: str,
        payload: bytes,
        left: float,
        given_up: AbstractSet[str],
    ) -> Dict[str, int]:
        """Deliver an entry to the members of a group that are here, as ``deliver`` does."""
        targets = self.stores.targets_here(group, clock.now())
        return self._deliver(stream, entry, group, targets, payload, left, given_up)

    def _deliver(
        self,
        stream: int,
        entry: Id,
        name: str,
        targets: Sequence[Any],
        payload: bytes,
        left: float,
        given_up: AbstractSet[str],
    ) -> Dict[str, int]:
        lifetime = int(left * MILLISECOND)
        if any(names for _, names, _ in targets):
            # Whose message expires unread is taken to be gone, and leaves its groups. One that came
            # at the last moment is no proof of that: its readers get the time to prove it.
            lifetime = max(lifetime, self.expiry // 2)
        full = self.messages.deliver(stream, entry, targets, payload, lifetime, given_up)
        if isinstance(full, dict):
            return full
        if full:
            self._drops.add(name, [queue for queue, _ in full])
        return {}

    def pass_over(self, stream: int, entry: Id, counter: str = "") -> None:
        """Note that an entry was seen, of which nothing is delivered; count it."""
        if self.messages.deliver(stream, entry, [], b"", 0) is not None and counter:
            self.messages.count(counter)

    def join(self, group: str, channel: str, lifetime: int) -> None:
        """Begin or renew a membership here; ns."""
        try:
            self.stores.group_add(group, channel, clock.now() + lifetime)
        except (GroupsFull, ChannelFull) as error:
            self._drops.add("{0} ({1})".format(group, error), [channel])

    def part(self, group: str, channel: str) -> None:
        """End a membership here."""
        self.stores.groups.discard(group, channel)

    def tidy(self) -> None:
        """End the memberships of channels whose messages expired unread."""
        if self.messages.lapsed:
            self.stores.tidy()

    def close(self, clean: bool) -> None:
        """Leave. ``clean``: nobody is to count on a successor."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._waiter.doorbell.fileno())
        if self._reserve is not None:
            loop.remove_reader(self._reserve.doorbell.fileno())
        try:
            self.messages.leave(self._waiter)
            if self._reserve is not None:
                self.messages.leave(self._reserve)
            self.messages.tell(connected=0)
            if clean:
                self.messages.lease(0, self._limit)
        except (LayerClosed, LockTimeout, TypeError):
            # Removed, or its lock cannot be had: the lease runs out by itself.
            self._waiter.doorbell.close()

    def _rang(self) -> None:
        self._waiter.doorbell.silence()
        self._bell.set()
