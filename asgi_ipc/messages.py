"""The store of messages: what send, receive and wait do, each in one critical section.

Knows the segment "/<prefix>-messages" through its parts: ``directory`` (names), ``log``
(records and queues), ``waiters`` (who waits). Does not know msgpack, groups, name rules or
either face's exceptions beyond ChannelFull. A channel is given as its queue: the whole name,
or for a process-specific one the part up to and including the ``!``, and the local part.

Every operation is one critical section, as ``guarded`` says; then those are rung whom there is
to ring. The commit words are named in ``layout``. The operations that sites do all day have the
lock's protocol written out, for a call more costs them a tenth.
"""
import atexit
import logging
import time
import warnings
import weakref
from collections import deque

from asgi_ipc import statistics
from asgi_ipc._shm import clock as monotonic
from asgi_ipc._shm import forks
from asgi_ipc._shm.doorbell import Doorbell, Ringer
from asgi_ipc._shm.segment import BUSY, EPOCH, LOOK, Segment
from asgi_ipc._shm.slots import Slots
from asgi_ipc._shm.words import LARGEST_COUNT, M32, Damage
from asgi_ipc.directory import Directory
from asgi_ipc.errors import ChannelFull, LayerClosed
from asgi_ipc.guarded import Guarded
from asgi_ipc.layout import (
    BELL_WORDS,
    BELLS,
    C_START,
    COUNT,
    DAMAGED,
    ENTRIES,
    ENTRY_WORDS,
    EXPIRES,
    FIRST,
    FULL,
    HASH,
    HEADER_RATES,
    KIND,
    LAST,
    LAYOUT_VERSION,
    LIMIT,
    LIVE,
    MOVED,
    NODE_WORDS,
    NODES,
    RATES,
    RECORD_WORDS,
    SENT_AT,
    SEQUENCE,
    TAIL,
    WAIT_FIRST,
    Geometry,
    fixed_bytes,
    lay_header,
)
from asgi_ipc.log import Log
from asgi_ipc.waiters import LOOK_AGAIN, Waiter, Waiters

MINIMUM_SIZE = 64 * 1024
"""Bytes of the smallest segment that is worth the name."""

SECOND = monotonic.SECOND
AT_CAPACITY, NO_MEMORY, NO_ENTRY = 1, 2, 3
SWEEP_EVERY = 16
_COUNTERS = tuple(range(HEADER_RATES, HEADER_RATES + 8)) + (DAMAGED, MOVED)

EXPIRE_AT_ONCE = 256
"""Channels that a send for which there is no room looks through for expired messages."""

POLL = 0.05
"""Seconds between looks of a receiver for which there is no doorbell."""

logger = logging.getLogger("asgi_ipc")


_attached = weakref.WeakSet()


@atexit.register
def _leave():
    for store in list(_attached):
        store.drop_doorbells()


def segment_name(prefix):
    """The name of the message segment of a prefix."""
    return "/{0}-messages".format(prefix)


