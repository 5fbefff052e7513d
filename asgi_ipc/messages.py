"""The store of messages: what send, receive and wait do, each in one critical section.

Knows the segment "/<prefix>-messages" through its parts: ``directory`` (names), ``log``
(records and queues), ``waiters`` (who waits). Sending is in ``sending``, waiting in ``waiting``,
looking in ``figures``, what a bridge does in ``outbox``; here is receiving, and what concerns the
whole. Does not know msgpack, groups, name rules or either face's exceptions beyond ChannelFull. A
channel is given as its queue: the whole name, or for a process-specific one the part up to and
including the ``!``, and the local part.

Every operation is one critical section, as ``guarded`` says; then those are rung whom there is
to ring. The commit words are named in ``layout``.
"""
from asgi_ipc._shm import clock as monotonic
from asgi_ipc._shm.lane import BOARD, DOWN, EMPTY
from asgi_ipc._shm.words import TWIN, Damage, adler32
from asgi_ipc.directory import NO_HINT
from asgi_ipc.figures import Figures
from asgi_ipc.layout import (
    BEGINNING_BYTES,
    CHECKED_BYTES,
    COUNT,
    DEAD,
    EXPIRES,
    FIRST,
    HASH,
    HEAD,
    R_STATE,
    ROUND_UP,
    SEQ,
    check_of,
    offset_of,
    unpack_record,
)
from asgi_ipc.outbox import Outbox
from asgi_ipc.records import NO_RECORD, SMALL, WRONG_CHECK, WRONG_COUNT

MINIMUM_SIZE = 64 * 1024
"""Bytes of the smallest segment that is worth the name."""

NOTHING = (0,), b"", b""
"""In place of the mark, the payload and the names of a record."""


