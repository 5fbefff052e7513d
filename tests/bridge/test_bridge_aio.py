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