class MessageStore(Guarded):
    """Channels of messages in shared memory.

    :param prefix: begins the segment's name; who has the same one shares the channels.
    :param size: bytes of the segment, if it has to be made.
    :param mode: permission bits of segment, semaphore and FIFOs.
    :param lock_timeout: seconds to wait for a live holder of the lock.
    :param clock: returns ns; all processes of a prefix must use one clock.
    :raises SegmentError: the segment is not ours, or there is no memory for it.

    ``succeed`` may be set to what returns the store that takes the place of this one, if its
    segment is removed (``gone``): who sends or receives here goes on there.
    """

    def __init__(self, prefix, size, mode=0o600, lock_timeout=10.0, clock=monotonic.now):
        self.name = segment_name(prefix)
        self.lapsed = deque()
        self.mode = mode
        self._clock = clock
        self.succeed = None
        self.gone = False
        self._next_look = 0
        self._expiry_hand = 0
        self._to_ring = deque()
        self._idle_waiters = []
        self._waiting = set()
        segment = Segment(
            self.name, KIND, LAYOUT_VERSION, size, fixed_bytes, lay_header, mode, lock_timeout
        )
        Guarded.__init__(self, segment)
        self.size = segment.size
        if not segment.created and abs(segment.size - size) >= 4096:
            warnings.warn(
                "the segment {0} exists with {1} bytes; message_memory={2} takes no effect until "
                "it is removed (asgi-ipc rm)".format(self.name, segment.size, size),
                RuntimeWarning,
                stacklevel=4,
            )
        self._open_parts(segment)
        self._ringer = Ringer(self.name)
        forks.watch(self)
        _attached.add(self)

    def _open_parts(self, segment):
        words = self._words = segment.words
        geometry = Geometry(segment.size)

        def slots(name, control, place, width):
            return Slots(name, words, control, place[0], place[1], width, segment.reserve, 64)

        self._directory = directory = Directory(
            segment, slots("entries", ENTRIES, geometry.entries, ENTRY_WORDS), geometry
        )
        self._first_entry = geometry.entries[0]
        self._hints = directory.hints
        self._log = Log(
            words,
            segment.map,
            segment.reserve,
            geometry.log,
            geometry.log_end,
            directory.entry_of,
            self._lapse,
        )
        self._waiters = Waiters(
            words,
            slots("bells", BELLS, geometry.bells, BELL_WORDS),
            slots("nodes", NODES, geometry.nodes, NODE_WORDS),
        )

    # -- sending ---------------------------------------------------------------------

    def send(self, queue, local, payload, lifetime, capacity, again=False):
        """Append a message to a queue.

        Cost: constant, 3.5 us for a small one. A crash inside leaves it sent or not sent.

        :param queue: text, see the module's head.
        :param local: text, "" for a channel that is not process-specific.
        :param payload: bytes.
        :param lifetime: ns until it expires.
        :param capacity: messages the queue may hold.
        :raises ChannelFull: the queue is at capacity, or there is no room; nothing is lost.
        """
        names = local.encode("ascii") if local else b""
        need = RECORD_WORDS + (len(payload) + len(names) + 7 >> 3)
        now = self._clock()
        if now >= self._next_look:
            successor = self._look(now)
            if successor is not None:
                return successor.send(queue, local, payload, lifetime, capacity)
        lock = self._lock
        words = self._words
        refused = place = 0
        try:
            if lock.acquire():
                self._rebuild()
            hint = self._hints.get(queue)
            if hint is None or words[hint[0] + HASH] != hint[1]:
                hint = self._directory.obtain(queue, now)
            if hint is None:
                refused = NO_ENTRY
                words[HEADER_RATES + FULL] += 1
            else:
                entry = hint[0]
                if words[entry + COUNT] >= capacity:
                    refused = self._full(entry, capacity, now)
                if not refused:
                    place = words[TAIL]
                    if place + need >= words[LIMIT]:
                        place = self._room(need, now)
                if place:
                    seq = words[SEQUENCE] + 1
                    self._log.write(
                        place,
                        words[entry + LAST],
                        (entry - self._first_entry) >> 5,
                        hint[2],
                        seq,
                        now,
                        now + lifetime,
                        payload,
                        names,
                    )
                    words[TAIL] = place + need  # the commit
                    words[SEQUENCE] = seq
                    self._log.link(entry, place)
                    words[entry + RATES] += 1
                    if now >= words[entry + RATES + C_START] + SECOND:
                        self._roll(entry, now)
                    if words[entry + WAIT_FIRST]:
                        self._summon(entry, now)
                    if not seq % SWEEP_EVERY:
                        self._log.sweep(now)
                else:
                    refused = refused or NO_MEMORY
                    self._count_full(entry)
            lock.release()
        except BaseException as error:
            lock.abandon()
            if not self._mend(error, again):
                raise
            if place and words[TAIL] == place + need:
                # Sent already; what came after it is rebuilt.
                self._run(self._nothing)
            else:
                self.send(queue, local, payload, lifetime, capacity, again=True)
            return None
        if self._to_ring or self._trouble:
            self._afterwards()
        if refused:
            raise ChannelFull(self._why_full(refused, queue, capacity, need))
        return None

    def send_each(self, targets, payload, lifetime, again=False):
        """Append one message to many queues, all with one commit.

        Cost: the queues. A crash inside leaves it sent to all or to none.

        :param targets: list of (queue, names, capacity): the names are the local parts of
            the process-specific channels in the queue that are to have it, joined by
            newlines, as bytes; b"" for the queue as such. A queue occurs once.
        :returns: list of (queue, reason) that are full; the others have it.
        """
        now = self._clock()
        if now >= self._next_look:
            successor = self._look(now)
            if successor is not None:
                return successor.send_each(targets, payload, lifetime)
        lock = self._lock
        left, dropped = list(targets), []
        try:
            if lock.acquire():
                self._rebuild()
            ready = self._choose(left, dropped, now)
            while ready:
                self._send_some(ready, left, dropped, payload, now, lifetime)
            lock.release()
        except BaseException as error:
            lock.abandon()
            if not self._mend(error, again):
                raise
            # Those that have it are in ``left`` no longer.
            return dropped + self.send_each(left, payload, lifetime, again=True)
        if self._to_ring or self._trouble:
            self._afterwards()
        return dropped

    def _choose(self, left, dropped, now):
        """Return [(entry, seed, queue, names)] of those targets that are not full.

        The others are moved from ``left`` to ``dropped``.
        """
        words = self._words
        ready, fit = [], []
        for target in left:
            queue, names, capacity = target
            hint = self._hints.get(queue)
            if hint is None or words[hint[0] + HASH] != hint[1]:
                hint = self._directory.obtain(queue, now)
            if hint is None:
                dropped.append((queue, NO_ENTRY))
                words[HEADER_RATES + FULL] += 1
            elif words[hint[0] + COUNT] >= capacity and self._full(hint[0], capacity, now):
                dropped.append((queue, AT_CAPACITY))
                self._count_full(hint[0])
            else:
                ready.append((hint[0], hint[2], queue, names))
                fit.append(target)
        left[:] = fit
        return ready

    def _send_some(self, ready, left, dropped, payload, now, lifetime):
        """Send to as many of ``ready`` as fit in one piece, with one commit.

        They, or the first one if that fits nowhere, go from ``ready`` and ``left``.
        """
        words, log = self._words, self._log
        needs = [RECORD_WORDS + (len(payload) + len(names) + 7 >> 3) for _, _, _, names in ready]
        while True:
            need = sum(needs)
            place = words[TAIL]
            if place + need >= words[LIMIT]:
                place = self._room(need, now)
            if place:
                break
            needs = needs[: len(needs) // 2]
            if not needs:
                dropped.append((ready[0][2], NO_MEMORY))
                self._count_full(ready[0][0])
                del ready[0], left[0]
                return
        seq = words[SEQUENCE]
        written = []
        for (entry, seed, _, names), length in zip(ready, needs):
            seq += 1
            number = (entry - self._first_entry) >> 5
            log.write(
                place, words[entry + LAST], number, seed, seq, now, now + lifetime, payload, names
            )
            written.append((entry, place))
            place += length
        words[TAIL] = place  # the commit
        del ready[: len(written)], left[: len(written)]
        words[SEQUENCE] = seq
        for entry, record in written:
            log.link(entry, record)
            words[entry + RATES] += 1
            if now >= words[entry + RATES + C_START] + SECOND:
                self._roll(entry, now)
            if words[entry + WAIT_FIRST]:
                self._summon(entry, now)
        log.sweep(now)

    def _full(self, entry, capacity, now):
        """AT_CAPACITY if a queue is, what has expired being dropped; else 0."""
        words = self._words
        self._log.drop_expired(entry, now)
        count = words[entry + COUNT]
        if count < capacity:
            return 0
        if not words[entry + FIRST] or count * RECORD_WORDS > self._log.live:
            # It would be full for ever.
            raise Damage("a queue's count is wrong")
        return AT_CAPACITY

    def _count_full(self, entry):
        self._words[entry + RATES + FULL] += 1
        self._words[HEADER_RATES + FULL] += 1

    def _room(self, need, now):
        """Where ``need`` words fit, or 0 after everything has been tried."""
        place = self._log.make_room(need, now)
        if not place and self._expire_some(now):
            place = self._log.make_room(need, now)
        return place

    def _expire_some(self, now):
        """Drop what has expired in a few channels, a hand moving on; True if there was any."""
        words, slots = self._words, self._directory.slots
        dropped = False
        for _ in range(min(EXPIRE_AT_ONCE, slots.high)):
            self._expiry_hand = (self._expiry_hand + 1) % slots.high
            entry = slots.start + self._expiry_hand * ENTRY_WORDS
            if words[entry + FIRST]:
                dropped = self._log.drop_expired(entry, now) or dropped
        return dropped

    def _roll(self, entry, now):
        statistics.roll(self._words, entry + RATES, now)
        if now >= self._words[HEADER_RATES + C_START] + SECOND:
            statistics.roll(self._words, HEADER_RATES, now)

    def _why_full(self, refused, queue, capacity, need):
        if refused == AT_CAPACITY:
            return (
                "{0} holds {1} messages, its capacity. Read it faster, send later, or raise "
                "capacity (or channel_capacity for this channel).".format(queue, capacity)
            )
        if refused == NO_ENTRY:
            return (
                "no room to enter the channel {0}: all {1} channels that message_memory={2} has "
                "room for hold messages or waiting receivers. Raise message_memory.".format(
                    queue, self._directory.slots.max, self.size
                )
            )
        return (
            "no memory for a message of {0} bytes on {1}: {2} of {3} bytes in use. Read faster, "
            "raise message_memory, or make room in the system's shared memory.".format(
                need * 8, queue, (self._words[LIVE] & M32) * 8, self.size
            )
        )

    # -- receiving -------------------------------------------------------------------

    def receive(self, queues, waiter=None, again=False):
        """Take the oldest message of the first queue that has one.

        Cost: constant, 3.5 us for a small one. A crash inside leaves it taken or not taken.

        :param queues: list of text.
        :param waiter: if given and there is nothing, it is hung up at all queues; when it is
            rung, call again. If there is something, it is taken off all of them.
        :returns: (queue, local, payload), or None.
        """
        now = self._clock()
        if now >= self._next_look:
            successor = self._look(now)
            if successor is not None:
                if waiter is not None:
                    waiter.nodes.clear()
                return successor.receive(queues)
        lock = self._lock
        words = self._words
        found = None
        try:
            if lock.acquire():
                self._rebuild()
            for queue in queues:
                hint = self._hints.get(queue)
                if hint is None or words[hint[0] + HASH] != hint[1]:
                    hint = self._directory.find(queue)
                    if hint is None:
                        continue
                entry = hint[0]
                record = words[entry + FIRST]
                if record and words[record + EXPIRES] <= now:
                    self._log.drop_expired(entry, now)
                    record = words[entry + FIRST]
                if record:
                    found = self._take(queue, entry, record, hint[2])
                    break
            if waiter is not None:
                if found is None:
                    self._hang(waiter, queues, now)
                elif waiter.nodes:
                    self._dismiss(waiter, now)
            lock.release()
        except BaseException as error:
            lock.abandon()
            if not self._mend(error, again):
                raise
            if found is None:
                return self.receive(queues, waiter, again=True)
            # Taken already; what came after it is rebuilt.
            self._run(self._nothing)
            return found
        if self._to_ring or self._trouble:
            self._afterwards()
        return found

    def receive_batch(self, queue, limit, again=False):
        """Take up to ``limit`` records of one queue under one lock.

        :returns: list of ([local names], payload, when it expires in ns).
        """
        now = self._clock()
        if now >= self._next_look:
            successor = self._look(now)
            if successor is not None:
                return successor.receive_batch(queue, limit)
        lock = self._lock
        words = self._words
        batch = []
        try:
            if lock.acquire():
                self._rebuild()
            hint = self._directory.find(queue)
            while hint is not None and len(batch) < limit:
                entry = hint[0]
                self._log.drop_expired(entry, now)
                record = words[entry + FIRST]
                if not record:
                    break
                payload, names, offset = self._log.read(record, hint[2])
                expires = words[record + EXPIRES]
                self._log.end_first(entry, record)
                batch.append((names[offset:].decode("ascii").split("\n"), payload, expires))
            lock.release()
        except BaseException as error:
            lock.abandon()
            if not self._mend(error, again):
                raise
            if not batch:
                return self.receive_batch(queue, limit, again=True)
            # Taken already; the rest is for the next one.
            self._run(self._nothing)
            return batch
        if self._to_ring or self._trouble:
            self._afterwards()
        return batch

    def quiet(self, queue):
        """Whether a queue is empty and nobody inside, as seen without the lock. Cost: 0.3 us.

        False where it cannot be told without: after this process has not used the queue for
        long, or at all.
        """
        words = self._words
        hint = self._hints.get(queue)
        try:
            return (
                hint is not None
                and words[hint[0] + HASH] == hint[1]
                and not words[BUSY]
                and not words[hint[0] + FIRST]
            )
        except (TypeError, ValueError):
            # Closed. Who asks the store itself hears it.
            return False

    def _take(self, queue, entry, record, seed):
        """Serve the first record to its next name, and end it with the last one."""
        payload, names, offset = self._log.read(record, seed)
        if not names:
            self._log.end_first(entry, record)
            return queue, "", payload
        end = names.find(b"\n", offset)
        if end < 0:
            self._log.end_first(entry, record)
            return queue, names[offset:].decode("ascii"), payload
        self._log.serve(record, end + 1)
        return queue, names[offset:end].decode("ascii"), payload

    def _lapse(self, entry, locals_):
        queue = self._directory.name_of(entry)
        self.lapsed.extend(queue + local for local in locals_)

    # -- waiting ---------------------------------------------------------------------

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
                waiter.doorbell.silence()
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
        """Wait for a message up to so many seconds; else as ``receive``.

        Ends early after a signal whose handler returned, and when the segment was removed
        (``gone``). Cost while waiting: one look a second.
        """
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
                if found is not None or left <= 0:
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
                logger.warning(
                    "no room for one more waiting receiver in %s: it polls; raise message_memory",
                    self.name,
                )
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
                # May find one more to ring: not by _run, which would come back here.
                self._locked(self._strike, bell, number, entry)

    def _strike(self, bell, number, entry=0):
        """Strike off a bell; its entry's next waiter is told in its place."""
        self._waiters.strike(bell, number)
        if entry and self._words[entry + COUNT] and self._words[entry + WAIT_FIRST]:
            self._summon(entry, self._clock())

    def _strike_suspects(self):
        """Strike off a few bells whose owners died without leaving."""
        for bell, number in self._run(self._waiters.suspects, self._clock(), 8):
            # A stopped one hears it when it goes on, and looks: no harm.
            if not self._ringer.ring(number):
                self._run(self._strike, bell, number)

    def forked(self):
        """In a child: the parent's waiters are not ours."""
        self._idle_waiters = []
        self._waiting = set()
        self._to_ring.clear()

    # -- the whole -------------------------------------------------------------------

    def flush(self):
        """Drop all messages. One commit; counters and waiting receivers stay."""
        self._run(self._drop_all)
        self.lapsed.clear()

    def _drop_all(self):
        self._log.flush()
        self._rebuild()

    def global_statistics(self):
        """Figures of the whole segment, see ``statistics``. Cost: the channels, in pieces."""
        pending, oldest, first = 0, 0, 0
        while first is not None:
            first, found, age = self._run(
                statistics.piece, self._words, self._directory.slots, first
            )
            pending += found
            oldest = min(oldest or age, age or oldest)
        return self._run(
            statistics.figures, self._words, HEADER_RATES, pending, oldest, self._clock()
        )

    def channel_statistics(self, queue):
        """Figures of one queue, see ``statistics``."""
        return self._run(self._channel_statistics, queue)

    def _channel_statistics(self, queue):
        words, now = self._words, self._clock()
        hint = self._directory.find(queue)
        if hint is None:
            return statistics.nothing()
        entry = hint[0]
        self._log.drop_expired(entry, now)
        record = words[entry + FIRST]
        oldest = words[record + SENT_AT] if record else 0
        return statistics.figures(words, entry + RATES, words[entry + COUNT], oldest, now)

    def memory(self):
        """Bytes: of the segment, of it in real memory, in messages that wait."""
        return {
            "size": self.size,
            "real": self._segment.memory_used(),
            "messages": (self._words[LIVE] & M32) * 8,
        }

    def check(self):
        """Verify every link, count and check sum; return what is wrong, as sentences.

        Cost: everything stored, with the lock held; for tests and post-mortems.
        """
        from asgi_ipc import integrity

        return self._run(
            integrity.faults, self._words, self._directory, self._log, self._waiters
        )

    def _look(self, now):
        """Look whether the segment is still that of the name; the store to go on with, if not."""
        gone = self.replaced()
        self._next_look = now + LOOK
        if not gone or self.succeed is None:
            return None
        self.gone = True
        successor = self.succeed()
        return None if successor is self else successor

    def close(self):
        """Detach, and take away this process's doorbells. The messages stay.

        Other threads that wait get LayerClosed.
        """
        for waiter in self._idle_waiters:
            if waiter.bell and waiter.doorbell.usable and not self._segment.cut_short():
                self._run(self._strike, waiter.bell, waiter.doorbell.number)
            waiter.doorbell.close()
        self._idle_waiters = []
        self._ringer.close()
        self._segment.close()
        for waiter in list(self._waiting):
            # Other threads that wait find the layer closed, and say so.
            waiter.doorbell.ring()

    def drop_doorbells(self):
        """Remove this process's doorbells; what is in the segment others strike off.

        Takes no lock: at the end of a process there is nobody to wait for.
        """
        for waiter in self._idle_waiters + list(self._waiting):
            if waiter.doorbell.usable:
                waiter.doorbell.close()

    def _afterwards(self):
        super(MessageStore, self)._afterwards()
        self._ring()

    def _rebuild(self):
        """Derive everything from the records: the last holder did not leave properly."""
        words = self._words
        words[EPOCH] = words[EPOCH] + 1 & LARGEST_COUNT - 1
        for word in _COUNTERS:
            if words[word] > LARGEST_COUNT:
                words[word] = 0
        self._directory.rebuild()
        self._waiters.rebuild()
        highest, dropped = self._log.rebuild()
        words[SEQUENCE] = max(words[SEQUENCE], highest)
        if dropped:
            words[DAMAGED] += dropped
            self._trouble.append("{0} records were damaged and have been dropped".format(dropped))
        for bell, number in self._waiters.all_bells():
            # Their nodes are gone; let them hang themselves up again at once.
            self._to_ring.append((0, bell, number))

    def _nothing(self):
        """Get in and out: what there is to rebuild gets rebuilt."""
