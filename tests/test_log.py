"""The log: it goes round many times, under backlogs and damage, and nothing is lost."""
import os
import random
from collections import deque

import pytest
from storekit import drain, get, overwrite, put, try_put

from asgi_ipc import ring
from asgi_ipc._shm.lane import BUSY
from asgi_ipc._shm.segment import EPOCH
from asgi_ipc._shm.words import M32, TWIN, Damage
from asgi_ipc.errors import ChannelFull
from asgi_ipc.layout import (
    DAMAGED,
    DEAD,
    FIRST,
    HEAD,
    LAST,
    LIMIT,
    MOVED,
    NEXT,
    PREV,
    R_STATE,
    RECORD_WORDS,
    RESERVED,
    SENT_AT,
    SEQ,
    SEQ_TWIN,
    TAIL,
)

KIB = 1024


def ring_words(store):
    return store._log.end - store._log.start


def live_records(store):
    words = store._words
    return [place for place in store._log.walk() if words[place + R_STATE]]


class Rounds(object):
    """Counts how often TAIL has come round."""

    def __init__(self, store):
        self._words = store._words
        self._last = 0
        self.count = 0

    def look(self):
        tail = self._words[TAIL]
        self.count += tail < self._last
        self._last = tail


@pytest.mark.parametrize("size", [64, 128, 256, 1024])
def test_goes_round_under_load_with_slow_channels(open_store, size):
    """Fast traffic over standing backlogs that are read slowly; big and small mixed."""
    store = open_store(size * KIB)
    seed = random.randrange(10 ** 6)
    print("seed", seed)
    rnd = random.Random(seed)
    largest = ring_words(store) * 8 // 24
    rounds = Rounds(store)
    slow = [u"slow{0}".format(number) for number in range(5)]
    model = {name: deque() for name in slow + [u"fast"]}
    number = 0
    while rounds.count < 8:
        name = rnd.choice(slow) if rnd.random() < 0.05 else u"fast"
        number += 1
        payload = b"%d:" % number + b"x" * int(largest ** rnd.random())
        put(store, name, payload)
        model[name].append(payload)
        if len(model[u"fast"]) > rnd.randrange(6):
            assert get(store, u"fast")[2] == model[u"fast"].popleft()
        for name in slow:
            if len(model[name]) > 2 or (model[name] and rnd.random() < 0.005):
                assert get(store, name)[2] == model[name].popleft()
        rounds.look()
        if number % 500 == 0:
            assert store.check() == []
    assert store._words[MOVED] > 0
    assert store.check() == []
    for name in model:
        assert drain(store, name) == list(model[name])
    assert store.memory()["messages"] == 0
    # What was taken from behind HEAD, the sends that follow pass over, faster than they add to it.
    for _ in range(number):
        if store._words[HEAD] == store._words[TAIL]:
            break
        put(store, u"fast", b"x")
        assert get(store, u"fast")[2] == b"x"
    assert store._words[HEAD] == store._words[TAIL]
    assert store.check() == []


@pytest.mark.parametrize("waiting", [1, 20, 200])
def test_a_small_backlog_is_not_moved_about_after_a_large_one(open_store, waiting):
    """The memory that the large one took is there still, and of no concern to the small one."""
    store = open_store(4096 * KIB)
    model = deque()
    payload = b"%06d" + b"x" * 54
    number = 0
    while len(model) < 5000:
        number += 1
        model.append(payload % number)
        put(store, u"a", model[-1])
    while len(model) > waiting:
        assert get(store, u"a")[2] == model.popleft()
    rounds = Rounds(store)
    before = store._words[MOVED]
    while rounds.count < 5:
        number += 1
        model.append(payload % number)
        put(store, u"a", model[-1])
        assert get(store, u"a")[2] == model.popleft()
        rounds.look()
    assert store._words[MOVED] == before
    assert store.check() == []


