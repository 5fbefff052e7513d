"""What is sent arrives: once, in order, in time, each its own copy. In one process and in two.

The behaviours that the tests of channels_redis and of Channels' own in-memory layer check, and
those that two processes add.
"""
import asyncio
import logging
import random
import re

import pytest
from aiokit import end, never, soon, started, until
from channels.exceptions import ChannelFull

HELLO = {"type": "test.message", "text": "Ahoy"}


def numbered(*numbers):
    return [{"type": "message.{0}".format(number)} for number in numbers]


async def all_of(layer, channel, count):
    return [await soon(layer.receive(channel)) for _ in range(count)]


# -- one channel -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["normal", "own"])
async def test_sent_then_received(ends, kind):
    sender, receiver = ends
    channel = "test.channel" if kind == "normal" else await receiver.new_channel()
    await sender.send(channel, HELLO)
    assert await soon(receiver.receive(channel)) == HELLO


@pytest.mark.parametrize("kind", ["normal", "own"])
async def test_received_while_it_waits(ends, kind):
    sender, receiver = ends
    channel = "test.channel" if kind == "normal" else await receiver.new_channel()
    for number in range(5):
        waiting = await started(receiver.receive(channel))
        await sender.send(channel, {"n": number})
        assert await soon(waiting) == {"n": number}


@pytest.mark.parametrize("kind", ["normal", "own"])
async def test_in_order(ends, kind):
    sender, receiver = ends
    channel = "test.channel" if kind == "normal" else await receiver.new_channel()
    for message in numbered(1, 2, 3):
        await sender.send(channel, message)
    assert await all_of(receiver, channel, 3) == numbered(1, 2, 3)


async def test_nothing_comes_of_nothing(layer):
    await never(layer.receive(await layer.new_channel()))
    await never(layer.receive("test.channel"))


async def test_a_message_is_a_copy(open_layer):
    layer = open_layer()
    for channel in ("test.channel", await layer.new_channel()):
        message = {"list": [1], "bytes": b"\x00\xff", "text": "\u20ac", "tuple": (1, 2)}
        await layer.send(channel, message)
        message["list"].append(2)
        received = await soon(layer.receive(channel))
        assert received == {"list": [1], "bytes": b"\x00\xff", "text": "\u20ac", "tuple": [1, 2]}


async def test_two_readers_never_both_get_one(ends):
    sender, receiver = ends
    got = []

    async def read():
        while True:
            got.append((await receiver.receive("jobs"))["n"])

    readers = [await started(read()) for _ in range(3)]
    for number in range(60):
        while True:
            try:
                await sender.send("jobs", {"n": number})
                break
            except ChannelFull:
                await asyncio.sleep(0.001)
    await until(lambda: len(got) >= 60)
    await end(*readers)
    assert sorted(got) == list(range(60))


async def test_readers_in_two_processes_share_the_work(open_layer, open_far):
    here, there = open_layer(), open_far()
    got = {"here": [], "there": []}

    async def read(layer, name):
        while True:
            got[name].append((await layer.receive("jobs"))["n"])

    readers = [await started(read(here, "here")), await started(read(there, "there"))]
    await asyncio.sleep(0.2)
    for number in range(100):
        await here.send("jobs", {"n": number})
        await asyncio.sleep(0.001)
    await until(lambda: len(got["here"]) + len(got["there"]) >= 100)
    await asyncio.sleep(0.1)
    await end(*readers)
    assert sorted(got["here"] + got["there"]) == list(range(100))
    assert got["here"]
    assert got["there"]


async def test_a_large_one(open_ends):
    sender, receiver = open_ends(message_memory=8 << 20)
    text = "x" * 1000000
    channel = await receiver.new_channel()
    waiting = await started(receiver.receive(channel))
    await sender.send(channel, {"text": text})
    assert await soon(waiting) == {"text": text}


# -- capacity --------------------------------------------------------------------------------


async def test_full_at_capacity(ends):
    sender, receiver = ends
    for channel in ("test.channel", await receiver.new_channel()):
        for message in numbered(1, 2, 3):
            await sender.send(channel, message)
        with pytest.raises(ChannelFull) as caught:
            await sender.send(channel, HELLO)
        assert "capacity" in str(caught.value)
        assert await all_of(receiver, channel, 3) == numbered(1, 2, 3)
        await sender.send(channel, HELLO)


