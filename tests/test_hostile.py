# -*- coding: utf-8 -*-
"""Names and messages that somebody chose to do harm: through the layer, between processes."""
from __future__ import print_function, unicode_literals

import contextlib
import hashlib
import json
import math
import os
import random
import struct
import subprocess
import sys
import threading
import time
import zlib

import pytest
import six
from sandbox import equipped_interpreters, layer_environment
from six.moves import range
from storekit import in_child
from test_names import BAD_CHANNELS, BAD_GROUPS, identify

from asgi_ipc import IPCChannelLayer, core
from asgi_ipc._shm.segment import Segment
from asgi_ipc.codec import MAX_DEPTH
from asgi_ipc.reactor import available as twisted_available

MIB = 1024 * 1024
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
M32 = 0xFFFFFFFF


@pytest.fixture
def layer(prefix):
    with IPCChannelLayer(prefix, capacity=10 ** 6, block_timeout=0.01) as layer:
        yield layer
        assert layer.check() == []


# -- names that collide -----------------------------------------------------------------------
#
# An iterated hash of which 32 bits are known can be made to collide at will: two blocks that
# lead from one state to the same next one are found among some 80,000, and n such pairs, one
# after the other, make 2**n names. (A. Joux, Multicollisions in iterated hash functions, 2004)


def crc32_step(state, text):
    return zlib.crc32(text.encode("ascii"), state) & M32


def fnv_step(state, text):
    for letter in text:
        state = (state ^ ord(letter)) * 0x01000193 & M32
    return state


def python2_step(state, text):
    for letter in text:
        state = (1000003 * state & M32) ^ ord(letter)
    return state


def fnv(name):
    return fnv_step(0x811C9DC5, name)


def python2_hash(name):
    """The low half of what ``hash`` is on Python 2.7 (of text, without -R)."""
    return python2_step(ord(name[0]) << 7, name) ^ len(name)


def crc32(name):
    return zlib.crc32(name.encode("ascii")) & M32


def pair_of_blocks(step, state, rnd):
    """Two blocks of six letters that lead from ``state`` to one next state; that state."""
    endings = ["".join(rnd.choice(LETTERS) for _ in range(3)) for _ in range(1000)]
    seen = {}
    while True:
        beginning = "".join(rnd.choice(LETTERS) for _ in range(3))
        middle = step(state, beginning)
        for ending in endings:
            end = step(middle, ending)
            block = beginning + ending
            if seen.setdefault(end, block) != block:
                return seen[end], block, end


def chained(step, start, begin, count, rnd):
    """``count`` names that begin with ``begin`` and have one hash."""
    state = step(start, begin)
    names = [begin]
    while len(names) < count:
        one, two, state = pair_of_blocks(step, state, rnd)
        names = [name + block for name in names for block in (one, two)]
    return rnd.sample(names, count)


def filtered(function, begin, count, rnd):
    """``count`` names whose hash has the same low 7 bits: of 128 buckets they fill one."""
    names = []
    offset = rnd.randrange(10 ** 9)
    while len(names) < count:
        offset += 1
        name = "{0}{1}".format(begin, offset)
        if not function(name) & 127:
            names.append(name)
    return names


OTHER_KEY = struct.pack("=Q", 0x0123456789ABCDEF)


def under_another_key(name):
    """What a segment with OTHER_KEY would make of it (``Segment.hash``)."""
    digest = hashlib.sha256(OTHER_KEY + name.encode("ascii")).digest()
    return struct.unpack(str("=Q"), digest[:8])[0]


