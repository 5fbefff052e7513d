"""Normal channels that machines share: a message goes where somebody waits for it.

Knows the station and the link. Out: the bridge hangs behind all local receivers of such a channel,
as a reserve; when it is rung nobody else waits there, and the message is moved to the outbox, from
which it goes as all others do. What nobody was rung for is found in a round, if it is old enough
that a worker which was rung would have taken it.

In: the stream of such a channel has one group of consumers, whose members are the nodes. A node
reads it only while a receiver waits here; what it has read it moves to its own stream, in one
piece with the acknowledgement, and only the first one to acknowledge may. So it arrives once, and
what a node read that died meanwhile is claimed by another one.

A channel whose stream holds ``FULL`` entries takes no more: its messages wait in the channel
here, whose capacity says then that it is full.
"""
from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Dict, List, Sequence, Set, Tuple

from asgi_ipc import routing
from asgi_ipc._shm import clock
from asgi_ipc.bridge.envelope import (
    REFUSED,
    Refused,
    Sealer,
    channel_stream,
    node_stream,
)
from asgi_ipc.census import MessageCensus
from asgi_ipc.drops import Drops

if TYPE_CHECKING:
    from asgi_ipc.bridge.link import Id, Link
    from asgi_ipc.bridge.station import Station

GROUP = "nodes"
"""The group of consumers."""

ROUND = 0.05
"""Seconds between two looks for what is to go out, and for who waits."""

YOUNG = clock.SECOND // 20
"""Nanoseconds that a message waits for a worker of this machine, if there is one that is busy."""

BUSY = clock.SECOND
"""Nanoseconds for which a worker that does not wait any more counts as busy, and not as gone."""

CENSUS_EVERY = clock.SECOND
"""Nanoseconds between two looks for channels that are new."""

CLAIM_EVERY = 5 * clock.SECOND
IDLE = 10000
"""Milliseconds after which what another node has read is taken over."""

AT_ONCE = 100
"""Messages of a channel that are moved or read in one round."""

FULL = 10000
"""Entries in a shared channel's stream above which it is full."""


class Sharing:
    """Shares the channels that match.

    :param patterns: compiled.
    :param age: ms after which an entry is of no use.
    """

    def __init__(
        self, station: Station, link: Link, sealer: Sealer, patterns: Sequence[Any], age: int
    ) -> None:
        self._station = station
        self._link = link
        self._sealer = sealer
        self._patterns = patterns
        self._age = age
        self._known: Set[str] = set()
        self._joined: Set[str] = set()
        self._full: Set[str] = set()
        self._busy: Dict[str, int] = {}
        self._next_census = 0
        self._next_claim = 0
        self._refused = Drops(REFUSED)

    async def settle(self) -> None:
        """Take what was read and not moved, by one that died or was cut off."""
        self._joined.clear()
        await self._find()
        for queue in sorted(self._known):
            await self._join(queue)
            stream = channel_stream(queue)
            found = await self._link.read_shared({stream: "0"}, GROUP, self._me, AT_ONCE, 0)
            for _, entries in found or ():
                await self._take(stream, entries)

    async def pump(self) -> None:
        """Go round, for ever."""
        while True:
            await self._find()
            await self._give()
            wanted = await self._station.persist(
                self._station.messages.wanted, sorted(self._known)
            )
            if wanted:
                self._busy.update(dict.fromkeys(wanted, clock.now() + BUSY))
                await self._claim(wanted)
                await self._read(wanted)
            else:
                await self._station.summoned(ROUND)

    @property
    def _me(self) -> str:
        return self._station.node

    async def _find(self) -> None:
        """Look for channels that are new."""
        now = clock.now()
        if now < self._next_census:
            return
        self._next_census = now + CENSUS_EVERY
        census = MessageCensus(self._station.messages)
        more = True
        while more:
            more = await self._station.persist(census.step)
            await asyncio.sleep(0)
        found = {
            one.channel
            for one in census.channels()
            if "!" not in one.channel and "?" not in one.channel and self._shared(one.channel)
        }
        self._known = found
        self._busy = {queue: until for queue, until in self._busy.items() if until > now}
        for queue in sorted(found):
            stream = channel_stream(queue)
            if await self._link.length(stream) >= FULL:
                self._full.add(queue)
            else:
                self._full.discard(queue)

    def _shared(self, channel: str) -> bool:
        return any(pattern.match(channel) for pattern in self._patterns)

    async def _give(self) -> None:
        """Move to the outbox what nobody waits for here."""
        station, messages = self._station, self._station.messages
        given = sorted(self._known - self._full)
        rung, now = station.was_summoned(), clock.now()
        for queue in given:
            routed = routing.routing(routing.SHARED, queue).encode("ascii")
            age = 0 if rung and self._busy.get(queue, 0) <= now else YOUNG
            for _ in range(AT_ONCE):
                if not await station.persist(messages.move, queue, routed, age):
                    break
        await station.persist(station.stand_by, given)

    async def _join(self, queue: str) -> None:
        if queue not in self._joined:
            await self._link.join(channel_stream(queue), GROUP)
            self._joined.add(queue)

    async def _read(self, wanted: Dict[str, int]) -> None:
        """Read for those who wait, and move to our own stream what there is."""
        for queue in wanted:
            await self._join(queue)
        streams = {channel_stream(queue): ">" for queue in wanted}
        # For each of them the same: what is too much goes out again.
        count, block = min(*wanted.values(), AT_ONCE), int(ROUND * 1000)
        found = await self._link.read_shared(streams, GROUP, self._me, count, block)
        if found is None:
            # A stream was gone: it had been empty for long, or Redis lost it.
            self._joined.clear()
            return
        for stream, entries in found:
            await self._take(stream, entries)

    async def _claim(self, wanted: Dict[str, int]) -> None:
        """Take over what another node has read and not moved."""
        now = clock.now()
        if now < self._next_claim:
            return
        self._next_claim = now + CLAIM_EVERY
        for queue in wanted:
            await self._join(queue)
            stream = channel_stream(queue)
            found = await self._link.claim(stream, GROUP, self._me, IDLE)
            if found:
                await self._take(stream, found)

    async def _take(self, stream: str, entries: List[Tuple[Id, Any]]) -> None:
        """Move entries that we have read to our own stream."""
        own = node_stream(self._me)
        moved: List[Tuple[Id, bytes]] = []
        for ident, entry in entries:
            try:
                envelope = self._sealer.open(stream, entry)
            except Refused as error:
                self._refused.add(stream, [str(error)])
                await self._station.persist(self._station.messages.count, "refused")
                moved.append((ident, b""))
                continue
            left = int(envelope.lifetime - max(self._link.now() - ident[0], 0))
            routed = routing.routing(envelope.kind, envelope.name).encode("ascii")
            again = b""
            if left > 0:
                again = self._sealer.seal(own, envelope.node, left, routed, envelope.payload)
            else:
                await self._station.persist(self._station.messages.count, "expired")
            moved.append((ident, again))
        if moved:
            await self._link.take(stream, own, GROUP, self._age, moved)