@pytest.mark.parametrize("size", [64, 128, 256, 512])
@pytest.mark.parametrize("part", [40, 8, 3])
def test_full_and_empty_again_and_again(open_store, size, part):
    """Random traffic that fills and drains the ring, with records of up to 1/part of it."""
    store = open_store(size * KIB)
    seed = random.randrange(10 ** 6)
    print("seed", seed)
    rnd = random.Random(seed)
    ring = ring_words(store)
    largest = ring * 8 // part
    model = {u"c{0}".format(number): deque() for number in range(rnd.choice([1, 4, 20]))}
    names = sorted(model)
    refused = 0
    for step in range(2500):
        name = rnd.choice(names)
        if rnd.random() < (0.9, 0.5, 0.15)[step // 250 % 3]:
            payload = b"%d:" % step + b"x" * int(largest ** rnd.random())
            if try_put(store, name, payload):
                model[name].append(payload)
            else:
                refused += 1
                # Never refused for nothing, if no record is above the sixteenth of the ring
                # that is kept free for moving them.
                if part > 16:
                    assert store._log.live + 3 * (largest // 8 + RECORD_WORDS) > ring * 3 // 4
        else:
            message = get(store, name)
            expected = model[name].popleft() if model[name] else None
            assert (message and message[2]) == expected
        if step % 100 == 0:
            assert store.check() == []
    for name in names:
        assert drain(store, name) == list(model[name])
    assert store.memory()["messages"] == 0
    assert store.check() == []


@pytest.mark.parametrize("size", [64, 256, 1024])
def test_all_of_the_ring_is_used(open_store, size):
    """Also rings smaller than the step in which memory is reserved, and their last part."""
    store = open_store(size * KIB)
    while try_put(store, u"a", b"x" * 50):
        pass
    assert store._log.live > ring_words(store) * 0.85
    assert store._log.reserved == store._log.end
    assert store.check() == []


def test_full_works_again_after_receives(open_store):
    store = open_store(128 * KIB)
    sent = 0
    while try_put(store, u"a", b"%d" % sent):
        sent += 1
    with pytest.raises(ChannelFull) as error:
        put(store, u"b", b"more")
    assert "message_memory" in str(error.value)
    assert store.check() == []
    for number in range(3 * sent):
        assert get(store, u"a")[2] == b"%d" % number
        put(store, u"a", b"%d" % (sent + number))
    assert drain(store, u"a") == [b"%d" % number for number in range(3 * sent, 4 * sent)]
    assert store.memory()["messages"] == 0
    assert store.check() == []


def test_full_works_again_after_expiry_with_nobody_receiving(open_store, clock):
    store = open_store(128 * KIB)
    keeper = b"keep"
    for _ in range(3):
        put(store, u"kept", keeper)
        lifetime = 10 * 10 ** 9
        while try_put(store, u"a", b"x" * 100, lifetime=lifetime):
            pass
        # Behind a record that lives, and among those that do.
        clock.advance(10)
        assert try_put(store, u"b", b"x" * 100, lifetime=lifetime)
        assert store.memory()["messages"] < 128 * KIB // 2
        assert store.check() == []
        clock.advance(10)
    assert drain(store, u"kept") == [keeper] * 3
    assert drain(store, u"a") == drain(store, u"b") == []
    assert store.memory()["messages"] == 0


def test_expiry_frees_memory_in_passing(open_store, clock):
    """Channels that nobody reads do not grow while others are in use."""
    store = open_store(1024 * KIB)
    for _ in range(20000):
        put(store, u"unread", b"x" * 20, lifetime=10 ** 9)
        put(store, u"read", b"y")
        assert get(store, u"read")[2] == b"y"
        clock.advance(0.01)
    assert store.memory()["messages"] < 200 * 100
    assert store.check() == []


def test_a_quiet_log_stays_small(open_store):
    """Send and receive touch the first 64 KiB, not all the memory, also beside a backlog."""
    store = open_store(4096 * KIB)
    put(store, u"standing", b"s")
    for number in range(30000):
        put(store, u"a", b"%d" % number)
        assert get(store, u"a")[2] == b"%d" % number
    assert store._log.reserved - store._log.start <= 2 * ring.STEP
    assert get(store, u"standing")[2] == b"s"
    assert store.memory()["messages"] == 0


def test_standing_backlog_is_not_moved_for_each_send(open_store):
    store = open_store(1024 * KIB)
    for number in range(1000):
        put(store, u"standing", b"%d" % number)
    before = store._words[MOVED]
    for _ in range(20000):
        put(store, u"a", b"x")
        get(store, u"a")
    assert (store._words[MOVED] - before) < 20000
    assert drain(store, u"standing") == [b"%d" % number for number in range(1000)]


# -- moves that do not come to their end ---------------------------------------------------


def filled(store):
    """Three channels with records that interleave; returns the model."""
    model = {u"a": [], u"b": [], u"c!": []}
    for number in range(30):
        name = sorted(model)[number % 3]
        payload = b"%d" % number
        put(store, name, payload, local=u"x" if name == u"c!" else u"")
        model[name].append(payload)
    return model


def test_a_move_that_lacks_its_end_leaves_a_duplicate_that_rebuild_drops(store):
    model = filled(store)
    words, log = store._words, store._log
    lock = store._lock
    lock.acquire()
    record = words[HEAD]
    size = words[record] & M32
    store._segment.map[words[TAIL] * 8 : (words[TAIL] + size) * 8] = store._segment.map[
        record * 8 : (record + size) * 8
    ]
    words[TAIL] += size
    twins = [place for place in log.walk() if words[place + SEQ] == words[record + SEQ]]
    assert len(twins) == 2
    lock.abandon()
    assert store.check() == []
    assert len(live_records(store)) == 30
    for name in model:
        assert drain(store, name) == model[name]
    assert store.memory()["messages"] == 0


@pytest.mark.parametrize("standing", [1, 5])
@pytest.mark.parametrize("part", [1000, 5])
def test_a_record_that_stands_does_not_keep_the_log_full(
    open_store, standing, part, monkeypatch
):
    """Filled up, all read but what stands at HEAD, big or small: there is room again."""
    if part > 16:
        # For small ones the room that is kept free is enough.
        monkeypatch.setattr(ring, "SHIFT", 0)
    store = open_store(256 * KIB)
    big = b"s" * (ring_words(store) * 8 // part // standing)
    for _ in range(standing):
        put(store, u"standing", big)
    for _ in range(3):
        sent = 0
        while try_put(store, u"a", b"%d" % sent):
            sent += 1
        assert sent > 500
        assert drain(store, u"a") == [b"%d" % number for number in range(sent)]
        assert store.check() == []
    assert drain(store, u"standing") == [big] * standing
    assert store.memory()["messages"] == 0


def test_rebuild_orders_by_sequence_number(open_store):
    """What was moved lies behind what was sent after it; the order stays."""
    store = open_store(128 * KIB)
    model = filled(store)
    words = store._words
    lock = store._lock
    lock.acquire()
    for _ in range(7):
        record = words[HEAD]
        size = words[record] & M32
        assert store._log._move(words[record], record, size)
        words[HEAD] = record + size
    lock.release()
    assert store.check() == []
    places = [words[place + SEQ] for place in live_records(store)]
    assert places != sorted(places)
    before = words[EPOCH]
    lock.acquire()
    lock.abandon()
    assert store.check() == []
    assert words[EPOCH] == before + 1
    for name in model:
        assert drain(store, name) == model[name]


# -- damage --------------------------------------------------------------------------------


def test_a_damaged_record_is_dropped_and_the_rest_served(store, caplog):
    model = filled(store)
    words = store._words
    victims = live_records(store)[4:20:5]
    lost = set()
    for place in victims:
        overwrite(store, (place + RECORD_WORDS) * 8)
        lost.add(words[place + SEQ] - 1)
    assert len(store.check()) >= len(victims)
    rest = {
        name: [payload for payload in model[name] if int(payload) not in lost] for name in model
    }
    for name in rest:
        assert drain(store, name) == rest[name]
    assert words[DAMAGED] == len(victims)
    assert store.check() == []
    assert "damaged" in caplog.text


@pytest.mark.parametrize("word", [0, R_STATE, NEXT, PREV, SEQ, SEQ_TWIN, SENT_AT])
def test_a_wrong_word_in_a_record_loses_that_one_at_most(store, word):
    model = filled(store)
    words = store._words
    place = live_records(store)[12]
    number = words[place + SEQ] - 1
    words[place + word] = 3 if word == 0 else 0x7777777
    lock = store._lock
    lock.acquire()
    lock.abandon()
    found = {name: drain(store, name) for name in model}
    for name in model:
        missing = [payload for payload in model[name] if payload not in found[name]]
        assert missing in ([], [b"%d" % number])
        assert found[name] == [payload for payload in model[name] if payload not in missing]
    assert store.check() == []
    put(store, u"a", b"goes on")
    assert drain(store, u"a") == [b"goes on"]


@pytest.mark.parametrize("byte", range(8))
def test_no_stray_byte_makes_another_number_of_one(store, byte):
    """Its number is in no check sum; by another, it would get another place in its queue."""
    put(store, u"a", b"x")
    words = store._words
    (place,) = live_records(store)
    for value in range(256):
        wrong = words[place + SEQ] & ~(0xFF << 8 * byte) | value << 8 * byte
        before, words[place + SEQ] = words[place + SEQ], wrong
        sound = store._log.alive(place, store._hints[u"a"][2])
        assert sound == (wrong == before)
        words[place + SEQ] = before
    assert drain(store, u"a") == [b"x"]


def test_a_queue_that_leads_to_another_channels_message_takes_nothing_of_it(store):
    """What is verified with the lock free is seen too late: whose it is has to be seen before."""
    put(store, u"mine", b"mine")
    put(store, u"other", b"like")
    store._hints[u"mine"][4][FIRST] = store._hints[u"other"][4][FIRST]
    assert store.receive([u"mine"])[2] == b"mine"
    assert store._words[DAMAGED] == 0
    assert drain(store, u"other") == [b"like"]


def test_what_was_written_over_is_taken_by_nobody(store, caplog):
    """It is seen when it is out already."""
    for payload in (b"first", b"second", b"third"):
        put(store, u"a", payload)
    begin = store._map[:].index(b"second")
    store._map[begin : begin + 6] = b"SECOND"
    assert [store.receive([u"a"])[2] for _ in range(2)] == [b"first", b"third"]
    assert store.receive([u"a"]) is None
    assert store._words[DAMAGED] == 1
    assert store.check() == []
    told = [record.getMessage() for record in caplog.records]
    assert [line for line in told if "1 records were damaged" in line]
    assert [line for line in told if "check does not hold" in line]


def test_a_tail_at_the_very_end_leads_back_to_the_start(store):
    """As after a LIMIT that was written over: the last record went up to the end of the segment."""
    log, words = store._log, store._words
    assert log._reserve(log.start * 8, log.end * 8)
    words[RESERVED] = log.end * TWIN
    words[HEAD] = words[TAIL] = log.end
    words[LIMIT] = 0
    put(store, u"a", b"x")
    assert get(store, u"a")[2] == b"x"
    assert store.check() == []


def test_a_tail_that_was_written_over_with_the_end_is_found_again(store):
    """With a message that lives, which is kept."""
    log, words = store._log, store._words
    put(store, u"a", b"x")
    assert log._reserve(log.start * 8, log.end * 8)
    words[RESERVED] = log.end * TWIN
    words[TAIL] = log.end
    words[BUSY] = 1
    put(store, u"a", b"y")
    assert drain(store, u"a") == [b"x", b"y"]
    assert store.check() == []


@pytest.mark.parametrize("word", [HEAD, TAIL, DEAD, LIMIT])
@pytest.mark.parametrize("value", [0, 7, 1 << 40])
def test_a_wrong_word_in_the_header_after_a_crash(store, word, value):
    filled(store)
    lock = store._lock
    lock.acquire()
    store._words[word] = value
    lock.abandon()
    assert store.check() == []
    put(store, u"a", b"goes on")
    assert drain(store, u"a")[-1:] == [b"goes on"]
    assert store.check() == []


def test_wrong_links_met_in_passing_are_rebuilt(store):
    model = filled(store)
    words = store._words
    entry = store._directory.find(u"a")[0]
    words[entry + FIRST] = words[entry + LAST] + 1
    assert drain(store, u"a") == model[u"a"]
    assert drain(store, u"b") == model[u"b"]
    assert store.check() == []


def test_a_wrong_prev_does_not_lead_a_move_astray(store):
    """It is not covered by the record's check; what it leads to must not be written to."""
    model = filled(store)
    words = store._words
    place = live_records(store)[12]
    for wrong in (0, 16, 600, 1 << 40):
        words[place + PREV] = wrong
        header = store._segment.map[:24]
        lock = store._lock
        with pytest.raises((Damage, IndexError, ValueError, OverflowError)):
            lock.acquire()
            try:
                store._log._move(words[place], place, words[place] & M32)
            finally:
                lock.abandon()
        assert store._segment.map[:24] == header
        assert store.check() == []
        place = live_records(store)[12]
    for name in model:
        assert drain(store, name) == model[name]


def test_random_damage_of_bytes_never_hangs_or_invents(open_store, clock, caplog):
    """Whatever is overwritten in the log: what is received then was sent, once, in order."""
    seed = random.randrange(10 ** 6)
    print("seed", seed)
    rnd = random.Random(seed)
    store = open_store(64 * KIB)
    for _ in range(60):
        store.flush()
        model = filled(store)
        words = store._words
        lock = store._lock
        lock.acquire()
        for _ in range(rnd.randrange(1, 6)):
            at = rnd.randrange(store._log.start * 8, (words[TAIL] + 2) * 8)
            length = rnd.randrange(1, 200)
            end = min(at + length, store._log.reserved * 8)
            store._segment.map[at:end] = os.urandom(end - at)
        lock.abandon()
        assert store.check() == []
        for name in model:
            found = drain(store, name)
            assert found == [payload for payload in model[name] if payload in found]
        assert store.memory()["messages"] == 0
        put(store, u"new", b"1")
        assert drain(store, u"new") == [b"1"]
        assert store.check() == []
