"""A lock that cannot be had is tried by one at a time, and not too often.

A try keeps its event loop from all else for as long as it lasts, so a thousand consumers must
not each have theirs while some process is stopped with the lock in its hand. After a try in vain
the gate is shut for a while: whoever comes then is told at once what the last one was told.

Knows ``LockTimeout``; does not know what is done behind the lock.
"""
from __future__ import annotations

from typing import Any, Callable

from asgi_ipc._shm import clock
from asgi_ipc.errors import LockTimeout

TRY = 0.02
"""Seconds that one try may last: the ``lock_timeout`` that the stores are opened with."""

PAUSE, LONGEST_PAUSE = 0.05, 0.4
"""Seconds after a try in vain in which there is no other: double after each, up to the second."""

CROWD = 50
"""How many may come again after each pause; if there are more, all come less often."""


class Gate:
    """Before the lock of one segment, for one process.

    ``shut_until`` is 0 as long as no try was in vain. Who is in a hurry may then go by the gate,
    if he tells ``shut`` of the ``LockTimeout`` that he meets.
    """

    def __init__(self) -> None:
        self.shut_until = 0
        self._pause = PAUSE
        self._reason = ""

    def run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Do something that takes the lock.

        :raises LockTimeout: it cannot be had; nothing was done.
        """
        if self.shut_until and clock.now() < self.shut_until:
            raise LockTimeout(self._reason)
        try:
            result = work(*arguments)
        except LockTimeout as error:
            self.shut(error)
            raise
        if self.shut_until:
            self.shut_until = 0
            self._pause = PAUSE
        return result

    def shut(self, error: LockTimeout) -> None:
        """A try was in vain. Told twice is told once."""
        now = clock.now()
        if now < self.shut_until:
            return
        self._reason = str(error)
        self.shut_until = now + int(self._pause * clock.SECOND)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)


def given_up(seconds: float, error: LockTimeout) -> LockTimeout:
    """The error that says for how long all was tried, given that of the last try."""
    return LockTimeout("given up after {0} s: {1}".format(seconds, error))
