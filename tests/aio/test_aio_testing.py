"""The fixtures, the isolation of layers and the collector with the asynchronous face."""
import asyncio

import pytest

from asgi_ipc import existing, testing
from asgi_ipc.errors import LayerClosed


def isolated(prefix):
    from django.test.utils import override_settings

    config = {"prefix": prefix, "message_memory": 2**20, "group_memory": 2**20}
    return override_settings(
        CHANNEL_LAYERS={"default": {"BACKEND": "asgi_ipc.aio.IPCChannelLayer", "CONFIG": config}}
    )


async def test_consumers_code_meets_the_isolated_layer(prefix):
    from channels.layers import get_channel_layer

    with isolated(prefix), testing.isolated_layers():
        layer = get_channel_layer()
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await get_channel_layer().group_send("room", {"type": "hello"})
        assert await layer.receive(channel) == {"type": "hello"}
        assert layer.prefix != prefix
    assert existing.find(prefix) == existing.find(layer.prefix) == []


async def test_receives_that_wait_are_ended(prefix):
    from channels.layers import get_channel_layer

    with isolated(prefix):
        with testing.isolated_layers():
            waiting = asyncio.ensure_future(get_channel_layer().receive("jobs"))
            await asyncio.sleep(0.05)
            assert not waiting.done()
        with pytest.raises(LayerClosed):
            await asyncio.wait_for(waiting, 60)


async def test_the_collector_works_beside_the_loop(open_layer):
    pytest.importorskip("prometheus_client")
    from asgi_ipc.prometheus import IPCCollector

    layer = open_layer(capacity=1)
    collector = IPCCollector(layer)
    await layer.group_add("room", "jobs")
    for _ in range(3):
        await layer.group_send("room", {"type": "hello"})
    loop = asyncio.get_running_loop()
    families = await loop.run_in_executor(None, collector.collect)
    found = {sample.name: sample.value for family in families for sample in family.samples}
    statistics = await layer.statistics()
    assert found["asgi_ipc_group_drops_total"] == statistics["drops"] == 2
    assert found["asgi_ipc_messages_waiting"] == statistics["messages"]["waiting"] == 1
    assert found["asgi_ipc_up"] == 1
