"""What a group send had to drop, counted and logged: never silent, never a flood.

The ASGI contract forbids send_group to raise ChannelFull, so a full channel loses the
message. Knows counts and the log, nothing of stores.
"""
import logging
import threading

from asgi_ipc._shm import clock, forks

INTERVAL = 10 * clock.SECOND
"""Nanoseconds between two log entries."""

logger = logging.getLogger("asgi_ipc")


class Drops(object):
    """Counts the drops of one layer; logs the first at once, then once an interval."""

    def __init__(self, now=clock.now):
        self.total = 0
        self._now = now
        self._lock = threading.RLock()
        self._since = {}
        self._next = 0
        forks.watch(self)

    def add(self, group, channels):
        """Note that these channels were full in a send to a group."""
        with self._lock:
            self.total += len(channels)
            count, _ = self._since.get(group, (0, None))
            self._since[group] = (count + len(channels), channels[-1])
            now = self._now()
            if now < self._next:
                return
            self._next = now + INTERVAL
            report, self._since = self._since, {}
        for name, (count, channel) in sorted(report.items()):
            logger.warning(
                "send to group %s: %d message(s) dropped, channels full, the last was %s; read "
                "faster or raise capacity",
                name,
                count,
                channel,
            )

    def forked(self):
        """In a child: the thread that held the lock is not there."""
        self._lock = threading.RLock()
