"""The bridge's side of a message store: what goes out, what comes in, each in one critical section.

Knows queues, records and the words of ``crossing``; does not know Redis, nor what a routing means.
A part of ``messages.MessageStore``. A record of the outbox has in place of names its *routing*:
bytes that say what it is and where it goes.
"""
from collections import namedtuple

from asgi_ipc import crossing
from asgi_ipc._shm.doorbell import Doorbell
from asgi_ipc._shm.words import Damage
from asgi_ipc.crossing import OUTBOX
from asgi_ipc.layout import (
    ACKED,
    COUNT,
    COUNTERS,
    EXPIRES,
    FIRST,
    IN_FLIGHT,
    LEASE,
    LIFE,
    LIMIT,
    MOVING,
    NEXT,
    NODE,
    OUTBOX_LIMIT,
    RATES,
    RUN,
    SENT,
    SENT_AT,
    SEQ,
    SEQUENCE,
    TAIL,
    WAIT_FIRST,
)
from asgi_ipc.records import words_of
from asgi_ipc.sending import Senders
from asgi_ipc.waiters import Waiter

Outgoing = namedtuple("Outgoing", "seq expires routing payload")
"""A message of the outbox. ``expires``: ns of the store's clock."""

Flight = namedtuple("Flight", "life acked in_flight run")
"""What was sent to Redis, and what it is known to have; see ``layout``."""


