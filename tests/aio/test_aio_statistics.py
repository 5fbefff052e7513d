"""statistics() and check() of the asynchronous face: the same figures, and the loop goes on."""
import asyncio

import pytest
from channels.exceptions import ChannelFull

from asgi_ipc import guarded
from asgi_ipc.core import IPCChannelLayer as SynchronousLayer


async def test_the_figures_are_those_of_the_other_face(layer):
    await layer.send("a", {"type": "x"})
    await layer.group_add("room", "a")
    await layer.group_add("room", "b")
    await layer.group_send("room", {"type": "y"})
    found = await layer.statistics()
    with SynchronousLayer(prefix=layer.prefix) as other:
        expected = other.statistics()
    for figures in (found, expected):
        for channel in figures["fullest_channels"] + figures["oldest_channels"]:
            channel["oldest"] = 0
        figures["messages"].update(oldest=0, sent_per_second=0)
    assert found == expected
    assert found["messages"]["waiting"] == 3
    assert found["largest_groups"] == [{"group": "room", "members": 2}]
    assert await layer.check() == []


async def test_what_was_dropped(open_layer):
    layer = open_layer(capacity=1)
    await layer.group_add("room", "a")
    for _ in range(4):
        await layer.group_send("room", {"type": "y"})
    with pytest.raises(ChannelFull):
        await layer.send("a", {"type": "z"})
    found = await layer.statistics()
    assert found["drops"] == 3
    assert found["messages"]["refused"] == 4


async def test_the_loop_goes_on_meanwhile(layer):
    for number in range(4 * guarded.PIECE):
        await layer.send(f"channel{number}", {"type": "x"})
    turns = []

    async def others():
        while True:
            turns.append(None)
            await asyncio.sleep(0)

    task = asyncio.ensure_future(others())
    await asyncio.sleep(0)
    before = len(turns)
    found = await layer.statistics(top=3)
    seen = len(turns) - before
    task.cancel()
    assert found["messages"]["channels"] == 4 * guarded.PIECE
    assert len(found["fullest_channels"]) == 3
    assert seen >= 5


async def test_it_can_be_cancelled(layer):
    for number in range(2 * guarded.PIECE):
        await layer.send(f"channel{number}", {"type": "x"})
    task = asyncio.ensure_future(layer.statistics())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await layer.check() == []
    assert (await layer.statistics())["messages"]["waiting"] == 2 * guarded.PIECE
