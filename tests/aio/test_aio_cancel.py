"""A receive that is cancelled, times out or loses a race takes nothing, and stands in nobody's way.

Cancelled after each number of the loop's rounds, before, while and after the message comes:
that finds every await there is. And after delays that were drawn, where two processes make the
moment a matter of chance.
"""
import asyncio
import contextlib
import gc

import pytest
from aiokit import end, never, run, soon, started, until
from channels.utils import await_many_dispatch

HELLO = {"type": "test.message", "text": "Ahoy"}
ROUNDS = 10
"""Rounds of the loop after which all of a receive has happened, wherever its message is from."""

WAYS = ["own", "own, from outside", "normal"]
"""Sent within the process; through shared memory to an own channel; on a normal channel."""


@pytest.fixture(params=WAYS)
def way(request, open_layer):
    """(sender, receiver, a function that names a channel)."""
    receiver = open_layer()
    # Another layer is as another process, in one loop.
    sender = receiver if request.param == "own" else open_layer()
    if request.param == "normal":
        return sender, receiver, lambda: asyncio.sleep(0, "test.channel")
    return sender, receiver, receiver.new_channel


def waiting_in(watch):
    return len(watch.pending) + sum(map(len, watch._behind.values()))


def pending(layer):
    """Messages that are anywhere."""
    inbox = layer._process.inbox
    held = len(inbox._single) + sum(len(buffer) for buffer in inbox._buffers.values())
    held += sum(len(posted) for posted in inbox._posted.values())
    return held + layer._stores.messages.global_statistics()["messages_pending"]


async def rounds(number):
    for _ in range(number):
        await asyncio.sleep(0)


async def outcome(task):
    """(result, whether it was cancelled)."""
    try:
        return await soon(task), False
    except asyncio.CancelledError:
        return None, True


# -- every round -----------------------------------------------------------------------------


@pytest.mark.parametrize("idle", [0, 3])
async def test_cancelled_in_any_round(way, idle):
    # idle: rounds that the receive has before the message is sent.
    sender, receiver, new_channel = way
    cancelled = 0
    for last in range(ROUNDS):
        channel = await new_channel()
        receive = asyncio.ensure_future(receiver.receive(channel))
        await rounds(idle)
        await sender.send(channel, {"n": last})
        await rounds(last)
        receive.cancel()
        got, lost = await outcome(receive)
        if lost:
            cancelled += 1
            got = await soon(receiver.receive(channel))
        assert got == {"n": last}
        assert pending(receiver) == 0
    assert 0 < cancelled < ROUNDS


async def test_cancelled_before_the_message_in_any_round(way):
    sender, receiver, new_channel = way
    for first in range(ROUNDS):
        channel = await new_channel()
        receive = asyncio.ensure_future(receiver.receive(channel))
        await rounds(first)
        receive.cancel()
        await sender.send(channel, {"n": first})
        got, lost = await outcome(receive)
        if lost:
            got = await soon(receiver.receive(channel))
        assert got == {"n": first}
        assert pending(receiver) == 0


@pytest.mark.usefixtures("no_looks")
async def test_the_next_one_who_waits_gets_it(way):
    sender, receiver, new_channel = way
    for last in range(ROUNDS):
        channel = await new_channel()
        first = await started(receiver.receive(channel))
        second = await started(receiver.receive(channel))
        await sender.send(channel, {"n": last})
        await rounds(last)
        first.cancel()
        got, lost = await outcome(first)
        if lost:
            got = await soon(second)
        else:
            await end(second)
        assert got == {"n": last}
        assert pending(receiver) == 0


async def test_several_cancelled_at_once(way):
    sender, receiver, new_channel = way
    for last in range(ROUNDS):
        channel = await new_channel()
        receives = [await started(receiver.receive(channel)) for _ in range(4)]
        for number in range(2):
            await sender.send(channel, {"n": number})
        await rounds(last)
        for receive in receives[:3]:
            receive.cancel()
        outcomes = [await outcome(receive) for receive in receives[:3]]
        got = [message["n"] for message, lost in outcomes if not lost]
        if len(got) < 2:
            got.append((await soon(receives[3]))["n"])
        else:
            await end(receives[3])
        while len(got) < 2:
            got.append((await soon(receiver.receive(channel)))["n"])
        assert sorted(got) == [0, 1]
        assert pending(receiver) == 0


