"""The connection to Redis: each call gives one answer, or an error; nothing is tried again here.

Knows redis-py, keys and scripts; does not know what is carried. What a call that failed has done
over there is not known to it: ``outgoing`` and ``incoming`` find that out, when Redis is there.
"""
from __future__ import annotations

import hashlib
import logging
import random
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from redis import asyncio as redis
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from asgi_ipc._shm import clock
from asgi_ipc.bridge import scripts

PATIENCE = 3.0
"""Seconds that Redis may take to answer."""

BLOCK = 1000
"""Milliseconds that one look into the streams lasts, if nothing comes."""

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds between two tries to reach Redis."""

FAILURES = (exceptions.RedisError, OSError, EOFError)
"""What an error of Redis, or of the way there, can be. (A timeout of asyncio is an OSError, or
redis-py makes it one of its own.)"""

MILLISECOND = clock.SECOND // 1000

Id = Tuple[int, int]

logger = logging.getLogger("asgi_ipc")


class State(NamedTuple):
    """What Redis says of itself, and of us."""

    sent: int
    run: int
    kept: bool
    ids: List[Optional[Id]]


class Link:
    """One client of Redis, with what it takes to call it.

    :param url: as redis-py has it.
    :param name: begins all keys.
    :param lives: ms that a key lives without being touched.
    :param sentinel: the name of a master; the URL is that of a sentinel then.
    :param cluster: whether it is a cluster.
    """

    def __init__(
        self, url: str, name: str, lives: int, sentinel: str = "", cluster: bool = False
    ) -> None:
        self._name = name
        self._lives = lives
        self._client: Any = _client(url, sentinel, cluster)
        # ms by which the clock of Redis is ahead of ours.
        self._ahead = 0.0
        self._run = ""
        self._guard = ""

    def guard(self, node: str, life: int) -> None:
        """Say whose guard is asked for."""
        self._guard = self.key("sent:{0}-{1:012x}".format(node, life))

    def key(self, stream: str) -> str:
        """The key of a stream."""
        return "{{{0}}}:{1}".format(self._name, stream)

    def now(self) -> float:
        """Milliseconds of the clock of Redis."""
        return clock.now() / MILLISECOND + self._ahead

    async def state(self, streams: Sequence[str] = ()) -> State:
        """Ask how things are, and what time it is."""
        keys = [self._guard, *map(self.key, streams)]
        before = clock.now()
        found = await self._do(scripts.STATE, keys, [self._lives])
        between = (before + clock.now()) / 2 / MILLISECOND
        sent, run, kept, seconds, micro, ids = found
        self._ahead = int(seconds) * 1000 + int(micro) / 1000 - between
        self._run = run.decode("ascii")
        return State(int(sent), number_of(self._run), kept == 1, [_id(one) for one in ids])

    async def set_guard(self, before: int, sent: int) -> None:
        """Have the guard say something else, if it says what it said before."""
        await self._do(scripts.SET_GUARD, [self._guard], [before, sent, self._lives])

    async def publish(
        self, acked: int, last: int, age: int, entries: List[Tuple[int, str, bytes]]
    ) -> bool:
        """Write entries (number, stream, bytes) into their streams; False if nothing was done.

        :param acked: the number that Redis is known to have.
        :param last: the one that it has then.
        :param age: ms after which an entry is of no use.
        """
        streams = sorted({stream for _, stream, _ in entries})
        places = {stream: place for place, stream in enumerate(streams, 2)}
        latest = int(self.now() + PATIENCE * 1000)
        arguments: List[Any] = [self._run, acked, last, age, self._lives, latest]
        for number, stream, entry in entries:
            arguments += [number, places[stream], entry]
        keys = [self._guard, *map(self.key, streams)]
        return bool(await self._do(scripts.PUBLISH, keys, arguments) == 1)

    async def read(
        self, after: Dict[str, Id], count: int
    ) -> List[Tuple[str, List[Tuple[Id, Any]]]]:
        """The next entries of streams: [(stream, [(id, bytes)])]; waits for one, not for ever."""
        wanted = {self.key(stream): "{0}-{1}".format(*last) for stream, last in after.items()}
        found = await self._client.xread(wanted, count=count, block=BLOCK)
        return self._entries(found)

    async def read_shared(
        self, channels: Dict[str, str], group: str, consumer: str, count: int, block: int
    ) -> Optional[List[Tuple[str, List[Tuple[Id, Any]]]]]:
        """The same as a consumer of a group; None if a stream has no such group.

        :param channels: stream -> id, ">" for new ones.
        """
        wanted = {self.key(stream): last for stream, last in channels.items()}
        try:
            found = await self._client.xreadgroup(
                group, consumer, wanted, count=count, block=block or None
            )
        except exceptions.ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            return None
        return self._entries(found)

    async def join(self, stream: str, group: str) -> None:
        """See to it that a stream has a group of consumers."""
        try:
            await self._client.xgroup_create(self.key(stream), group, id="0", mkstream=True)
        except exceptions.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def claim(
        self, stream: str, group: str, consumer: str, idle: int
    ) -> List[Tuple[Id, Any]]:
        """Entries that another consumer read, and has not taken for so many ms."""
        found = await self._client.xautoclaim(
            self.key(stream), group, consumer, idle, start_id="0-0", count=100
        )
        return [_entry(one) for one in found[1] if one[0] is not None]

    async def take(
        self, stream: str, own: str, group: str, age: int, entries: List[Tuple[Id, bytes]]
    ) -> int:
        """Move entries from a shared stream to our own; how many were still there."""
        arguments: List[Any] = [group, age, self._lives]
        for (ms, number), entry in entries:
            arguments += ["{0}-{1}".format(ms, number), entry]
        keys = [self.key(stream), self.key(own)]
        return int(await self._do(scripts.TAKE, keys, arguments))

    async def length(self, stream: str) -> int:
        """Entries in a stream."""
        return int(await self._client.xlen(self.key(stream)))

    async def close(self) -> None:
        """Let go of the connections."""
        close = getattr(self._client, "aclose", None) or self._client.close
        await close()

    async def _do(self, script: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        try:
            return await self._client.evalsha(_sha(script), len(keys), *keys, *arguments)
        except exceptions.NoScriptError:
            return await self._client.eval(script, len(keys), *keys, *arguments)

    def _entries(self, found: Any) -> List[Tuple[str, List[Tuple[Id, Any]]]]:
        pairs = found.items() if hasattr(found, "items") else found or []
        skip = len(self.key(""))
        return [(key.decode()[skip:], [_entry(one) for one in entries]) for key, entries in pairs]


class Pause:
    """How long to wait before the next try: longer each time, and not in step with others."""

    def __init__(self) -> None:
        self._next = FIRST_PAUSE

    def over(self) -> None:
        """It succeeded."""
        self._next = FIRST_PAUSE

    def seconds(self) -> float:
        """The next pause."""
        pause = self._next * random.uniform(0.5, 1.0)  # noqa: S311 (no secret)
        self._next = min(2 * self._next, LONGEST_PAUSE)
        return pause


def number_of(run: str) -> int:
    """The life of a server, as a number that has room in a word; never 0."""
    return int(run[:15], 16) or 1


def _id(encoded: bytes) -> Optional[Id]:
    if not encoded:
        return None
    ms, _, number = encoded.decode("ascii").partition("-")
    return int(ms), int(number)


def _entry(found: Any) -> Tuple[Id, Any]:
    """(id, what is in its field) of an entry; None if it has no such field."""
    number, fields = found[0], found[1]
    entry = fields.get(b"d") if hasattr(fields, "get") else None
    ident = _id(number)
    if ident is None:
        raise exceptions.ResponseError("an entry without id")
    return ident, entry


_shas: Dict[str, str] = {}


def _sha(script: str) -> str:
    found = _shas.get(script)
    if found is None:
        found = _shas[script] = hashlib.sha1(script.encode("ascii")).hexdigest()  # noqa: S324
    return found


def _client(url: str, sentinel: str, cluster: bool) -> Any:
    """A client that tries everything once.

    :raises ValueError: the URL is none.
    """
    options: Dict[str, Any] = {
        "socket_connect_timeout": PATIENCE,
        "socket_timeout": PATIENCE,
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
    }
    if cluster:
        return redis.RedisCluster.from_url(url, **options)
    options["socket_keepalive"] = True
    if sentinel:
        parsed = redis.connection.parse_url(url)
        place = (parsed.pop("host", "localhost"), parsed.pop("port", 26379))
        parsed.pop("connection_class", None)
        # Without annotations in redis-py.
        make: Any = redis.Sentinel
        known = make([place], sentinel_kwargs=dict(options), **{**options, **parsed})
        return known.master_for(sentinel)
    if url.startswith("unix:"):
        del options["socket_keepalive"]
    return redis.Redis.from_url(url, **options)
