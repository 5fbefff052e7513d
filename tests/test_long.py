"""Long messages: their body is stored twice where there is room, and what differs is damage."""
import pytest
from sandbox import MIB, on_small_shm, skip_without_own_shm
from storekit import LONG, drain, first_record, get, overwrite, put, try_put

from asgi_ipc import IPCChannelLayer
from asgi_ipc._shm.words import M32
from asgi_ipc.codec import pack
from asgi_ipc.layout import (
    DAMAGED,
    HEAD,
    LENGTHS,
    R_STATE,
    RECORD_BYTES,
    SENT_AT,
    TAG,
)
from asgi_ipc.records import NO_RECORD, SMALL, WRONG_CHECK, words_of
from asgi_ipc.ring import ROOMY

BODY = bytes(bytearray(number * number % 251 for number in range(SMALL + 500)))
NAMES = b"x\nyy\nz"


@pytest.fixture
def store(open_store):
    return open_store(MIB)


def words_in(store, record):
    return store._words[record] & M32


def fill_up_to(store, part):
    """Have that part of the ring in live records, all of them in pieces that are small."""
    log = store._log
    while log.live < (log.end - log.start) * part:
        put(store, u"backlog", b"b" * 4000)


def test_the_longest_small_one_is_stored_once_and_the_next_one_twice(store):
    put(store, u"a", BODY[:SMALL])
    put(store, u"b", BODY[: SMALL + 1])
    assert words_in(store, first_record(store, u"a")) == words_of(SMALL)
    record = first_record(store, u"b")
    assert words_in(store, record) == words_of(SMALL + 1, twice=True)
    begin = record * 8 + RECORD_BYTES
    assert store._segment.map[begin : begin + 2 * (SMALL + 1)] == 2 * BODY[: SMALL + 1]
    assert get(store, u"a", u"b") == (u"a", u"", BODY[:SMALL])
    assert get(store, u"a", u"b") == (u"b", u"", BODY[: SMALL + 1])
    assert store._log.live == 0
    assert store.check() == []


def test_for_many_names_it_is_stored_with_them(store):
    store.send_each([(u"p!", NAMES, 9), (u"q!", b"n", 9)], BODY, LONG)
    length = len(BODY) + len(NAMES)
    record = first_record(store, u"p!")
    assert words_in(store, record) == words_of(length, twice=True)
    begin, locals_ = record * 8 + RECORD_BYTES, [u"x", u"yy", u"z"]
    assert store._segment.map[begin : begin + 2 * length] == 2 * (BODY + NAMES)
    for local in (u"x", u"yy", u"z"):
        assert store.peek(u"p!")[4:] == (BODY, locals_, True)
        assert get(store, u"p!") == (u"p!", local, BODY)
        del locals_[0]
    assert get(store, u"q!") == (u"q!", u"n", BODY)
    assert store.peek(u"p!") is None
    assert store.memory()["messages"] == 0


def test_a_batch_has_it_as_it_was_sent(store):
    store.send_each([(u"p!", NAMES, 9)], BODY, LONG)
    (found,) = store.receive_batch(u"p!", 9)
    assert found[:2] == (u"x\nyy\nz", BODY)


def test_once_where_the_ring_is_not_mostly_empty(store):
    fill_up_to(store, 1.0 / ROOMY)
    put(store, u"a", BODY)
    assert words_in(store, first_record(store, u"a")) == words_of(len(BODY))
    assert drain(store, u"a") == [BODY]


def test_what_is_stored_twice_takes_no_room_from_others(store):
    """However many are sent, as many fit as if each were there once, but for that quarter."""
    sent = 0
    while try_put(store, u"a", BODY):
        sent += 1
    ring = store._log.end - store._log.start
    assert sent * words_of(len(BODY)) > ring * (7.0 / 8 - 1.0 / ROOMY / 2) - 2 * words_of(len(BODY))
    assert drain(store, u"a") == [BODY] * sent


