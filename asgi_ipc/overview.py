"""What ``statistics()`` of both faces returns, and ``asgi-ipc stat`` shows.

Knows both stores and their census; does not know who asks. It is put together in steps, so that
an event loop can go on between them, and so that the lock is held for microseconds at a time.
"""
import heapq
from operator import attrgetter, itemgetter

from asgi_ipc import statistics
from asgi_ipc._shm.clock import SECOND
from asgi_ipc._shm.segment import RECOVERIES, WAITED, WAITS
from asgi_ipc.census import GroupCensus, MessageCensus
from asgi_ipc.layout import DAMAGED, FULL, HEADER_RATES, MOVED, SENT

TOP = 10
"""Channels and groups that are named, where nothing else is asked for."""


class Overview(object):
    """The figures of one prefix at one time.

    :param stores: ``stores.Stores``.
    :param top: so many channels and groups are named of each kind.
    :raises ValueError: ``top`` is not a whole number from 0 up.
    """

    def __init__(self, stores, top=TOP):
        if isinstance(top, bool) or not hasattr(top, "__index__") or top < 0:
            raise ValueError("top={0!r}: it has to be a whole number, at least 0".format(top))
        self._top = top
        self._stores = stores
        self.messages = MessageCensus(stores.messages)
        self.groups = GroupCensus(stores.groups)
        self._left = [self.groups, self.messages]

    def step(self):
        """Look at one more piece; False when all has been seen. May be repeated if it raises."""
        if not self._left[-1].step():
            self._left.pop()
        return bool(self._left)

    def result(self, prefix, drops):
        """The dict that ``IPCChannelLayer.statistics`` describes.

        :param drops: messages that group sends of the layer that asks have dropped.
        """
        top = self._top
        channels = self.messages.channels()
        waiting = [channel for channel in channels if channel.waiting]
        groups = self.groups.groups()
        return {
            "prefix": prefix,
            "messages": self._of_messages(channels),
            "groups": self._of_groups(groups),
            "bridge": self._of_bridge(),
            "fullest_channels": _largest(waiting, attrgetter("waiting", "oldest"), top),
            "oldest_channels": _largest(waiting, attrgetter("oldest", "waiting"), top),
            "largest_groups": _largest(groups, itemgetter(1), top),
            "drops": drops,
        }

    def _of_messages(self, channels):
        store = self._stores.messages
        header = store.header()
        sent, refused = statistics.rates(header, HEADER_RATES, store.now())
        figures = {
            "stored": store.stored(header),
            "sent": header[HEADER_RATES + SENT],
            "sent_per_second": sent,
            "refused": header[HEADER_RATES + FULL],
            "refused_per_second": refused,
            "waiting": sum(channel.waiting for channel in channels),
            "oldest": max([channel.oldest for channel in channels] or [0.0]),
            "channels": len(channels),
            "receivers": sum(receiver.alive for receiver in self.messages.receivers()),
            "moved": header[MOVED],
            "damaged": header[DAMAGED],
        }
        figures.update(_of_segment(store, header))
        return figures

    def _of_bridge(self):
        store = self._stores.messages
        figures = store.bridge()
        lease = figures.pop("lease")
        figures["attached"] = lease > store.now()
        figures["connected"] = bool(figures["connected"] and figures["attached"])
        figures["node"] = "{0:012x}".format(figures["node"])
        figures["lag"] /= float(SECOND)
        return figures

    def _of_groups(self, groups):
        store = self._stores.groups
        figures = {"groups": len(groups), "members": sum(group.members for group in groups)}
        figures.update(_of_segment(store, store.header()))
        return figures


def statistics_of(stores, prefix, drops, top=TOP):
    """The whole of it in one go."""
    overview = Overview(stores, top)
    while overview.step():
        pass
    return overview.result(prefix, drops)


def _of_segment(store, header):
    """What both segments have."""
    return {
        "size": store.size,
        "memory": store.memory_used(),
        "rebuilds": header[RECOVERIES],
        "lock_waits": header[WAITS],
        "lock_waited": header[WAITED] / float(SECOND),
    }


def _largest(found, key, top):
    return [dict(one._asdict()) for one in heapq.nlargest(top, found, key)]
