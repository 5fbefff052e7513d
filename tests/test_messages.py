"""MessageStore: what each operation does, under a clock that stands still."""
import os
import random
import warnings

import pytest
from storekit import LONG, PLENTY, drain, first_record, get, in_child, put, try_put

from asgi_ipc import messages
from asgi_ipc._shm import segment
from asgi_ipc._shm.clock import SECOND
from asgi_ipc._shm.segment import EPOCH
from asgi_ipc.directory import HINTS_KEPT, IDLE
from asgi_ipc.errors import ChannelFull, LayerClosed, SegmentError
from asgi_ipc.layout import DAMAGED, FIRST, HASH, HEAD, R_STATE, SEQUENCE, TAIL
from asgi_ipc.messages import MINIMUM_SIZE, MessageStore

MAPS = "/proc/self/maps"
"""Where Linux tells what this process has mapped."""

# -- send and receive ----------------------------------------------------------------------


def test_what_is_sent_is_received_once(store):
    put(store, u"a", b"payload")
    assert get(store, u"a") == (u"a", u"", b"payload")
    assert get(store, u"a") is None
    assert store.check() == []


def test_nothing_there(store):
    assert get(store, u"never", u"heard", u"of") is None
    assert store.check() == []


def test_order_is_kept_in_each_channel(store):
    for number in range(100):
        put(store, u"ab"[number % 2], b"%d" % number)
    assert drain(store, u"a") == [b"%d" % number for number in range(0, 100, 2)]
    assert drain(store, u"b") == [b"%d" % number for number in range(1, 100, 2)]


def test_the_first_queue_with_a_message_is_served(store):
    put(store, u"b", b"1")
    put(store, u"c", b"2")
    assert get(store, u"a", u"b", u"c")[0] == u"b"
    assert get(store, u"a", u"b", u"c")[0] == u"c"


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 4095, 4096, 4097, 100000])
def test_payloads_of_any_length_and_byte(store, length):
    rnd = random.Random(length)
    payload = bytes(bytearray(rnd.randrange(256) for _ in range(length)))
    put(store, u"a", payload)
    put(store, u"p!", payload, local=u"x")
    assert get(store, u"a")[2] == payload
    assert get(store, u"p!") == (u"p!", u"x", payload)
    assert store.check() == []


def test_another_store_of_the_prefix_sees_it(store, open_store):
    other = open_store()
    put(store, u"a", b"1")
    assert get(other, u"a")[2] == b"1"
    assert get(store, u"a") is None


def test_another_process_sees_it(store, open_store):
    put(store, u"a", b"1")
    assert in_child(lambda: get(store, u"a")[2]) == b"1"
    in_child(put, store, u"a", b"2")
    assert get(store, u"a")[2] == b"2"


def test_another_prefix_does_not(store, prefix, clock):
    other = MessageStore(prefix + "x", MINIMUM_SIZE, clock=clock)
    try:
        put(store, u"a", b"1")
        assert get(other, u"a") is None
    finally:
        other.close()
        segment.unlink("/{0}x-messages".format(prefix))


def test_local_parts_come_with_their_messages(store):
    put(store, u"p!", b"1", local=u"one")
    put(store, u"p!", b"2", local=u"two")
    assert get(store, u"p!") == (u"p!", u"one", b"1")
    assert get(store, u"p!") == (u"p!", u"two", b"2")
    assert type(u"") is type(in_child(lambda: u"")) is type(u"p!")


# -- capacity ------------------------------------------------------------------------------


def test_capacity_is_that_of_the_call(store):
    for _ in range(3):
        put(store, u"a", b"x", capacity=3)
    with pytest.raises(ChannelFull) as error:
        put(store, u"a", b"x", capacity=3)
    assert "a holds 3 messages" in str(error.value)
    assert "capacity" in str(error.value)
    put(store, u"a", b"x", capacity=4)
    put(store, u"b", b"x", capacity=1)
    assert len(drain(store, u"a")) == 4
    put(store, u"a", b"x", capacity=1)


