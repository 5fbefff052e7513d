"""The words of the message segment: header, channel entries, records.

Only numbers live here. A word is 64 bits in the machine's byte order, an index counts words
from the beginning of the segment, and 0 as an index means "none" (word 0 is the magic).

::

    | header | hash buckets | entries | bells | nodes |  log ...                    |
      4 KiB    8 B each       256 B     64 B    64 B     the rest, used as a ring

Where each part begins follows from the size of the segment, which its header seals
(``Geometry``). Header, after the words that every segment has (``_shm/segment.py``)::

    16 HEAD      where the log begins; only dead records were ever before it
    17 TAIL      where the log ends: THE COMMIT WORD OF EVERY SEND
    18 LIMIT     a record that ends before it may be written at TAIL with no further thought;
                 0 sends the next one through ``Log.make_room``
    19 DEAD      words from HEAD to TAIL that are in no live record; a twin (``_shm/words.py``)
    20 RESERVED  end of that part of the ring that has memory behind it; a twin
    21 FLUSHING  FLUSH while all records are being ended: THE COMMIT WORD OF A FLUSH
    22 HAND      number of the entry that is looked at next for recycling
    23 BELL_HAND number of the bell that is looked at next for a dead owner
    24 DAMAGED   records dropped because their check did not hold
    25 MOVED     records moved from the head of the log to its tail
    26 ENTRIES   control words of the entries (``_shm/slots.py``), 4 each
    30 BELLS     ... of the doorbells
    34 NODES     ... of the waiters' nodes
    38 HEADER_RATES  a block of rates for the whole segment; its first word is the sequence
                 number of the last message, which is also the number of messages ever sent

Those of the bridge to other machines (``crossing``, ``bridge``)::

    64 NODE      random, 48 bits: this machine's name among those that a bridge joins
    65 LIFE      random, 48 bits: tells this segment from others that had the same NODE
    66 LEASE     ns until which senders put what is for other machines into the outbox
    67 OUTBOX_LIMIT   messages that the outbox holds
    68 ACKED     sequence number up to which Redis has what was in the outbox
    69 IN_FLIGHT      ... up to which it was sent there
    70 RUN       tells the Redis that it was sent to from one that was started later
    72 LAST_IDS  the last entries delivered: of the stream of all groups, 2 words, and of the
                 node's own, 2 words
    76 ARRIVING  1 + number of the stream of which an entry is being delivered, 0 for none
    77 ARRIVING_ID    ... that entry, 2 words
    79 ARRIVING_SEQ   ... the sequence number that its first record gets
    80 MOVING    1 + number of the entry whose first record is being moved to the outbox
    81 MOVED_SEQ      ... that record's sequence number
    82 MOVING_SEQ     ... the one that it gets
    84 BRIDGE_COUNTERS  see ``COUNTERS``

A block of rates, all counts since the segment (the entry) began::

    +0 SENT  +1 FULL                messages sent, messages refused
    +2 C_START  +3 C_SENT  +4 C_FULL    when the current second began, the counts at that time
    +5 P_START  +6 P_SENT  +7 P_FULL    the same for the one before

An entry is a channel that has messages, waiters, or had them lately. A process-specific
channel has one entry for its process, named up to and including the ``!``::

     0 STATE        1 while in use (slots.py)
     1 GEN          counts up when the entry is freed (slots.py)
     2 LINK         next entry of the bucket
     3 HASH         of the name, keyed; 0 in a free one
     4 FIRST        oldest record
     5 LAST         newest record, if there is an oldest one
     6 COUNT        live records
     7 WAIT_FIRST   node of the receiver that has waited longest
     8 WAIT_LAST    ... and shortest
     9 RATES        a block of rates
    17 NAME_LENGTH  bytes
    19 NAME         ASCII

A record is a message, or one message to several process-specific channels of one process::

     0 TAG      0xA5 | number of the entry, 24 bits | words in the record, 32 bits
     1 STATE    0 dead, else 1 + offset of the first name that has not had it, and in the upper
                half that offset xor the check sum: Adler-32 of all from SENT_AT on, begun with the
                channel's ``seed``; where all from word 9 on is there twice, it ends before it. THE
                COMMIT WORD OF EVERY RECEIVE
     2 NEXT     the next record of the channel
     3 PREV     the one before (not kept up for the first)
     4 SEQ      sequence number, from 1; order within a channel
     5 SEQ_TWIN the same once more
     6 SENT_AT  ns
     7 EXPIRES  ns
     8 LENGTHS  bytes of payload << 32 | bytes of names
     9 payload (msgpack), then the local parts of the names, joined by newlines; in some long
       records (``records``) the same once more

A TAG of WRAP says: the log goes on at LOG. One of SKIP | n says: n words were damaged here.
A worked example stands in docs/design.rst, and tests/test_layout.py asserts it.
"""
import os
import struct
import sys