async def test_capacity_of_some_channels(open_ends):
    sender, _ = open_ends(capacity=3, channel_capacity={"one": 1, "some.*": 2})
    for channel, capacity in (("one", 1), ("some.thing", 2), ("another", 3)):
        for _ in range(capacity):
            await sender.send(channel, HELLO)
        with pytest.raises(ChannelFull):
            await sender.send(channel, HELLO)


async def test_capacity_is_that_of_the_process(ends):
    # As the specification has it: all channels of a process count together.
    sender, receiver = ends
    channels = [await receiver.new_channel() for _ in range(4)]
    for channel in channels[:3]:
        await sender.send(channel, {"to": channel})
    with pytest.raises(ChannelFull):
        await sender.send(channels[3], HELLO)
    # Another prefix is another queue.
    other = await receiver.new_channel("other")
    await sender.send(other, HELLO)
    for channel in channels[:3]:
        assert await soon(receiver.receive(channel)) == {"to": channel}
    await sender.send(channels[3], HELLO)
    assert await soon(receiver.receive(channels[3])) == HELLO
    assert await soon(receiver.receive(other)) == HELLO


async def test_capacity_by_pattern_for_own_channels(open_ends):
    sender, receiver = open_ends(channel_capacity={"specific.*": 2})
    channel = await receiver.new_channel()
    for message in numbered(1, 2):
        await sender.send(channel, message)
    with pytest.raises(ChannelFull):
        await sender.send(channel, HELLO)


async def test_a_process_that_reads_has_room_for_all(ends):
    # One of its consumers reads nothing; that must not keep the others from theirs.
    sender, receiver = ends
    idle, busy = await receiver.new_channel(), await receiver.new_channel()
    for number in range(20):
        waiting = await started(receiver.receive(busy))
        await asyncio.sleep(0.01)
        await sender.send(idle, {"n": number})
        await sender.send(busy, {"n": number})
        assert await soon(waiting) == {"n": number}
    # The idle one holds as many as its capacity, the latest.
    assert [message["n"] for message in await all_of(receiver, idle, 3)] == [17, 18, 19]


async def test_send_never_waits(open_layer):
    layer = open_layer(capacity=2)
    for channel in ("full", await layer.new_channel()):
        sends = [layer.send(channel, HELLO) for _ in range(3)]
        for send in sends[:2]:
            # A coroutine that ends at its first step has waited for nothing.
            with pytest.raises(StopIteration):
                send.send(None)
        with pytest.raises(ChannelFull):
            sends[2].send(None)


# -- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["=+135!", "a b", "\u00e9t\u00e9", "", "x" * 100, "a!b!c", "a\n", b"bytes", 7, None]
)
async def test_wrong_names(layer, name):
    for call in (
        layer.send(name, HELLO),
        layer.receive(name),
        layer.group_add("group", name),
        layer.group_discard("group", name),
        layer.group_add(name, "channel"),
        layer.group_discard(name, "channel"),
        layer.group_send(name, HELLO),
    ):
        with pytest.raises(TypeError):
            await call


@pytest.mark.parametrize("name", ["group!x", ["list"]])
async def test_wrong_group_names(layer, name):
    with pytest.raises(TypeError):
        await layer.group_send(name, HELLO)
    with pytest.raises(TypeError):
        await layer.group_add(name, "channel")


async def test_a_channel_of_another_process_is_not_received_from(open_layer, open_far):
    here, beside, there = open_layer(), open_layer(), open_far()
    for owner, other in ((here, beside), (here, there), (there, here)):
        name = await owner.new_channel()
        with pytest.raises(TypeError, match="new_channel"):
            await other.receive(name)
    with pytest.raises(TypeError, match="new_channel"):
        await here.receive("not-our-process!local_part")


async def test_new_names(layer):
    found = {await layer.new_channel() for _ in range(100)}
    assert len(found) == 100
    assert all(re.match(r"^specific\.[0-9a-f]{28}![0-9a-f]{24}$", name) for name in found)
    assert len({name.split("!")[0] for name in found}) == 1
    assert (await layer.new_channel("mine")).startswith("mine.")
    assert (await layer.new_channel(prefix="mine")).startswith("mine.")
    for prefix in ("a!", "a b", "x" * 60, b"x", None):
        with pytest.raises(TypeError):
            await layer.new_channel(prefix)