def test_expired_messages_do_not_count(store, clock):
    for _ in range(3):
        put(store, u"a", b"old", lifetime=SECOND, capacity=3)
    clock.advance(1)
    put(store, u"a", b"new", capacity=3)
    assert drain(store, u"a") == [b"new"]
    assert store.check() == []


def test_capacity_of_a_process_counts_records(store):
    store.send_each([(u"p!", b"a\nb\nc\nd", 1)], b"x", LONG)
    assert store.send_each([(u"p!", b"a\nb", 1)], b"x", LONG)[0][0] == u"p!"
    assert [get(store, u"p!")[1] for _ in range(4)] == [u"a", u"b", u"c", u"d"]


# -- expiry --------------------------------------------------------------------------------


def test_expires_at_its_time_and_not_before(store, clock):
    put(store, u"a", b"x", lifetime=SECOND)
    put(store, u"b", b"x", lifetime=SECOND)
    clock.time += SECOND - 1
    assert get(store, u"a")[2] == b"x"
    clock.time += 1
    assert get(store, u"b") is None
    assert store.memory()["messages"] == 0
    assert store.check() == []


def test_one_that_lives_longer_hides_behind_none(store, clock):
    put(store, u"a", b"1", lifetime=SECOND)
    put(store, u"a", b"2", lifetime=5 * SECOND)
    put(store, u"a", b"3", lifetime=SECOND)
    clock.advance(2)
    assert get(store, u"a")[2] == b"2"
    assert get(store, u"a") is None


def test_unread_names_of_a_process_lapse(store, clock):
    put(store, u"p!", b"x", local=u"one", lifetime=SECOND)
    store.send_each([(u"p!", b"two\nthree\nfour", PLENTY)], b"x", SECOND)
    assert get(store, u"p!")[1] == u"one"
    assert get(store, u"p!")[1] == u"two"
    clock.advance(1)
    assert get(store, u"p!") is None
    assert list(store.lapsed) == [u"p!three", u"p!four"]
    put(store, u"a", b"x", lifetime=SECOND)
    clock.advance(1)
    assert get(store, u"a") is None
    assert len(store.lapsed) == 2


# -- many at once --------------------------------------------------------------------------


def test_send_each_reaches_all(store):
    targets = [(u"a", b"", 5), (u"p!", b"x\ny", 5), (u"q!", b"z", 5)]
    assert store.send_each(targets, b"m", LONG) == []
    assert get(store, u"a") == (u"a", u"", b"m")
    assert [get(store, u"p!")[1] for _ in range(2)] == [u"x", u"y"]
    assert get(store, u"q!")[1] == u"z"
    assert get(store, u"p!", u"q!", u"a") is None
    assert store.check() == []


def test_send_each_tells_who_was_full(store):
    put(store, u"a", b"x")
    dropped = store.send_each([(u"a", b"", 1), (u"b", b"", 1)], b"m", LONG)
    assert [queue for queue, _ in dropped] == [u"a"]
    assert drain(store, u"b") == [b"m"]
    assert drain(store, u"a") == [b"x"]


def test_send_each_of_more_than_fits_in_one_piece(open_store):
    """What fits is sent, the rest is told."""
    store = open_store(64 * 1024)
    targets = [(u"c{0}".format(number), b"", 9) for number in range(50)]
    dropped = store.send_each(targets, b"x" * 1000, LONG)
    assert 0 < len(dropped) < 50
    gone = [queue for queue, _ in dropped]
    for queue, _, _ in targets:
        assert drain(store, queue) == ([] if queue in gone else [b"x" * 1000])
    assert store.check() == []
    assert store.send_each(targets[:10], b"y", LONG) == []


def test_a_fan_out_is_shared_by_several_receivers(store, open_store):
    other = open_store()
    names = [u"n{0}".format(number) for number in range(10)]
    store.send_each([(u"p!", u"\n".join(names).encode("ascii"), 9)], b"m", LONG)
    put(store, u"p!", b"next", local=u"z")
    found = [get((store, other)[turn % 2], u"p!") for turn in range(11)]
    assert [name for _, name, _ in found] == names + [u"z"]
    assert get(other, u"p!") is None


