"""Twenty live-server tests of Channels 1, their servers terminated while traffic is on.

Not collected by pytest: ``test_channels1_stops.py`` runs it through ``manage.py test``, as a
project would. Each test forks a Daphne and a worker; ``terminate()`` then ends both by a
SIGTERM that nothing handles, wherever they are, the layer's lock included, and the next
test begins on the same shared memory.
"""
from __future__ import unicode_literals

import json
import threading
import time

import websocket
from channels.asgi import ChannelLayerManager
from channels.test import ChannelLiveServerTestCase
from chat.rooms import group_name
from chatsite import receive_text
from six.moves.urllib.request import urlopen

TESTS = 20
ROOM = "lobby"
PATIENCE = 20  # seconds for an answer
TRAFFIC_TIMEOUT = 2  # seconds; a thread that talks to a dead server ends within this
HEAD_START = 0.3  # seconds of traffic before the servers are ended


class Traffic(object):
    """Threads that keep pages, websockets and the layer itself busy until stopped."""

    def __init__(self, page_url, socket_url):
        self.page_url = page_url
        self.socket_url = socket_url
        self.stopping = threading.Event()
        self.threads = [
            threading.Thread(target=self._repeat, args=(make_step,))
            for make_step in (self._pages, self._socket, self._layer)
        ]

    def start(self):
        for thread in self.threads:
            thread.start()

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join()

    def _repeat(self, make_step):
        """Failures are expected here: the server goes away in the middle."""
        while not self.stopping.is_set():
            try:
                step = make_step()
                while not self.stopping.is_set():
                    step()
            except Exception:
                time.sleep(0.01)

    def _pages(self):
        return lambda: urlopen(self.page_url, timeout=TRAFFIC_TIMEOUT).read()

    def _socket(self):
        client = websocket.create_connection(self.socket_url, timeout=TRAFFIC_TIMEOUT)

        def step():
            client.send(json.dumps({"name": "traffic", "text": "noise"}))
            client.recv()

        return step

    def _layer(self):
        """Keeps worker and Daphne inside the layer, which is where the signal is to find them."""
        layer = ChannelLayerManager().make_test_backend("default")
        noise = {"text": json.dumps({"kind": "noise"})}
        # A frame from no room: the worker takes it, and has nothing to do for it.
        frame = {"path": "/", "reply_channel": "nobody", "order": 1, "text": ""}

        def step():
            layer.send_group(group_name(ROOM), noise)
            try:
                for _ in range(20):
                    layer.send("websocket.receive", frame)
            except layer.ChannelFull:
                time.sleep(0.001)

        return step


class LiveChatTest(ChannelLiveServerTestCase):
    host = "127.0.0.1"

    def _post_teardown(self):
        # Channels ends the servers in here, so the traffic may only stop afterwards.
        try:
            super(LiveChatTest, self)._post_teardown()
        finally:
            self.traffic.stop()

    def socket_url(self):
        return "%s/ws/%s/" % (self.live_server_ws_url, ROOM)

    def check_and_leave_under_traffic(self):
        self.traffic = Traffic(self.live_server_url, self.socket_url())
        page = urlopen(self.live_server_url, timeout=PATIENCE).read()
        assert b'data-room="lobby"' in page
        ann = websocket.create_connection(self.socket_url(), timeout=PATIENCE)
        ben = websocket.create_connection(self.socket_url(), timeout=PATIENCE)
        ann.send(json.dumps({"name": "ann", "text": "hello"}))
        for client in (ann, ben):
            assert receive_text(client, PATIENCE)["text"] == "hello"
        ann.close()
        ben.close()
        self.traffic.start()
        time.sleep(HEAD_START)


for _number in range(TESTS):
    setattr(
        LiveChatTest,
        str("test_%02d" % _number),
        lambda self: self.check_and_leave_under_traffic(),
    )