async def test_new_names_do_not_depend_on_the_seed(open_layer):
    names = []
    for _ in range(2):
        random.seed(1)
        layer = open_layer()
        random.seed(1)
        names.append(await layer.new_channel())
        random.seed(1)
        names.append(await layer.new_channel())
    assert len(set(names)) == 4
    assert len({name.split("!")[0] for name in names}) == 2


async def test_messages_that_are_none(layer):
    channel = await layer.new_channel()
    for message in ("text", ["list"], None, {"set": {1}}, {"__asgi_channel__": "x"}):
        for call in (
            layer.send(channel, message),
            layer.send("test.channel", message),
            layer.group_send("group", message),
        ):
            with pytest.raises(TypeError):
                await call


async def test_too_large(open_layer):
    layer = open_layer(max_message_size=1000)
    await layer.group_add("group", "test.channel")
    for call in (
        layer.send("test.channel", {"x": b"y" * 1001}),
        layer.send(await layer.new_channel(), {"x": b"y" * 1001}),
        layer.group_send("group", {"x": b"y" * 1001}),
    ):
        with pytest.raises(layer.MessageTooLarge, match="max_message_size"):
            await call
    await never(layer.receive("test.channel"))


# -- groups ----------------------------------------------------------------------------------


async def test_groups_of_other_members_in_turn(ends):
    sender, receiver = ends
    channels = [await receiver.new_channel() for _ in range(4)]
    a, b, c, d = channels
    # Of one queue, and of another one with the same local names.
    twins = [channel.replace("specific.", "other.") for channel in (a, b)]
    members = {"first": [a, b], "second": [b, c, d], "third": twins}
    for group, those in members.items():
        for channel in those:
            await sender.group_add(group, channel)
    waiting = {one: await started(receiver.receive(one)) for one in [*channels, *twins]}
    for number, group in enumerate(["first", "second", "first", "third", "first", "third"]):
        await sender.group_send(group, {"n": number})
        for channel in members[group]:
            assert await soon(waiting[channel]) == {"n": number}
            waiting[channel] = await started(receiver.receive(channel))
    await end(*waiting.values())


async def test_group(ends):
    sender, receiver = ends
    first, second, third = [await receiver.new_channel("test-" + x) for x in "abc"]
    for channel in (first, second, third, "normal"):
        await receiver.group_add("test-group", channel)
    await receiver.group_discard("test-group", second)
    await sender.group_send("test-group", HELLO)
    for channel in (first, third, "normal"):
        assert await soon(receiver.receive(channel)) == HELLO
    await never(receiver.receive(second))


async def test_group_of_one_process(ends):
    sender, receiver = ends
    channels = [await receiver.new_channel() for _ in range(10)]
    for channel in channels:
        await sender.group_add("test-group", channel)
    waiting = [await started(receiver.receive(channel)) for channel in channels]
    await asyncio.sleep(0.1)
    for number in range(3):
        await sender.group_send("test-group", {"n": number})
    for channel, receive in zip(channels, waiting):
        got = [await soon(receive), *await all_of(receiver, channel, 2)]
        assert [message["n"] for message in got] == [0, 1, 2]


async def test_group_over_processes(open_layer, open_far):
    here, beside, there = open_layer(), open_layer(), open_far()
    members = []
    for layer in (here, beside, there):
        for _ in range(3):
            channel = await layer.new_channel()
            await layer.group_add("room", channel)
            members.append((layer, channel))
    await there.group_add("room", "archive")
    for sender in (here, there, beside):
        await sender.group_send("room", HELLO)
        for layer, channel in members:
            assert await soon(layer.receive(channel)) == HELLO
        assert await soon(beside.receive("archive")) == HELLO


async def test_each_member_has_its_own_copy(layer):
    channels = [await layer.new_channel() for _ in range(3)] + ["normal.1", "normal.2"]
    for channel in channels:
        await layer.group_add("room", channel)
    await layer.group_send("room", {"list": [1]})
    for channel in channels:
        received = await soon(layer.receive(channel))
        assert received == {"list": [1]}
        received["list"].append("mine")