class MessageStore(Outbox, Figures):
    """Channels of messages in shared memory.

    :param prefix: begins the segment's name; who has the same one shares the channels.
    :param size: bytes of the segment, if it has to be made.
    :param mode: permission bits of segment, semaphore and FIFOs.
    :param lock_timeout: seconds to wait for a live holder of the lock.
    :param clock: returns ns; all processes of a prefix must use one clock.
    :param node: if it is made, the machine's name that the one before it had (``layout``).
    :raises SegmentError: the segment is not ours, or there is no memory for it.

    Who sends or receives here goes on in the store that ``succeed`` returns, if that is set and
    the segment was removed.
    """

    def __init__(
        self, prefix, size, mode=0o600, lock_timeout=10.0, clock=monotonic.now, node=0
    ):
        Outbox.__init__(self, prefix, size, mode, lock_timeout, clock, node)
        self._shared = NOTHING

    # -- receiving -------------------------------------------------------------------

    def receive(self, queues, waiter=None, again=False):
        """Take the oldest message of the first queue that has one.

        Cost: constant, 2 us for a small one. A crash inside leaves it taken or not taken.

        :param queues: names, a list or a tuple.
        :param waiter: if given and there is nothing, it is hung up at all queues; when it is
            rung, call again. If there is something, it is taken off all of them.
        :returns: (queue, local, payload), or None.
        """
        clock = self._clock
        now = clock()
        if now >= self._next_look:
            successor = self._look(now)
            if successor is not None:
                if waiter is not None:
                    waiter.nodes.clear()
                return successor.receive(queues)
        lock = self._lock
        words = self._words
        memory = lock.memory
        found = checked = None
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
            for queue in queues:
                entry, number, seed, tag, own = self._hints.get(queue, NO_HINT)
                if own[HASH] != number:
                    hint = self._directory.find(queue)
                    if hint is None:
                        continue
                    entry, _, seed, tag, own = hint
                record = own[FIRST]
                if not record:
                    continue
                shown, mark, seal, following, expires, names, length = unpack_record(
                    memory, record * 8
                )
                if expires <= now:
                    self._log.drop_expired(entry, now)
                    record = own[FIRST]
                    if not record:
                        continue
                    shown, mark, seal, following, _, names, length = unpack_record(
                        memory, record * 8
                    )
                if names or length > SMALL:
                    found = self._take(queue, entry, record, seed)
                    break
                # ``Records.read``, written out for a record without names; but whether its
                # check holds is seen when the lock is free.
                size = length + ROUND_UP >> 3
                if shown != tag | size or mark != 1:
                    raise Damage(NO_RECORD)
                begin = record * 8 + BEGINNING_BYTES
                checked = memory[begin : begin + CHECKED_BYTES + length]
                # ``Records.end_first``, written out: 0.1 us less than to call it, and what was
                # taken is known from the commit on, whatever comes after it.
                count = own[COUNT] - 1
                if count <= 0 if following else count:
                    raise Damage(WRONG_COUNT)
                words[record + R_STATE] = 0  # the commit
                found = queue
                own[FIRST] = following
                own[COUNT] = count
                if words[HEAD] == record:
                    words[HEAD] = record + size
                else:
                    words[DEAD] += size * TWIN
                break
            if waiter is not None:
                if found is None:
                    self._hang(waiter, queues, now)
                elif waiter.nodes:
                    self._dismiss(waiter, now)
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
            if found is None:
                return self.receive(queues, waiter, again=True)
            # Taken already; what came after it is rebuilt.
            self._run(self._nothing)
        if self._to_ring or self._trouble:
            self._afterwards()
        if checked is None:
            return found
        if adler32(checked, seed) != seal:
            # STATE is sealed by what the record's check sum was.
            self._run(self._drop_damaged)
            return self.receive(queues, waiter)
        return queue, "", checked[CHECKED_BYTES:]

    def _drop_damaged(self):
        """What was taken is no message: note it as dropped, as a rebuild does with its like."""
        self._tell_of_damage(WRONG_CHECK)
        self._rebuild()
        self._count_damaged(1)

    def receive_batch(self, queue, limit, again=False):
        """Take up to ``limit`` records of one queue under one lock.

        :returns: list of (local names joined by newlines, payload, when it expires in ns).
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
                self._recover()
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
                batch.append((names[offset:].decode("ascii"), payload, expires))
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
                and self._map[BOARD] == EMPTY
                and not words[hint[0] + FIRST]
            )
        except (TypeError, ValueError):
            # Closed. Who asks the store itself hears it.
            return False

    def _take(self, queue, entry, record, seed):
        """Serve the first record to its next name, and end it with the last one."""
        payload, names, offset = self._read_shared(record) or self._log.read(record, seed)
        if not names:
            self._log.end_first(entry, record)
            return queue, "", payload
        end = names.find(b"\n", offset)
        if end < 0:
            self._shared = NOTHING
            self._log.end_first(entry, record)
            return queue, names[offset:].decode("ascii"), payload
        if names is not self._shared[2]:
            self._shared = self._mark(record), payload, names
        self._log.serve(record, end + 1)
        return queue, names[offset:end].decode("ascii"), payload

    def _read_shared(self, record):
        """What ``Records.read`` returns, if this is the record that was served last, else None.

        It was verified then; to do that for each of its names costs the square of their number.
        """
        mark, payload, names = self._shared
        if mark[0] != record or mark != self._mark(record):
            return None
        return payload, names, offset_of(self._words[record + R_STATE])

    def _mark(self, record):
        """What tells a record from all others that are, were or will be."""
        words = self._words
        return record, words[record], words[record + SEQ], check_of(words[record + R_STATE])

    # -- the whole -------------------------------------------------------------------

    def flush(self):
        """Drop all messages. One commit; counters and waiting receivers stay."""
        self._run(self._drop_all)
        self.lapsed.clear()

    def _drop_all(self):
        self._log.flush()
        self._rebuild()
        self._log.trim(self._clock())

    def trim(self):
        """Give memory back to the system that no message lies in; True if there was any."""
        return self._run(lambda: self._log.trim(self._clock()))

    def check(self):
        """Verify every link, count and check sum; return what is wrong, as sentences.

        Cost: everything stored, with the lock held; for tests and post-mortems.
        """
        from asgi_ipc import integrity

        return self._run(
            integrity.faults, self._words, self._directory, self._log, self._waiters
        )

    def close(self):
        """Detach, and take away this process's doorbells. The messages stay.

        Other threads that wait get LayerClosed.
        """
        self.forget_waiters()
        self._segment.close()
        self.wake_all()
        # Python 2.7 keeps a mapping, and its descriptor, as long as anything refers to it.
        self._shared = NOTHING
        # Views of it, which keep it everywhere.
        self._hints.clear()
        self._words = self._map = self._log = self._directory = self._waiters = None