from asgi_ipc._shm.slots import CONTROL_WORDS
from asgi_ipc._shm.words import ADLER_START, M32, TWIN

KIND = 1
LAYOUT_VERSION = 5

HEAD, TAIL, LIMIT, DEAD, RESERVED, FLUSHING, HAND, BELL_HAND, DAMAGED, MOVED = range(16, 26)
ENTRIES = 26
BELLS = ENTRIES + CONTROL_WORDS
NODES = BELLS + CONTROL_WORDS
HEADER_RATES = NODES + CONTROL_WORDS
HEADER_WORDS = 512

NODE, LIFE, LEASE, OUTBOX_LIMIT, ACKED, IN_FLIGHT, RUN = range(64, 71)
LAST_IDS = 72
ARRIVING, ARRIVING_ID, ARRIVING_SEQ = 76, 77, 79
MOVING, MOVED_SEQ, MOVING_SEQ = range(80, 83)
BRIDGE_COUNTERS = 84
COUNTERS = (
    "sent",  # entries that Redis took from the outbox
    "received",  # entries from other machines that were delivered here
    "overflowed",  # messages for which the outbox had no room
    "expired",  # ... whose time was up before Redis took them, or before they came
    "refused",  # entries that were none, or not for us
    "unsure",  # messages that may or may not have got out when Redis lost its data
    "reconnects",
    "lag",  # ns that the last entry took, from Redis to here
    "pid",  # of the bridge
    "connected",  # 1 while it has Redis
)
NODE_BITS = 48

SENT, FULL, C_START, C_SENT, C_FULL, P_START, P_SENT, P_FULL = range(8)
SEQUENCE = HEADER_RATES + SENT

HASH, FIRST, LAST, COUNT, WAIT_FIRST, WAIT_LAST, RATES = range(3, 10)
NAME_LENGTH, NAME = 17, 19
ENTRY_WORDS = 32
BELL_WORDS = NODE_WORDS = 8

TAG = 0
R_STATE, NEXT, PREV, SEQ, SEQ_TWIN, SENT_AT, EXPIRES, LENGTHS = range(1, 9)
RECORD_WORDS = 9
RECORD_BYTES = RECORD_WORDS * 8
ROUND_UP = RECORD_BYTES + 7
"""With the bytes of payload and names, eight times the words of a record, and what is cut off."""

TAG_MAGIC = 0xA5
WRAP = TAG_MAGIC << 56 | 0xFFFFFF << 32
SKIP = TAG_MAGIC << 56 | 0xFFFFFE << 32
FLUSH = struct.unpack("=Q", b"flushing")[0]

BEGINNING_BYTES = SENT_AT * 8

CHECKED = struct.Struct("=3Q")
"""SENT_AT, EXPIRES, LENGTHS: with what follows, all that a record's check sum is of."""

CHECKED_BYTES = CHECKED.size