def verified(store, monkeypatch):
    """A list that gets longer with each record of a fan-out whose check is verified."""
    records, read = [], store._log.read

    def note_and_read(record, seed):
        records.append(record)
        return read(record, seed)

    monkeypatch.setattr(store._log, "read", note_and_read)
    return records


def test_a_fan_out_is_verified_once_by_each_who_receives(store, open_store, monkeypatch):
    other = open_store()
    names = [u"n{0}".format(number) for number in range(50)]
    looks = verified(store, monkeypatch), verified(other, monkeypatch)
    for payload in (b"1", b"2"):
        store.send_each([(u"p!", u"\n".join(names).encode("ascii"), 9)], payload, LONG)
        put(store, u"a", payload)
        found = []
        for turn in range(50):
            found.append(get((store, other)[turn % 2], u"p!")[1:])
            # Others in between do not count.
            put(store, u"b", b"between")
            assert drain(store, u"b") == [b"between"]
        assert found == [(name, payload) for name in names]
        assert drain(other, u"a") == [payload]
    assert [len(found) for found in looks] == [2, 2]


def test_another_record_in_the_place_of_a_fan_out(store):
    # Half of it was served here. It is dropped, and another of its length takes its place.
    for payload in (b"1", b"2"):
        store.send_each([(u"p!", b"x\ny\nz", 9)], payload, LONG)
        place = first_record(store, u"p!")
        assert get(store, u"p!") == (u"p!", u"x", payload)
        store.flush()
        store._words[TAIL] = store._words[HEAD] = place
    assert get(store, u"p!") is None


def test_a_fan_out_that_is_damaged_when_half_of_it_was_served(store):
    store.send_each([(u"p!", b"x\ny\nz", 9)], b"m", LONG)
    assert get(store, u"p!") == (u"p!", u"x", b"m")
    record = first_record(store, u"p!")
    store._words[record + R_STATE] += 1
    assert get(store, u"p!") is None
    assert store.check() == []


def test_receive_batch(store, clock):
    put(store, u"p!", b"old", local=u"o", lifetime=SECOND)
    clock.advance(1)
    for number in range(5):
        put(store, u"p!", b"%d" % number, local=u"l%d" % number)
    store.send_each([(u"p!", b"x\ny", 9)], b"m", LONG)
    end = clock.time + LONG
    assert store.receive_batch(u"p!", 2) == [(u"l0", b"0", end), (u"l1", b"1", end)]
    rest = store.receive_batch(u"p!", 100)
    assert [(names, payload) for names, payload, _ in rest] == [
        (u"l2", b"2"), (u"l3", b"3"), (u"l4", b"4"), (u"x\ny", b"m")
    ]
    assert {expires for _, _, expires in rest} == {end}
    assert store.receive_batch(u"p!", 9) == []
    assert store.receive_batch(u"unknown!", 9) == []
    assert store.check() == []


def test_receive_batch_goes_on_where_a_receive_stopped(store, clock):
    store.send_each([(u"p!", b"x\ny\nz", 9)], b"m", LONG)
    assert get(store, u"p!")[1] == u"x"
    assert store.receive_batch(u"p!", 9) == [(u"y\nz", b"m", clock.time + LONG)]


# -- what an event loop asks ---------------------------------------------------------------


def test_listen_hangs_up_where_there_is_nothing(store, open_store):
    other = open_store()
    waiter = store.borrow_waiter()
    put(store, u"full", b"1")
    assert store.listen(waiter, [u"full", u"empty", u"p!"]) == [u"full"]
    for queue in (u"empty", u"p!"):
        assert not waiter.doorbell.wait(0)
        put(other, queue, b"2")
        assert waiter.doorbell.wait(5)
    put(other, u"full", b"3")
    assert not waiter.doorbell.wait(0)
    # Nothing was taken.
    assert sorted(store.listen(waiter, [u"full", u"empty", u"p!"])) == [u"empty", u"full", u"p!"]
    assert drain(store, u"full") == [b"1", b"3"]
    store.leave(waiter)
    assert store.check() == []


