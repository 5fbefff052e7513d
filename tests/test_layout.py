"""Golden bytes: one entry and one record, word by word, as ``layout`` documents them."""
import binascii
import os
import struct

import pytest
from storekit import put

from asgi_ipc._shm import segment as segment_module
from asgi_ipc._shm.clock import SECOND
from asgi_ipc.layout import (
    BELLS,
    DEAD,
    ENTRIES,
    ENTRY_WORDS,
    HEAD,
    HEADER_WORDS,
    NODES,
    RECORD_WORDS,
    RESERVED,
    SEQUENCE,
    TAIL,
    Geometry,
    fixed_bytes,
    halves,
)

SIZE = 64 * 1024
LITTLE = segment_module.MAGIC_VALUE == 0x4350495F49475341
KEY = b"\x01\x02\x03\x04\x05\x06\x07\x08"
PAYLOAD = b"\x81\xa4text\xa2hi"
"""{"text": "hi"} in msgpack."""


@pytest.fixture
def known_store(open_store, clock, monkeypatch):
    """A new store of 64 KiB whose random key is known, at 5 s of the clock."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "urandom", lambda count: KEY[:count])
        store = open_store(SIZE)
    clock.time = 5 * SECOND
    return store


def dump(store, first, count):
    """Words as hex, one string each."""
    data = store._segment.map[first * 8 : (first + count) * 8]
    return [
        binascii.hexlify(data[place : place + 8]).decode("ascii")
        for place in range(0, len(data), 8)
    ]


def values(store, first, count):
    return [int(store._words[word]) for word in range(first, first + count)]


def test_a_new_segment(known_store):
    words = known_store._words
    assert known_store._segment.map[:8] == b"ASGI_IPC"
    assert values(known_store, 1, 3) == [5, 1, SIZE]
    geometry = Geometry(SIZE)
    assert (geometry.first_bucket, geometry.buckets) == (HEADER_WORDS, 64)
    # Where they begin, and how many there is room for.
    assert (geometry.entries, geometry.bells, geometry.nodes) == (
        (576, 64), (2624, 64), (3136, 256)
    )
    assert (geometry.log, geometry.log_end) == (5184, SIZE // 8)
    # None was used yet.
    assert (ENTRIES, BELLS, NODES) == (26, 30, 34)
    assert values(known_store, 26, 12) == [0] * 12
    assert words[HEAD] == words[TAIL] == 5184
    assert words[RESERVED] == 5184 << 32 | 5184
    assert words[DEAD] == 0
    assert fixed_bytes(SIZE) == 576 * 8


@pytest.mark.skipif(not LITTLE, reason="the golden bytes are those of a little-endian machine")
def test_one_message(known_store):
    """The worked example of docs/design.rst."""
    put(known_store, u"http.response!", PAYLOAD, u"Xa1", lifetime=60 * SECOND)
    words = known_store._words
    assert words[SEQUENCE] == 1
    assert (words[HEAD], words[TAIL]) == (5184, 5184 + 11)
    assert words[DEAD] == 0
    assert known_store._log.live == 11
    assert values(known_store, ENTRIES, 4) == [1, 64, 0, 1]
    # The only bucket in use leads to the entry.
    hashed = words[576 + 3]
    assert hashed == known_store._segment.hash(b"http.response!")
    assert words[HEADER_WORDS + (hashed & 63)] == 576
    assert dump(known_store, 576, ENTRY_WORDS) == ENTRY
    assert dump(known_store, 5184, RECORD_WORDS + 2) == RECORD


@pytest.mark.skipif(not LITTLE, reason="the golden bytes are those of a little-endian machine")
def test_what_sends_and_receives_do_to_the_words(known_store):
    """The second message is linked behind the first; a receive ends the first."""
    put(known_store, u"a", b"one")
    put(known_store, u"a", b"two")
    words = known_store._words
    first, second = 5184, 5194
    assert words[first + 2] == second
    assert words[second + 3] == first
    # FIRST LAST COUNT
    assert values(known_store, 576 + 4, 3) == [first, second, 2]
    assert known_store.receive([u"a"])[2] == b"one"
    assert words[first + 1] == 0
    assert values(known_store, 576 + 4, 3) == [second, second, 1]
    assert (words[HEAD], words[DEAD]) == (second, 0)
    assert known_store.receive([u"a"])[2] == b"two"
    # LAST stays as it is: it counts only while there is a first one.
    assert values(known_store, 576 + 4, 3) == [0, second, 0]
    assert words[HEAD] == words[TAIL] == second + 10
    assert words[DEAD] == 0


def test_what_is_taken_from_behind_the_head_is_counted_until_the_head_is_past_it(known_store):
    for name in (u"a", u"b", u"b"):
        put(known_store, name, b"one")
    words = known_store._words
    assert known_store.receive([u"b"])[2] == b"one"
    assert (words[HEAD], words[DEAD]) == (5184, 10 << 32 | 10)
    assert known_store._log.live == 20
    assert known_store.receive([u"a"])[2] == b"one"
    assert (words[HEAD], words[DEAD]) == (5194, 10 << 32 | 10)
    known_store._log.sweep(5 * SECOND)
    assert (words[HEAD], words[DEAD]) == (5204, 0)
    assert known_store._log.live == 10
    assert known_store.check() == []


def test_the_state_of_a_fan_out_is_a_cursor(known_store):
    known_store.send_each([(u"p!", b"one\ntwo\nthree", 10)], PAYLOAD, 60 * SECOND)
    words = known_store._words
    states = []
    for name in (u"one", u"two", u"three"):
        states.append(words[5184 + 1])
        assert known_store.receive([u"p!"]) == (u"p!", name, PAYLOAD)
    # 1 + offset of the name to serve: "one\n" is 4 bytes long, "two\n" too. Above it the
    # offset once more, xor the check sum.
    check = states[0] >> 32
    assert states == [check << 32 | 1, (check ^ 4) << 32 | 5, (check ^ 8) << 32 | 9]
    assert words[5184 + 1] == 0


ENTRY = [
    "0100000000000000",  # STATE in use
    "0000000000000000",  # GEN
    "0000000000000000",  # LINK none
    "f19778cd63079076",  # HASH
    "4014000000000000",  # FIRST 5184
    "4014000000000000",  # LAST
    "0100000000000000",  # COUNT
    "0000000000000000",  # WAIT_FIRST
    "0000000000000000",  # WAIT_LAST
    "0100000000000000",  # SENT
    "0000000000000000",  # FULL
    "00f2052a01000000",  # C_START 5,000,000,000 ns
] + ["0000000000000000"] * 5 + [
    "0e00000000000000",  # NAME_LENGTH 14
    "0000000000000000",
    "687474702e726573",  # http.res
    "706f6e7365210000",  # ponse!
] + ["0000000000000000"] * 11

RECORD = [
    "0b000000000000a5",  # TAG: 11 words, entry 0
    "010000002e1f940d",  # STATE live, cursor 0; check sum of SENT_AT and what follows
    "0000000000000000",  # NEXT
    "0000000000000000",  # PREV
    "0100000000000000",  # SEQ
    "0100000000000000",  # SEQ_TWIN
    "00f2052a01000000",  # SENT_AT 5,000,000,000 ns
    "004a4d220f000000",  # EXPIRES 65,000,000,000 ns
    "0300000009000000",  # LENGTHS: 3 of names, 9 of payload
    "81a474657874a268",  # payload
    "6958613100000000",  # payload, "Xa1", zeros
]


@pytest.mark.parametrize("order", ["little", "big"])
def test_halves_are_those_of_the_words_in_either_byte_order(order):
    pack_beginning, pack_checked, unpack_record = halves(order)
    raw = pack_beginning(1, 2, 3, 4, 5, 6, 7) + pack_checked(8, 9, 10, 11)
    words = struct.unpack(("<" if order == "little" else ">") + "9Q", raw)
    assert words == (1, 3 << 32 | 2, 4, 5, 6, 7, 8, 9, 11 << 32 | 10)
    assert unpack_record(b"12345678" + raw, 8) == (1, 2, 3, 4, 9, 10, 11)
