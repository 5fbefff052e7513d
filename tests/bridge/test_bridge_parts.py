"""Parts of the bridge by themselves: envelopes, and what is made of an answer that did not come."""
import asyncio
import os

import pytest

pytest.importorskip("redis", reason="NO BRIDGE WAS TESTED: redis-py is not installed")

from bridgekit import Machine

from asgi_ipc import routing
from asgi_ipc._shm import clock
from asgi_ipc.bridge import envelope, link
from asgi_ipc.bridge.envelope import Refused, Sealer
from asgi_ipc.bridge.outgoing import Outgoing
from asgi_ipc.bridge.station import Station, Turn
from asgi_ipc.crossing import OUTBOX

NODE = 0x0123456789AB
THEIRS = "reply?0123456789ab0123456789abcdef"
STREAM = "node:0123456789ab"

ROUTES = [
    (envelope.GROUPS, "groom"),
    (STREAM, "c" + THEIRS),
    (STREAM, "a" + THEIRS + "\nroom"),
    (STREAM, "d" + THEIRS + "\nroom"),
    (STREAM, "sjobs"),
    ("channel:jobs", "sjobs"),
]


@pytest.mark.parametrize("stream,routed", ROUTES)
def test_an_envelope_opens_as_it_was_sealed(stream, routed):
    sealer = Sealer(1000, 60000)
    payload = routing.lifetime_payload(5)
    entry = sealer.seal(stream, NODE, 500, routed.encode(), payload)
    found = sealer.open(stream, entry)
    assert found.node == NODE
    assert found.lifetime == 500
    assert found.payload == payload
    assert found[2:5] == routing.unpacked(routed.encode())


def test_no_message_lives_longer_than_all_do():
    entry = Sealer(1000, 10 ** 9).seal("groups", NODE, 10 ** 8, b"groom", b"")
    assert Sealer(1000, 60000).open("groups", entry).lifetime == 60000


@pytest.mark.parametrize(
    "stream,routed,payload",
    [
        ("groups", b"c" + THEIRS.encode(), b""),
        ("groups", b"g", b""),
        ("groups", b"ga b", b""),
        ("groups", b"g" + b"x" * 100, b""),
        ("groups", b"sjobs", b""),
        (STREAM, b"groom", b""),
        (STREAM, b"cjobs", b""),
        (STREAM, b"creply?ffffffffffff0123456789abcdef", b""),
        (STREAM, b"a" + THEIRS.encode() + b"\na b", b"12345678"),
        (STREAM, b"a" + THEIRS.encode() + b"\nroom", b"1234"),
        (STREAM, b"s" + THEIRS.encode(), b""),
        (STREAM, b"sa!b", b""),
        ("channel:jobs", b"sother", b""),
        ("groups", b"groom", b"x" * 1001),
        ("groups", b"x" * 70000, b""),
    ],
)
def test_what_is_refused(stream, routed, payload):
    sealer = Sealer(1000, 60000)
    try:
        entry = Sealer(10 ** 6, 60000).seal(stream, NODE, 500, routed[:65535], payload)
    except ValueError:
        return
    with pytest.raises(Refused):
        sealer.open(stream, entry)


def test_an_entry_of_another_stream_is_refused():
    sealer = Sealer(1000, 60000)
    entry = sealer.seal("channel:jobs", NODE, 500, b"sjobs", b"")
    with pytest.raises(Refused, match="another stream"):
        sealer.open(STREAM, entry)


def test_every_cut_of_an_entry_is_refused_or_shorter():
    sealer = Sealer(1000, 60000)
    entry = sealer.seal("groups", NODE, 500, b"groom", b"payload")
    for end in range(len(entry) - len(b"payload")):
        with pytest.raises(Refused):
            sealer.open("groups", entry[:end])


def test_key_files(tmp_path):
    fernet = pytest.importorskip("cryptography.fernet")
    path = tmp_path / "keys"
    path.write_bytes(b"\n# none\n")
    path.chmod(0o600)
    with pytest.raises(ValueError, match="no key"):
        envelope.read_keys(str(path))
    path.write_bytes(b"short\n")
    with pytest.raises(ValueError, match="no Fernet key"):
        envelope.read_keys(str(path))
    path.write_bytes(fernet.Fernet.generate_key())
    assert len(envelope.read_keys(str(path))) == 1
    path.chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        envelope.read_keys(str(path))


def test_one_has_the_turn():
    prefix = "turn{0}".format(os.getpid())
    first, second = Turn(prefix), Turn(prefix)
    assert first.take()
    assert not second.take()
    first.give()
    assert second.take()
    assert not first.take()
    second.give()