async def test_a_race_lost_in_any_round(way):
    sender, receiver, new_channel = way
    for last in range(ROUNDS):
        channel, other = await new_channel(), await receiver.new_channel("other")
        racers = [
            asyncio.ensure_future(receiver.receive(channel)),
            asyncio.ensure_future(receiver.receive(other)),
        ]
        await rounds(3)
        await sender.send(other, {"to": "other"})
        await rounds(last)
        await sender.send(channel, {"to": "channel"})
        await asyncio.wait(racers, return_when=asyncio.FIRST_COMPLETED)
        for racer in racers:
            racer.cancel()
        outcomes = [await outcome(racer) for racer in racers]
        for name, (got, lost), text in zip((channel, other), outcomes, ("channel", "other")):
            assert (await soon(receiver.receive(name)) if lost else got) == {"to": text}
        assert pending(receiver) == 0


async def test_order_survives_a_cancelled_receive(way):
    sender, receiver, new_channel = way
    for last in range(ROUNDS):
        channel = await new_channel()
        receive = await started(receiver.receive(channel))
        for number in range(3):
            await sender.send(channel, {"n": number})
        await rounds(last)
        receive.cancel()
        got, lost = await outcome(receive)
        numbers = [] if lost else [got["n"]]
        while len(numbers) < 3:
            numbers.append((await soon(receiver.receive(channel)))["n"])
        assert numbers == [0, 1, 2]


# -- timeouts, and delays --------------------------------------------------------------------


async def test_wait_for_loses_nothing(way, campaign):
    sender, receiver, new_channel = way
    channel = await new_channel()
    timeouts = 0
    for number in range(campaign.amount(100, 3000)):
        delay = campaign.random.uniform(0, 0.006)

        async def send(delay=delay, number=number):
            await asyncio.sleep(delay)
            await sender.send(channel, {"n": number})

        sending = asyncio.ensure_future(send())
        try:
            got = await asyncio.wait_for(receiver.receive(channel), 0.003)
        except asyncio.TimeoutError:
            timeouts += 1
            got = await soon(receiver.receive(channel))
        await sending
        assert got == {"n": number}
    assert pending(receiver) == 0
    campaign.note("{0} of {1} receives timed out".format(timeouts, number + 1))


async def test_cancelled_while_another_process_sends(open_layer, open_far, campaign):
    here, there = open_layer(), open_far()
    own = await here.new_channel()
    cancelled = 0
    total = campaign.amount(100, 2000)
    for number in range(total):
        channel = (own, "normal")[number % 2]
        receive = await started(here.receive(channel))
        sending = asyncio.ensure_future(there.send(channel, {"n": number}))
        await asyncio.sleep(campaign.random.uniform(0, 0.0008))
        receive.cancel()
        got, lost = await outcome(receive)
        await soon(sending)
        if lost:
            cancelled += 1
            got = await soon(here.receive(channel))
        assert got == {"n": number}
    assert pending(here) == 0
    campaign.note("{0} of {1} receives were cancelled".format(cancelled, total))


@pytest.mark.usefixtures("no_looks")
async def test_another_process_is_told_in_place_of_the_cancelled_one(
    open_layer, open_far, campaign
):
    # Both wait at one normal channel, we first. Whatever the moment at which we go, the other
    # one is rung for the message.
    here, there = open_layer(), open_far()
    for number in range(campaign.amount(40, 1000)):
        receive = await started(here.receive("jobs"))
        other = await started(there.receive("jobs"))
        await asyncio.sleep(0.01)
        await here.send("jobs", {"n": number})
        await rounds(campaign.random.randrange(6))
        receive.cancel()
        got, lost = await outcome(receive)
        if lost:
            got = await soon(other)
        assert got == {"n": number}
        await end(other)


