"""What one sees who looks inside: each channel, receiver, message, group and member."""
import threading

import pytest
from six.moves import range
from storekit import FakeClock, open_messages

from asgi_ipc import attached, guarded, machine
from asgi_ipc._shm import lock
from asgi_ipc._shm.clock import SECOND
from asgi_ipc.census import GroupCensus, MessageCensus
from asgi_ipc.core import IPCChannelLayer
from asgi_ipc.errors import ChannelFull, LockTimeout
from asgi_ipc.groups import GroupStore
from asgi_ipc.layout import CHECKED_BYTES, FIRST, RECORD_BYTES

MANY = 3 * guarded.PIECE + 5


@pytest.fixture
def clock():
    return FakeClock(1000 * SECOND)


@pytest.fixture
def store(prefix, clock):
    found = open_messages(prefix, 1 << 20, clock=clock)
    yield found
    found.close()


@pytest.fixture
def groups(prefix, clock):
    found = GroupStore(prefix, 1 << 20, clock=clock)
    yield found
    found.close()


def whole(census):
    steps = 1
    while census.step():
        steps += 1
    return steps


def channels_of(store):
    census = MessageCensus(store)
    whole(census)
    return {channel.channel: channel for channel in census.channels()}


def send(store, queue, payload=b"x", local=u"", lifetime=60, capacity=100):
    store.send(queue, local, payload, lifetime * SECOND, capacity)


def peeked(store, queue):
    found, message = [], store.peek(queue)
    while message is not None:
        found.append(message)
        message = store.peek(queue, message)
    return found


# -- channels and receivers ------------------------------------------------------------------


def test_an_empty_store(store, groups):
    assert channels_of(store) == {}
    census = GroupCensus(groups)
    assert whole(census) == 1
    assert census.groups() == []
    assert census.members(u"nobody") == []


def test_every_channel_is_seen_once_whatever_their_number(store, clock):
    for number in range(MANY):
        for _ in range(1 + number % 3):
            send(store, u"channel{0}".format(number))
    clock.time += 2 * SECOND
    found = channels_of(store)
    assert set(found) == {u"channel{0}".format(number) for number in range(MANY)}
    for number in range(MANY):
        channel = found[u"channel{0}".format(number)]
        assert (channel.waiting, channel.oldest, channel.receivers) == (1 + number % 3, 2.0, 0)


def test_a_channel_that_was_read(store, clock):
    send(store, u"a")
    clock.time += SECOND
    send(store, u"a")
    store.receive([u"a"])
    clock.time += SECOND // 2
    a = channels_of(store)[u"a"]
    assert (a.waiting, a.oldest, a.sent) == (1, 0.5, 2)
    store.receive([u"a"])
    assert channels_of(store)[u"a"][1:3] == (0, 0.0)


def test_what_was_refused(store):
    send(store, u"a", capacity=1)
    for _ in range(3):
        with pytest.raises(ChannelFull):
            send(store, u"a", capacity=1)
    a = channels_of(store)[u"a"]
    assert (a.waiting, a.refused) == (1, 3)
    assert a.refused_per_second == 3


def test_a_channel_that_is_full_for_long_has_a_rate_of_refusals(store, clock):
    send(store, u"a", capacity=1, lifetime=1000)
    for _ in range(40):
        clock.time += SECOND // 2
        with pytest.raises(ChannelFull):
            send(store, u"a", capacity=1)
    a = channels_of(store)[u"a"]
    assert (a.refused, a.sent_per_second) == (40, 0.0)
    # Those at both ends of the second count.
    assert 2.0 <= a.refused_per_second <= 3.0
    assert 2.0 <= store.global_statistics()["channel_full_count_per_second"] <= 3.0


