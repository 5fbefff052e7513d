"""What a bridge does with a store: batches, deliveries, moves, and who is rung."""
from __future__ import unicode_literals

import pytest
from storekit import LONG, PLENTY, drain, get, open_messages, put

from asgi_ipc import core, names, routing
from asgi_ipc._shm.clock import SECOND
from asgi_ipc.core import IPCChannelLayer
from asgi_ipc.crossing import GROUPS, OUTBOX, OWN
from asgi_ipc.errors import ChannelFull, NoBridge
from asgi_ipc.layout import ARRIVING, MOVING
from asgi_ipc.sending import AT_CAPACITY

SIZE = 256 * 1024


@pytest.fixture
def store(prefix, clock):
    found = open_messages(prefix, SIZE, clock=clock)
    found.lease(clock() + LONG, 100)
    yield found
    assert found.check() == []
    found.close()


def waiting(store):
    return [message.payload for message in store.peek_batch(1000, 1 << 30)]


def test_a_batch_stays_until_it_is_taken(store):
    for number in range(5):
        put(store, OUTBOX, b"%d" % number, local=u"groom")
    batch = store.peek_batch(3, 1000)
    assert [(one.routing, one.payload) for one in batch] == [
        (b"groom", b"0"), (b"groom", b"1"), (b"groom", b"2")
    ]  # fmt: skip
    assert [one.payload for one in store.peek_batch(3, 1000)] == [b"0", b"1", b"2"]
    store.depart(batch[-1].seq, 7)
    assert store.flight()[1:] == (0, batch[-1].seq, 7)
    store.drop_through(batch[-1].seq)
    assert waiting(store) == [b"3", b"4"]
    assert store.flight().acked == batch[-1].seq
    assert store.bridge()["sent"] == 3


def test_a_batch_ends_behind_so_many_bytes(store):
    for _ in range(4):
        put(store, OUTBOX, b"x" * 100, local=u"groom")
    assert len(store.peek_batch(10, 150)) == 2


def test_what_expires_in_the_outbox_is_counted_and_ends_no_membership(store, clock):
    put(store, OUTBOX, b"old", local=u"g" + u"x" * 98, lifetime=SECOND)
    put(store, OUTBOX, b"new", local=u"groom")
    clock.advance(2)
    assert waiting(store) == [b"new"]
    assert store.bridge()["expired"] == 1
    assert not store.lapsed


def test_a_full_outbox_costs_nobody_else_the_message(store):
    store.lease(store.now() + LONG, 2)
    targets = [(u"a", b"", PLENTY), (OUTBOX, b"groom", store.outbox_limit)]
    found = [store.send_each(targets, b"%d" % number, LONG) for number in range(3)]
    assert [len(full) for full in found] == [0, 0, 1]
    assert drain(store, u"a") == [b"0", b"1", b"2"]
    assert waiting(store) == [b"0", b"1"]
    assert store.bridge()["overflowed"] == 1
    with pytest.raises(ChannelFull, match="--outbox"):
        store.send(OUTBOX, u"groom", b"", LONG, store.outbox_limit)
    assert store.bridge()["overflowed"] == 2


def test_an_entry_is_delivered_once(store):
    targets = [(u"p!", b"x\ny", PLENTY), (u"a", b"", PLENTY)]
    assert store.deliver(OWN, (5, 1), targets, b"m", LONG) == []
    assert store.last_id(OWN) == (5, 1)
    assert store.last_id(GROUPS) == (0, 0)
    for entry in ((5, 1), (5, 0), (4, 9)):
        assert store.deliver(OWN, entry, targets, b"again", LONG) is None
    assert store.deliver(GROUPS, (5, 1), targets[1:], b"other stream", LONG) == []
    assert drain(store, u"a") == [b"m", b"other stream"]
    assert drain(store, u"p!") == [b"m", b"m"]
    assert store.bridge()["received"] == 2


def test_a_full_channel_misses_an_entry_and_it_is_delivered_all_the_same(store):
    put(store, u"a", b"x")
    full = store.deliver(OWN, (5, 1), [(u"a", b"", 1), (u"b", b"", 1)], b"m", LONG)
    assert [queue for queue, _ in full] == [u"a"]
    assert store.last_id(OWN) == (5, 1)
    assert drain(store, u"b") == [b"m"]


def test_an_entry_waits_for_a_full_channel_unless_that_is_given_up(store, clock):
    put(store, u"a", b"1")
    put(store, u"a", b"2", lifetime=SECOND)
    # Half of a queue's capacity is for those who send here.
    targets = [(u"a", b"", 4), (u"b", b"", 1)]
    assert store.deliver(OWN, (5, 1), targets, b"m", LONG, set()) == {u"a": 0}
    assert get(store, u"a")[2] == b"1"
    put(store, u"a", b"3")
    put(store, u"b", b"4")
    full = {u"a": 1, u"b": 0}
    for given_up in (set(), {u"a"}, {u"b"}):
        assert store.deliver(OWN, (5, 1), targets, b"m", LONG, given_up) == full
    assert store.last_id(OWN) == (0, 0)
    assert store.bridge()["received"] == 0
    # What has expired makes room.
    clock.advance(2)
    assert store.deliver(OWN, (5, 1), targets, b"m", LONG, {u"b"}) == [(u"b", AT_CAPACITY)]
    assert store.last_id(OWN) == (5, 1)
    assert drain(store, u"a") == [b"3", b"m"]
    assert drain(store, u"b") == [b"4"]