async def test_joining_and_leaving_is_seen_at_once(ends):
    sender, receiver = ends
    first, second = await receiver.new_channel(), await receiver.new_channel()
    await receiver.group_add("room", first)
    await sender.group_send("room", {"n": 1})
    await receiver.group_add("room", second)
    await receiver.group_discard("room", first)
    await sender.group_send("room", {"n": 2})
    assert await soon(receiver.receive(first)) == {"n": 1}
    assert await soon(receiver.receive(second)) == {"n": 2}
    await never(receiver.receive(first))


async def test_adding_twice_is_once(ends):
    sender, receiver = ends
    channel = await receiver.new_channel()
    await receiver.group_add("room", channel)
    await sender.group_add("room", channel)
    await sender.group_send("room", HELLO)
    assert await soon(receiver.receive(channel)) == HELLO
    await never(receiver.receive(channel))


async def test_discard_of_what_is_no_member(layer):
    channel = await layer.new_channel()
    await layer.group_discard("test-group", channel)
    await layer.group_add("test-group", channel)
    await layer.group_discard("other-group", channel)
    await layer.group_discard("test-group", channel)
    await layer.group_discard("test-group", channel)
    await layer.group_send("test-group", HELLO)
    await never(layer.receive(channel))


async def test_a_group_without_members(layer):
    await layer.group_send("nobody", HELLO)


async def test_a_full_channel_is_no_error_of_group_send(ends):
    sender, receiver = ends
    channel = await receiver.new_channel()
    await sender.group_add("test-group", channel)
    await sender.group_add("test-group", "normal")
    for message in numbered(1, 2, 3, 4, 5):
        await sender.group_send("test-group", message)
    for name in (channel, "normal"):
        assert await all_of(receiver, name, 3) == numbered(1, 2, 3)
        await never(receiver.receive(name))


async def test_a_full_channel_keeps_nothing_from_the_others(ends):
    sender, receiver = ends
    first, second = await receiver.new_channel(), await receiver.new_channel("other")
    for channel in (first, second):
        await sender.group_add("test-group", channel)
    await sender.send(second, {"type": "message.0"})
    for message in numbered(1, 2, 3):
        await sender.group_send("test-group", message)
    assert await all_of(receiver, first, 3) == numbered(1, 2, 3)
    assert await all_of(receiver, second, 3) == numbered(0, 1, 2)
    await never(receiver.receive(second))


async def test_what_is_dropped_is_counted_and_logged_once(open_layer, caplog):
    layer = open_layer(capacity=1)
    own = await layer.new_channel()
    for channel in ("full", own):
        await layer.group_add("room.7", channel)
    with caplog.at_level(logging.INFO, logger="asgi_ipc"):
        for _ in range(5):
            await layer.group_send("room.7", HELLO)
    texts = [record.getMessage() for record in caplog.records if record.name == "asgi_ipc"]
    assert len(texts) == 1
    assert "room.7" in texts[0]
    assert "2 message(s) dropped" in texts[0]
    assert own.split("!")[0] in texts[0] or "full" in texts[0]
    assert layer._process._drops.total == 8


@pytest.mark.parametrize("members", [1, 10, 300])
async def test_large_groups(ends, members):
    sender, receiver = ends
    channels = [await receiver.new_channel("channel{0}".format(n % 7)) for n in range(members)]
    await asyncio.gather(*[receiver.group_add("test-group", channel) for channel in channels])
    await sender.group_send("test-group", HELLO)
    got = await soon(asyncio.gather(*[receiver.receive(channel) for channel in channels]))
    assert got == [HELLO] * members


# -- expiry ----------------------------------------------------------------------------------


async def on_both_kinds(receiver, work):
    """Do ``work`` with a normal channel and an own one, at once."""
    await asyncio.gather(work("test.channel"), work(await receiver.new_channel()))


async def test_a_message_expires(open_ends):
    sender, receiver = open_ends(expiry=0.2)

    async def work(channel):
        await sender.send(channel, HELLO)
        await asyncio.sleep(0.25)
        await never(receiver.receive(channel))

    await on_both_kinds(receiver, work)


async def test_each_message_has_its_own_time(open_ends):
    sender, receiver = open_ends(expiry=1)

    async def work(channel):
        await sender.send(channel, {"n": 1})
        await asyncio.sleep(0.6)
        await sender.send(channel, {"n": 2})
        await asyncio.sleep(0.5)
        assert await soon(receiver.receive(channel)) == {"n": 2}
        await never(receiver.receive(channel))

    await on_both_kinds(receiver, work)


