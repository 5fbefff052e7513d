"""From the streams to the channels here: each entry once.

Knows the station and the link. The last entry delivered of each stream is in shared memory, stored
with the delivery (``crossing``); so whoever reads on after a death, a restart or a cut reads on
from there. What has been trimmed meanwhile had expired.

Redis's clock is the only one that machines compare: an entry's age is the time that Redis has now
less the time in its id.

An entry for a queue that is full is held back, with all that comes after it, as ``pacing`` says.
"""
from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, AbstractSet, Any, Callable, Dict, Sequence

from asgi_ipc import routing
from asgi_ipc._shm import clock
from asgi_ipc.bridge.envelope import (
    GROUPS,
    REFUSED,
    Envelope,
    Refused,
    Sealer,
    node_stream,
)
from asgi_ipc.bridge.link import MILLISECOND, Id, Link, State
from asgi_ipc.bridge.pacing import PAUSE, Pacing
from asgi_ipc.crossing import STREAMS
from asgi_ipc.drops import Drops

if TYPE_CHECKING:
    from asgi_ipc.bridge.station import Station

COUNT = 100
"""Entries that are read at once."""

STATE_EVERY = 5 * clock.SECOND
"""Nanoseconds after which the clock of Redis is asked for again."""

BEGINNING = (0, 1)
"""Behind no entry at all; (0, 0) is for a stream that was never read."""


class Incoming:
    """Delivers what comes."""

    def __init__(self, station: Station, link: Link, sealer: Sealer) -> None:
        self._station = station
        self._link = link
        self._sealer = sealer
        self._node = int(station.node, 16)
        self._streams = {GROUPS: STREAMS[0], node_stream(station.node): STREAMS[1]}
        self._last: Dict[str, Id] = {}
        self._refused = Drops(REFUSED)
        self._pacing = Pacing(station.expiry)
        self._next_state = 0

    async def settle(self) -> None:
        """Find out from where to read on. To be called first."""
        state = await self._ask_state(list(self._streams))
        messages, persist = self._station.messages, self._station.persist
        for (stream, number), there in zip(self._streams.items(), state.ids):
            last: Id = await persist(messages.last_id, number)
            if last == (0, 0) or there is None or there < last:
                # A node that is new reads what comes from now on; or Redis lost the stream, or its
                # end, or has another clock.
                last = there or BEGINNING
                await persist(messages.start_from, number, last)
            self._last[stream] = last

    async def pump(self) -> None:
        """Deliver what comes, for ever."""
        while True:
            if clock.now() >= self._next_state:
                await self._ask_state()
            for stream, entries in await self._link.read(self._last, COUNT):
                for ident, entry in entries:
                    await self._handle(stream, ident, entry)
                    self._last[stream] = ident
                # The lease has to be renewed meanwhile.
                await asyncio.sleep(0)
            self._station.tidy()

    async def _ask_state(self, streams: Sequence[str] = ()) -> State:
        """Ask Redis for its clock, and for the ends of streams."""
        self._next_state = clock.now() + STATE_EVERY
        state: State = await self._link.state(streams)
        return state

    async def _handle(self, stream: str, ident: Id, entry: Any) -> None:
        station, number = self._station, self._streams[stream]
        age = max(self._link.now() - ident[0], 0.0)
        try:
            envelope = self._sealer.open(stream, entry)
        except Refused as error:
            self._refused.add(stream, [str(error)])
            await station.persist(station.pass_over, number, ident, "refused")
            return
        if envelope.node == self._node and envelope.kind == routing.GROUP:
            # Our own, which our members had at once.
            await station.persist(station.pass_over, number, ident)
            return
        left = envelope.lifetime - age
        if left <= 0:
            await station.persist(station.pass_over, number, ident, "expired")
            return
        await self._deliver(number, ident, envelope, left)
        age = max(self._link.now() - ident[0], 0.0)
        station.messages.tell(lag=int(age * MILLISECOND))

    async def _deliver(self, number: int, ident: Id, envelope: Envelope, left: float) -> None:
        station, kind, name = self._station, envelope.kind, envelope.name
        persist = station.persist
        if kind == routing.GROUP:
            await self._hand_over(station.deliver_to_group, number, ident, envelope, left)
        elif kind in (routing.CHANNEL, routing.SHARED):
            await self._hand_over(station.deliver, number, ident, envelope, left)
        else:
            # To do it twice is to do it once, should we die before it is noted.
            if kind == routing.ADD:
                lifetime = routing.lifetime_of(envelope.payload)
                await persist(station.join, envelope.group, name, lifetime)
            else:
                await persist(station.part, envelope.group, name)
            await persist(station.pass_over, number, ident, "received")

    async def _hand_over(
        self,
        deliver: Callable[..., Dict[str, int]],
        number: int,
        ident: Id,
        envelope: Envelope,
        left: float,
    ) -> None:
        """Put an entry into queues here, as soon as all have room that are worth waiting for."""
        persist, name, payload = self._station.persist, envelope.name, envelope.payload
        end = clock.now() + left * MILLISECOND
        given_up: AbstractSet[str] = frozenset()
        while left > 0:
            full = await persist(deliver, number, ident, name, payload, left, given_up)
            if not full:
                return
            given_up = frozenset()
            if self._pacing.waits(full):
                await asyncio.sleep(PAUSE / clock.SECOND)
                left = (end - clock.now()) / MILLISECOND
            else:
                given_up = full.keys()
        await persist(self._station.pass_over, number, ident, "expired")
