"""Receiving through Twisted's reactor: the "twisted" extension of ASGI 1 layers.

Knows reactors and Deferreds, and of the store only ``receive``, ``borrow_waiter`` and what
goes with them. Twisted is never needed: it is imported at the first call.

A receive that finds nothing hangs its waiter up and has the reactor watch the doorbell
(``addReader``), as it watches sockets: no thread, no polling. Its Deferred fires with a
message, or with (None, None) after ``block_timeout``, never at once with the latter: Daphne
asks again immediately and would spin. In a burst, after ``BREATH`` messages that were there
at once, the next one is fired by a delayed call, so that sockets get their turn.

At shutdown the reactor drops readers and delayed calls by itself; nothing here delays it.
"""
import pkgutil

from asgi_ipc._shm import clock
from asgi_ipc.codec import unpack
from asgi_ipc.waiters import LOOK_AGAIN
from asgi_ipc.waiting import POLL

BREATH = 16
"""Messages that may be had at once before the reactor gets its turn."""

_available = []


def available():
    """Whether Twisted can be imported, found out without importing it."""
    if not _available:
        _available.append(_can_import("twisted"))
    return _available[0]


def _can_import(name):
    try:
        from importlib.util import find_spec
    except ImportError:
        # Python 2.7
        return pkgutil.find_loader(name) is not None
    return find_spec(name) is not None


def receive(layer, stores, queues):
    """Return the Deferred of one receive, see ``IPCChannelLayer.receive_twisted``."""
    waiting = _Waiting(layer, stores, queues)
    waiting.start()
    return waiting.deferred


class _Waiting(object):
    """One receive under way; an ``IReadDescriptor`` while it waits."""

    def __init__(self, layer, stores, queues):
        from twisted.internet import reactor
        from twisted.internet.defer import Deferred

        self._reactor = reactor
        self._layer = layer
        self._stores = stores
        self._messages = stores.messages
        self._queues = queues
        self._deadline = clock.now() + int(layer.block_timeout * clock.SECOND)
        self._waiter = None
        self._call = None
        self._reading = False
        self.deferred = Deferred(self._cancelled)

    def start(self):
        """Look; if there is nothing, wait."""
        found = self._messages.receive(self._queues)
        if found is None:
            self._layer.breath = 0
            self._begin()
        elif self._layer.breath < BREATH:
            self._layer.breath += 1
            self._fire(found)
        else:
            self._layer.breath = 0
            self._reactor.callLater(0, self._fire, found)

    def _begin(self):
        if self._messages.gone:
            self._messages = self._stores.messages
        try:
            self._waiter = self._messages.borrow_waiter()
        except (IOError, OSError):
            # No descriptor or no room for a doorbell: look often instead.
            self._plan(POLL)
            return
        # Hung up and looked again in one: what came since is not missed.
        found = self._messages.receive(self._queues, self._waiter)
        if found is not None:
            self._finish(found)
            return
        self._reading = True
        self._reactor.addReader(self)
        self._plan(LOOK_AGAIN if self._waiter.nodes else POLL)

    def _plan(self, seconds):
        left = (self._deadline - clock.now()) / float(clock.SECOND)
        self._call = self._reactor.callLater(max(min(seconds, left), 0.001), self._timed)

    def _timed(self):
        self._call = None
        self._look()

    def _look(self):
        """Rung, or time to look by oneself."""
        try:
            found = self._messages.receive(self._queues, self._waiter)
            if self._messages.lapsed:
                self._stores.tidy()
        except Exception as error:  # noqa: BLE001 (whatever it is, the Deferred's owner gets it)
            self._leave()
            self.deferred.errback(error)
            return
        if found is not None:
            self._finish(found)
        elif clock.now() >= self._deadline or self._messages.gone:
            self._finish(None)
        elif self._call is None:
            hung = self._waiter is not None and self._waiter.nodes
            self._plan(LOOK_AGAIN if hung else POLL)

    def _finish(self, found):
        self._leave()
        self._fire(found)

    def _fire(self, found):
        if self.deferred.called:
            return
        if found is None:
            self.deferred.callback((None, None))
            return
        try:
            result = found[0] + found[1], unpack(found[2])
        except Exception as error:  # noqa: BLE001 (likewise)
            self.deferred.errback(error)
            return
        self.deferred.callback(result)

    def _leave(self):
        """Stop waiting, and give the waiter back."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._reading:
            self._reading = False
            self._reactor.removeReader(self)
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            self._messages.leave(waiter)

    def _cancelled(self, _):
        self._leave()

    # -- IReadDescriptor -------------------------------------------------------------

    def fileno(self):
        """The doorbell's descriptor."""
        return self._waiter.doorbell.fileno() if self._waiter is not None else -1

    def doRead(self):
        """Rung."""
        self._waiter.doorbell.silence()
        self._look()

    def connectionLost(self, reason):  # noqa: ARG002 (the interface's signature)
        """The reactor shuts down, and has dropped us already."""
        self._reading = False
        self._leave()

    def logPrefix(self):
        """Name in the reactor's log."""
        return "asgi_ipc"
