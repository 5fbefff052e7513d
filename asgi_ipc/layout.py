"""The words of the message segment: header, channel entries, records.

Only numbers live here. A word is 64 bits in the machine's byte order, an index counts words
from the beginning of the segment, and 0 as an index means "none" (word 0 is the magic).

::

    | header | hash buckets | entries | bells | nodes |  log ...                    |
      4 KiB    8 B each       256 B     64 B    64 B     the rest, used as a ring

Header, after the words that every segment has (``_shm/segment.py``)::

    16 HEAD      where the log begins; only dead records were ever before it
    17 TAIL      where the log ends: THE COMMIT WORD OF EVERY SEND
    18 LIMIT     a record that ends before it may be written at TAIL with no further thought;
                 0 sends the next one through ``Log.make_room``
    19 LIVE      words in live records
    20 LOG       first word of the ring
    21 LOG_END   end of the ring
    22 RESERVED  end of that part of the ring that has memory behind it
    23 BUCKETS   first bucket; a bucket is the index of an entry
    24 MASK      number of buckets - 1
    26 ENTRIES   control words of the entries (``_shm/slots.py``), 6 each
    32 BELLS     ... of the doorbells
    38 NODES     ... of the waiters' nodes
    44 HEADER_RATES  a block of rates for the whole segment; its first word is the sequence
                 number of the last message, which is also the number of messages ever sent
    52 HAND      number of the entry that is looked at next for recycling
    53 BELL_HAND number of the bell that is looked at next for a dead owner
    54 DAMAGED   records dropped because their check did not hold
    55 MOVED     records moved from the head of the log to its tail

A block of rates, all counts since the segment (the entry) began::

    +0 SENT  +1 FULL                messages sent, messages refused
    +2 C_START  +3 C_SENT  +4 C_FULL    when the current second began, the counts at that time
    +5 P_START  +6 P_SENT  +7 P_FULL    the same for the one before

An entry is a channel that has messages, waiters, or had them lately. A process-specific
channel has one entry for its process, named up to and including the ``!``::

     0 STATE        1 while in use (slots.py)
     1 GEN          counts up when the entry is freed (slots.py)
     2 LINK         next entry of the bucket
     3 HASH         of the name, keyed
     4 FIRST        oldest record
     5 LAST         newest record
     6 COUNT        live records
     7 WAIT_FIRST   node of the receiver that has waited longest
     8 WAIT_LAST    ... and shortest
     9 RATES        a block of rates
    17 NAME_LENGTH  bytes
    19 NAME         ASCII

A record is a message, or one message to several process-specific channels of one process::

     0 TAG      0xA5 | number of the entry, 24 bits | words in the record, 32 bits
     1 STATE    0 dead, else 1 + offset of the first name that has not had it:
                THE COMMIT WORD OF EVERY RECEIVE
     2 NEXT     the next record of the channel
     3 PREV     the one before (not kept up for the first)
     4 CHECK    CRC-32 of all from SEQ on, begun with the low halves of HASH and TAG
     5 SEQ      sequence number, from 1; order within a channel
     6 SENT_AT  ns
     7 EXPIRES  ns
     8 LENGTHS  bytes of payload << 32 | bytes of names
     9 payload (msgpack), then the local parts of the names, joined by newlines

A TAG of WRAP says: the log goes on at LOG. One of SKIP | n says: n words were damaged here.
A worked example stands in docs/design.rst, and tests/test_layout.py asserts it.
"""
import struct

from asgi_ipc._shm.slots import CONTROL_WORDS

KIND = 1
LAYOUT_VERSION = 1

HEAD, TAIL, LIMIT, LIVE, LOG, LOG_END, RESERVED, BUCKETS, MASK = range(16, 25)
ENTRIES = 26
BELLS = ENTRIES + CONTROL_WORDS
NODES = BELLS + CONTROL_WORDS
HEADER_RATES = NODES + CONTROL_WORDS
HAND, BELL_HAND, DAMAGED, MOVED = range(52, 56)
HEADER_WORDS = 512

SENT, FULL, C_START, C_SENT, C_FULL, P_START, P_SENT, P_FULL = range(8)
SEQUENCE = HEADER_RATES + SENT

HASH, FIRST, LAST, COUNT, WAIT_FIRST, WAIT_LAST, RATES = range(3, 10)
NAME_LENGTH, NAME = 17, 19
ENTRY_WORDS = 32

TAG = 0
R_STATE, NEXT, PREV, CHECK, SEQ, SENT_AT, EXPIRES, LENGTHS = range(1, 9)
RECORD_WORDS = 9

TAG_MAGIC = 0xA5
WRAP = TAG_MAGIC << 56 | 0xFFFFFF << 32
SKIP = TAG_MAGIC << 56 | 0xFFFFFE << 32
M32 = 0xFFFFFFFF

MUTABLE = struct.Struct("=5Q")
"""TAG, STATE, NEXT, PREV, CHECK."""

CHECKED = struct.Struct("=4Q")
"""SEQ, SENT_AT, EXPIRES, LENGTHS: with what follows, all that CHECK vouches for."""




class Damage(Exception):
    """Something in the segment cannot be: what is derived gets rebuilt, and it is tried again."""


def sizes(total_bytes):
    """Return (buckets, entries, bells, nodes) for a segment of ``total_bytes``."""
    entries = min(max(total_bytes // 3200, 64), 1 << 20)
    buckets = 64
    while buckets < entries:
        buckets *= 2
    bells = min(max(total_bytes // 25600, 64), 4096)
    return buckets, entries, bells, 4 * bells


def fixed_bytes(total_bytes):
    """Bytes of header and buckets, which are reserved from the beginning."""
    return (HEADER_WORDS + sizes(total_bytes)[0]) * 8
