"""What one process holds of messages for its own channels, and has not handed out yet.

The channels of a process (``specific.<process>!<anything>``) share one queue in shared memory.
Whoever receives on one of them takes what lies in that queue, a batch at a time, and sorts it
into buffers by channel. What the process sends to itself need not go through shared memory: it
is *posted*, which is to say appended to a list that stands before that queue.

Knows the message store's ``receive_batch`` and ``quiet``, and how long a message lives; does not
know msgpack, nor event loops: it calls ``wake`` with channels that have got something, and
``announce`` with a queue to which something was posted.

1. A message is in shared memory, or posted, or in one buffer, or with its receiver. It is handed
   out by ``take``, to a caller who hands it on without waiting: so a receive that is cancelled
   has either not taken it, or returned it.
2. Everything posted is older than everything in shared memory: for while something lies there,
   nothing is posted. So the order is kept: buffers, then what is posted, then shared memory.
3. Sorting is one step under ``_lock``, with the taking of what is sorted, so that the order is
   kept with several threads, too. Its thread may enter again (a finalizer that receives), and
   others wait for microseconds. What is in a channel's buffer may be taken without the lock if it
   is alone there (``_single``), for that is one step of a dict. Who finds nothing without the
   lock, while another thread is about to sort something for him, is woken for it.
4. Nothing grows without limit. A queue has at most its capacity of posted messages, a channel of
   buffered ones, of which the oldest make room for new ones. Each expires when it would have in
   shared memory, and a channel whose message expired unread leaves its groups, as there.
"""
from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Callable, Deque, Dict, List, Optional, Sequence, Tuple

from asgi_ipc._shm import clock

if TYPE_CHECKING:
    from asgi_ipc.drops import Drops
    from asgi_ipc.gate import Gate
    from asgi_ipc.stores import Stores

BATCH = 64
"""Records that are taken under one lock of the store: 0.2 ms or so of the others' time."""

Record = Tuple[str, bytes, int]
"""Local names joined by newlines, payload, when it expires (ns)."""

Item = Tuple[int, bytes]
"""When it expires (ns), payload."""


