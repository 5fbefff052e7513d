"""Not collected by pytest: ``test_chat_servers.py`` runs it through ``manage.py test``.

Each test has the same server, which ``setUpClass`` starts in another process; this one talks
to its pages by websocket and by the channel layer itself.
"""
import asyncio
from urllib.parse import urlsplit

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from channels.testing import ChannelsLiveServerTestCase
from chat.rooms import announcement_message
from chatkit import Page, get


class ChatTests(ChannelsLiveServerTestCase):
    host = "127.0.0.1"  # the origin that Page names

    @property
    def port(self):
        return urlsplit(self.live_server_url).port

    def test_page_and_its_style(self):
        status, page = get(self.port)
        assert status == 200
        assert 'data-room="lobby"' in page
        assert "--accent" in get(self.port, "/static/chat/chat.css")[1]

    def test_two_pages_and_a_view(self):
        asyncio.run(self.talk())

    async def talk(self):
        ann = await Page.open(self.port, "Ann", "tea-kitchen")
        ben = await Page.open(self.port, "Ben", "tea-kitchen")
        await ann.say("hello")
        for page in (ann, ben):
            assert await page.lines(1) == [("Ann", "hello")]
        # As a synchronous view does.
        send = async_to_sync(get_channel_layer().group_send)
        loop = asyncio.get_running_loop()
        message = announcement_message("from a view")
        await loop.run_in_executor(None, send, "chat-tea-kitchen", message)
        for page in (ann, ben):
            assert (await page.next("announcement"))["text"] == "from a view"
            await page.close()
