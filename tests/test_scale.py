"""Sizes that sites have: big messages, many messages, many channels, many memberships."""
import pytest

import asgi_ipc
from asgi_ipc import core
from asgi_ipc.errors import GroupsFull, MessageTooLarge

MIB = 1024 * 1024


@pytest.fixture
def open_layer(prefix):
    layers = []

    def open_one(**options):
        layers.append(asgi_ipc.IPCChannelLayer(prefix, **options))
        return layers[-1]

    yield open_one
    for layer in layers:
        layer.close()
    core.unlink(prefix)


def test_a_message_of_three_megabytes(open_layer):
    layer, other = open_layer(), open_layer()
    body = bytes(bytearray(range(256))) * (3 * MIB // 256)
    for _ in range(12):
        layer.send(u"http.request", {"body": body})
        assert other.receive([u"http.request"]) == (u"http.request", {u"body": body})
    assert layer.check() == []


def test_as_large_as_allowed_and_one_byte_more(open_layer):
    layer = open_layer(max_message_size=MIB, message_memory=16 * MIB)
    overhead = len(core.pack({"body": b"x" * MIB})) - MIB
    body = b"x" * (MIB - overhead)
    layer.send(u"a", {"body": body})
    assert layer.receive([u"a"])[1] == {u"body": body}
    with pytest.raises(MessageTooLarge) as error:
        layer.send(u"a", {"body": body + b"x"})
    assert "max_message_size={0}".format(MIB) in str(error.value)
    assert isinstance(error.value, layer.MessageTooLarge)
    with pytest.raises(layer.MessageTooLarge):
        layer.send_group(u"g", {"body": body + b"x"})
    assert layer.receive([u"a"]) == (None, None)


def test_the_default_limit_is_a_quarter_of_the_memory(open_layer):
    layer = open_layer(message_memory=4 * MIB)
    layer.send(u"a", {"body": b"x" * (MIB - 100)})
    with pytest.raises(layer.MessageTooLarge):
        layer.send(u"a", {"body": b"x" * MIB})
    assert len(layer.receive([u"a"])[1][u"body"]) == MIB - 100


@pytest.mark.slow
def test_a_hundred_thousand_messages_over_five_thousand_channels(open_layer):
    layer, other = open_layer(), open_layer()
    names = [u"channel.{0}".format(number) for number in range(5000)]
    for turn in range(20):
        for name in names:
            layer.send(name, {"turn": turn, "name": name})
    figures = other.global_statistics()
    assert figures["messages_pending"] == 100000
    assert other.check() == []
    for turn in range(20):
        for name in names:
            assert other.receive([name]) == (name, {u"turn": turn, u"name": name})
    assert other.global_statistics()["messages_pending"] == 0
    assert layer._stores.messages.memory()["messages"] == 0
    assert layer.check() == []


@pytest.mark.slow
def test_fifty_thousand_memberships_fit_by_default(open_layer):
    layer = open_layer()
    for number in range(50000):
        layer.group_add(u"g{0}".format(number % 500), u"p{0}!{1:x}".format(number % 4, number))
    assert len(layer.group_channels(u"g7")) == 100
    assert layer.check() == []


def test_full_groups_name_the_option(open_layer):
    layer = open_layer(group_memory=64 * 1024)
    with pytest.raises(GroupsFull) as error:
        for number in range(10000):
            layer.group_add(u"g", u"p!{0}".format(number))
    assert number > 200
    assert "group_memory" in str(error.value)
    assert len(layer.group_channels(u"g")) == number
    layer.group_discard(u"g", u"p!0")
    layer.group_add(u"g", u"p!new")
    assert layer.check() == []


def test_a_group_of_a_thousand_behind_one_server_loses_nothing(open_layer):
    """One record for the process: the capacity is not spent on members."""
    layer, server = open_layer(capacity=10), open_layer(capacity=10)
    names = [u"server!{0}".format(number) for number in range(1000)]
    for name in names:
        layer.group_add(u"g", name)
    layer.send_group(u"g", {"text": u"hello"})
    assert [server.receive([u"server!"]) for _ in names] == [
        (name, {u"text": u"hello"}) for name in names
    ]
    assert server.receive([u"server!"]) == (None, None)


def test_an_idle_layer_holds_little_memory(open_layer):
    layer = open_layer()
    layer.send(u"a", {"text": u"hello"})
    layer.receive([u"a"])
    layer.group_add(u"g", u"a")
    messages, groups = layer._stores.messages, layer._stores.groups
    real = messages.memory()["real"] + groups.statistics()["memory_used"]
    assert real < 2 * MIB
