"""Sending messages: to one queue, or to many with one commit.

Knows queues by name, capacities, what there is room for, and why not; does not know groups, nor
what a payload is. The half of ``messages.MessageStore`` that is about sending.

A send checks the capacity, has the log find a place, writes the record there, and stores TAIL:
the commit. Then the record is linked, and who waits is taken off the list, to be rung. ``send``
has all of it written out, and looks at no word twice: with calls of ``Records`` it takes 0.5 us
more.
"""
from asgi_ipc import crossing, statistics
from asgi_ipc._shm.clock import SECOND
from asgi_ipc._shm.lane import BOARD, DOWN
from asgi_ipc._shm.words import Damage, adler32
from asgi_ipc.directory import NO_HINT
from asgi_ipc.errors import ChannelFull
from asgi_ipc.layout import (
    C_START,
    COUNT,
    ENTRY_WORDS,
    FIRST,
    FULL,
    HASH,
    HEADER_RATES,
    LAST,
    LIMIT,
    NEXT,
    RATES,
    RECORD_BYTES,
    RECORD_WORDS,
    ROUND_UP,
    SEQ,
    SEQUENCE,
    TAIL,
    WAIT_FIRST,
    pack_beginning,
    pack_checked,
    unpack_entry,
)
from asgi_ipc.records import SMALL, WRONG_COUNT, WRONG_LAST, words_of
from asgi_ipc.waiting import Receivers

AT_CAPACITY, NO_MEMORY, NO_ENTRY = 1, 2, 3
SWEEP_EVERY = 32

EXPIRE_AT_ONCE = 256
"""Channels that a send for which there is no room looks through for expired messages."""

WINDOW = RATES + C_START
"""Of an entry: when its current second began."""



