"""The peers: what is measured, and what it takes to measure it.

Each line of ``PEERS`` names a class in a module beside this one. Nothing is imported before a
process of that peer is started, so that a missing package leaves out one peer only.
"""
from collections import namedtuple

Peer = namedtuple("Peer", "name title module adapter interpreter redis can note")
"""``name``: in JSON. ``title``: in tables. ``can``: the workloads in which it takes part."""

CURRENT, OLD = "current", "old"
"""Interpreters: the one that runs the benchmark, and a Python 3.7 of its own."""

ALONE = frozenset(("round_trip", "send", "receive"))
APART = frozenset(("latency", "throughput", "competing"))
GROUPS = frozenset(("groups", "membership"))
EVERYTHING = ALONE | APART | GROUPS | frozenset(("waiting", "attach"))

OURS, OURS_ASYNC = "asgi_ipc", "asgi_ipc.aio"
BASELINE = "msgpack"
IN_MEMORY, REDIS_CORE, REDIS_PUBSUB = "inmemory", "channels_redis.core", "channels_redis.pubsub"
LITE, QUEUE, FIFO, PIPE = "channels-lite", "multiprocessing.Queue", "faster-fifo", "os.pipe"
COPIES, DISK, PUBLISHED, ASGI_REDIS = "msgpack+copies", "diskcache", "asgi_ipc 1.4.2", "asgi_redis"

PEERS = (
    Peer(
        OURS, "asgi_ipc", "ours", "Synchronous", CURRENT, False,
        EVERYTHING | frozenset(("rebuild",)), "synchronous face",
    ),
    Peer(
        OURS_ASYNC, "asgi_ipc.aio", "ours_async", "Asynchronous", CURRENT, False,
        EVERYTHING, "asynchronous face",
    ),
    Peer(
        IN_MEMORY, "InMemoryChannelLayer", "inmemory", "InMemory", CURRENT, False,
        EVERYTHING - APART, "of Channels; one process only",
    ),
    Peer(
        REDIS_CORE, "channels_redis core", "redis_layers", "Core", CURRENT, True,
        EVERYTHING, "Redis lists and sorted sets",
    ),
    Peer(
        REDIS_PUBSUB, "channels_redis pub/sub", "redis_layers", "PubSub", CURRENT, True,
        EVERYTHING - frozenset(("receive", "competing", "waiting")),
        "keeps no backlog; each subscriber gets every message",
    ),
    Peer(
        LITE, "channels-lite", "sqlite_layer", "Lite", CURRENT, False,
        EVERYTHING, "SQLite, by aiosqlite; polls every 0.1 s, as it is delivered",
    ),
    Peer(
        QUEUE, "multiprocessing.Queue", "queues", "StandardQueue", CURRENT, False,
        ALONE | APART, "pickle; a thread writes to a pipe",
    ),
    Peer(
        FIFO, "faster-fifo", "fifo", "FasterFifo", CURRENT, False,
        ALONE | APART, "C++; pickle; put and get one by one",
    ),
    Peer(
        PIPE, "os.pipe + msgpack", "queues", "Pipe", CURRENT, False,
        frozenset(("round_trip", "latency", "throughput")), "no queue, no names",
    ),
    Peer(
        BASELINE, "msgpack alone", "plain", "Packing", CURRENT, False,
        frozenset(("round_trip", "baseline")), "pack and unpack: the baseline of each run",
    ),
    Peer(
        COPIES, "msgpack + two copies", "plain", "Copies", CURRENT, False,
        frozenset(("sizes",)), "pack, copy into memory, copy out, unpack",
    ),
    Peer(
        DISK, "diskcache", "disk", "Disk", CURRENT, False,
        ALONE | frozenset(("waiting",)), "SQLite; Cache.push and Cache.pull",
    ),
    Peer(
        PUBLISHED, "asgi_ipc 1.4.2", "published", "Published", OLD, False,
        EVERYTHING - APART, "Python 3.7, msgpack-python 0.5.6; cannot block",
    ),
    Peer(
        ASGI_REDIS, "asgi_redis 1.4.3", "published", "AsgiRedis", OLD, True,
        EVERYTHING, "Python 3.7, redis 2.10.6",
    ),
)


def by_name():
    """Dict of name to peer."""
    return {peer.name: peer for peer in PEERS}