def test_listen_takes_off_all_other_queues(store, open_store):
    other = open_store()
    waiter, behind = store.borrow_waiter(), other.borrow_waiter()
    assert store.listen(waiter, [u"a", u"b"]) == []
    assert other.listen(behind, [u"a"]) == []
    assert store.listen(waiter, [u"b"]) == []
    put(store, u"a", b"1")
    assert behind.doorbell.wait(5)
    assert not waiter.doorbell.wait(0)
    put(store, u"b", b"2")
    assert waiter.doorbell.wait(5)
    assert store.listen(waiter, []) == []
    assert not waiter.nodes
    for each, waits in ((store, waiter), (other, behind)):
        each.leave(waits)
    assert store.check() == []


def test_listen_tells_the_next_of_what_is_left_behind(store, open_store):
    other = open_store()
    waiter, behind = store.borrow_waiter(), other.borrow_waiter()
    store.listen(waiter, [u"a"])
    other.listen(behind, [u"a"])
    put(store, u"a", b"1")
    assert waiter.doorbell.wait(5)
    assert not behind.doorbell.wait(0)
    # Rung for a message that it no longer wants.
    assert store.listen(waiter, [u"b"]) == []
    assert behind.doorbell.wait(5)
    assert get(other, u"a") == (u"a", u"", b"1")
    for each, waits in ((store, waiter), (other, behind)):
        each.leave(waits)
    assert store.check() == []


def test_listen_does_not_count_what_has_expired(store, clock):
    waiter = store.borrow_waiter()
    put(store, u"a", b"old", lifetime=SECOND)
    clock.advance(1)
    assert store.listen(waiter, [u"a"]) == []
    put(store, u"a", b"new")
    assert waiter.doorbell.wait(5)
    store.leave(waiter)


def test_listen_after_a_rebuild(store, open_store):
    other = open_store()
    waiter = store.borrow_waiter()
    store.listen(waiter, [u"a"])
    other._lock.acquire()
    other._lock.abandon()
    other.check()
    # All are rung, and hang themselves up anew.
    assert waiter.doorbell.wait(5)
    assert store.listen(waiter, [u"a"]) == []
    put(other, u"a", b"1")
    assert waiter.doorbell.wait(5)
    store.leave(waiter)
    assert store.check() == []


def test_quiet(store, open_store):
    other = open_store()
    # Not known to this process: it cannot tell without the lock.
    assert not store.quiet(u"a")
    put(store, u"a", b"1")
    assert not store.quiet(u"a")
    assert get(store, u"a")
    assert store.quiet(u"a")
    put(other, u"a", b"2")
    assert not store.quiet(u"a")
    assert get(other, u"a")
    assert store.quiet(u"a")
    # Somebody is inside, and may be about to.
    other._lock.acquire()
    assert not store.quiet(u"a")
    other._lock.release()
    assert store.quiet(u"a")
    store.close()
    assert not store.quiet(u"a")


# -- the whole -----------------------------------------------------------------------------


def test_flush(store, open_store, clock):
    other = open_store()
    put(store, u"a", b"x")
    put(store, u"p!", b"x", local=u"y", lifetime=SECOND)
    clock.advance(2)
    assert get(other, u"p!") is None
    other.flush()
    assert list(other.lapsed) == []
    assert get(store, u"a") is None
    assert store.memory()["messages"] == 0
    assert store.check() == []
    put(other, u"a", b"new")
    assert drain(store, u"a") == [b"new"]
    assert store.global_statistics()["messages_count"] == 3


