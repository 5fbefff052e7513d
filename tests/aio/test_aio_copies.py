"""What many are sent is unpacked for each of them, or copied where that is the same."""
import random

import pytest
from aiokit import soon

from asgi_ipc import copies
from asgi_ipc.codec import pack
from asgi_ipc.copies import KEPT, Copies

PLAIN = {"type": "x", "n": 2**63, "f": 1.5, "b": b"\xff", "t": True, "none": None, 7: "seven"}
NESTED = {"type": "x", "list": [1, [2]], "dict": {"a": {"b": []}}}


@pytest.fixture
def unpacked(monkeypatch):
    """A list that gets longer with each call of ``unpack``."""
    calls, unpack = [], copies.unpack

    def note_and_unpack(payload):
        calls.append(payload)
        return unpack(payload)

    monkeypatch.setattr(copies, "unpack", note_and_unpack)
    return calls


@pytest.mark.parametrize("message", [{}, {"type": "x"}, PLAIN, NESTED])
def test_each_has_his_own(message):
    payload, layer = pack(message), Copies()
    got = [layer.unpack(payload) for _ in range(5)]
    assert got == [message] * 5
    assert all(list(each) == list(message) for each in got)
    assert len({id(each) for each in got}) == 5


def test_nobody_sees_what_another_one_changes():
    for message in (PLAIN, NESTED, {"list": NESTED["list"]}, {"dict": NESTED["dict"]}):
        payload, layer = pack(message), Copies()
        for _ in range(5):
            got = layer.unpack(payload)
            assert got == message
            for value in got.values():
                if isinstance(value, list):
                    value[1].append("mine")
                elif isinstance(value, dict):
                    value["a"]["b"].append("mine")
            got.popitem()
            got["mine"] = 1


def test_a_plain_one_is_unpacked_twice_at_most(unpacked):
    layer = Copies()
    for message in (PLAIN, {"type": "y"}):
        payload = pack(message)
        assert [layer.unpack(payload) for _ in range(10)] == [message] * 10
    assert len(unpacked) == 4


def test_one_with_parts_that_can_be_changed_is_unpacked_for_each(unpacked):
    payload, layer = pack(NESTED), Copies()
    assert [layer.unpack(payload) for _ in range(10)] == [NESTED] * 10
    assert len(unpacked) == 10


def test_equal_messages_are_not_taken_for_one(unpacked):
    # They are told apart by who they are, which costs nothing, and not by what they say.
    layer = Copies()
    for _ in range(3):
        assert layer.unpack(bytes(bytearray(pack(PLAIN)))) == PLAIN
    assert len(unpacked) == 3


def test_a_large_one_is_not_kept():
    message, layer = {"text": "x" * KEPT}, Copies()
    payload = pack(message)
    assert [layer.unpack(payload) for _ in range(3)] == [message] * 3
    assert layer._last[0] == b""


def test_several_in_turn():
    chance, layer = random.Random(1), Copies()
    payloads = [(message, pack(message)) for message in (PLAIN, NESTED, {}, {"n": 1})]
    for _ in range(300):
        message, payload = chance.choice(payloads)
        assert layer.unpack(payload) == message


@pytest.mark.parametrize("message", [PLAIN, NESTED])
async def test_members_of_a_group(open_layer, message):
    layer, outside = open_layer(), open_layer()
    channels = [await layer.new_channel() for _ in range(5)]
    for channel in channels:
        await layer.group_add("room", channel)
    for sender in (layer, outside):
        await sender.group_send("room", message)
        for channel in channels:
            received = await soon(layer.receive(channel))
            assert received == message
            for key in list(received):
                if isinstance(received[key], list):
                    received[key][1].append("mine")
                else:
                    received[key] = "mine"
