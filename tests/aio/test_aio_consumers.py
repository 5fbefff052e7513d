"""Channels' own consumers and worker on this layer, as a site has them."""
import asyncio

import pytest
from aiokit import end, soon, until
from asgiref.sync import async_to_sync
from asgiref.testing import ApplicationCommunicator
from channels.consumer import AsyncConsumer, SyncConsumer
from channels.exceptions import StopConsumer
from channels.layers import channel_layers
from channels.worker import Worker


@pytest.fixture
def configured(layer):
    """The layer, as Channels' default one."""
    before = channel_layers.set("default", layer)
    yield layer
    channel_layers.set("default", before)


class Chat(AsyncConsumer):
    """One browser in a room."""

    async def websocket_connect(self, _):
        await self.channel_layer.group_add("room", self.channel_name)
        await self.send({"type": "websocket.accept"})

    async def websocket_receive(self, message):
        await self.channel_layer.group_send("room", {"type": "chat.said", "text": message["text"]})

    async def chat_said(self, message):
        await self.send({"type": "websocket.send", "text": message["text"]})

    async def websocket_disconnect(self, _):
        await self.channel_layer.group_discard("room", self.channel_name)
        raise StopConsumer


class SynchronousChat(SyncConsumer):
    """The same in threads."""

    def websocket_connect(self, _):
        async_to_sync(self.channel_layer.group_add)("room", self.channel_name)
        self.send({"type": "websocket.accept"})

    def websocket_receive(self, message):
        async_to_sync(self.channel_layer.group_send)(
            "room", {"type": "chat.said", "text": message["text"]}
        )

    def chat_said(self, message):
        self.send({"type": "websocket.send", "text": message["text"]})

    def websocket_disconnect(self, _):
        async_to_sync(self.channel_layer.group_discard)("room", self.channel_name)
        raise StopConsumer


class Job(AsyncConsumer):
    """A background worker's."""

    async def job_do(self, message):
        await self.channel_layer.send(message["reply"], {"type": "job.done", "n": message["n"]})


def connect(consumer):
    return ApplicationCommunicator(consumer.as_asgi(), {"type": "websocket"})


@pytest.mark.parametrize("consumer", [Chat, SynchronousChat])
async def test_a_room(configured, open_far, consumer):
    far = open_far()
    browsers = [connect(consumer) for _ in range(5)]
    for browser in browsers:
        await browser.send_input({"type": "websocket.connect"})
        assert await browser.receive_output(20) == {"type": "websocket.accept"}
    for number, browser in enumerate(browsers):
        await browser.send_input({"type": "websocket.receive", "text": str(number)})
        for other in browsers:
            said = await other.receive_output(20)
            assert said == {"type": "websocket.send", "text": str(number)}
    # Another process speaks in the room.
    await far.group_send("room", {"type": "chat.said", "text": "from afar"})
    for browser in browsers:
        assert (await browser.receive_output(20))["text"] == "from afar"
    for browser in browsers:
        await browser.send_input({"type": "websocket.disconnect"})
        await browser.wait(20)
    assert configured._stores.groups.members("room") == []
    assert not configured._process.inbox


async def test_browsers_that_go_without_a_word(configured):
    # The consumer is cancelled; its membership is there until a message to it expires.
    stays, goes = connect(Chat), connect(Chat)
    for browser in (stays, goes):
        await browser.send_input({"type": "websocket.connect"})
        assert await browser.receive_output(20) == {"type": "websocket.accept"}
    await end(goes.future)
    for number in range(10):
        await stays.send_input({"type": "websocket.receive", "text": str(number)})
        assert (await stays.receive_output(20))["text"] == str(number)
    assert len(configured._stores.groups.members("room")) == 2
    await stays.send_input({"type": "websocket.disconnect"})
    await stays.wait(20)


async def test_a_worker(configured, open_far):
    far = open_far()
    own = await configured.new_channel()
    worker = Worker(Job.as_asgi(), ["jobs", "other.jobs"], configured)
    working = asyncio.ensure_future(worker.handle())
    got = []
    for number in range(20):
        sender = (configured, far)[number % 2]
        await sender.send(("jobs", "other.jobs")[number % 3 % 2], {
            "type": "job.do", "n": number, "reply": own
        })
        got.append((await soon(configured.receive(own)))["n"])
    assert got == list(range(20))
    # Its listeners and consumers, too, which a worker leaves to the end of the process.
    await end(working, *asyncio.all_tasks() - {asyncio.current_task()})
    await until(lambda: not configured._process._loops._seats, 5)