class Inbox:
    """What one layer holds in one process. Any thread may use it.

    :param stores: where the messages come from.
    :param gate: before the lock of the message store.
    :param wake: called with a queue, and the channels of it that have got a message.
    :param announce: called with a queue that somebody may be waiting at, and whether to tell him
        before this returns.
    :param drops: counts what went beyond a buffer's capacity.
    """

    def __init__(
        self,
        stores: Stores,
        gate: Gate,
        wake: Callable[[str, Sequence[str]], None],
        announce: Callable[[str, bool], None],
        drops: Drops,
    ) -> None:
        self._stores = stores
        self._gate = gate
        self._wake = wake
        self._announce = announce
        self.drops = drops
        self._lock = threading.RLock()
        self._posted: Dict[str, Deque[Record]] = {}
        # The buffers of channels: a channel is in one of them, or in neither.
        self._single: Dict[str, Item] = {}
        self._buffers: Dict[str, List[Item]] = {}
        self._lost: List[Tuple[str, str]] = []
        # Queue, local names and channels of the group send that came last.
        self._last: Tuple[str, str, Sequence[str]] = ("", "", ())

    def __contains__(self, channel: str) -> bool:
        return channel in self._single or channel in self._buffers

    def __bool__(self) -> bool:
        return bool(self._single or self._buffers or self._posted)

    def holds(self, channel: str, queue: str) -> bool:
        """Whether there is something for a channel, or may be among what was posted."""
        return channel in self or queue in self._posted

    # -- in --------------------------------------------------------------------------

    def post(self, queue: str, record: Record, capacity: int, at_once: bool) -> bool:
        """Send to a queue of our own; False if it is full. Cost: 1 us.

        For the order's sake only while the store has it that the queue is ``quiet``.
        """
        with self._lock:
            posted = self._posted.get(queue)
            if posted is None:
                self._posted[queue] = deque((record,))
            else:
                if len(posted) >= capacity:
                    self._expire_posted(queue, posted, clock.now())
                    if len(posted) >= capacity:
                        return False
                    self._posted[queue] = posted
                posted.append(record)
        self._announce(queue, at_once)
        return True

    def deliver(self, queue: str) -> None:
        """Sort what was posted to a queue, and wake those it is for."""
        with self._lock:
            filled = self._sort_posted(queue)
        self._tell(queue, filled)

    def drain(self, queue: str) -> None:
        """Sort what was posted and one batch out of shared memory; wake those it is for."""
        with self._lock:
            filled = self._sort_posted(queue)
            filled += self._sort(queue, self._batch(queue))
        self._tell(queue, filled)

    # -- out -------------------------------------------------------------------------

    def take(self, channel: str, queue: str, local: str) -> Optional[bytes]:
        """The oldest message of a channel.

        :raises LockTimeout: see ``MessageStore.receive_batch``; nothing was taken.
        """
        item = self._single.pop(channel, None)
        if item is not None and item[0] > clock.now():
            return item[1]
        if (
            channel not in self._buffers
            and queue not in self._posted
            and self._stores.messages.quiet(queue)
        ):
            # Nothing; or another thread is about to sort it, and will wake its receiver.
            return None
        with self._lock:
            if channel in self:
                payload = self._pop(channel)
                if payload is not None:
                    return payload
            batch: Sequence[Record] = self._posted.pop(queue, ())
            if not batch:
                if self._stores.messages.quiet(queue):
                    return None
                batch = self._batch(queue)
                if not batch:
                    return None
            if len(batch) == 1 and batch[0][0] == local and batch[0][2] > clock.now():
                return batch[0][1]
            filled = self._sort(queue, batch)
            payload = self._pop(channel)
        self._tell(queue, filled)
        return payload

    # -- the whole -------------------------------------------------------------------

    def expire(self, now: int) -> None:
        """Drop what has expired. Cost: the buffers."""
        with self._lock:
            for queue, posted in list(self._posted.items()):
                self._expire_posted(queue, posted, now)
            for channel, item in list(self._single.items()):
                if item[0] <= now and self._single.pop(channel, None) is not None:
                    self._stores.messages.lapsed.append(channel)
            for channel, buffer in list(self._buffers.items()):
                if buffer[0][0] <= now:
                    self._stores.messages.lapsed.append(channel)
                    self._expire_buffer(channel, buffer, now)

    def channels(self) -> List[Tuple[str, str]]:
        """(queue, channel) of those channels for which there is something."""
        held = [*self._single, *self._buffers]
        return [(channel[: channel.index("!") + 1], channel) for channel in held]

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._posted.clear()
            self._single.clear()
            self._buffers.clear()

    def forked(self) -> None:
        """In a child: the messages are the parent's, and so is whoever holds the lock."""
        self._lock = threading.RLock()
        self._posted = {}
        self._single = {}
        self._buffers = {}

    def _tell(self, queue: str, filled: Sequence[str]) -> None:
        if filled:
            self._wake(queue, filled)
        while self._lost:
            try:
                lost, channel = self._lost.pop()
            except IndexError:
                # Another thread tells of it.
                return
            self.drops.add(lost, [channel])

    # -- inside, with the lock held --------------------------------------------------

    def _pop(self, channel: str) -> Optional[bytes]:
        now = clock.now()
        item = self._single.pop(channel, None)
        if item is not None:
            return item[1] if item[0] > now else None
        buffer = self._buffers.get(channel)
        # Its receiver is here: it need not leave its groups for being late.
        if buffer is None or (
            buffer[0][0] <= now and not self._expire_buffer(channel, buffer, now)
        ):
            return None
        payload = buffer.pop(0)[1]
        if not buffer:
            del self._buffers[channel]
        return payload

    def _batch(self, queue: str) -> Sequence[Record]:
        """What shared memory has."""
        batch: Sequence[Record] = self._gate.run(
            self._stores.messages.receive_batch, queue, BATCH
        )
        return batch

    def _sort_posted(self, queue: str) -> List[str]:
        posted = self._posted.pop(queue, None)
        return self._sort(queue, posted) if posted else []

    def _sort(self, queue: str, records: Sequence[Record]) -> List[str]:
        """Put each message into the buffers of its channels; return those channels."""
        single, buffers = self._single, self._buffers
        filled: List[str] = []
        for names, payload, expires in records:
            item = (expires, payload)
            channels = self._channels(queue, names)
            for channel in channels:
                # No call between the look and the store: a finalizer in there may receive.
                if channel in single or channel in buffers:
                    self._stack(queue, channel, item)
                else:
                    single[channel] = item
            filled += channels
        return filled

    def _stack(self, queue: str, channel: str, item: Item) -> None:
        """Put a message behind another one."""
        buffer = self._buffers.get(channel)
        if buffer is None:
            first = self._single.pop(channel, None)
            # It may just have been taken.
            buffer = self._buffers[channel] = [] if first is None else [first]
        buffer.append(item)
        if len(buffer) > self._stores.capacity_of(channel):
            del buffer[0]
            self._lost.append((queue, channel))

    def _expire_posted(self, queue: str, posted: Deque[Record], now: int) -> None:
        while posted and posted[0][2] <= now:
            self._stores.messages.lapsed.extend(self._channels(queue, posted.popleft()[0]))
        if not posted:
            self._posted.pop(queue, None)

    def _expire_buffer(self, channel: str, buffer: List[Tuple[int, bytes]], now: int) -> bool:
        """Whether anything is left. Only from the front, as in shared memory."""
        while buffer and buffer[0][0] <= now:
            del buffer[0]
        if not buffer:
            del self._buffers[channel]
        return bool(buffer)

    def _channels(self, queue: str, names: str) -> Sequence[str]:
        """The channels of a queue that have these local names.

        Cost: 40 ns each; where they are those of the last group send, as mostly, nothing.
        """
        last = self._last
        if last[1] == names and last[0] == queue:
            return last[2]
        channels = (queue + names.replace("\n", "\n" + queue)).split("\n")
        if len(channels) > 1:
            self._last = queue, names, channels
        return channels