FAMILIES = {
    "crc32": (crc32, M32, lambda *a: chained(crc32_step, 0, *a)),
    "FNV-1a": (fnv, M32, lambda *a: chained(fnv_step, 0x811C9DC5, *a)),
    "hash of 2.7": (
        python2_hash,
        M32,
        lambda begin, *a: chained(python2_step, ord(begin[0]) << 7, begin, *a),
    ),
    "hash of this Python": (hash, 127, lambda *a: filtered(hash, *a)),
    "the segment's under another key": (
        under_another_key,
        127,
        lambda *a: filtered(under_another_key, *a),
    ),
}
"""Name of a hash function to (the function, the bits in which names collide, their maker)."""


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_names_collide(family):
    function, bits, make = FAMILIES[family]
    names = make("x.", 64, random.Random(1))
    assert len(set(names)) == 64
    assert len({function(name) & bits for name in names}) == 1
    # A hash with a key that nobody knows scatters them: that of a segment.
    scattered = {hashlib.sha256(b"unknown" + name.encode("ascii")).digest()[0] for name in names}
    assert len(scattered) > 40


def test_own_hash_is_the_one_that_was_attacked(prefix):
    """``under_another_key`` is what a segment does with its own key."""
    with IPCChannelLayer(prefix) as layer:
        segment = layer._stores.messages._segment
        digest = hashlib.sha256(segment._key + b"http.request").digest()
        assert segment.hash(b"http.request") == struct.unpack(str("=Q"), digest[:8])[0]
        assert len(segment._key) == len(OTHER_KEY)
        assert segment._key != OTHER_KEY


def flood(layer, names):
    """Keep a message in as many channels, and a member in as many groups."""
    for number, name in enumerate(names):
        layer.send(name, {})
        layer.group_add(name, names[number - 1])


def operations(layer, names):
    """Functions of a name that was never used before, by what they do."""
    layer.group_add("known", "known!a")

    def send_and_receive(name):
        layer.send(name, {"n": 1})
        layer.receive([name])

    def join_and_leave(name):
        layer.group_add(name, name)
        layer.group_discard(name, name)

    def send_to_group(name):
        layer.group_add("known", name)
        layer.send_group("known", {"n": 1})
        layer.receive([name])
        layer.receive(["known!"])
        layer.group_discard("known", name)

    def ask_for_nothing(name):
        layer.receive([name])
        layer.group_channels(name)

    return send_and_receive, join_and_leave, send_to_group, ask_for_nothing