def test_a_move_keeps_order_payload_and_time(store, clock):
    put(store, u"a", b"first", lifetime=5 * SECOND)
    put(store, u"a", b"x" * 9000)
    assert not store.move(u"a", b"sa", age=SECOND)
    clock.advance(1)
    assert store.move(u"a", b"sa", age=SECOND)
    assert store.move(u"a", b"sa")
    assert not store.move(u"a", b"sa")
    first, second = store.peek_batch(10, 1 << 30)
    assert (first.routing, first.payload) == (b"sa", b"first")
    assert first.expires == clock() + 4 * SECOND
    assert second.payload == b"x" * 9000


def test_nothing_is_moved_from_one_who_waits(store):
    waiter = store.borrow_waiter()
    assert store.receive([u"a"], waiter) is None
    store.deliver(OWN, (1, 1), [(u"b", b"", 1)], b"m", LONG)
    assert store.wanted([u"a", u"b", u"c"]) == {u"a": 1}
    put(store, u"a", b"m")
    put(store, u"a", b"n")
    # It was called for the first one; nobody is for the second one.
    assert store.move(u"a", b"sa")
    assert get(store, u"a")[2] == b"n"
    store.leave(waiter)


@pytest.mark.parametrize("bridge_first", [True, False])
def test_a_bridge_is_rung_where_nobody_else_waits(store, bridge_first):
    waiter, reserve = store.borrow_waiter(), store.stand_in()
    if bridge_first:
        store.hang_up(reserve, [u"a"])
    assert store.receive([u"a"], waiter) is None
    if not bridge_first:
        store.hang_up(reserve, [u"a"])
    assert store.wanted([u"a"]) == {u"a": 1}
    assert store.check() == []
    put(store, u"a", b"1")
    assert waiter.doorbell.wait(0)
    assert not reserve.doorbell.wait(0)
    put(store, u"a", b"2")
    assert reserve.doorbell.wait(0)
    store.leave(waiter)
    store.leave(reserve)


@pytest.mark.parametrize("word", [ARRIVING, MOVING])
def test_the_check_finds_what_is_neither_done_nor_undone(store, word):
    store._words[word] = 1
    assert len(store.check()) == 1
    store._words[word] = 0


def test_the_node_stays_when_the_segment_is_made_anew(prefix):
    with IPCChannelLayer(prefix=prefix) as layer:
        before = layer._stores.node
        name = layer.new_channel("reply?")
        core.unlink(prefix)
        with pytest.warns(RuntimeWarning):
            layer.group_add("g", name)
        assert layer._stores.node == before
        layer.send(name, {"n": 1})
        assert layer.receive([name]) == (name, {"n": 1})


def test_nodes_of_names():
    node, rest = u"0123456789ab", u"0123456789abcdef"
    assert names.node_of(u"specific." + node + rest + u"!" + rest + u"01234567") == node
    assert names.node_of(u"reply?" + node + rest) == node
    for local in (
        u"a", u"reply?" + rest, u"specific.0123456789abcdef!" + rest + u"01234567", node + rest,
        u"daphne.response.abcdefghij!klmnopqrst", u"reply?x" + node + rest,
    ):  # fmt: skip
        assert names.node_of(local) == u""


def test_channels_of_other_machines(prefix):
    theirs = u"reply?" + u"0" * 12 + u"0123456789abcdef"
    with IPCChannelLayer(prefix=prefix, capacity=3) as layer:
        for call in (layer.send, lambda *_: layer.group_add("g", theirs)):
            with pytest.raises(NoBridge, match="asgi-ipc bridge"):
                call(theirs, {})
        messages = layer._stores.messages
        messages.lease(messages.now() + LONG, 4)
        layer.send(theirs, {"n": 1})
        layer.group_add("g", theirs)
        layer.group_discard("g", theirs)
        layer.send_group("empty", {})
        found = [routing.unpacked(one.routing) for one in messages.peek_batch(10, 1000)]
        assert found == [
            (routing.CHANNEL, theirs, u""),
            (routing.ADD, theirs, u"g"),
            (routing.DISCARD, theirs, u"g"),
            (routing.GROUP, u"empty", u""),
        ]
        layer.send_group("empty", {})
        assert layer.statistics()["bridge"]["overflowed"] == 1
        assert layer.group_channels("g") == []
        with pytest.raises(TypeError, match="another machine"):
            layer.channel_statistics(theirs)
        messages.lease(0, 4)
        layer.send_group("empty", {})
        assert layer.statistics()["bridge"]["waiting"] == 4


@pytest.mark.parametrize(
    "encoded", [b"", b"g", b"xroom", b"aonly", b"croom\nx", b"g\xff", b"sjobs\nmore"]
)
def test_what_is_no_routing(encoded):
    with pytest.raises(ValueError):
        routing.unpacked(encoded)