@pytest.mark.usefixtures("no_looks")
@pytest.mark.parametrize("how", ["cancelled", "woken and cancelled", "served"])
def test_a_queue_that_nobody_here_waits_at_any_longer(open_layer, open_far, how):
    # Somebody else in the loop goes on waiting, so its doorbell stays; but not at that queue. To
    # show that, the loop stands still from then on: a ring that went there would be lost.
    here, there, outside = open_layer(), open_far(), open_layer()
    loop, beside = asyncio.new_event_loop(), asyncio.new_event_loop()

    async def wait():
        receive = await started(here.receive("jobs"))
        await started(here.receive("other.jobs"))
        await asyncio.sleep(0.02)
        return receive

    async def go(receive):
        if how != "cancelled":
            await here.send("jobs", {"n": 1})
        if how == "served":
            return await soon(receive), False
        # Far enough that it has been woken, but has not run.
        while how != "cancelled":
            if receive._fut_waiter.done():
                break
            await asyncio.sleep(0)
        receive.cancel()
        return await outcome(receive)

    async def behind():
        return await soon(other)

    try:
        receive = loop.run_until_complete(wait())
        other = beside.run_until_complete(started(there.receive("jobs")))
        beside.run_until_complete(asyncio.sleep(0.05))
        got, lost = loop.run_until_complete(go(receive))
        assert (got, lost) == (({"n": 1}, False) if how == "served" else (None, True))
        if how != "woken and cancelled":
            beside.run_until_complete(outside.send("jobs", {"n": 1}))
        assert beside.run_until_complete(behind()) == {"n": 1}
    finally:
        run(end(*asyncio.all_tasks(loop)), lambda: loop)
        beside.close()


# -- whatever else may happen to a receive ---------------------------------------------------


async def test_a_coroutine_that_is_closed(way):
    sender, receiver, new_channel = way
    channel = await new_channel()
    coroutine = receiver.receive(channel)
    coroutine.send(None)
    coroutine.close()
    await sender.send(channel, HELLO)
    assert await soon(receiver.receive(channel)) == HELLO
    # And one that never ran.
    receiver.receive(channel).close()


async def test_nothing_stays_of_a_cancelled_one(way):
    _, receiver, new_channel = way
    loops = receiver._process._loops
    for _ in range(3):
        receives = [await started(receiver.receive(await new_channel())) for _ in range(5)]
        (seat,) = loops._seats.values()
        watch = seat.watch()
        assert waiting_in(watch) == 5
        await end(*receives)
        assert not watch.pending
        assert not watch.wanted
        assert not watch.awake
        # All is undone at once: no reader, no timer, no place among those that are rung.
        assert loops._seats == {}
        assert watch._timer is None
        assert watch._reading is None
        assert receiver._stores.messages._waiting == set()
        assert len(receiver._stores.messages._idle_waiters) == 1


@pytest.mark.usefixtures("no_looks")
async def test_woken_in_vain_is_still_the_first(way):
    sender, receiver, new_channel = way
    channel = await new_channel()
    first = await started(receiver.receive(channel))
    second = await started(receiver.receive(channel))
    watch = receiver._process.watch(asyncio.get_running_loop())
    queue = channel[: channel.find("!") + 1] or channel
    watch.wake(queue, [channel])
    await rounds(3)
    await sender.send(channel, {"n": 1})
    assert await soon(first) == {"n": 1}
    await sender.send(channel, {"n": 2})
    assert await soon(second) == {"n": 2}


@pytest.mark.usefixtures("no_looks")
async def test_a_look_while_all_are_awake_ends_nothing(way):
    # They were woken and have not run: who has nothing goes on waiting, where he is rung.
    sender, receiver, new_channel = way
    channel = await new_channel()
    receive = await started(receiver.receive(channel))
    watch = receiver._process.watch(asyncio.get_running_loop())
    queue = channel[: channel.find("!") + 1] or channel
    watch.wake(queue, [channel])
    assert not watch.pending
    watch._tick()
    assert receiver._process.watch(asyncio.get_running_loop()) is watch
    await rounds(3)
    assert watch.pending
    assert watch.awake == 0
    await sender.send(channel, HELLO)
    assert await soon(receive) == HELLO


@pytest.mark.usefixtures("no_looks")
async def test_one_goes_while_the_other_is_awake(way):
    sender, receiver, new_channel = way
    channel, other = await new_channel(), await receiver.new_channel()
    receive = await started(receiver.receive(channel))
    gone = await started(receiver.receive(other))
    watch = receiver._process.watch(asyncio.get_running_loop())
    gone.cancel()
    watch.wake(channel[: channel.find("!") + 1] or channel, [channel])
    await rounds(3)
    assert gone.cancelled()
    assert receiver._process.watch(asyncio.get_running_loop()) is watch
    await sender.send(channel, HELLO)
    assert await soon(receive) == HELLO