class Senders(Receivers):
    """The sending side of a message store."""

    def __init__(self, *options):
        Receivers.__init__(self, *options)
        self._expiry_hand = 0

    def send(self, queue, local, payload, lifetime, capacity, again=False):
        """Append a message to a queue.

        Cost: constant, 2.5 us for a small one. A crash inside leaves it sent or not sent.

        :param queue: text, see the module's head.
        :param local: text, "" for a channel that is not process-specific; or names as bytes, as
            for ``send_each``.
        :param payload: bytes.
        :param lifetime: ns until it expires.
        :param capacity: messages the queue may hold.
        :raises ChannelFull: the queue is at capacity, or there is no room; nothing is lost.
        """
        if local:
            names = local if type(local) is bytes else local.encode("ascii")
            length, more = len(payload), len(names)
            size = length + more
        else:
            names, more = b"", 0
            size = length = len(payload)
        if size > SMALL:
            self._send_long(queue, names, payload, lifetime, capacity)
            return None
        need = size + ROUND_UP >> 3
        clock = self._clock
        now = clock()
        if now >= self._next_look:
            successor = self._look(now)
            if successor is not None:
                return successor.send(queue, local, payload, lifetime, capacity)
        lock = self._lock
        words = self._words
        memory = lock.memory
        refused = place = 0
        entry, number, seed, tag, own = self._hints.get(queue, NO_HINT)
        tag |= need
        # Whatever can be done before is done before: others wait.
        checked = pack_checked(now, now + lifetime, more, length) + payload
        if names:
            checked += names
        check = adler32(checked, seed)
        try:
            # ``SegmentLock.acquire``, where it gets in at once, written out.
            holder, lane = lock.holders.mine, 0
            if not holder.inside:
                holder.inside = True
                lane = holder.lane
                if lane:
                    memory[lane] = holder.up
                    act, holder.fence = holder.fence
                    act()
                    if memory[BOARD] == holder.alone and not lock.closed:
                        lock.entered = holder
                    else:
                        memory[lane] = DOWN
                        holder.inside = False
                        lane = 0
                else:
                    holder.inside = False
            if not lane and lock.acquire():
                self._recover()
            # To read them at one go takes half as long.
            found, first, last, count, waits, sent, window = unpack_entry(own)
            if found != number:
                entry, _, seed, tag, own = self._directory.obtain(queue, now) or NO_HINT
                tag |= need
                check = adler32(checked, seed)
                _, first, last, count, waits, sent, window = unpack_entry(own)
            place = words[TAIL]
            if not entry or count >= capacity or place + need >= words[LIMIT]:
                refused, place = self._look_for_room(entry, capacity, need, now)
                _, first, last, count, waits, sent, window = unpack_entry(own)
            if place:
                # ``Records.write``, written out.
                seq = words[SEQUENCE] + 1
                if not first:
                    last = 0
                elif (words[last] ^ tag) >> 32 or words[last + SEQ] >= seq:
                    raise Damage(WRONG_LAST)
                begin = place * 8
                memory[begin : begin + RECORD_BYTES + size] = (
                    pack_beginning(tag, 1, check, 0, last, seq, seq) + checked
                )
                words[TAIL] = place + need  # the commit
                words[SEQUENCE] = seq
                # ``Records.link``, written out.
                if last:
                    words[last + NEXT] = place
                else:
                    own[FIRST] = place
                own[LAST] = place
                own[COUNT] = count + 1
                own[RATES] = sent + 1
                if now - window >= SECOND:
                    self._roll(entry, now)
                if waits:
                    self._summon(entry, now)
                if not seq % SWEEP_EVERY:
                    self._log.sweep(now)
            # ``SegmentLock.release``, for who came in so.
            if lane:
                lock.entered = None
                memory[lane] = DOWN
                holder.inside = False
            else:
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

    def send_each(self, targets, payload, lifetime):
        """Append one message to many queues, all with one commit.

        Cost: the queues. A crash inside leaves it sent to all or to none.

        :param targets: list of (queue, names, capacity): the names are the local parts of
            the process-specific channels in the queue that are to have it, joined by
            newlines, as bytes; b"" for the queue as such. A queue occurs once.
        :returns: list of (queue, reason) that are full; the others have it.
        """
        if len(targets) == 1:
            # A third less: 4.8 us in place of 7.5, as measured side by side.
            queue, names, capacity = targets[0]
            try:
                self.send(queue, names, payload, lifetime, capacity)
            except ChannelFull:
                return [(queue, AT_CAPACITY)]
            return []
        return self._send_all(targets, payload, lifetime)

    def _send_long(self, queue, names, payload, lifetime, capacity):
        """As ``send``, where it is worth no way of its own."""
        dropped = self._send_all([(queue, names, capacity)], payload, lifetime)
        if dropped:
            need = words_of(len(payload) + len(names))
            raise ChannelFull(self._why_full(dropped[0][1], queue, capacity, need))

    def _send_all(self, targets, payload, lifetime, again=False):
        """As ``send_each``, for any number of targets."""
        now = self._clock()
        if now >= self._next_look:
            successor = self._look(now)
            if successor is not None:
                return successor._send_all(targets, payload, lifetime)  # noqa: SLF001 (our class)
        lock = self._lock
        left, dropped = list(targets), []
        try:
            if lock.acquire():
                self._recover()
            ready = self._choose(left, dropped, now)
            while ready:
                self._send_some(ready, left, dropped, payload, now, lifetime)
            lock.release()
        except BaseException as error:
            lock.abandon()
            if not self._mend(error, again):
                raise
            # Those that have it are in ``left`` no longer.
            return dropped + self._send_all(left, payload, lifetime, again=True)
        if self._to_ring or self._trouble:
            self._afterwards()
        return dropped

    def _choose(self, left, dropped, now):
        """Return [(hint, queue, names)] of those targets that are not full.

        The others are moved from ``left`` to ``dropped``.
        """
        words = self._words
        ready, fit = [], []
        for target in left:
            queue, names, capacity = target
            hint = self._hints.get(queue)
            if hint is None or words[hint[0] + HASH] != hint[1]:
                hint = self._directory.obtain(queue, now, [chosen[0][0] for chosen in ready])
            if hint is None:
                dropped.append((queue, NO_ENTRY))
                words[HEADER_RATES + FULL] += 1
            elif words[hint[0] + COUNT] >= capacity and self._full(hint[0], capacity, now):
                dropped.append((queue, AT_CAPACITY))
                self._count_full(hint[0], now)
            else:
                ready.append((hint, queue, names))
                fit.append(target)
        left[:] = fit
        return ready

    def _send_some(self, ready, left, dropped, payload, now, lifetime):
        """Send to as many of ``ready`` as fit in one piece, with one commit.

        They, or the first one if that fits nowhere, go from ``ready`` and ``left``.
        """
        words, log = self._words, self._log
        lengths = [len(payload) + len(names) for _, _, names in ready]
        needs = once = [words_of(length) for length in lengths]
        if len(payload) > SMALL:
            twice = [words_of(length, twice=True) for length in lengths]
            if log.roomy(sum(twice)):
                needs = twice
        while True:
            need = sum(needs)
            place = words[TAIL]
            if place + need >= words[LIMIT]:
                place = self._room(need, now)
            if place:
                break
            if needs is not once:
                needs = once
                continue
            needs = once = once[: len(once) // 2]
            if not needs:
                dropped.append((ready[0][1], NO_MEMORY))
                self._count_full(ready[0][0][0], now)
                del ready[0], left[0]
                return
        seq = words[SEQUENCE]
        written = []
        for ((entry, _, seed, tag, _), _, names), length in zip(ready, needs):
            seq += 1
            last = log.last_of(entry)
            log.write(
                place, last, tag | length, seed, seq, now, now + lifetime, payload, names
            )
            written.append((entry, place, last))
            place += length
        words[TAIL] = place  # the commit
        del ready[: len(written)], left[: len(written)]
        words[SEQUENCE] = seq
        for entry, record, last in written:
            # ``Records.link``, written out: 0.3 us less for each of them.
            words[last + NEXT if last else entry + FIRST] = record
            words[entry + LAST] = record
            words[entry + COUNT] += 1
            words[entry + RATES] += 1
            if now - words[entry + WINDOW] >= SECOND:
                self._roll(entry, now)
            if words[entry + WAIT_FIRST]:
                self._summon(entry, now)
        log.sweep(now)

    def _look_for_room(self, entry, capacity, need, now):
        """Where a send goes on that cannot just write at TAIL.

        :param entry: 0 if there was none to be had.
        :returns: (0, where it may write), or (why it is refused, 0), which is counted.
        """
        if not entry:
            self._words[HEADER_RATES + FULL] += 1
            return NO_ENTRY, 0
        refused = place = 0
        if self._words[entry + COUNT] >= capacity:
            refused = self._full(entry, capacity, now)
        if not refused:
            place = self._words[TAIL]
            if place + need >= self._words[LIMIT]:
                place = self._room(need, now)
        if place:
            return 0, place
        self._count_full(entry, now)
        return refused or NO_MEMORY, 0

    def _full(self, entry, capacity, now):
        """AT_CAPACITY if a queue is, what has expired being dropped; else 0."""
        words = self._words
        self._log.drop_expired(entry, now)
        count = words[entry + COUNT]
        if count < capacity:
            return 0
        if not words[entry + FIRST] or count * RECORD_WORDS > self._log.live:
            # It would be full for ever.
            raise Damage(WRONG_COUNT)
        return AT_CAPACITY

    def _count_full(self, entry, now):
        words = self._words
        # A full channel has no sends that would begin a new window.
        if now >= words[entry + WINDOW] + SECOND:
            self._roll(entry, now, counted=0)
        words[entry + RATES + FULL] += 1
        words[HEADER_RATES + FULL] += 1
        outbox = self._hints.get(crossing.OUTBOX)
        if outbox is not None and outbox[0] == entry:
            crossing.count(words, "overflowed")

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

    def _roll(self, entry, now, counted=1):
        statistics.roll(self._words, entry + RATES, now, counted)
        if now >= self._words[HEADER_RATES + C_START] + SECOND:
            statistics.roll(self._words, HEADER_RATES, now, counted)

    def _why_full(self, refused, queue, capacity, need):
        if refused == AT_CAPACITY and queue == crossing.OUTBOX:
            return (
                "{0} messages wait for the bridge to other machines, as many as it was told to "
                "keep. `asgi-ipc stat` shows whether it runs and has Redis; send later, or give it "
                "a greater --outbox.".format(capacity)
            )
        if refused == AT_CAPACITY:
            return (
                "{0} holds {1} messages, its capacity. Read it faster, send later, or raise "
                "capacity (or channel_capacity for this channel).".format(queue, capacity)
            )
        if refused == NO_ENTRY and not self._directory.slots.all_used:
            return (
                "no room to enter the channel {0}: the system has no shared memory left for a "
                "longer table of channels. Enlarge it (Docker: --shm-size), or remove stale "
                "segments.".format(queue)
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
                need * 8, queue, self.stored(self._words), self.size
            )
        )
