"""The bridge from start to end: whose turn it is, Redis there or away, signals.

Knows all parts of the package. While it works, three things go on side by side: the lease is
renewed, the outbox is emptied, streams are read. Each of the latter has a connection of its own,
and begins anew with ``settle`` after any failure of Redis; neither ever ends because of one. What
ends them is a signal, or that the shared memory was removed: then all begins anew with what has
taken its place.
"""
from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from typing import Any, Awaitable, Callable, List, NamedTuple, Optional, Sequence

from asgi_ipc._shm.clock import SECOND
from asgi_ipc.bridge.envelope import Sealer
from asgi_ipc.bridge.incoming import Incoming
from asgi_ipc.bridge.link import FAILURES, Link, Pause
from asgi_ipc.bridge.outgoing import Outgoing
from asgi_ipc.bridge.sharing import Sharing
from asgi_ipc.bridge.station import TRY, Gone, Station, Turn
from asgi_ipc.errors import SegmentError

LAST_TRY = 5.0
"""Seconds that a bridge that was told to end has for what is in the outbox."""

HOUR = 3600 * 1000

logger = logging.getLogger("asgi_ipc")


class Settings(NamedTuple):
    """What the command line says. ``expiry``: ms; ``outbox``: messages."""

    url: str
    prefix: str
    name: str
    expiry: int
    outbox: int
    shared: Sequence[str] = ()
    keys: Optional[List[bytes]] = None
    sentinel: str = ""
    cluster: bool = False

    def link(self) -> Link:
        """One more connection.

        :raises ValueError: the URL is none.
        """
        lives = 2 * self.expiry + 24 * HOUR
        return Link(self.url, self.name, lives, self.sentinel, self.cluster)


class Bridge:
    """A bridge of one prefix.

    :param attach: returns a context manager of ``stores.Stores``; raises SegmentError as long as
        there is no shared memory.
    """

    def __init__(self, settings: Settings, attach: Callable[[], Any]) -> None:
        self._settings = settings
        self._attach = attach
        self._stop = asyncio.Event()
        self._away = False
        self._was_there = False
        self._told = ""
        self._stations: List[Station] = []

    async def run(self) -> None:
        """Work until a signal ends it."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self.stop)
        while not self._stop.is_set():
            try:
                with self._attach() as stores:
                    await self._serve(stores)
            except SegmentError as error:
                self._tell(str(error))
                await self._nap(2 * TRY)

    def stop(self) -> None:
        """End, when what is in the outbox is sent."""
        self._stop.set()
        for station in self._stations:
            station.ring()

    async def _serve(self, stores: Any) -> None:
        """Wait for the turn, and work while it lasts."""
        turn = Turn(self._settings.prefix)
        while not turn.take():
            self._tell("another bridge of this prefix works; standing by")
            await self._nap(TRY)
            if self._stop.is_set() or stores.messages.replaced():
                return
        try:
            self._tell("the bridge of prefix {0} works".format(self._settings.prefix))
            await self._work(stores)
        except Gone:
            self._tell("the shared memory was removed; beginning anew")
        finally:
            turn.give()

    async def _work(self, stores: Any) -> None:
        settings = self._settings
        station = Station(stores, settings.expiry * SECOND // 1000, settings.outbox)
        self._stations.append(station)
        sealer = Sealer(stores.messages.size // 4, settings.expiry, settings.keys)
        clean = False
        async with contextlib.AsyncExitStack() as stack:
            links = []
            for _ in range(3 if settings.shared else 2):
                link = settings.link()
                link.guard(station.node, stores.messages.flight().life)
                stack.push_async_callback(self._close, link)
                links.append(link)
            station.messages.tell(pid=os.getpid())
            station.look()
            outgoing = Outgoing(station, links[0], sealer, settings.expiry)
            incoming = Incoming(station, links[1], sealer)
            read = asyncio.Event()
            work: List[Awaitable[None]] = [
                self._renew(station),
                self._send(outgoing, read, station),
                self._again(
                    incoming.settle, incoming.pump, read.set, lambda _: outgoing.doubt()
                ),
            ]
            if settings.shared:
                sharing = Sharing(station, links[2], sealer, settings.shared, settings.expiry)
                work.append(self._again(sharing.settle, sharing.pump))
            try:
                await self._together(work)
                clean = True
            finally:
                self._stations.remove(station)
                station.close(clean)

    async def _together(self, work: Sequence[Awaitable[None]]) -> None:
        """Do all of it until one raises, or we are told to end and the outbox is sent."""
        tasks = [asyncio.ensure_future(one) for one in work]
        stop = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
            if self._stop.is_set():
                # The second one ends with the outbox empty.
                await asyncio.wait([tasks[1]], timeout=LAST_TRY)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            await _cancelled([stop, *tasks])

    async def _renew(self, station: Station) -> None:
        while True:
            await station.persist(station.look)
            await asyncio.sleep(0.5)

    async def _send(self, outgoing: Outgoing, read: asyncio.Event, station: Station) -> None:
        # Not before it is known from where to read: what others answer is not to be missed.
        await read.wait()

        async def settle() -> None:
            await outgoing.settle()
            self._there(station)

        async def pump() -> None:
            await outgoing.pump(self._stop.is_set)

        await self._again(settle, pump, failed=lambda error: self._lost(error, station))

    async def _again(
        self,
        settle: Callable[[], Awaitable[None]],
        pump: Callable[[], Awaitable[None]],
        settled: Callable[[], None] = lambda: None,
        failed: Optional[Callable[[BaseException], None]] = None,
    ) -> None:
        """Settle and pump, and do so anew whenever Redis fails; ends when ``pump`` does."""
        pause = Pause()
        while True:
            try:
                await settle()
                pause.over()
                settled()
                await pump()
            except FAILURES as error:
                self._redis_failed(error)
                if failed is not None:
                    failed(error)
                await asyncio.sleep(pause.seconds())
            else:
                return

    def _there(self, station: Station) -> None:
        if self._away or not self._was_there:
            logger.info("connected to Redis")
        if self._away:
            station.messages.count("reconnects")
        self._away, self._was_there = False, True
        station.messages.tell(connected=1)

    def _lost(self, error: BaseException, station: Station) -> None:
        self._redis_failed(error)
        station.messages.tell(connected=0)

    def _redis_failed(self, error: BaseException) -> None:
        if not self._away:
            self._away = True
            logger.warning("no Redis (%s: %s); trying again", type(error).__name__, error)

    async def _nap(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except asyncio.TimeoutError:
            pass

    def _tell(self, text: str) -> None:
        """Log what was not logged last."""
        if text != self._told:
            self._told = text
            logger.info(text)

    @staticmethod
    async def _close(link: Link) -> None:
        try:
            await link.close()
        except FAILURES:
            # It is gone already.
            pass


async def _cancelled(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel tasks until they have ended: a read of redis-py may take it for a timeout."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=TRY)
    for task in tasks:
        # Its error, if it had one, was raised by who looked first; it is not to be told of twice.
        if not task.cancelled():
            task.exception()


def run(settings: Settings, attach: Callable[[], Any]) -> None:
    """Run a bridge until a signal ends it; see ``Bridge``.

    :raises ValueError: the URL is none.
    """

    async def main() -> None:
        await settings.link().close()
        await Bridge(settings, attach).run()

    asyncio.run(main())