def test_who_waits_and_where(store, clock):
    first, second = store.borrow_waiter(), store.borrow_waiter()
    try:
        assert store.receive([u"a", u"b"], first) is None
        assert store.receive([u"b"], second) is None
        census = MessageCensus(store)
        whole(census)
        assert {one.channel: one.receivers for one in census.channels()} == {u"a": 1, u"b": 2}
        assert sorted(one.channels for one in census.receivers()) == [[u"a", u"b"], [u"b"]]
        assert all(one.alive and one.idle == 0 for one in census.receivers())
        clock.time += 3 * SECOND
        assert [(one.alive, one.idle) for one in census.receivers()] == [(False, 3.0)] * 2
    finally:
        store.leave(first)
        store.leave(second)


# -- messages that stay ----------------------------------------------------------------------


def test_peek_takes_nothing(store):
    for number in range(5):
        send(store, u"a", b"payload %d" % number if bytes is not str else b"payload " + str(number))
    expected = [b"payload 0", b"payload 1", b"payload 2", b"payload 3", b"payload 4"]
    assert [message.payload for message in peeked(store, u"a")] == expected
    assert [message.payload for message in peeked(store, u"a")] == expected
    assert all(message.intact and message.locals == [] for message in peeked(store, u"a"))
    assert [store.receive([u"a"])[2] for _ in range(5)] == expected
    assert peeked(store, u"a") == []
    assert peeked(store, u"never") == []


def test_peek_goes_on_where_it_was_though_what_was_seen_is_taken(store):
    for number in range(6):
        send(store, u"a", str(number).encode("ascii"))
    second = store.peek(u"a", store.peek(u"a"))
    for _ in range(3):
        store.receive([u"a"])
    assert store.peek(u"a", second).payload == b"3"


def test_peek_leaves_out_what_has_expired(store, clock):
    send(store, u"a", b"old", lifetime=1)
    send(store, u"a", b"new", lifetime=9)
    clock.time += 2 * SECOND
    assert [message.payload for message in peeked(store, u"a")] == [b"new"]


def test_peek_names_those_that_have_not_had_it_yet(store):
    store.send_each([(u"x!", b"one\ntwo\nthree", 100)], b"to all", 60 * SECOND)
    assert store.peek(u"x!").locals == [u"one", u"two", u"three"]
    store.receive([u"x!"])
    message = store.peek(u"x!")
    assert (message.locals, message.payload) == ([u"two", u"three"], b"to all")


def test_peek_says_that_a_message_is_damaged(store):
    send(store, u"a", b"payload")
    words = store._words
    entry = store._directory.find(u"a")[0]
    begin = words[entry + FIRST] * 8 + RECORD_BYTES
    assert CHECKED_BYTES < RECORD_BYTES
    store._map[begin : begin + 1] = b"X"
    assert not store.peek(u"a").intact


# -- groups ----------------------------------------------------------------------------------


def test_every_group_and_member(groups, clock):
    for number in range(MANY):
        groups.add(u"big", u"m{0}".format(number), clock.time + 10 * SECOND)
        if number % 7 == 0:
            groups.add(u"small{0}".format(number), u"m0", clock.time + 5 * SECOND)
    census = GroupCensus(groups)
    assert whole(census) > 3
    found = dict(census.groups())
    assert found.pop(u"big") == MANY
    assert found == {u"small{0}".format(number): 1 for number in range(0, MANY, 7)}
    members = census.members(u"big")
    assert [member.channel for member in members] == groups.members(u"big")
    assert {member.expires for member in members} == {10.0}


def test_expired_members_are_none(groups, clock):
    groups.add(u"g", u"a", clock.time + SECOND)
    groups.add(u"g", u"b", clock.time + 9 * SECOND)
    groups.add(u"h", u"a", clock.time + SECOND)
    clock.time += 2 * SECOND
    census = GroupCensus(groups)
    whole(census)
    assert census.groups() == [(u"g", 1)]
    assert [member.channel for member in census.members(u"g")] == [u"b"]


# -- statistics() ----------------------------------------------------------------------------