def test_statistics_of_a_channel(store, clock):
    nothing = store.channel_statistics(u"a")
    assert set(nothing.values()) == {0}
    for _ in range(4):
        put(store, u"a", b"x", capacity=4)
        clock.advance(0.25)
    assert not try_put(store, u"a", b"x", capacity=4)
    get(store, u"a")
    figures = store.channel_statistics(u"a")
    assert sorted(figures) == sorted(nothing)
    assert figures["messages_count"] == 4
    assert figures["messages_pending"] == 3
    assert figures["messages_max_age"] == 0.75
    assert figures["channel_full_count"] == 1
    assert figures["messages_count_per_second"] == 4
    assert figures["channel_full_count_per_second"] == 1


def test_rates_cover_the_last_seconds_only(store, clock):
    for _ in range(40):
        put(store, u"a", b"x")
        clock.advance(0.1)
    rate = store.channel_statistics(u"a")["messages_count_per_second"]
    assert 8 <= rate <= 12
    assert 8 <= store.global_statistics()["messages_count_per_second"] <= 12
    clock.advance(10)
    assert store.channel_statistics(u"a")["messages_count_per_second"] == 0
    assert store.global_statistics()["messages_count_per_second"] == 0
    put(store, u"a", b"x")
    assert 0 < store.channel_statistics(u"a")["messages_count_per_second"] <= 1


def test_global_statistics(store, clock):
    for number in range(200):
        put(store, u"c{0}".format(number), b"x")
    clock.advance(3)
    assert not try_put(store, u"c0", b"x", capacity=1)
    put(store, u"c0", b"x")
    figures = store.global_statistics()
    assert figures["messages_count"] == 201
    assert figures["messages_pending"] == 201
    assert figures["messages_max_age"] == 3
    assert figures["channel_full_count"] == 1


def test_memory_and_size(store):
    before = store.memory()
    assert before["size"] == store.size == 1024 * 1024
    put(store, u"a", b"x" * 1000)
    assert store.memory()["messages"] == 1072
    assert before["real"] < store.memory()["real"] < store.size
    get(store, u"a")
    assert store.memory()["messages"] == 0


def test_an_existing_segment_keeps_its_size(store, open_store):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        other = open_store(2 * 1024 * 1024)
    assert "message_memory=2097152 takes no effect" in str(caught[0].message)
    put(store, u"a", b"x")
    assert get(other, u"a")[2] == b"x"


def test_a_store_that_was_closed_says_so(open_store):
    store = open_store()
    put(store, u"a", b"x")
    store.close()
    store.close()
    for call in (lambda: put(store, u"a", b"x"), lambda: get(store, u"a"), store.flush):
        with pytest.raises(LayerClosed):
            call()
    assert get(open_store(), u"a")[2] == b"x"


def test_removed_under_us(store, prefix, open_store):
    assert not store.replaced()
    segment.unlink("/{0}-messages".format(prefix))
    assert store.replaced()
    put(store, u"a", b"x")
    assert get(open_store(), u"a") is None


@pytest.mark.skipif(not os.path.exists(MAPS), reason="needs /proc/self/maps")
def test_a_closed_store_keeps_nothing_mapped(store):
    """Not even while a thread is about to send, and has a view of its channel's words."""
    put(store, u"a", b"x")
    assert get(store, u"a")[2] == b"x"
    own = store._hints[u"a"][4]
    assert is_mapped(store)
    store.close()
    assert is_mapped(store)
    del own
    assert not is_mapped(store)


def is_mapped(store):
    with open(MAPS) as maps:
        return store.name in maps.read()


def test_damage_that_comes_back_at_once_is_an_error(store, monkeypatch):
    put(store, u"a", b"x")
    words = store._words

    def gone(*_):
        raise IndexError("no such byte")

    monkeypatch.setattr(messages, "unpack_record", gone)
    with pytest.raises(SegmentError) as error:
        get(store, u"a")
    assert "asgi-ipc rm" in str(error.value)
    monkeypatch.undo()
    before = words[EPOCH]
    assert get(store, u"a")[2] == b"x"
    assert words[EPOCH] == before + 1
    assert store.check() == []


