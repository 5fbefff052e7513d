"""The asynchronous face across machines."""
import asyncio

import pytest

pytest.importorskip("channels", reason="NO BRIDGE WAS TESTED WITH CHANNELS: it is not installed")

from asgi_ipc.aio import IPCChannelLayer


def test_consumers_on_two_machines(machines):
    here, there = machines(2)

    async def talk():
        layers = [IPCChannelLayer(prefix=machine.prefix) for machine in (here, there)]
        channels = [await layer.new_channel() for layer in layers]
        for layer, channel in zip(layers, channels):
            await layer.group_add("room", channel)
        receives = [
            asyncio.ensure_future(layer.receive(channel))
            for layer, channel in zip(layers, channels)
        ]
        await asyncio.sleep(0.05)
        await layers[0].group_send("room", {"n": 1})
        assert await asyncio.wait_for(asyncio.gather(*receives), 20) == [{"n": 1}, {"n": 1}]
        # To the one by its name, who joins another's group and answers.
        await layers[0].send(channels[1], {"reply": channels[0]})
        message = await asyncio.wait_for(layers[1].receive(channels[1]), 20)
        await layers[1].send(message["reply"], {"n": 2})
        assert await asyncio.wait_for(layers[0].receive(channels[0]), 20) == {"n": 2}
        with pytest.raises(TypeError, match="another machine"):
            await layers[0].receive(channels[1])
        # And what the one face sends the other one has.
        there.layer.send_group("room", {"n": 3})
        assert await asyncio.wait_for(layers[0].receive(channels[0]), 20) == {"n": 3}
        for layer in layers:
            assert await layer.check() == []
            await layer.close()

    asyncio.run(talk())


def test_a_burst_beyond_capacity_reaches_consumers_that_take_their_time(machines, server):
    here, there = machines(2)
    count = 500

    async def consumer(layer):
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        found = []
        while len(found) < count:
            found.append((await layer.receive(channel))["n"])
            await asyncio.sleep(0.0005)
        return found

    async def talk():
        layer = IPCChannelLayer(prefix=there.prefix)
        consumers = [asyncio.ensure_future(consumer(layer)) for _ in range(3)]
        await asyncio.sleep(0.05)
        server.freeze()
        for number in range(count):
            here.layer.send_group("room", {"n": number})
        server.thaw()
        found = await asyncio.wait_for(asyncio.gather(*consumers), 20)
        await layer.close()
        return found

    assert asyncio.run(talk()) == [list(range(count))] * 3


def test_the_name_of_a_process_says_its_machine(machines):
    here, there = machines(2, bridges=False)

    async def names():
        layers = [IPCChannelLayer(prefix=machine.prefix) for machine in (here, there)]
        found = [await layer.new_channel() for layer in layers]
        for layer in layers:
            await layer.close()
        return found

    first, second = asyncio.run(names())
    assert here.layer._stores.node in first
    assert there.layer._stores.node in second
