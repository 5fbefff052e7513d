"""What had to be dropped, counted and logged: never silent, never a flood.

The ASGI contract forbids send_group to raise ChannelFull, so a full channel loses the
message. Knows counts and the log, nothing of stores.
"""
import logging
import threading

from asgi_ipc._shm import clock, forks

INTERVAL = 10 * clock.SECOND
"""Nanoseconds between two log entries."""

GROUPS = (
    "send to group %s: %d message(s) dropped, channels full, the last was %s; read faster or "
    "raise capacity"
)
"""What is logged, with a name, a count and a channel."""

logger = logging.getLogger("asgi_ipc")


class Drops(object):
    """Counts the drops of one layer; logs the first at once, then once an interval."""

    def __init__(self, text=GROUPS, now=clock.now):
        self.total = 0
        self._text = text
        self._now = now
        self._lock = threading.RLock()
        self._since = {}
        self._next = 0
        forks.watch(self)

    def add(self, name, channels):
        """Note that these channels were full, under a name: the group that was sent to."""
        if forks.NEEDS_CHECK:
            forks.check()
        with self._lock:
            self.total += len(channels)
            count, _ = self._since.get(name, (0, None))
            self._since[name] = (count + len(channels), channels[-1])
            now = self._now()
            if now < self._next:
                return
            self._next = now + INTERVAL
            report, self._since = self._since, {}
        for where, (count, channel) in sorted(report.items()):
            logger.warning(self._text, where, count, channel)

    def forked(self):
        """In a child: the thread that held the lock is not there."""
        self._lock = threading.RLock()
