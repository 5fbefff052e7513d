"""Those who wait for messages: hung up, rung, and taken off again.

Knows doorbells and the lists of waiters (``waiters``), and that a message store has ``receive``;
does not know what a message is. The half of ``messages.MessageStore`` that is about waiting.

A receiver that finds nothing is hung up in the very critical section in which it looked. A
sender that finds one hung up takes it off, and rings it with the lock free. Whoever was rung and
leaves without the message has the next one rung.

One that blocks may watch its queues for a moment before it is hung up (``spin``).
"""
import logging
import time

from asgi_ipc._shm import forks
from asgi_ipc._shm.clock import SECOND
from asgi_ipc._shm.doorbell import Doorbell, Ringer
from asgi_ipc._shm.segment import EPOCH
from asgi_ipc.errors import LayerClosed, LockTimeout
from asgi_ipc.layout import COUNT, FIRST, HASH, WAIT_FIRST
from asgi_ipc.parts import MessageSegment
from asgi_ipc.spin import Spin
from asgi_ipc.waiters import LOOK_AGAIN, Waiter

POLL = 0.05
"""Seconds between looks of a receiver for which there is no doorbell."""

NO_PLACE = "no room for one more waiting receiver: it polls; raise message_memory"
INTERVAL = 10 * SECOND
"""Nanoseconds between two log entries that say so: who polls finds it many times a second."""

logger = logging.getLogger("asgi_ipc")