class FakeLink:
    """A Redis that says what it is told to."""

    def __init__(self, sent=-1, run=1, kept=False):
        self.sent, self.run, self.kept = sent, run, kept
        self.published = []
        self.answer = None

    async def state(self, streams=()):
        return link.State(self.sent, self.run, self.kept, [None for _ in streams])

    async def set_guard(self, before, sent):
        assert before == self.sent
        self.sent = sent

    async def publish(self, acked, last, age, entries):
        if self.sent < acked:
            return False
        self.published += [number for number, _, _ in entries if number > self.sent]
        self.sent = max(self.sent, last)
        if self.answer is not None:
            raise self.answer
        return True


@pytest.fixture
def here():
    machine = Machine("parts{0}".format(os.getpid()), "", "")
    machine.layer._stores.messages.lease(clock.now() + 60 * clock.SECOND, 100)
    yield machine
    machine.close()


def fill(machine, count=5):
    for _ in range(count):
        machine.layer.send_group("room", {})
    return [one.seq for one in machine.layer._stores.messages.peek_batch(100, 1000)]


def settled(machine, redis, pump=True):
    """Have the outbox emptied; return what was published in it."""

    async def run():
        station = Station(machine.layer._stores, 60 * clock.SECOND, 100)
        outgoing = Outgoing(station, redis, Sealer(1000, 60000), 60000)
        try:
            await outgoing.settle()
            if pump:
                await outgoing.pump(lambda: True)
        finally:
            station.close(clean=False)

    redis.published = []
    asyncio.run(run())
    return redis.published


def test_the_first_time(here):
    numbers = fill(here)
    redis = FakeLink()
    assert settled(here, redis) == numbers
    assert redis.sent == numbers[-1]
    assert here.figures()["sent"] == 5


def in_the_air(machine, redis, executed):
    """Leave a batch of which no answer came."""
    first = fill(machine, 2)
    settled(machine, redis)
    numbers = fill(machine)
    messages = machine.layer._stores.messages
    messages.depart(numbers[-1], redis.run)
    if executed:
        redis.sent = numbers[-1]
    return first, numbers


CASES = [
    # What became of Redis; was the batch executed; is it sent again; is it unsure.
    ({}, True, False, 0),
    ({}, False, True, 0),
    ({"run": 2, "kept": True}, True, False, 0),
    ({"run": 2, "kept": True}, False, True, 0),
    ({"run": 2}, True, False, 0),
    ({"run": 2}, False, False, 5),
    ({"run": 2, "sent": -1}, False, False, 5),
    ({"run": 2, "sent": 1, "kept": True}, False, False, 5),
    ({"sent": -1}, True, False, 5),
]


@pytest.mark.parametrize("change,executed,again,unsure", CASES)
def test_what_is_made_of_no_answer(here, change, executed, again, unsure):
    redis = FakeLink()
    _, numbers = in_the_air(here, redis, executed)
    vars(redis).update(change)
    assert settled(here, redis) == (numbers if again else [])
    assert here.figures()["unsure"] == unsure
    assert here.figures()["waiting"] == 0
    # Whatever it was, it goes on.
    more = fill(here)
    assert settled(here, redis) == more
    assert redis.sent == more[-1]


def test_an_answer_that_is_lost(here):
    """The batch was executed; nothing of it is sent a second time."""
    redis = FakeLink()
    numbers = fill(here)
    redis.answer = OSError("lost")
    with pytest.raises(OSError, match="lost"):
        settled(here, redis)
    assert redis.published == numbers
    redis.answer = None
    assert settled(here, redis) == []
    assert here.figures()["sent"] == 5
    assert here.figures()["unsure"] == 0


def test_redis_that_lost_its_data_unnoticed(here):
    """It says so at the next batch, which is sent then: it was not in the air."""
    redis = FakeLink()
    fill(here)
    settled(here, redis)

    async def run():
        station = Station(here.layer._stores, 60 * clock.SECOND, 100)
        outgoing = Outgoing(station, redis, Sealer(1000, 60000), 60000)
        await outgoing.settle()
        redis.sent = -1
        numbers = fill(here)
        redis.published = []
        await outgoing.pump(lambda: True)
        station.close(clean=False)
        return numbers

    assert asyncio.run(run()) == redis.published
    assert here.figures()["unsure"] == 0


def test_what_expired_is_not_sent(here):
    messages = here.layer._stores.messages
    messages.send(OUTBOX, "groom", b"", 1, 100)
    numbers = fill(here, 1)
    assert settled(here, FakeLink()) == numbers[-1:]


def test_what_is_left_of_a_turn_goes_with_the_shared_memory(here):
    """One whose file was taken away gives its turn back without taking another's."""
    from asgi_ipc.core import IPCChannelLayer, unlink

    first, second = Turn(here.prefix), Turn(here.prefix)
    assert first.take()
    unlink(here.prefix)
    assert second.take()
    first.give()
    assert not Turn(here.prefix).take()
    second.give()
    IPCChannelLayer(prefix=here.prefix).close()