class FailingOnce(object):
    """Words of which one cannot be stored, the first time."""

    def __init__(self, words, word, error):
        self.words = words
        self.word = word
        self.error = error

    def __getitem__(self, word):
        return self.words[word]

    def __setitem__(self, word, value):
        if word == self.word:
            self.word = None
            raise self.error
        self.words[word] = value


class Stop(Exception):
    pass


@pytest.mark.parametrize("word", [TAIL, SEQUENCE])
def test_an_interrupted_send_is_sent_once_or_not_at_all(store, monkeypatch, word):
    """TAIL is the commit; if an exception comes later, what comes after it is rebuilt."""
    put(store, u"a", b"before")
    failing = FailingOnce(store._words, word, Stop())
    monkeypatch.setattr(store, "_words", failing)
    with pytest.raises(Stop):
        put(store, u"a", b"it")
    monkeypatch.undo()
    assert failing.word is None
    assert drain(store, u"a") == [b"before"] + [b"it"] * (word != TAIL)
    assert store.check() == []


@pytest.mark.parametrize("word", [TAIL, SEQUENCE])
def test_damage_in_a_send_does_not_send_twice(store, monkeypatch, word):
    failing = FailingOnce(store._words, word, IndexError())
    monkeypatch.setattr(store, "_words", failing)
    put(store, u"a", b"x")
    monkeypatch.undo()
    assert failing.word is None
    assert drain(store, u"a") == [b"x"]
    assert store.check() == []


@pytest.mark.parametrize("word", ["state", "first", HEAD])
@pytest.mark.parametrize("error", [Stop, IndexError])
def test_an_interrupted_receive_takes_a_message_once(store, monkeypatch, word, error):
    """The record's STATE is the commit. What an exception hits later is taken, and lost."""
    for payload in (b"x", b"y"):
        put(store, u"a", payload)
    hint = store._hints[u"a"]
    state = hint[4][FIRST] + R_STATE
    if word == "first":
        failing = FailingOnce(hint[4], FIRST, error())
        monkeypatch.setitem(store._hints, u"a", hint[:4] + (failing,))
    else:
        word = state if word == "state" else word
        failing = FailingOnce(store._words, word, error())
        monkeypatch.setattr(store, "_words", failing)
    found = []
    try:
        found.append(get(store, u"a")[2])
    except Stop:
        pass
    monkeypatch.undo()
    assert failing.word is None
    assert store.check() == []
    taken = error is IndexError or word != state
    assert found == [b"x"] * (error is IndexError)
    assert drain(store, u"a") == [b"x", b"y"][taken:]


# -- entries -------------------------------------------------------------------------------


def test_names_that_come_and_go_reuse_entries(store, clock):
    """Single-reader names: the entries in use stay about as many as are fresh."""
    for number in range(5000):
        name = u"reply?{0}".format(number)
        put(store, name, b"x")
        assert get(store, name)[2] == b"x"
        clock.time += IDLE // 50
    assert store._directory.slots.high < 250
    assert store.check() == []


def test_an_entry_with_messages_is_not_recycled(open_store, clock):
    store = open_store(64 * 1024)
    put(store, u"keep", b"kept")
    clock.advance(500)
    for number in range(1000):
        put(store, u"r{0}".format(number), b"x")
        get(store, u"r{0}".format(number))
        clock.time += 1
    assert get(store, u"keep")[2] == b"kept"
    assert store.check() == []


def test_too_many_channels(open_store, clock):
    store = open_store(64 * 1024)
    names = [u"c{0}".format(number) for number in range(65)]
    for name in names[:64]:
        put(store, name, b"x")
    with pytest.raises(ChannelFull) as error:
        put(store, names[64], b"x")
    assert "no room to enter the channel c64" in str(error.value)
    assert "Raise message_memory" in str(error.value)
    assert store.send_each([(names[64], b"", 9)], b"x", LONG)[0][0] == names[64]
    assert get(store, names[10])[2] == b"x"
    clock.time += 1
    put(store, names[64], b"y")
    assert get(store, names[64])[2] == b"y"
    assert store.check() == []


