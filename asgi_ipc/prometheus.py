"""Figures of a prefix for Prometheus: a collector to register with ``prometheus_client``.

Knows what ``statistics`` returns, and what Prometheus calls such things; does not know who asks.
Each scrape attaches to the segments that are there, copies the figures, and detaches: so the
collector holds nothing between scrapes, needs no care around forks and event loops, and never
makes a segment, or keeps alive one that was removed.
"""
import logging
import threading
from collections import namedtuple

import six

from asgi_ipc import existing
from asgi_ipc._shm import clock, forks
from asgi_ipc.errors import SegmentError
from asgi_ipc.groups import GroupStore
from asgi_ipc.messages import MessageStore
from asgi_ipc.options import checked_prefix
from asgi_ipc.overview import statistics_of

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
except ImportError:
    raise ImportError(
        "asgi_ipc.prometheus needs prometheus_client: pip install 'asgi_ipc[prometheus]'"
    )

LOCK_TIMEOUT = 2.0
"""Seconds that a scrape waits for the lock; Prometheus gives up a scrape after 10."""

INTERVAL = 60 * clock.SECOND
"""Nanoseconds between two log entries about scrapes that failed."""

_BOTH = ("messages", "groups")
"""The segments, and the keys of their figures."""

_Metric = namedtuple("_Metric", "kind name text segments key")


def _gauge(name, text, key, segments=_BOTH):
    return _Metric(GaugeMetricFamily, "asgi_ipc_" + name, text, segments, key)


def _counter(name, text, key, segments=_BOTH):
    return _Metric(CounterMetricFamily, "asgi_ipc_" + name, text, segments, key)


_M, _G, _B = _BOTH[:1], _BOTH[1:], ("bridge",)
_UP = _gauge("up", "Whether the shared memory could be read: 1 or 0.", "up", ())
_DROPS = _counter(
    "group_drops", "Messages that group sends of this process found no room for.", "drops", ()
)
_SHARED = (
    _counter("messages_sent", "Messages sent.", "sent", _M),
    _counter("messages_refused", "Messages that found their channel full.", "refused", _M),
    _gauge("messages_waiting", "Unread messages.", "waiting", _M),
    _gauge("oldest_message_age_seconds", "Age of the oldest unread message.", "oldest", _M),
    _gauge("stored_bytes", "Bytes in unread messages.", "stored", _M),
    _gauge("channels", "Channels.", "channels", _M),
    _gauge("receivers", "Receivers that wait.", "receivers", _M),
    _counter("damaged_records", "Damaged records that were dropped.", "damaged", _M),
    _gauge("groups", "Groups.", "groups", _G),
    _gauge("group_members", "Memberships.", "members", _G),
    _gauge("memory_bytes", "Memory really held.", "memory"),
    _gauge("memory_limit_bytes", "Memory at most.", "size"),
    _counter("rebuilds", "Times that a holder of the lock died or was interrupted.", "rebuilds"),
    _counter("lock_waits", "Times that somebody had to wait for the lock.", "lock_waits"),
    _counter("lock_wait_seconds", "Time that all of them waited for the lock.", "lock_waited"),
    _gauge("bridge_connected", "Whether the bridge runs, and has Redis: 1 or 0.", "connected", _B),
    _counter("bridge_sent", "Messages that went to other machines.", "sent", _B),
    _counter("bridge_received", "Messages that came from other machines.", "received", _B),
    _gauge("bridge_outbox_messages", "Messages that wait for the bridge.", "waiting", _B),
    _counter("bridge_overflowed", "Messages the outbox had no room for.", "overflowed", _B),
    _counter("bridge_expired", "Messages that expired on their way.", "expired", _B),
    _counter("bridge_refused", "Entries of Redis that were no messages for us.", "refused", _B),
    _counter("bridge_unsure", "Messages in flight when Redis lost its data.", "unsure", _B),
    _counter("bridge_reconnects", "Times that the bridge reached Redis again.", "reconnects", _B),
    _gauge("bridge_lag_seconds", "Time of the last message from Redis to here.", "lag", _B),
)
"""What there is; Prometheus adds ``_total`` to the names of counters."""