class Outbox(Senders):
    """The part of a message store that a bridge works with."""

    def bridged(self, now):
        """How many messages the outbox may hold; 0 if no bridge takes what is in it.

        Takes no lock. Cost: 0.1 us.
        """
        words = self._words
        try:
            return words[OUTBOX_LIMIT] if words[LEASE] > now else 0
        except (TypeError, ValueError):
            # Closed. Who sends hears it.
            return 0

    @property
    def outbox_limit(self):
        """Messages that the outbox may hold."""
        return self._words[OUTBOX_LIMIT]

    # -- for the bridge --------------------------------------------------------------

    def lease(self, until, limit):
        """Have senders fill the outbox until then (ns, 0 for no longer), up to so many."""
        self._run(self._lease, until, limit)

    def flight(self):
        """What went out and what arrived there: a ``Flight``."""
        return self._run(self._flight)

    def depart(self, seq, run):
        """Note, before it is sent, that the outbox up to ``seq`` goes to the Redis ``run``."""
        self._run(self._depart, seq, run)

    def peek_batch(self, limit, size):
        """Copy the first messages of the outbox, and leave them there.

        Cost: the messages, under one lock.

        :param limit: messages at most.
        :param size: bytes after which no further one is added.
        :returns: list of ``Outgoing``.
        """
        return self._run(self._peek_batch, limit, size)

    def drop_through(self, seq, counter="sent", expired=0):
        """Take from the outbox what has a number up to ``seq``, and note that Redis has it.

        A crash inside leaves some taken and nothing noted: to be done again.

        :param counter: as what it is counted, one of ``layout.COUNTERS``.
        :param expired: so many of them were not sent, since their time was up.
        """
        self._run(self._drop_through, seq, counter, expired)

    def last_id(self, stream):
        """The last entry of a stream that was delivered here: (ms, number), (0, 0) for none."""
        return self._run(lambda: crossing.last_id(self._words, stream))

    def start_from(self, stream, entry):
        """Have a stream read from behind an entry, whatever was delivered of it before."""
        self._run(lambda: crossing.set_last_id(self._words, stream, entry))

    def deliver(self, stream, entry, targets, payload, lifetime, given_up=None):
        """Deliver an entry of a stream to queues here, once.

        Cost: the queues. A crash inside leaves it undone, or done and noted as the last entry of
        its stream. (Where the log has no room for all at once, done may be: to some of them.)

        :param entry: (ms, number), greater than that of any entry before it.
        :param targets: as for ``send_each``.
        :param lifetime: ns.
        :param given_up: a set of queues that go without it if they are full, or None for all. Any
            other that is half full is waited for: the other half is for senders here.
        :returns: list of (queue, reason) that are full; None if it was delivered before. If a queue
            that is half full is not given up, nothing is done, and it is a dict of all that are:
            {queue: messages that have gone from it since it began}.
        """
        return self._run(
            self._deliver, stream, entry, targets, payload, lifetime, given_up
        )

    def move(self, queue, routing, age=0):
        """Move the first message of a channel to the outbox, if nobody waits for it here.

        Cost: constant. A crash inside leaves it in one of the two.

        :param age: ns that it has waited at least.
        :returns: whether there was one, and the outbox had room.
        """
        return self._run(self._move, queue, routing, age)

    def wanted(self, queues):
        """How many wait at queues at which nothing is: {queue: number}. Cost: the queues."""
        return self._run(self._wanted, queues)

    def stand_in(self):
        """A waiter that is rung only where nobody else waits; one for a bridge.

        :raises OSError: no descriptor, or no space for the FIFO.
        """
        return Waiter(Doorbell(self.name, self.mode), reserve=True)

    def hang_up(self, waiter, queues):
        """Hang a waiter up at all of the queues, whether anything is there or not."""
        self._run(self._hang, waiter, queues, self._clock())

    def count(self, counter, number=1):
        """Count up one of ``layout.COUNTERS``."""
        self._run(self._count, counter, number)

    def tell(self, **counters):
        """Set some of ``layout.COUNTERS``: those that the bridge alone writes. Takes no lock."""
        for name, value in counters.items():
            self._words[crossing.COUNTER[name]] = value

    def bridge(self):
        """What there is to show of the bridge: counters by name, and what the header says."""
        return self._run(self._bridge)

    # -- inside ----------------------------------------------------------------------

    def _count(self, counter, number):
        crossing.count(self._words, counter, number)

    def _lease(self, until, limit):
        self._words[OUTBOX_LIMIT] = limit
        self._words[LEASE] = until

    def _flight(self):
        words = self._words
        return Flight(words[LIFE], words[ACKED], words[IN_FLIGHT], words[RUN])

    def _depart(self, seq, run):
        # A greater IN_FLIGHT alone would look as if it had gone to the former one.
        self._words[RUN] = run
        self._words[IN_FLIGHT] = seq

    def _peek_batch(self, limit, size):
        words, found = self._words, []
        hint = self._directory.find(OUTBOX)
        if hint is None:
            return found
        self._log.drop_expired(hint[0], self._clock())
        record = words[hint[0] + FIRST]
        while record and len(found) < limit and size > 0:
            payload, routing, _ = self._log.read(record, hint[2])
            found.append(Outgoing(words[record + SEQ], words[record + EXPIRES], routing, payload))
            size -= len(payload) + len(routing)
            record = words[record + NEXT]
        return found

    def _drop_through(self, seq, counter, expired):
        words = self._words
        hint = self._directory.find(OUTBOX)
        dropped = 0
        while hint is not None:
            record = words[hint[0] + FIRST]
            if not record or words[record + SEQ] > seq:
                break
            self._log.end_first(hint[0], record)
            dropped += 1
        expired = min(expired, dropped)
        crossing.count(words, counter, dropped - expired)
        crossing.count(words, "expired", expired)
        words[ACKED] = max(words[ACKED], seq)

    def _deliver(self, stream, entry, targets, payload, lifetime, given_up):
        words, now = self._words, self._clock()
        if crossing.last_id(words, stream) >= entry:
            return None
        if given_up is not None:
            full = self._at_capacity(targets, now)
            if any(queue not in given_up for queue in full):
                return full
        left, dropped = list(targets), []
        ready = self._choose(left, dropped, now)
        crossing.begin_delivery(
            words, stream, entry, words[SEQUENCE] + 1 if ready else words[SEQUENCE]
        )
        while ready:
            self._send_some(ready, left, dropped, payload, now, lifetime)
        crossing.end_delivery(words)
        if targets:
            crossing.count(words, "received")
        return dropped

    def _at_capacity(self, targets, now):
        words, found = self._words, {}
        for queue, _, capacity in targets:
            # Those who send here do not wait: what is dropped for them would be our doing.
            room = capacity - capacity // 2
            hint = self._directory.find(queue)
            if hint is None or words[hint[0] + COUNT] < room:
                continue
            entry = hint[0]
            if self._full(entry, room, now):
                found[queue] = words[entry + RATES + SENT] - words[entry + COUNT]
        return found

    def _move(self, queue, routing, age):
        words, now = self._words, self._clock()
        hint = self._directory.find(queue)
        if hint is None:
            return False
        entry = hint[0]
        self._log.drop_expired(entry, now)
        record = words[entry + FIRST]
        if not record or self._waiters.waiting(entry) or words[record + SENT_AT] + age > now:
            return False
        target = self._directory.obtain(OUTBOX, now, [entry])
        if target is None or words[target[0] + COUNT] >= words[OUTBOX_LIMIT]:
            return False
        payload, names, _ = self._log.read(record, hint[2])
        if names:
            raise Damage("a channel's message has names")
        old, expires = words[record + SEQ], words[record + EXPIRES]
        need = words_of(len(payload) + len(routing))
        place = words[TAIL]
        if place + need >= words[LIMIT]:
            place = self._room(need, now)
            # That may have moved it, or dropped it as expired.
            record = words[entry + FIRST]
            if not place or not record or words[record + SEQ] != old:
                return False
        outbox, _, start, tag, _ = target
        seq = words[SEQUENCE] + 1
        last = self._log.last_of(outbox)
        self._log.write(place, last, tag | need, start, seq, now, expires, payload, routing)
        crossing.begin_move(words, self._directory.number_of(entry), old, seq)
        words[TAIL] = place + need  # the commit
        words[SEQUENCE] = seq
        self._log.link(outbox, place)
        self._log.end_first(entry, record)
        words[MOVING] = 0
        if words[outbox + WAIT_FIRST]:
            self._summon(outbox, now)
        return True

    def _wanted(self, queues):
        words, found = self._words, {}
        for queue in queues:
            hint = self._directory.find(queue)
            if hint is not None and not words[hint[0] + FIRST]:
                number = self._waiters.waiting(hint[0])
                if number:
                    found[queue] = number
        return found

    def _bridge(self):
        words = self._words
        hint = self._directory.find(OUTBOX)
        figures = {name: int(words[crossing.COUNTER[name]]) for name in COUNTERS}
        figures["waiting"] = words[hint[0] + COUNT] if hint is not None else 0
        figures["limit"] = words[OUTBOX_LIMIT]
        figures["lease"] = words[LEASE]
        figures["node"] = words[NODE]
        return figures