def test_a_hint_of_a_recycled_entry_is_not_used(open_store, clock):
    """What another process does to an entry is seen by one who remembers it."""
    store, other = open_store(64 * 1024), open_store(64 * 1024)
    put(store, u"mine", b"x")
    entry, hashed = store._hints[u"mine"][:2]
    assert get(other, u"mine")[2] == b"x"
    clock.time += 1
    for number in range(64):
        put(other, u"c{0}".format(number), b"%d" % number)
    assert store._words[entry + HASH] != hashed
    assert get(store, u"mine") is None
    assert sorted(
        get(store, u"c{0}".format(number))[2] for number in range(64)
    ) == sorted(b"%d" % number for number in range(64))
    clock.time += 1
    put(store, u"mine", b"y")
    assert get(other, u"mine")[2] == b"y"
    assert store.check() == []


def test_a_fan_out_does_not_recycle_what_it_is_about_to_send_to(open_store, clock):
    """Neither where no entry is free, nor when the hand comes by one that was idle for long."""
    store = open_store(64 * 1024)
    put(store, u"p!", b"x", local=u"a")
    assert get(store, u"p!")[2] == b"x"
    clock.time += 1
    for number in range(63):
        put(store, u"c{0}".format(number), b"x")
    clock.time += 1
    dropped = store.send_each([(u"p!", b"a", 9), (u"new", b"", 9)], b"m", LONG)
    assert [queue for queue, _ in dropped] == [u"new"]
    assert get(store, u"p!") == (u"p!", u"a", b"m")
    for number in range(40):
        assert get(store, u"c{0}".format(number))[2] == b"x"
    clock.time += 2 * IDLE
    for number in range(40):
        # The hand looks at two for each new name, and comes by all of them.
        idle, new = u"c{0}".format(number), u"new{0}".format(number)
        clock.time += 1
        assert store.send_each([(idle, b"", 9), (new, b"", 9)], b"m", LONG) == []
        assert [get(store, idle)[2], get(store, new)[2]] == [b"m", b"m"]
    assert store.check() == []
    assert store._words[DAMAGED] == 0


def test_who_waited_long_for_the_lock_finds_an_entry(open_store, clock):
    """All entries were taken since it asked what time it is."""
    store = open_store(64 * 1024)
    for number in range(64):
        clock.time += 1
        put(store, u"c{0}".format(number), b"x")
        assert get(store, u"c{0}".format(number))[2] == b"x"
    clock.time -= 64
    put(store, u"new", b"y")
    assert get(store, u"new")[2] == b"y"
    assert store.send_each([(u"other", b"", 9)], b"m", LONG) == []
    assert store.check() == []


def test_hints_are_bounded(open_store, monkeypatch):
    assert HINTS_KEPT >= 1000
    monkeypatch.setattr("asgi_ipc.directory.HINTS_KEPT", 10)
    store = open_store()
    for number in range(100):
        put(store, u"c{0}".format(number), b"x")
        assert len(store._hints) <= 10
    for number in range(100):
        assert get(store, u"c{0}".format(number))[2] == b"x"


def test_long_names_and_names_alike(store):
    names = [u"x" * length for length in range(90, 100)]
    for name in names:
        put(store, name, name.encode("ascii"))
    for name in names:
        assert get(store, name)[2] == name.encode("ascii")
    assert store.check() == []


def test_a_close_gives_nobody_work(store, open_store):
    """Neither the others nor who comes next rebuild because somebody left properly."""
    other = open_store()
    before = store._words[EPOCH]
    put(other, u"a", b"x")
    other.close()
    assert get(store, u"a")[2] == b"x"
    open_store()
    assert get(store, u"a") is None
    assert store._words[EPOCH] == before


def test_a_close_after_somebody_died_leaves_the_rebuild_to_the_next(store, open_store):
    other = open_store()
    put(store, u"a", b"x")
    before = store._words[EPOCH]
    store._lock.acquire()
    store._lock.abandon()
    other.close()
    assert get(store, u"a")[2] == b"x"
    assert store._words[EPOCH] == before + 1