logger = logging.getLogger("asgi_ipc")


class IPCCollector(object):
    """Collector of what is in the shared memory of a prefix.

    What it collects is the same in every process of the prefix, but for
    ``asgi_ipc_group_drops_total``: so have one process export it.

    A scrape never fails on account of it. What cannot be read is ``asgi_ipc_up 0``, and a
    warning in the log under ``asgi_ipc``, once a minute at most.

    Cost of a scrape: 1 ms, and 2 us for each channel and membership; the lock is held for
    microseconds at a time. A crash inside leaves nothing.

    :param layer: a layer of either face, or a prefix. Of a layer the drops of its group sends are
        collected as well.
    :raises TypeError: it is neither.
    :raises ValueError: no prefix can be that.
    """

    def __init__(self, layer):
        self._layer = None
        prefix = layer
        if not isinstance(layer, six.string_types):
            prefix = getattr(layer, "prefix", None)
            self._layer = layer
            if not isinstance(prefix, six.string_types):
                raise TypeError(
                    "IPCCollector takes a layer of asgi_ipc or a prefix, not {0!r}".format(layer)
                )
        self.prefix = checked_prefix(prefix)
        self._turn = threading.Lock()
        self._silent_until = 0
        forks.watch(self)

    def describe(self):
        """The metrics without figures, so that registering does not look at shared memory."""
        return [_family(metric) for metric in self._metrics()]

    def collect(self):
        """The metrics, for one scrape."""
        try:
            figures = self._look()
        except Exception as error:  # noqa: BLE001 (it would cost the scrape the figures of all)
            self._complain(error)
            return [self._filled(_UP, {"up": 0})]
        figures["up"] = 1
        return [self._filled(metric, figures) for metric in self._metrics()]

    def _metrics(self):
        return (_UP,) + _SHARED + ((_DROPS,) if self._layer is not None else ())

    def _filled(self, metric, figures):
        family = _family(metric)
        if not metric.segments:
            family.add_metric([self.prefix], figures[metric.key])
        for segment in metric.segments:
            labels = [self.prefix, segment][: len(_labels(metric))]
            family.add_metric(labels, figures[segment][metric.key])
        return family

    def _look(self):
        found = existing.find(self.prefix)
        if len(found) < len(_BOTH):
            raise SegmentError(
                "there is no shared memory of prefix {0!r}: no process of the site has attached "
                "it, or it was removed".format(self.prefix)
            )
        drops = _drops_of(self._layer) if self._layer is not None else 0
        stores = _Attached(self.prefix, *found)
        try:
            return statistics_of(stores, self.prefix, drops, 0)
        finally:
            stores.close()

    def _complain(self, error):
        if forks.NEEDS_CHECK:
            forks.check()
        with self._turn:
            now = clock.now()
            silent = now < self._silent_until
            if not silent:
                self._silent_until = now + INTERVAL
        if not silent:
            logger.warning(
                "no figures of prefix %r for Prometheus: %s: %s",
                self.prefix,
                type(error).__name__,
                error,
            )

    def forked(self):
        """In a child: the thread that had the turn is not there."""
        self._turn = threading.Lock()


class _Attached(object):
    """Both stores as they are, for an overview. One that is removed meanwhile is not succeeded."""

    def __init__(self, prefix, messages, groups):
        self.messages = MessageStore(
            prefix, messages.size, messages.mode | 0o600, LOCK_TIMEOUT
        )
        try:
            self.groups = GroupStore(prefix, groups.size, groups.mode | 0o600, LOCK_TIMEOUT)
        except BaseException:
            self.messages.close()
            raise

    def close(self):
        try:
            self.messages.close()
        finally:
            self.groups.close()


def _labels(metric):
    return ["prefix", "segment"] if len(metric.segments) > 1 else ["prefix"]


def _family(metric):
    return metric.kind(metric.name, metric.text, labels=_labels(metric))


def _drops_of(layer):
    process = getattr(layer, "_process", None)
    # The asynchronous face; the other one counts by itself.
    return process.drops if process is not None else layer._drops.total  # noqa: SLF001 (ours)
