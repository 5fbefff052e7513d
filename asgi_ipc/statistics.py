"""Figures of a message segment, with the keys that ASGI 1 layers use.

Knows counters and how rates come from them; changes nothing but the rate windows.

Rates: each block of counters (see ``layout``) remembers the counts at the beginning of the
current second of activity and of the one before. A send, or one that is refused, rolls the window
once a second at most, so sending costs one comparison for it. What lies between the window's
beginning and its roll was sent within a second of it.
"""
from asgi_ipc._shm.clock import SECOND
from asgi_ipc._shm.slots import STATE
from asgi_ipc.guarded import PIECE
from asgi_ipc.layout import (
    C_FULL,
    C_SENT,
    C_START,
    COUNT,
    ENTRY_WORDS,
    FIRST,
    FULL,
    P_FULL,
    P_SENT,
    P_START,
    SENT,
    SENT_AT,
)

RECENT = 5 * SECOND
"""Nanoseconds after which a window no longer counts as the last seconds."""


def roll(words, block, now, counted=1):
    """Begin a new window at ``block``; ``counted`` sends of it are in SENT already."""
    words[block + P_START] = words[block + C_START]
    words[block + P_SENT] = words[block + C_SENT]
    words[block + P_FULL] = words[block + C_FULL]
    words[block + C_START] = now
    words[block + C_SENT] = words[block + SENT] - counted
    words[block + C_FULL] = words[block + FULL]


def rates(words, block, now):
    """Return (messages, refusals) a second, over the last seconds, of a block."""
    start = words[block + C_START]
    if not start or now - start > RECENT:
        return 0.0, 0.0
    sent, full = words[block + C_SENT], words[block + C_FULL]
    if words[block + P_START] and now - words[block + P_START] <= RECENT:
        start = words[block + P_START]
        sent, full = words[block + P_SENT], words[block + P_FULL]
    seconds = max(now - start, SECOND) / float(SECOND)
    return (words[block + SENT] - sent) / seconds, (words[block + FULL] - full) / seconds


def figures(words, block, pending, oldest, now):
    """Return the dict of a block of counters; ``oldest`` is when that message was sent."""
    per_second, full_per_second = rates(words, block, now)
    return {
        "messages_count": int(words[block + SENT]),
        "messages_count_per_second": per_second,
        "messages_pending": int(pending),
        "messages_max_age": max(now - oldest, 0) / float(SECOND) if oldest else 0.0,
        "channel_full_count": int(words[block + FULL]),
        "channel_full_count_per_second": full_per_second,
    }


def nothing():
    """The figures of a channel that has no entry."""
    return {
        "messages_count": 0,
        "messages_count_per_second": 0.0,
        "messages_pending": 0,
        "messages_max_age": 0.0,
        "channel_full_count": 0,
        "channel_full_count_per_second": 0.0,
    }


def piece(words, slots, first):
    """Add up the entries from number ``first`` on, a piece of them.

    :returns: (number to go on with or None, messages pending, when the oldest was sent or 0).
    """
    last = min(first + PIECE, slots.high)
    pending = oldest = 0
    for number in range(first, last):
        entry = slots.start + number * ENTRY_WORDS
        record = words[entry + FIRST]
        if words[entry + STATE] and record:
            pending += words[entry + COUNT]
            oldest = min(oldest or words[record + SENT_AT], words[record + SENT_AT])
    return last if last < slots.high else None, pending, oldest
