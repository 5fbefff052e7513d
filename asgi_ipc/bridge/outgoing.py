"""From the outbox to the streams: each message once, or known to be unsure.

Knows the station and the link. A batch is looked at in the outbox, IN_FLIGHT is stored, Redis puts
all of it into its streams and sets its guard to the last number, in one piece; then the batch is
taken from the outbox, and ACKED is stored. After anything else than that answer nothing is known,
and ``settle`` asks, before anything else is sent:

- the guard has IN_FLIGHT: the batch arrived, and is taken from the outbox;
- it has ACKED, and Redis still has all that it ever showed: it did not arrive, and is sent again;
- else Redis lost data, or was replaced by one that never had them: the batch may have been read
  by others or not. It is dropped and counted as unsure. So nothing ever arrives twice.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, List, Tuple

from asgi_ipc._shm import clock
from asgi_ipc.bridge.envelope import Sealer, stream_of
from asgi_ipc.bridge.link import MILLISECOND, Link, State
from asgi_ipc.drops import Drops

if TYPE_CHECKING:
    from asgi_ipc.bridge.station import Station

BATCH, BATCH_BYTES = 256, 1024 * 1024
"""Messages, and bytes after which no further one is added, of what is sent to Redis at once."""

UNSURE = (
    "%s: %d message(s) dropped, which may or may not have reached other machines (up to number "
    "%s): Redis has lost data, or is another one"
)


class Outgoing:
    """Empties the outbox.

    :param age: ms after which an entry is of no use to anybody.
    """

    def __init__(self, station: Station, link: Link, sealer: Sealer, age: int) -> None:
        self._station = station
        self._link = link
        self._sealer = sealer
        self._age = age
        self._run = 0
        self._doubtful = False
        self._unsure = Drops(UNSURE)
        self._node = int(station.node, 16)

    def doubt(self) -> None:
        """Redis was seen to be away: ask how things are before anything is sent.

        What is sent over a connection that is dead already would count as unsure.
        """
        self._doubtful = True
        self._station.ring()

    async def settle(self) -> None:
        """Find out what became of a batch that was not answered. To be called first."""
        station, messages = self._station, self._station.messages
        state: State = await self._link.state()
        flight = await station.persist(messages.flight)
        if flight.in_flight > flight.acked:
            intact = state.sent >= flight.acked and (state.run == flight.run or state.kept)
            if state.sent >= flight.in_flight:
                await station.persist(messages.drop_through, flight.in_flight)
            elif not intact:
                await self._give_up(flight.in_flight)
        acked = (await station.persist(messages.flight)).acked
        if state.sent != acked and not acked < state.sent <= flight.in_flight:
            # Redis lost it, or this is the first time.
            await self._link.set_guard(state.sent, acked)
        self._run = state.run
        self._doubtful = False

    async def pump(self, ending: Callable[[], bool]) -> None:
        """Send what is in the outbox, and what comes, until it is empty in the end."""
        while True:
            if self._doubtful:
                await self.settle()
            batch = await self._station.persist(
                self._station.messages.peek_batch, BATCH, BATCH_BYTES
            )
            if batch:
                await self._send(batch)
            elif ending():
                return
            else:
                await self._station.rung()

    async def _send(self, batch: List[Any]) -> None:
        station, messages, last = self._station, self._station.messages, batch[-1].seq
        entries = self._entries(batch)
        if entries:
            acked = (await station.persist(messages.flight)).acked
            await station.persist(messages.depart, last, self._run)
            if not await self._link.publish(acked, last, self._age, entries):
                # Redis did nothing: it is another than it was. The batch was not in the air.
                await station.persist(messages.depart, acked, self._run)
                await self.settle()
                return
        await station.persist(messages.drop_through, last, "sent", len(batch) - len(entries))

    def _entries(self, batch: List[Any]) -> List[Tuple[int, str, bytes]]:
        """What is still worth to be sent: (number, stream, bytes of the entry)."""
        now, found = clock.now(), []
        for message in batch:
            left = (message.expires - now) // MILLISECOND
            if left > 0:
                stream = stream_of(message.routing)
                entry = self._sealer.seal(
                    stream, self._node, left, message.routing, message.payload
                )
                found.append((message.seq, stream, entry))
        return found

    async def _give_up(self, last: int) -> None:
        """Drop what may or may not have got out."""
        messages = self._station.messages
        before = messages.bridge()["unsure"]
        await self._station.persist(messages.drop_through, last, "unsure")
        dropped = messages.bridge()["unsure"] - before
        if dropped:
            self._unsure.add(messages.name, [str(last)] * dropped)
