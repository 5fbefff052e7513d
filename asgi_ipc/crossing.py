"""What goes to other machines and what comes from them, as far as shared memory goes.

Knows the words that the bridge has in the header of the message segment (``layout``), and how a
delivery, or a move to the outbox, is resolved whose process died in it; does not know Redis, nor
how names say where they belong. The caller holds the lock.

A delivery makes two things true with one commit: the records of an entry are here, and it is the
last one delivered. ARRIVING_ID and ARRIVING_SEQ say what is about to be, ARRIVING that they count;
then the records are written, and the store of TAIL is the commit, as for any send; then LAST_IDS
follow, and ARRIVING is 0 again. Whoever comes after a death finds ARRIVING set, and sees from
SEQUENCE whether the commit was made: an entry is delivered once, however often it is read.

A move of a channel's first record to the outbox is the same with MOVING: if the new record is
there, the old one is ended.
"""
from asgi_ipc.layout import (
    ARRIVING,
    ARRIVING_ID,
    ARRIVING_SEQ,
    BRIDGE_COUNTERS,
    COUNTERS,
    FIRST,
    LAST_IDS,
    MOVED_SEQ,
    MOVING,
    MOVING_SEQ,
    SEQ,
    SEQUENCE,
)

OUTBOX = u"asgi-ipc.bridge?"
"""The queue of what is for other machines: a name that no user's channel can have."""

BRIDGE_LOCK = "-bridge.lock"
"""With a prefix before it, the file beside the segments whose lock says whose turn it is."""

GROUPS, OWN = 0, 1
"""Numbers of the streams: what is sent to groups, and what is for this node alone."""

STREAMS = (GROUPS, OWN)

COUNTER = {name: BRIDGE_COUNTERS + number for number, name in enumerate(COUNTERS)}


def count(words, counter, number=1):
    """Count up one of ``layout.COUNTERS``."""
    words[COUNTER[counter]] += number


def last_id(words, stream):
    """The last entry of a stream that was delivered: (ms, number)."""
    place = LAST_IDS + 2 * stream
    return words[place], words[place + 1]


def set_last_id(words, stream, entry):
    """Note an entry, (ms, number), as the last one of its stream that was delivered."""
    place = LAST_IDS + 2 * stream
    words[place], words[place + 1] = entry


def begin_delivery(words, stream, entry, seq):
    """Say that an entry is about to be delivered by records from ``seq`` on."""
    words[ARRIVING_ID], words[ARRIVING_ID + 1] = entry
    words[ARRIVING_SEQ] = seq
    words[ARRIVING] = 1 + stream


def end_delivery(words):
    """The entry that was said to be about to be delivered is the last one that was."""
    entry = words[ARRIVING_ID], words[ARRIVING_ID + 1]
    set_last_id(words, words[ARRIVING] - 1, entry)
    words[ARRIVING] = 0


def begin_move(words, number, old, new):
    """Say that the first record of the entry with a number is about to be moved.

    :param old: its sequence number.
    :param new: the one that it gets in the outbox.
    """
    words[MOVED_SEQ] = old
    words[MOVING_SEQ] = new
    words[MOVING] = 1 + number


def resolve(words, directory, log):
    """In a rebuild, when the queues are whole again: end what somebody died in.

    Killed in here, the next rebuild does it again.
    """
    if words[ARRIVING]:
        # A word that was written over leads to no stream.
        if words[ARRIVING] - 1 in STREAMS and words[SEQUENCE] >= words[ARRIVING_SEQ]:
            end_delivery(words)
        words[ARRIVING] = 0
    if words[MOVING]:
        if words[SEQUENCE] >= words[MOVING_SEQ]:
            entry = directory.entry_of(words[MOVING] - 1)
            record = entry and words[entry + FIRST]
            if record and words[record + SEQ] == words[MOVED_SEQ]:
                log.end_first(entry, record)
        words[MOVING] = 0


def faults(words):
    """What is wrong with these words between two operations, as sentences."""
    found = []
    if words[ARRIVING]:
        found.append("bridge: a delivery is neither done nor undone")
    if words[MOVING]:
        found.append("bridge: a move to the outbox is neither done nor undone")
    return found