async def test_expired_ones_before_a_new_one(open_ends):
    sender, receiver = open_ends(expiry=0.5)

    async def work(channel):
        for message in numbered(1, 2, 3):
            await sender.send(channel, message)
        assert await soon(receiver.receive(channel)) == {"type": "message.1"}
        await asyncio.sleep(0.55)
        await sender.send(channel, {"type": "message.4"})
        assert await soon(receiver.receive(channel)) == {"type": "message.4"}
        await never(receiver.receive(channel))

    await on_both_kinds(receiver, work)


async def test_messages_within_their_time_all_come(open_ends):
    sender, receiver = open_ends(expiry=30)
    channel = await receiver.new_channel()
    for message in numbered(1, 2, 3):
        await sender.send(channel, message)
        await asyncio.sleep(0.05)
    assert await all_of(receiver, channel, 3) == numbered(1, 2, 3)


async def test_expiry_is_that_of_the_member(open_ends):
    # One member has an older message before those of the group; each expires by itself.
    sender, receiver = open_ends(expiry=1)
    first, second = await receiver.new_channel(), await receiver.new_channel("other")
    for channel in (first, second):
        await sender.group_add("test-group", channel)
    await sender.send(first, {"type": "message.0"})
    await asyncio.sleep(0.6)
    await sender.group_send("test-group", {"type": "message.1"})
    await sender.group_send("test-group", {"type": "message.2"})
    await asyncio.sleep(0.5)
    assert await all_of(receiver, first, 2) == numbered(1, 2)
    assert await all_of(receiver, second, 2) == numbered(1, 2)
    await never(receiver.receive(first), 0.1)


async def test_an_expired_message_makes_room(open_ends):
    sender, receiver = open_ends(capacity=2, expiry=0.3)

    async def work(channel):
        for _ in range(2):
            await sender.send(channel, HELLO)
        with pytest.raises(ChannelFull):
            await sender.send(channel, HELLO)
        await asyncio.sleep(0.35)
        await sender.send(channel, HELLO)

    await on_both_kinds(receiver, work)


async def test_a_membership_expires(open_ends):
    sender, receiver = open_ends(group_expiry=0.4)
    stays, goes = await receiver.new_channel(), await receiver.new_channel()
    await receiver.group_add("room", goes)
    await receiver.group_add("room", stays)
    await asyncio.sleep(0.25)
    await receiver.group_add("room", stays)
    await asyncio.sleep(0.25)
    await sender.group_send("room", HELLO)
    assert await soon(receiver.receive(stays)) == HELLO
    await never(receiver.receive(goes), 0.1)


async def test_who_lets_messages_expire_leaves_its_groups(open_layer, open_far):
    here, there = open_layer(expiry=0.3), open_far(expiry=0.3)
    for sender in (here, there):
        gone, alive = await here.new_channel(), await here.new_channel()
        for channel in (gone, alive, "normal"):
            await here.group_add("room", channel)
        reading = await started(here.receive(alive))
        await asyncio.sleep(0.05)
        await sender.group_send("room", HELLO)
        assert await soon(reading) == HELLO
        reading = await started(here.receive(alive))
        # The message to the one that is gone expires; a look comes every second.
        await asyncio.sleep(1.6)
        assert sorted(here._stores.groups.members("room")) == sorted([alive, "normal"])
        await end(reading)
        await here.flush()


# -- the whole -------------------------------------------------------------------------------


async def test_flush(ends):
    sender, receiver = ends
    channel = await receiver.new_channel()
    await sender.send(channel, HELLO)
    await sender.send("normal", HELLO)
    await sender.group_add("room", channel)
    await receiver.flush()
    await never(receiver.receive(channel))
    await never(receiver.receive("normal"))
    await sender.group_send("room", HELLO)
    await never(receiver.receive(channel))
    await sender.send(channel, HELLO)
    assert await soon(receiver.receive(channel)) == HELLO


async def test_flush_leaves_those_who_wait(ends):
    sender, receiver = ends
    channel = await receiver.new_channel()
    waiting = [await started(receiver.receive(name)) for name in (channel, "normal")]
    await asyncio.sleep(0.1)
    await sender.flush()
    for name, receive in zip((channel, "normal"), waiting):
        await sender.send(name, {"to": name})
        assert await soon(receive) == {"to": name}