def halves(order):
    """How the words of a record are written and read where they have two halves.

    To have ``struct`` put the halves together, and take them apart, costs a third of doing that
    with numbers of 64 bits, which are large ones to Python.

    :param order: "little" or "big", the machine's.
    :returns: ``pack_beginning(tag, mark, seal, next, previous, seq, seq)``, the bytes of all
        before SENT_AT: ``mark`` is the lower half of STATE, ``seal`` the upper one.
        ``pack_checked(sent_at, expires, names, payload)``, those of the words that follow, the last
        two being numbers of bytes. And ``unpack_record(memory, first byte)``, what a receive looks
        at: tag, mark, seal, next, expires, names, payload.
    """
    if order == "little":
        return (
            struct.Struct("<Q2I4Q").pack,
            struct.Struct("<2Q2I").pack,
            struct.Struct("<Q2IQ32xQ2I").unpack_from,
        )
    beginning, checked, record = (
        struct.Struct(form) for form in (">Q2I4Q", ">2Q2I", ">Q2IQ32xQ2I")
    )

    def pack_beginning(tag, mark, seal, following, previous, seq, twin):
        return beginning.pack(tag, seal, mark, following, previous, seq, twin)

    def pack_checked(sent_at, expires, names, payload):
        return checked.pack(sent_at, expires, payload, names)

    def unpack_record(memory, begin):
        tag, seal, mark, following, expires, payload, names = record.unpack_from(memory, begin)
        return tag, mark, seal, following, expires, names, payload

    return pack_beginning, pack_checked, unpack_record


pack_beginning, pack_checked, unpack_record = halves(sys.byteorder)

unpack_entry = struct.Struct("={0}x5Q8xQ8xQ".format(HASH * 8)).unpack_from
"""HASH, FIRST, LAST, COUNT, WAIT_FIRST, SENT, C_START of an entry's words: what a send looks at."""


class Geometry(object):
    """Where the parts of a message segment of ``total_bytes`` lie, in words.

    ``buckets`` is a power of 2; ``entries``, ``bells`` and ``nodes`` are (first word, number
    of them); the log goes from ``log`` to ``log_end``.
    """

    def __init__(self, total_bytes):
        entries = min(max(total_bytes // 3200, 64), 1 << 20)
        bells = min(max(total_bytes // 25600, 64), 4096)
        self.buckets = 64
        while self.buckets < entries:
            self.buckets *= 2
        self.first_bucket = HEADER_WORDS
        place = HEADER_WORDS + self.buckets
        self.entries = (place, entries)
        place += entries * ENTRY_WORDS
        self.bells = (place, bells)
        place += bells * BELL_WORDS
        self.nodes = (place, 4 * bells)
        self.log = place + 4 * bells * NODE_WORDS
        self.log_end = total_bytes // 8


def fixed_bytes(total_bytes):
    """Bytes of header and buckets, which are reserved from the beginning."""
    return (HEADER_WORDS + Geometry(total_bytes).buckets) * 8


def lay_header(words, total_bytes, node=0):
    """Lay the header of a new segment, all of whose other bytes are zeros.

    :param node: its NODE, if it takes the place of another segment.
    """
    log = Geometry(total_bytes).log
    words[HEAD] = words[TAIL] = log
    words[RESERVED] = log * TWIN
    words[LIMIT] = words[DEAD] = 0
    words[NODE] = node or _random()
    words[LIFE] = _random()


def _random():
    """A number of ``NODE_BITS`` bits, never 0."""
    return struct.unpack("=Q", os.urandom(8))[0] >> 64 - NODE_BITS or 1


def seed(number):
    """What the check sums of a channel's records begin with, by the HASH of its entry."""
    return number & ADLER_START


def live_state(check, offset):
    """The STATE of a live record: the name at ``offset`` is the next to have it."""
    return (check ^ offset) << 32 | offset + 1


def offset_of(state):
    """The offset in such a STATE."""
    return (state & M32) - 1


def check_of(state):
    """The check sum in such a STATE."""
    return state >> 32 ^ offset_of(state)