class Receivers(MessageSegment):
    """The waiting side of a message store."""

    def __init__(self, *options):
        MessageSegment.__init__(self, *options)
        self._idle_waiters = []
        self._waiting = set()
        self._closed = False
        self._ringer = Ringer(self.name)
        self._spin = Spin()
        self._more = False
        self._silent_until = 0
        forks.watch(self)

    def borrow_waiter(self):
        """Return a waiter with a doorbell for one receive at a time; hand it back after.

        :raises OSError: no descriptor, or no space for the FIFO.
        """
        while self._idle_waiters:
            try:
                waiter = self._idle_waiters.pop()
            except IndexError:
                break
            if waiter.doorbell.usable:
                # A ring that came late has it look once in vain: cheaper than to take it out.
                self._waiting.add(waiter)
                return waiter
        self._strike_suspects()
        waiter = Waiter(Doorbell(self.name, self.mode))
        self._waiting.add(waiter)
        return waiter

    def leave(self, waiter):
        """Take a waiter off all queues, and back for the next one who waits.

        If it was summoned for a message that it did not take, another one is rung.
        """
        self._waiting.discard(waiter)
        try:
            if waiter.nodes and not self._segment.cut_short():
                self._run(self._dismiss, waiter, self._clock())
        except LayerClosed:
            waiter.doorbell.close()
            return
        self._idle_waiters.append(waiter)
        if self._closed:
            self._close_idle()

    def listen(self, waiter, queues):
        """Hang a waiter up at those of the queues that are empty; return the others.

        It is taken off all queues beside these, and what it was summoned for there, another
        one is told of. Nothing is taken: the look of an event loop, whose receivers share a
        waiter. After the segment was removed: all queues, to be looked at in the new one.
        """
        now = self._clock()
        if now >= self._next_look and self._look(now) is not None:
            return queues
        return self._run(self._listen, waiter, queues, now)

    def _listen(self, waiter, queues, now):
        ready, empty, entries = [], [], set()
        for queue in queues:
            hint = self._directory.find(queue)
            if hint is not None:
                entries.add(hint[0])
                self._log.drop_expired(hint[0], now)
                if self._words[hint[0] + FIRST]:
                    ready.append(queue)
                    continue
            empty.append(queue)
        if not entries.issuperset(waiter.nodes):
            self._dismiss(waiter, now)
        if empty:
            self._hang(waiter, empty, now)
        return ready

    def receive_blocking(self, queues, seconds):
        """Take a message if there is one, else wait for one up to so many seconds.

        Ends early after a signal whose handler returned, and when the segment was removed
        (``gone``). Cost while waiting: one look a second. Else as ``receive``.
        """
        found = None
        if self._more:
            # Where the last one had not to wait, this one will hardly have to.
            found = self.receive(queues)
            self._more = found is not None
        if found is None:
            places = self._quiet_places(queues)
            if places is None:
                found = self.receive(queues)
                self._more = found is not None
            elif seconds > 0 and self._spin.sees(self._words, self._map, places):
                found = self.receive(queues)
                if found is None:
                    # Another receiver was faster.
                    self._spin.in_vain()
        if found is not None or self.gone:
            return found
        return self._wait(queues, seconds)

    def _quiet_places(self, queues):
        """The words that would tell of a message in one of the queues; None if one of them does.

        As seen without the lock, 0.3 us. None as well where only a closer look tells: at a queue
        that is not known here, of a segment that is closed, or not looked after for ``LOOK``.
        """
        words, hints, places = self._words, self._hints, []
        if self._clock() >= self._next_look:
            return None
        try:
            for queue in queues:
                hint = hints.get(queue)
                if hint is None or words[hint[0] + HASH] != hint[1] or words[hint[0] + FIRST]:
                    return None
                places.append(hint[0] + FIRST)
        except (TypeError, ValueError):
            return None
        return places

    def _wait(self, queues, seconds):
        deadline = self._clock() + int(seconds * SECOND)
        try:
            waiter = self.borrow_waiter()
        except (IOError, OSError) as error:
            logger.warning("no doorbell to be had (%s): polling %s", error, self.name)
            return self._receive_polling(queues, deadline)
        try:
            while True:
                found = self.receive(queues, waiter)
                left = (deadline - self._clock()) / float(SECOND)
                if found is not None or left <= 0 or self.gone:
                    return found
                # Without a place in the segment's lists nobody can ring: look often.
                nap = LOOK_AGAIN if waiter.nodes else POLL
                if waiter.doorbell.wait(min(left, nap)) is None:
                    return self.receive(queues, waiter)
                if self.gone:
                    return None
        finally:
            self.leave(waiter)

    def _receive_polling(self, queues, deadline):
        while True:
            found = self.receive(queues)
            left = (deadline - self._clock()) / float(SECOND)
            if found is not None or left <= 0:
                return found
            time.sleep(min(left, POLL))

    def _hang(self, waiter, queues, now):
        """Hang a waiter up at each queue; where there is no room it has to look by itself."""
        words, waiters = self._words, self._waiters
        if waiter.epoch != words[EPOCH]:
            waiter.nodes.clear()
            waiter.epoch = words[EPOCH]
        if not waiters.admit(waiter, forks.pid(), now):
            return
        for queue in queues:
            hint = self._directory.obtain(queue, now)
            if hint is None or not waiters.hang(waiter, hint[0]):
                if now >= self._silent_until:
                    self._silent_until = now + INTERVAL
                    self._trouble.append((logging.WARNING, NO_PLACE))
                return

    def _dismiss(self, waiter, now):
        words = self._words
        if waiter.epoch != words[EPOCH] or not self._waiters.admitted(waiter):
            waiter.nodes.clear()
            return
        for entry in self._waiters.dismiss(waiter):
            # It was told of a message here. If that is still there, the next one is told.
            if words[entry + COUNT] and words[entry + WAIT_FIRST]:
                self._summon(entry, now)

    def _summon(self, entry, now):
        called = self._waiters.summon(entry, now)
        if called is not None:
            self._to_ring.append((entry,) + called)

    def _ring(self):
        """Ring whom the critical section has found; a dead one is struck off for the next."""
        while self._to_ring:
            try:
                entry, bell, number = self._to_ring.popleft()
            except IndexError:
                return
            if not self._ringer.ring(number):
                try:
                    # May find one more to ring: not by _run, which would come back here.
                    self._locked(self._strike, bell, number, entry)
                except LockTimeout:
                    # What was to be done is done; whoever waits there looks within a second.
                    logger.warning("a dead waiter of %s was not struck off", self.name)

    def _strike(self, bell, number, entry=0):
        """Strike off a bell; its entry's next waiter is told in its place."""
        self._waiters.strike(bell, number)
        if entry and self._words[entry + COUNT] and self._words[entry + WAIT_FIRST]:
            self._summon(entry, self._clock())

    def _strike_suspects(self):
        """Strike off a few bells whose owners died without leaving."""
        for bell, number in self._run(self._suspects):
            # A stopped one hears it when it goes on, and looks: no harm.
            if not self._ringer.ring(number):
                self._run(self._strike, bell, number)

    def _suspects(self):
        # Not before the lock is had: after a close there are none.
        return self._waiters.suspects(self._clock(), 8)

    def forked(self):
        """In a child: the parent's waiters are not ours."""
        self._idle_waiters = []
        self._waiting = set()
        self._to_ring.clear()

    def forget_waiters(self):
        """Give back all that nobody waits with, and close what is kept open."""
        while self._idle_waiters:
            # Out of the list first: another thread may want one of them.
            try:
                waiter = self._idle_waiters.pop()
            except IndexError:
                break
            try:
                if waiter.bell and waiter.doorbell.usable and not self._segment.cut_short():
                    self._run(self._strike, waiter.bell, waiter.doorbell.number)
            finally:
                waiter.doorbell.close()
        self._ringer.close()

    def wake_all(self):
        """The segment is closed: have all threads of this process that wait here hear of it."""
        self._closed = True
        self._close_idle()
        for waiter in list(self._waiting):
            waiter.doorbell.ring()

    def _close_idle(self):
        while self._idle_waiters:
            try:
                self._idle_waiters.pop().doorbell.close()
            except IndexError:
                break

    def _afterwards(self):
        super(Receivers, self)._afterwards()
        self._ring()