def test_statistics(prefix):
    with IPCChannelLayer(prefix=prefix, capacity=3) as layer:
        for channel, count in ((u"a", 1), (u"b", 3), (u"c", 2)):
            for number in range(count):
                layer.send(channel, {"number": number})
        for channel in u"abx":
            layer.group_add(u"large", channel)
        layer.group_add(u"little", u"a")
        layer.send_group(u"large", {})
        found = layer.statistics(top=2)
    assert [one["channel"] for one in found["fullest_channels"]] == ["b", "c"] or (
        [one["channel"] for one in found["fullest_channels"]] == ["b", "a"]
    )
    assert [one["channel"] for one in found["oldest_channels"]] == ["a", "b"]
    assert found["largest_groups"] == [
        {"group": "large", "members": 3}, {"group": "little", "members": 1},
    ]  # fmt: skip
    messages, groups = found["messages"], found["groups"]
    assert (messages["waiting"], messages["sent"], messages["refused"]) == (8, 8, 1)
    assert (messages["channels"], messages["receivers"], messages["damaged"]) == (4, 0, 0)
    assert (groups["groups"], groups["members"]) == (2, 4)
    assert (found["drops"], found["prefix"]) == (1, prefix)
    assert 0 < messages["stored"] <= messages["memory"] <= messages["size"] == 100 << 20
    assert 0 < groups["memory"] <= groups["size"] == 20 << 20
    assert 0 < messages["oldest"] < 300


@pytest.mark.parametrize("wrong", [-1, 2.5, None, True, "3"])
def test_top_has_to_be_a_number(prefix, wrong):
    with IPCChannelLayer(prefix=prefix) as layer:
        with pytest.raises(ValueError, match=r"top=.*whole number"):
            layer.statistics(top=wrong)
        assert layer.statistics(top=0)["fullest_channels"] == []


def test_a_wait_for_the_lock_is_counted(prefix, monkeypatch):
    inside, waiting = threading.Event(), threading.Event()
    nap = lock._Patience.nap

    def tell_and_nap(patience):
        waiting.set()
        nap(patience)

    def hold():
        inside.set()
        assert waiting.wait(30)

    monkeypatch.setattr(lock._Patience, "nap", tell_and_nap)
    with IPCChannelLayer(prefix=prefix) as layer, IPCChannelLayer(prefix=prefix) as other:
        assert layer.statistics()["messages"]["lock_waits"] == 0
        holder = threading.Thread(target=other._stores.messages._run, args=(hold,))
        holder.start()
        assert inside.wait(30)
        assert attached.holder_of(machine.Place(prefix).messages) > 0
        layer.send(u"a", {})
        holder.join()
        found = layer.statistics()
        assert found["messages"]["lock_waits"] == 1
        assert 0 < found["messages"]["lock_waited"] < 30
        assert found["groups"]["lock_waits"] == 0
        assert attached.holder_of(machine.Place(prefix).messages) == 0


def test_a_holder_that_did_not_leave_is_counted(prefix):
    with IPCChannelLayer(prefix=prefix) as layer:

        def fail():
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            layer._stores.messages._run(fail)
        layer.flush()
        found = layer.statistics()
        assert (found["messages"]["rebuilds"], found["groups"]["rebuilds"]) == (1, 0)


def test_a_step_that_did_not_get_the_lock_is_taken_again(prefix, monkeypatch):
    with IPCChannelLayer(prefix=prefix) as layer:
        for number in range(2 * guarded.PIECE):
            layer.send(u"a{0}".format(number), {})
        store = layer._stores.messages
        census = MessageCensus(store)
        copy, failed = store._copy, []

        def sometimes(begin, end):
            if len(failed) % 2:
                failed.append(False)
                return copy(begin, end)
            failed.append(True)
            raise LockTimeout("locked")

        monkeypatch.setattr(store, "_copy", sometimes)
        more = True
        while more:
            try:
                more = census.step()
            except LockTimeout:
                pass
        assert any(failed)
        assert len(census.channels()) == 2 * guarded.PIECE
