"""asgi_redis' RedisLocalChannelLayer, unmodified, over this package: one Redis, several machines.

It keeps worker queues in the shared memory of its machine, and everything else in Redis. Its
conformance cases are those of asgi_redis 1.4.3's own tests, with their settings.
"""
from __future__ import unicode_literals

import os

import pytest
from chatsite import leftovers, unlink
from rediskit import RedisServer, needs_redis

from asgi_ipc import IPCChannelLayer

conformance = pytest.importorskip(
    "asgiref.conformance", reason="asgiref 1.1.2 with its conformance suite is not installed"
)
asgi_redis = pytest.importorskip("asgi_redis", reason="asgi_redis 1.4.3 is not installed")

pytestmark = [pytest.mark.channels1, needs_redis]

OPTIONS = {"expiry": 1, "group_expiry": 2, "capacity": 5}
"""As asgi_redis/tests/test_local.py has them."""


@pytest.fixture(scope="module")
def server(tmpdir_factory):
    server = RedisServer(str(tmpdir_factory.mktemp("redis")))
    yield server
    server.kill()


def make_layer(server, prefix, **options):
    return asgi_redis.RedisLocalChannelLayer(hosts=[server.url], prefix=prefix, **options)


@pytest.mark.usefixtures("local_layer")
class TestConformance(conformance.ConformanceTestCase):
    expiry_delay = 1.1
    capacity_limit = 5

    @pytest.fixture(scope="class")
    def local_layer(self, request, server):
        prefix = "local-{0}:".format(os.getpid())
        layer = request.cls.channel_layer = make_layer(server, prefix, **OPTIONS)
        yield
        faults = layer.local_layer.check()
        layer.local_layer.close()
        unlink(layer.local_layer.prefix)
        assert faults == []
        assert leftovers(layer.local_layer.prefix) == []


@pytest.fixture
def machines(server, prefix):
    """The layers of two machines: one prefix in Redis, and for each a shared memory of its own."""
    layers = [make_layer(server, prefix + ":") for _ in range(2)]
    # The second one's machine is this one too: another prefix stands for its memory.
    layers[1].local_layer.close()
    other = layers[1].local_layer = IPCChannelLayer(prefix=prefix + "-b")
    yield layers
    layers[0].flush()
    for layer in layers:
        layer.local_layer.close()
    unlink(other.prefix)
    assert leftovers(other.prefix) == []


def test_its_memory_is_that_of_the_prefix(machines, prefix):
    one, _ = machines
    one.send("jobs", {"n": 1})
    with IPCChannelLayer(prefix=prefix) as layer:
        assert layer.receive(["jobs"]) == ("jobs", {"n": 1})
    assert one.receive(["jobs"]) == (None, None)


def test_a_full_queue_is_what_its_callers_catch(machines):
    """Daphne answers 503 to that."""
    one, _ = machines
    for n in range(100):
        one.send("jobs", {"n": n})
    with pytest.raises(one.ChannelFull):
        one.send("jobs", {"n": 100})
    with pytest.raises(one.MessageTooLarge):
        one.send("other", {"n": b"x" * (one.local_layer.max_message_size + 1)})


def test_a_group_reaches_both_machines(machines):
    one, other = machines
    one.group_add("room", "daphne.one!a")
    one.group_add("room", "daphne.one!b")
    other.group_add("room", "daphne.two!c")
    for sender in machines:
        sender.send_group("room", {"from": id(sender)})
        found = [one.receive(["daphne.one!"]) for _ in range(2)]
        assert sorted(found) == [
            ("daphne.one!a", {"from": id(sender)}),
            ("daphne.one!b", {"from": id(sender)}),
        ]
        assert other.receive(["daphne.two!"]) == ("daphne.two!c", {"from": id(sender)})
    assert one.receive(["daphne.one!"]) == (None, None)
    assert other.receive(["daphne.two!"]) == (None, None)


def test_a_reply_channel_is_valid_on_both_machines(machines):
    one, other = machines
    reply = one.new_channel("http.response?")
    # Asked for with a channel of the machine, as a worker may.
    assert one.receive([reply, "jobs"]) == (None, None)
    other.send(reply, {"status": 200})
    assert one.receive([reply, "jobs"]) == (reply, {"status": 200})


def test_a_request_stays_on_its_machine(machines):
    one, other = machines
    one.send("http.request", {"path": "/"})
    assert other.receive(["http.request"]) == (None, None)
    # Waiting for it as a worker does, by blocking.
    assert one.receive(["http.request"], block=True) == ("http.request", {"path": "/"})


def test_a_worker_blocks_on_both_kinds_of_channels_at_once(machines):
    one, _ = machines
    one.local_layer.block_timeout = 0.1
    one.blpop_timeout = 1
    assert one.receive(["jobs", "reply?x"], block=True) == (None, None)
    one.send("jobs", {"n": 1})
    assert one.receive(["jobs", "reply?x"], block=True) == ("jobs", {"n": 1})
    one.send("reply?x", {"n": 2})
    assert one.receive(["jobs", "reply?x"], block=True) == ("reply?x", {"n": 2})