@pytest.mark.usefixtures("no_looks")
async def test_a_cancelled_one_is_passed_over(way):
    sender, receiver, new_channel = way
    channel = await new_channel()
    receives = [await started(receiver.receive(channel)) for _ in range(3)]
    watch = receiver._process.watch(asyncio.get_running_loop())
    receives[0].cancel()
    watch.wake(channel[: channel.find("!") + 1] or channel, [channel])
    assert watch.awake == 1
    await rounds(3)
    assert waiting_in(watch) == 2
    assert sum(watch.wanted.values()) == 2
    for number, receive in enumerate(receives[1:]):
        await sender.send(channel, {"n": number})
        assert await soon(receive) == {"n": number}


async def test_stop_of_a_consumer(way):
    # Channels ends a consumer so: it cancels what waits, and forgets what has finished.
    sender, receiver, new_channel = way
    channel = await new_channel()
    got = []

    class Stop(Exception):
        pass

    async def dispatch(message):
        if message == "disconnect":
            raise Stop
        got.append(message["n"])

    for _ in range(3):
        client = asyncio.Queue()
        consumer = asyncio.ensure_future(
            await_many_dispatch([client.get, lambda: receiver.receive(channel)], dispatch)
        )
        await asyncio.sleep(0.02)
        for number in range(2):
            await sender.send(channel, {"n": number})
        await until(lambda: len(got) == 2)
        client.put_nowait("disconnect")
        with pytest.raises(Stop):
            await soon(consumer)
        assert got == [0, 1]
        del got[:]
    await sender.send(channel, HELLO)
    assert await soon(receiver.receive(channel)) == HELLO


def test_loop_stopped_while_it_waits(open_layer, open_far):
    here, there = open_layer(), open_far()
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        own = first.run_until_complete(here.new_channel())
        for channel in (own, "normal"):
            receive = first.create_task(here.receive(channel))
            first.run_until_complete(asyncio.sleep(0.05))
            # From now on it stands still, with its receive waiting.
            second.run_until_complete(there.send(channel, HELLO))
            assert second.run_until_complete(soon(here.receive(channel))) == HELLO
            # When it goes on, it is none the worse for it.
            first.run_until_complete(asyncio.sleep(0.05))
            assert not receive.done()
            second.run_until_complete(there.send(channel, HELLO))
            assert first.run_until_complete(soon(receive)) == HELLO
    finally:
        first.close()
        second.close()


def test_loop_stopped_with_the_message_under_way(open_layer):
    # The receiver was woken, and its loop stopped before it ran: the message is not with it.
    here = open_layer()
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        own = first.run_until_complete(here.new_channel())
        for channel in (own, "normal"):
            receive = first.create_task(here.receive(channel))
            first.run_until_complete(asyncio.sleep(0.05))

            async def send(channel=channel):
                await here.send(channel, HELLO)
                first.stop()

            sending = first.create_task(send())
            first.run_forever()
            assert sending.done()
            assert not receive.done()
            assert second.run_until_complete(soon(here.receive(channel))) == HELLO
            receive.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                first.run_until_complete(receive)
    finally:
        first.close()
        second.close()


def test_loop_dropped_while_it_waits(open_layer):
    # Closed without care: its task is destroyed pending (asyncio says so), all else goes on.
    here = open_layer()
    loop = asyncio.new_event_loop()
    own = loop.run_until_complete(here.new_channel())
    tasks = [loop.create_task(here.receive(channel)) for channel in (own, "normal")]
    loop.run_until_complete(asyncio.sleep(0.05))
    loop.set_exception_handler(lambda *_: None)
    loop.close()
    del tasks, loop
    gc.collect()

    async def main():
        for channel in (own, "normal"):
            await here.send(channel, HELLO)
            assert await soon(here.receive(channel)) == HELLO
            await never(here.receive(channel), 0.05)

    run(main())
    assert here._stores.messages._waiting == set()