def send_one_and_another(length, other):
    """Of the words that each is stored in, the surplus over being there once."""
    layer = IPCChannelLayer("p")
    store, found = layer._stores.messages, []
    for size in (length, other):
        message = {u"body": u"x" * size}
        layer.send(u"a", message)
        found.append(words_in(store, first_record(store, u"a")) - words_of(len(pack(message))))
        assert layer.receive([u"a"]) == (u"a", message)
    assert layer.check() == []
    return found


def test_once_where_the_system_has_no_memory_for_two():
    """Of 3 MB, the tables of both segments take a fifth."""
    skip_without_own_shm()
    first, second = on_small_shm(3 * MIB, send_one_and_another, 1000000, 500000)
    assert first == 0
    assert second > 500000 // 8


PLACES = {
    "its first byte": 0,
    "its last byte": len(BODY) - 1,
    "the first name": len(BODY),
    "the second one's first byte": len(BODY) + len(NAMES),
    "the second one's last name": 2 * (len(BODY) + len(NAMES)) - 1,
}


@pytest.mark.parametrize("place", sorted(PLACES.values()), ids=sorted(PLACES, key=PLACES.get))
def test_where_the_two_differ_neither_is_delivered(store, caplog, place):
    store.send_each([(u"p!", NAMES, 9)], BODY, LONG)
    put(store, u"p!", b"the next one", local=u"x")
    overwrite(store, first_record(store, u"p!") * 8 + RECORD_BYTES + place)
    assert len(store.check()) == 1
    looked_at = store.peek(u"p!")
    assert not looked_at.intact
    assert store.peek(u"p!", looked_at)[4:] == (b"the next one", [u"x"], True)
    assert get(store, u"p!") == (u"p!", u"x", b"the next one")
    assert store._words[DAMAGED] == 1
    assert "damaged" in caplog.text
    assert store.check() == []


@pytest.mark.parametrize(
    "word,bit", [(TAG, 3), (R_STATE, 33), (SENT_AT, 33), (LENGTHS, 3), (LENGTHS, 40)]
)
@pytest.mark.parametrize("part", [0, 1.0 / ROOMY], ids=["twice", "once"])
def test_a_wrong_word_before_it_loses_it_alone(store, caplog, word, bit, part):
    fill_up_to(store, part)
    put(store, u"a", BODY)
    put(store, u"a", b"the next one")
    store._words[first_record(store, u"a") + word] ^= 1 << bit
    assert drain(store, u"a") == [b"the next one"]
    assert store._words[DAMAGED] == 1
    # Told before anything is read by lengths that are wrong.
    assert (WRONG_CHECK if word in (R_STATE, SENT_AT) else NO_RECORD) in caplog.text
    assert store.check() == []


def test_a_length_that_would_fit_the_other_form_is_none(store):
    """Of a record that has its body twice, LENGTHS that say it is there once, and twice as long."""
    put(store, u"a", BODY)
    put(store, u"a", b"the next one")
    record = first_record(store, u"a")
    store._words[record + LENGTHS] = 2 * len(BODY) << 32
    assert words_of(2 * len(BODY)) == words_in(store, record)
    assert drain(store, u"a") == [b"the next one"]
    assert store._words[DAMAGED] == 1


def test_it_is_moved_and_rebuilt_as_it_is(store):
    store.send_each([(u"p!", NAMES, 9)], BODY, LONG)
    put(store, u"a", BODY)
    words, lock = store._words, store._lock
    lock.acquire()
    record = words[HEAD]
    assert store._log._move(words[record], record, words_in(store, record))
    words[HEAD] = record + words_in(store, record)
    lock.abandon()
    # A rebuild of what is damaged reads the log another way.
    lock.acquire()
    words[words[HEAD]] = 0
    lock.abandon()
    assert drain(store, u"a") == []
    assert [get(store, u"p!") for _ in range(3)] == [
        (u"p!", local, BODY) for local in (u"x", u"yy", u"z")
    ]
    assert store.check() == []