def median(values):
    return sorted(values)[len(values) // 2]


def time_each(operation, names):
    times = []
    for name in names:
        begun = time.time() if six.PY2 else time.perf_counter()
        operation(name)
        times.append((time.time() if six.PY2 else time.perf_counter()) - begun)
    return median(times)


def slowdown(hostile, ordinary, victims, rounds):
    """By operation: how much longer it takes on the hostile segment, as a median of rounds.

    The two take turns; each has names of its own of the same kinds, each used once.
    """
    ratios = {}
    share = len(victims) // (rounds * 8)
    assert share >= 20
    victims = iter(victims)
    pairs = list(zip(operations(hostile, victims), operations(ordinary, victims)))
    for _ in range(rounds):
        for here, there in pairs:
            mine = [next(victims) for _ in range(share)]
            others = [next(victims) for _ in range(share)]
            ratio = time_each(here, mine) / time_each(there, others)
            ratios.setdefault(here.__name__, []).append(ratio)
    return {name: median(values) for name, values in ratios.items()}


def ordinary_names(count, rnd):
    """As long as the others are, and as random."""
    return [
        "".join(rnd.choice(LETTERS) for _ in range(40)) + str(number) for number in range(count)
    ]


def collide(hostile, ordinary, families, count, victims, rnd):
    """Flood one with names that collide and one with others; the slowdown of yet others.

    Half of those that are measured collide with the flood as well, the other half are ordinary.
    """
    names, targets = [], []
    for family in families:
        made = FAMILIES[family][2]("v.", count + victims, rnd)
        rnd.shuffle(made)
        names += made[:count]
        targets += made[count:]
    flood(hostile, names)
    flood(ordinary, ordinary_names(len(names), rnd))
    targets += ordinary_names(len(targets), rnd)
    rnd.shuffle(targets)
    return slowdown(hostile, ordinary, targets, rounds=7)


@contextlib.contextmanager
def two_layers(prefix):
    """Layers of two prefixes: one to be flooded, one to compare with."""
    prefixes = [prefix + "-hostile", prefix + "-ordinary"]
    options = {"capacity": 10 ** 6, "group_memory": 40 * MIB}
    try:
        layers = [IPCChannelLayer(name, **options) for name in prefixes]
        yield layers
        assert [layer.check() for layer in layers] == [[], []]
        for layer in layers:
            layer.close()
    finally:
        for name in prefixes:
            core.unlink(name)


def told(found):
    return json.dumps({name: round(value, 2) for name, value in sorted(found.items())})


@pytest.mark.slow
def test_colliding_names_do_not_slow_others_down(prefix, campaign):
    """All families at once, tens of thousands of names; in full also each of them alone."""
    floods = [(sorted(FAMILIES), 4400, 120)]
    floods += campaign.amount([], [([family], 25000, 1500) for family in sorted(FAMILIES)])
    for families, count, victims in floods:
        with two_layers(prefix) as (hostile, ordinary):
            found = collide(hostile, ordinary, families, count, victims, campaign.random)
        campaign.note("{0}: slower by {1}".format(" and ".join(families), told(found)))
        assert max(found.values()) < 1.5


@pytest.mark.slow
def test_a_hash_that_can_be_flooded_would_be_noticed(prefix, monkeypatch, campaign):
    """The same measurement, were the segment's hash CRC-32."""
    monkeypatch.setattr(Segment, "hash", lambda self, data: zlib.crc32(data) & M32 or 1)
    with two_layers(prefix) as (hostile, ordinary):
        found = collide(hostile, ordinary, ["crc32"], 800, 600, campaign.random)
    campaign.note("slower by " + told(found))
    assert max(found.values()) > 2


# -- messages that are carried ------------------------------------------------------------------


def nested(levels, kind=list):
    value = "bottom"
    for _ in range(levels):
        value = {"k": value} if kind is dict else kind([value])
    return value


class Table(dict):
    pass


CARRIED = {
    "int limits": {"least": -(2 ** 63), "most": 2 ** 64 - 1, "around": [2 ** 63, -(2 ** 31) - 1]},
    "floats": {"inf": [float("inf"), -float("inf")], "zero": -0.0, "tiny": 5e-324, "huge": 1e308},
    "not a number": {"nan": float("nan")},
    "NUL": {"text\0": "a\0b", "bytes": b"\0\1\0"},
    "all of Unicode": {"text": "\u0000\u007f\u0080\u07ff\uffff\U00010000\U0010ffff"},
    "deep": {"lists": nested(MAX_DEPTH - 1), "n": 1},
    "deep dicts": nested(MAX_DEPTH, dict),
    "a million of text": {"text": "x" * MIB},
    "a million of bytes": {"bytes": bytes(bytearray(range(256))) * (MIB // 256)},
    "a million of two-byte text": {"text": "\u00e9" * (MIB // 2)},
    "a long list": {"list": list(range(100)) * 2000},
    "a wide dict": {str(number): number for number in range(50000)},
    "keys of all kinds": {7: "int", None: "none", True: "bool", b"b": "bytes", 1.5: "float"},
    "empty": {"": "", "list": [], "dict": {}, "bytes": b"", "none": None},
}
"""What arrives as it was sent, by what it is."""


def alike(one, other):
    """Equal, and of one type; a NaN is like another."""
    if isinstance(one, float) and isinstance(other, float):
        return struct.pack(str("=d"), one) == struct.pack(str("=d"), other) or (
            math.isnan(one) and math.isnan(other)
        )
    if isinstance(one, six.integer_types) and isinstance(other, six.integer_types):
        return one == other and isinstance(one, bool) == isinstance(other, bool)
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, dict):
        return set(one) == set(other) and all(alike(one[key], other[key]) for key in one)
    return one == other


def take(prefix):
    """Receive all of one channel."""
    with IPCChannelLayer(prefix, capacity=10 ** 6) as layer:
        found = []
        while True:
            channel, message = layer.receive(["carried"])
            if channel is None:
                return found
            found.append(message)


def test_what_is_carried_arrives_in_another_process(layer, prefix):
    kinds = sorted(CARRIED)
    for kind in kinds:
        layer.send("carried", CARRIED[kind])
    arrived = in_child(take, prefix)
    assert [alike(got, CARRIED[kind]) for got, kind in zip(arrived, kinds)] == [True] * len(kinds)
    assert len(arrived) == len(kinds)


def test_what_is_carried_reaches_a_group(layer):
    channels = ["one", "two!a", "two!b", "three?x"]
    for channel in channels:
        layer.group_add("g", channel)
    for kind in sorted(CARRIED):
        layer.send_group("g", CARRIED[kind])
        found = dict(layer.receive(["one", "two!", "three?x"]) for _ in channels)
        assert sorted(found) == sorted(channels)
        assert all(alike(message, CARRIED[kind]) for message in found.values()), kind


ECHO = """
import sys
from asgi_ipc import IPCChannelLayer

with IPCChannelLayer(sys.argv[1], capacity=1000, block_timeout=20) as layer:
    for _ in range(int(sys.argv[2])):
        channel, message = layer.receive([u"there"], block=True)
        layer.send(u"back", message)
        layer.send_group(u"g", message)
"""


@pytest.mark.slow
def test_what_is_carried_goes_through_every_other_python(layer, prefix, tmpdir, campaign):
    """There and back: another version of Python, of msgpack, of posix_ipc."""
    environment = layer_environment(tmpdir)
    pythons = equipped_interpreters(environment)
    if not pythons:
        pytest.skip("needs environments of other Pythons beside this one, or in .tox")
    script = str(tmpdir.join("echo.py"))
    with open(script, "w") as file:
        file.write(str(ECHO))
    layer.group_add("g", "back!a")
    kinds = sorted(CARRIED)
    for python in pythons:
        for kind in kinds:
            layer.send("there", CARRIED[kind])
        subprocess.check_call([python, script, prefix, str(len(kinds))], env=environment)
        for kind in kinds:
            for channel in ("back", "back!"):
                name, message = layer.receive([channel])
                assert name is not None
                assert alike(message, CARRIED[kind]), (python, kind)
        assert layer.receive(["back", "back!", "there"]) == (None, None)
    campaign.note("{0} kinds through {1} other Pythons".format(len(kinds), len(pythons)))


# -- messages that are refused ------------------------------------------------------------------


def circular(kind):
    value = kind()
    if kind is dict:
        value["again"] = value
    else:
        value.append(value)
    return value


class Repr(object):
    """Whoever shows it, fails."""

    def __repr__(self):
        raise RuntimeError("no repr")

    __str__ = __repr__


class ReprIsLong(object):
    def __repr__(self):
        return "y" * MIB


class ReprExits(object):
    """The worst that a bug in it could do, short of ending the process."""

    def __repr__(self):
        return 1

    @property
    def __class__(self):
        raise RuntimeError("no class")


class Length(dict):
    """Says that it is longer than it is."""

    def __len__(self):
        return 5


class Short(dict):
    """Says that it is shorter than it is."""

    def __len__(self):
        return 1


class Changing(dict):
    """Has other items each time."""

    def items(self):
        self.count = getattr(self, "count", 0) + 1
        return [(number, object()) for number in range(self.count)]

    iteritems = items


class Failing(dict):
    def items(self):
        raise RuntimeError("no items")

    iteritems = keys = values = __iter__ = items


class NoPairs(dict):
    def items(self):
        return [1, 2, 3]

    iteritems = items


class Hash(object):
    def __hash__(self):
        return 1

    def __eq__(self, other):
        raise RuntimeError("no comparison")

    def __ne__(self, other):
        raise RuntimeError("no comparison")


class Text(six.text_type):
    def encode(self, *args):
        return b"\xff\xfe"


REFUSED = {
    "int beyond": {"a": 2 ** 64},
    "int below": {"a": {"b": -(2 ** 63) - 1}},
    "int far beyond": {"a": 10 ** 10000},
    "surrogate": {"a": "\ud800"},
    "surrogate as a key": {"\udfff": 1},
    "one level too deep": nested(MAX_DEPTH + 1, dict),
    "far too deep": {"a": nested(100000)},
    "far too deep, tuples": {"a": nested(100000, tuple)},
    "a list in itself": {"a": circular(list)},
    "a dict in itself": {"a": circular(dict)},
    "itself": circular(dict),
    "a set": {"a": {1}},
    "an object": {"a": object()},
    "a function": {"a": len},
    "a type": {"a": dict},
    "a generator": {"a": (number for number in [1])},
    "an iterator": {"a": iter([1])},
    "complex": {"a": 1j},
    "a module": {"a": os},
    "a key that is a tuple": {(1, 2): 1},
    "a hostile repr": {"a": [1, Repr()]},
    "a hostile repr as a key": {Repr(): 1},
    "a long repr": {"a": ReprIsLong()},
    "no class": {"a": ReprExits()},
    "too long": Length(a=1),
    "too short": {"a": Short(a=1, b=2, c=3)},
    "changing": {"a": Changing(a=1)},
    "failing": {"a": Failing(a=1)},
    "failing itself": Failing(a=1),
    "no pairs": {"a": NoPairs(a=1)},
    "a hostile comparison": {Hash(): 1, "a": 1},
    "the reserved key": {"__asgi_channel__": "x"},
    "no dict": [1],
    "none": None,
    "text": "text",
    "bytes": b"bytes",
}
"""What cannot travel, by what it is."""


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_what_cannot_travel_is_refused_where_it_is_sent(layer, kind):
    """And leaves no trace: what was sent before and is sent after arrives, and nothing else."""
    layer.group_add("g", "carried")
    layer.group_add("g", "p!a")
    layer.send("carried", {"n": 1})
    for send in (
        lambda message: layer.send("carried", message),
        lambda message: layer.send("p!a", message),
        lambda message: layer.send_group("g", message),
    ):
        with pytest.raises(TypeError) as caught:
            send(REFUSED[kind])
        text = str(caught.value)
        assert "message" in text
        assert len(text) < 1000
    layer.send("carried", {"n": 2})
    assert [layer.receive(["carried"]) for _ in range(3)] == [
        ("carried", {"n": 1}),
        ("carried", {"n": 2}),
        (None, None),
    ]
    assert layer.receive(["p!"]) == (None, None)
    assert layer.global_statistics()["messages_count"] == 2


@pytest.mark.skipif(six.PY2, reason="Python 2 has to look at each value of such a message")
def test_bytes_that_look_like_a_surrogate_cost_as_much_as_others(layer):
    """In UTF-8 a surrogate begins so; a client may send what bytes it likes."""
    times = {}
    for _ in range(5):
        for start in (b"\xee\xa0", b"\xed\xa0"):
            message = {"bytes": start * 10, "list": ["x"] * 2000}
            begun = time.time()
            for _ in range(10):
                layer.send("carried", message)
            times.setdefault(start, []).append(time.time() - begun)
    assert median(times[b"\xed\xa0"]) < 20 * median(times[b"\xee\xa0"])


def test_text_that_lies_about_itself_arrives_as_it_is(layer):
    layer.send("carried", {"a": Text("good"), Text("key"): 1})
    assert layer.receive(["carried"]) == ("carried", {"a": "good", "key": 1})


def test_too_large_whatever_it_is_made_of(prefix):
    with IPCChannelLayer(prefix, message_memory=2 * MIB, max_message_size=MIB) as layer:
        layer.group_add("g", "carried")
        layer.send("carried", {"n": 1})
        for message in (
            {"text": "x" * MIB},
            {"bytes": b"x" * MIB},
            {"list": [1000] * MIB},
            {str(number): "some text" for number in range(100000)},
            {"list": [["x" * 100] * 100] * 110},
        ):
            for send, name in ((layer.send, "carried"), (layer.send_group, "g")):
                with pytest.raises(layer.MessageTooLarge) as caught:
                    send(name, message)
                assert "max_message_size={0}".format(MIB) in str(caught.value)
        assert layer.receive(["carried"]) == ("carried", {"n": 1})
        assert layer.receive(["carried"]) == (None, None)
        assert layer.check() == []


def test_a_message_that_is_changed_while_it_is_sent_arrives_whole_or_not(layer):
    """By another thread: what arrives was made of the items it had, or it is refused."""
    message = {str(number): number for number in range(500)}
    stop = []

    def change():
        rnd = random.Random(1)
        while not stop:
            key = str(rnd.randrange(10000))
            if message.pop(key, None) is None and len(message) < 1000:
                message[key] = int(key)

    thread = threading.Thread(target=change)
    thread.start()
    sent = 0
    texts = []
    try:
        for _ in range(300):
            try:
                layer.send("carried", message)
                sent += 1
            except TypeError as error:
                texts.append(str(error))
    finally:
        stop.append(1)
        thread.join()
    assert all(text.startswith("message") for text in texts)
    for _ in range(sent):
        _, found = layer.receive(["carried"])
        assert all(str(value) == key for key, value in found.items())
    assert layer.receive(["carried"]) == (None, None)


# -- near the end of the stack -------------------------------------------------------------------


def depth():
    frame, count = sys._getframe(), 0
    while frame is not None:
        frame, count = frame.f_back, count + 1
    return count


def with_frames_left(left, call):
    """Call with so many frames until the recursion limit; the name of what it raised."""
    limit = sys.getrecursionlimit()
    lowest = depth() + left
    try:
        sys.setrecursionlimit(lowest)
        call()
    except Exception as error:
        # RecursionError, or what C code makes of it.
        return type(error).__name__
    finally:
        sys.setrecursionlimit(limit)
    return ""


def exhaust(layer):
    """Use the layer at every distance from the end of the stack; what was raised by sends."""
    endings = []
    for left in range(3, 60):
        endings.append(with_frames_left(left, lambda: layer.send("x", {"n": 1})))
        name = "c{0}".format(left)
        joined = with_frames_left(left, lambda name=name: layer.group_add("g", name))
        with_frames_left(left, lambda: layer.group_discard("g", "none"))
        with_frames_left(left, lambda: layer.send_group("nobody", {"n": 1}))
        with_frames_left(left, lambda: layer.receive(["nothing"], block=True))
        assert layer.check() == []
        assert joined or name in layer.group_channels("g")
    return endings


def print_exhausted(prefix):
    """In a process of its own: the limit is that of all threads, pytest's as well."""
    with IPCChannelLayer(prefix, block_timeout=0.01) as layer:
        print(json.dumps(exhaust(layer)))


def test_the_end_of_the_stack_at_every_depth(layer):
    """A recursion that goes too far inside a call: done or not done, and all works after it."""
    code = "import sys, test_hostile; test_hostile.print_exhausted(sys.argv[1])"
    output = subprocess.check_output(
        [sys.executable, "-c", code, layer.prefix],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
    )
    endings = json.loads(output.decode("ascii"))
    assert endings[0]
    assert not endings[-1]
    # What was refused for want of stack may have been done: it cannot be undone then.
    found = 0
    while layer.receive(["x"])[0]:
        found += 1
    assert endings.count("") <= found <= len(endings)


# -- names ---------------------------------------------------------------------------------------


def uses_of_channels(layer):
    """Every public method that takes the name of a channel, by its name."""
    uses = {
        "send": lambda name: layer.send(name, {"n": 1}),
        "group_add": lambda name: layer.group_add("g", name),
        "group_discard": lambda name: layer.group_discard("g", name),
        "channel_statistics": layer.channel_statistics,
        "valid_channel_name": layer.valid_channel_name,
    }
    return dict(uses, **uses_of_lists(layer))


def uses_of_lists(layer):
    uses = {
        "receive": lambda name: layer.receive([name]),
        "receive, blocking": lambda name: layer.receive([name], block=True),
        "receive among others": lambda name: layer.receive(["good", name, "good.too"]),
        "receive_many": lambda name: layer.receive_many([name]),
    }
    if twisted_available():
        uses["receive_twisted"] = lambda name: layer.receive_twisted([name])
    return uses


def uses_of_groups(layer):
    return {
        "group_add": lambda name: layer.group_add(name, "channel"),
        "group_discard": lambda name: layer.group_discard(name, "channel"),
        "group_channels": layer.group_channels,
        "send_group": lambda name: layer.send_group(name, {"n": 1}),
        "valid_group_name": layer.valid_group_name,
    }


@pytest.fixture
def untouched(layer):
    """The layer, which has one message and one membership before the test and after it."""
    layer.send("good", {"n": 0})
    layer.group_add("g", "good")
    yield layer
    assert layer.receive(["good"]) == ("good", {"n": 0})
    assert layer.group_channels("g") == ["good"]
    assert layer.global_statistics()["messages_count"] == 1
    groups = layer._stores.groups.statistics()
    assert (groups["groups"], groups["memberships"]) == (1, 1)


@pytest.mark.filterwarnings("ignore:receive_many")
@pytest.mark.parametrize("name", BAD_CHANNELS, ids=identify)
def test_wrong_channel_names_are_refused_everywhere(untouched, name):
    for use, call in uses_of_channels(untouched).items():
        with pytest.raises(TypeError) as caught:
            call(name)
        assert "A channel name is text of 1 to 99 characters" in str(caught.value), use


@pytest.mark.filterwarnings("ignore:receive_many")
@pytest.mark.parametrize("name", ["p!a", "a.b!c.d"])
def test_names_of_others_cannot_be_received_from(untouched, name):
    for use, call in uses_of_lists(untouched).items():
        with pytest.raises(TypeError) as caught:
            call(name)
        assert "must end at its '!'" in str(caught.value), use


@pytest.mark.parametrize("name", BAD_GROUPS, ids=identify)
def test_wrong_group_names_are_refused_everywhere(untouched, name):
    for use, call in uses_of_groups(untouched).items():
        with pytest.raises(TypeError) as caught:
            call(name)
        assert "A group name is text of 1 to 99 characters" in str(caught.value), use


@pytest.mark.filterwarnings("ignore:receive_many")
@pytest.mark.parametrize("names", [None, 7, "good", b"good", [], (), {}, [[]], [None], object()])
def test_what_is_no_list_of_names_is_refused_everywhere(untouched, names):
    for call in (untouched.receive, untouched.receive_many):
        with pytest.raises(TypeError) as caught:
            call(names)
        assert "name" in str(caught.value)


class Name(six.text_type):
    """Text that answers otherwise than text does."""

    def encode(self, *args):
        return b"other\0\n!"

    def find(self, *args):
        return 3

    def __getitem__(self, index):
        return "x/../y"

    def __str__(self):
        return "liar"

    def __len__(self):
        return 5

    def endswith(self, *args):
        return True


def test_names_that_lie_are_taken_for_the_text_they_are(layer, prefix):
    name, group = Name("pro.cess!local"), Name("group")
    layer.send(name, {"n": 1})
    layer.group_add(group, name)
    with IPCChannelLayer(prefix) as other:
        assert other.group_channels("group") == ["pro.cess!local"]
        assert other.receive(["pro.cess!"]) == ("pro.cess!local", {"n": 1})
        layer.send_group(group, {"n": 2})
        other.send_group("group", {"n": 3})
        assert [other.receive(["pro.cess!"]) for _ in range(3)] == [
            ("pro.cess!local", {"n": 2}),
            ("pro.cess!local", {"n": 3}),
            (None, None),
        ]
        layer.group_discard(group, name)
        assert other.group_channels("group") == []
