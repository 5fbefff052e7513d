"""Messages to bytes and back, and what is refused, with every msgpack from 0.5.6 on."""
import collections
import datetime
import decimal
import gc
import math
import threading
import uuid

import msgpack
import pytest
import six

from asgi_ipc import codec
from asgi_ipc.codec import MAX_DEPTH, pack, unpack

try:
    from enum import IntEnum
except ImportError:  # Python 2.7
    IntEnum = None

BASE_TYPES = (
    (type(None), bool, float, six.text_type, bytes, list, dict) + six.integer_types
)


class Text(six.text_type):
    """As Django's SafeText: operations on it give it again."""

    def __str__(self):
        return self

    def __getitem__(self, index):
        return Text(six.text_type.__getitem__(self, index))


class Bytes(bytes):
    pass


class Array(bytearray):
    pass


class Whole(int):
    pass


class Real(float):
    pass


class Row(list):
    pass


class Table(dict):
    pass


class Key(dict):
    """A dict that can be a key."""

    __hash__ = object.__hash__


Pair = collections.namedtuple("Pair", "left right")
Color = IntEnum("Color", "RED GREEN") if IntEnum else Whole


def assert_base(value):
    """Nothing of a subclass is left anywhere in value."""
    assert type(value) in BASE_TYPES
    if type(value) is dict:
        for key, inner in value.items():
            assert_base(key)
            assert_base(inner)
    elif type(value) is list:
        for inner in value:
            assert_base(inner)


def trip(value):
    """value, sent as the value of a key."""
    return unpack(pack({u"value": value}))[u"value"]


def exact(value):
    """value with its types: ``==`` takes True for 1, b"a" for u"a" on 2.7, and NaN for nothing."""
    if isinstance(value, dict):
        entries = {exact(key): exact(inner) for key, inner in value.items()}
        return type(value), len(value), entries
    if isinstance(value, list):
        return type(value), [exact(inner) for inner in value]
    if isinstance(value, six.integer_types) and not isinstance(value, bool):
        return int, value
    return type(value), repr(value) if isinstance(value, float) else value


def same(one, other):
    return exact(one) == exact(other)


def nested(levels, kind):
    """A message of that many levels of dicts or lists, itself being the first."""
    value = u"end"
    for _ in range(levels - 1):
        value = [value] if kind is list else {u"k": value}
    return {u"k": value}


def refusal(message):
    with pytest.raises(TypeError) as caught:
        pack(message)
    return str(caught.value)


def place(*steps):
    """The path as this Python writes it (u'' on 2.7)."""
    return "message" + "".join("[%r]" % (step,) for step in steps) + ": "


# -- what travels ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        -1,
        127,
        128,
        -32,
        -33,
        2**31,
        -(2**31),
        2**63 - 1,
        2**63,
        2**64 - 1,
        -(2**63),
        0.0,
        -0.5,
        1e308,
        float("inf"),
        float("-inf"),
        u"",
        u"text",
        u"\u00a3 \u20ac \U0001f612 \ud55c\uad6d",
        u"\x00\x01\x7f",
        b"",
        b"bytes",
        b"\xc2\xa3\xff\x00",
        b"\xed\xa0\x80",
        [],
        {},
        [1, [2, [3, {u"four": [5]}]]],
        {u"a": {u"b": {u"c": [None, True, b"", u""]}}},
        u"x" * 40,
        u"x" * 300,
        u"x" * 70000,
        list(range(20)),
        list(range(70000)),
        {number: number for number in range(40000)},
    ],
    ids=lambda value: repr(value)[:24],
)
def test_base_types_arrive_as_they_were(value):
    assert same(trip(value), value)


def test_nan_arrives():
    assert math.isnan(trip(float("nan")))


@pytest.mark.parametrize("key", [u"text", u"\u20ac", b"bytes", 1, -1, 2**64 - 1, 1.5, True, None])
def test_keys(key):
    for message in ({key: u"x"}, {u"deep": [{key: u"x"}]}):
        assert same(unpack(pack(message)), message)


def test_one_key_of_each_type():
    message = {u"a": 1, 1: 2, None: 3, 2.5: 4, b"b": 5, False: 6}
    assert same(unpack(pack(message)), message)


@pytest.mark.parametrize(
    "value, arrives",
    [
        ((), []),
        ((1, (2, b"x"), [3]), [1, [2, b"x"], [3]]),
        (Pair(1, u"r"), [1, u"r"]),
        (Row([1, Row([2])]), [1, [2]]),
        (Table(a=Table(b=(1,))), {"a": {"b": [1]}}),
        (collections.OrderedDict([(u"z", 1), (u"a", 2)]), {u"z": 1, u"a": 2}),
        (collections.defaultdict(list, {u"k": [1]}), {u"k": [1]}),
        (collections.Counter([u"x", u"x"]), {u"x": 2}),
        (Text(u"\u20ac safe"), u"\u20ac safe"),
        (Bytes(b"\xff"), b"\xff"),
        (Whole(7), 7),
        (Whole(-7), -7),
        (Color(2), 2),
        (Real(1.5), 1.5),
        (bytearray(b"\x00\xff"), b"\x00\xff"),
        (Array(b"\x00\xff"), b"\x00\xff"),
        (memoryview(b"\x00\xff"), b"\x00\xff"),
        (memoryview(b"0123456789")[2:5], b"234"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_subclasses_arrive_as_their_base_type(value, arrives):
    for message, expected in (
        ({u"v": value}, {u"v": arrives}),
        ({u"v": [{u"w": value}]}, {u"v": [{u"w": arrives}]}),
    ):
        result = unpack(pack(message))
        assert same(result, expected)
        assert_base(result)


def test_subclasses_as_keys():
    result = unpack(pack({Text(u"t"): 1, Whole(3): 2, Bytes(b"b"): 3, Real(0.5): 4}))
    assert same(result, {u"t": 1, 3: 2, b"b": 3, 0.5: 4})
    assert_base(result)


@pytest.mark.skipif(six.PY2, reason="a memoryview is not hashable there")
def test_memoryview_as_key():
    assert unpack(pack({u"m": {memoryview(b"k"): 1}})) == {u"m": {b"k": 1}}


def test_message_may_be_a_dict_subclass():
    result = unpack(pack(collections.OrderedDict([(u"b", 1), (u"a", (2,))])))
    assert same(result, {u"b": 1, u"a": [2]})
    assert_base(result)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 8, 16, 17, 300, 70000])
def test_ext_type_arrives(size):
    for code in (0, 42, 127):
        value = msgpack.ExtType(code, b"\x01" * size)
        arrived = trip(value)
        assert type(arrived) is msgpack.ExtType
        assert arrived == value
        assert unpack(pack({u"a": {value: (1,)}}))[u"a"] == {value: [1]}


def test_ext_type_subclass_arrives_as_ext_type():
    class Mine(msgpack.ExtType):
        pass

    arrived = trip(Mine(5, b"x"))
    assert type(arrived) is msgpack.ExtType
    assert arrived == msgpack.ExtType(5, b"x")


@pytest.mark.skipif(not hasattr(msgpack, "Timestamp"), reason="msgpack before 1.0 has none")
def test_timestamp_arrives():
    for seconds in (0, 1, 2**32, 2**34, 2**63 - 1, -1, -(2**63)):
        for nanoseconds in (0, 1, 999999999):
            value = msgpack.Timestamp(seconds, nanoseconds)
            assert trip(value) == value
    text = refusal({u"when": [msgpack.Timestamp(2**70, 0)]})
    assert text.startswith(place(u"when", 0) + "a Timestamp cannot be sent")


def test_large_payloads():
    message = {
        u"text": u"t" * (3 << 20),
        u"bytes": b"b" * (27 << 20),
        u"list": list(range(200000)),
        u"pair": (1, 2),
    }
    result = unpack(pack(message))
    assert result.pop(u"pair") == [1, 2]
    message.pop(u"pair")
    assert result == message


def test_buffers_unpack():
    data = pack({u"a": b"b"})
    assert unpack(bytearray(data)) == {u"a": b"b"}
    assert unpack(memoryview(b"--" + data)[2:]) == {u"a": b"b"}


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x82\xa1a\x01", b"\x80\x80", b"\x81\xa1\xff\x01"])
def test_foreign_bytes_are_a_value_error(data):
    with pytest.raises(ValueError):
        unpack(data)


def test_message_is_neither_kept_nor_changed():
    inner = [1, (2, 3)]
    message = {u"list": inner, u"ordered": collections.OrderedDict(a=Text(u"x"))}
    copy = dict(message)
    data = pack(message)
    inner[0] = u"changed"
    assert unpack(data)[u"list"] == [1, [2, 3]]
    assert message == copy
    assert type(message[u"ordered"]) is collections.OrderedDict
    assert type(inner[1]) is tuple
    one, other = unpack(data), unpack(data)
    assert one[u"list"] is not other[u"list"]


# -- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize("message", [None, [], (), u"text", b"bytes", 1, object(), [(u"a", 1)]])
def test_message_must_be_a_dict(message):
    assert "a message is a dict, not a" in refusal(message)


@pytest.mark.parametrize("kind", [dict, Table, collections.OrderedDict])
def test_reserved_key(kind):
    text = refusal(kind({u"__asgi_channel__": u"x"}))
    assert text.startswith("message['__asgi_channel__']: this key is reserved")
    assert unpack(pack({u"deep": {u"__asgi_channel__": 1}}))


@pytest.mark.parametrize(
    "value, says",
    [
        ({1}, "a set cannot be sent; what can is"),
        (frozenset(), "a frozenset cannot be sent"),
        (object(), "an object cannot be sent"),
        (object, "a type cannot be sent"),
        (datetime.datetime(2020, 1, 1), "a datetime cannot be sent"),
        (datetime.date(2020, 1, 1), "a date cannot be sent"),
        (decimal.Decimal("1.5"), "a Decimal cannot be sent"),
        (uuid.UUID(int=1), "an UUID cannot be sent"),
        (1j, "a complex cannot be sent"),
        (len, "cannot be sent"),
        (2**64, "an int cannot be sent that does not fit 64 bits"),
        (-(2**63) - 1, "an int cannot be sent that does not fit 64 bits"),
        (2**1000, "an int cannot be sent that does not fit 64 bits"),
        (u"a\ud800b", "text with a lone surrogate cannot be sent"),
        (u"\udfff", "text with a lone surrogate cannot be sent"),
        (Text(u"\udc80"), "text with a lone surrogate cannot be sent"),
        (memoryview(b"012345")[::2] if six.PY3 else set(), "cannot be sent"),
    ],
    ids=lambda value: repr(type(value)) if not isinstance(value, str) else "",
)
def test_refusals_name_the_path(value, says):
    for steps, message in (
        ((u"v",), {u"ok": 1, u"v": value}),
        ((u"user", u"tags", 2), {u"user": {u"tags": [1, u"two", value]}}),
        ((u"pair", 1, 0), {u"pair": (1, (value,))}),
        ((u"o", Text(u"row"), 0), {u"o": collections.OrderedDict({u"row": Row([value])})}),
        ((b"raw", 7), {b"raw": {7: value}}),
    ):
        text = refusal(message)
        assert text.startswith(place(*steps)), text
        assert says in text


@pytest.mark.parametrize(
    "key, says",
    [
        ((1, 2), "is a tuple, which arrives as a list, and that cannot be a key; use text"),
        ((), "is a tuple"),
        (Pair(1, 2), "is a Pair, which arrives as a list"),
        (Key(a=1), "is a Key, which arrives as a dict"),
        (frozenset(), "a frozenset cannot be sent"),
        (2**64, "does not fit 64 bits"),
        (u"\ud800", "lone surrogate"),
        (datetime.date(2020, 1, 1), "a date cannot be sent"),
        (Color, "cannot be sent"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_refused_keys_name_the_path(key, says):
    for steps, message in (
        ((), {key: 1}),
        ((u"a", 1), {u"a": [{u"fine": 1}, {key: 1}]}),
        ((u"a",), {u"a": collections.OrderedDict([(key, 1)])}),
    ):
        text = refusal(message)
        assert text.startswith(place(*steps) + "the key "), text
        assert says in text


def test_tuples_as_values_beside_a_tuple_as_key():
    message = {u"headers": [(b"host", b"x")] * 20, u"cookies": {(u"a", u"b"): 1}}
    assert refusal(message).startswith(place(u"cookies") + "the key ")


def test_ext_type_is_no_tuple():
    value = msgpack.ExtType(1, b"x")
    text = refusal({u"a": {value: value, 2: set()}})
    assert text.startswith(place(u"a", 2) + "a set cannot be sent")


def test_python_2_surrogate_pairs_are_no_lone_surrogates():
    # The bytes are those of a surrogate; the text has none.
    message = {u"emoji": u"\U0001f612", u"korean": u"\ud55c\uad6d\uc5b4", u"raw": b"\xed\xa0\x80"}
    assert unpack(pack(message)) == message


def test_cycles():
    loop = [1]
    loop.append({u"again": loop})
    text = refusal({u"a": loop})
    assert text.startswith(place(u"a", 1, u"again") + "a list cannot be sent that contains itself")
    message = {}
    message[u"me"] = (message,)
    assert "a dict cannot be sent that contains itself" in refusal(message)


def test_the_same_object_twice_is_no_cycle():
    shared = [1]
    assert unpack(pack({u"a": [shared, shared], u"b": shared})) == {u"a": [[1], [1]], u"b": [1]}


@pytest.mark.parametrize("kind", [list, dict])
def test_depth_limit(kind):
    deepest = nested(MAX_DEPTH, kind)
    assert unpack(pack(deepest)) == deepest
    for levels in (MAX_DEPTH + 1, MAX_DEPTH + 2, 400, 600, 1100, 5000):
        text = refusal(nested(levels, kind))
        assert "nested too deeply; a message has at most %d levels" % MAX_DEPTH in text
        assert len(text) < 400


def test_depth_limit_holds_for_tuples_and_wide_and_large_messages():
    deep = nested(MAX_DEPTH, list)[u"k"]
    for extra in ({}, {u"t": (1,)}, {u"rows": [{u"n": 1}] * 1000}, {u"file": b"x" * 100000}):
        message = dict(extra, deep=[deep])
        assert "nested too deeply" in refusal(message)
        message = dict(extra, deep=deep)
        assert unpack(pack(message))["deep"] == deep


def test_text_that_looks_like_many_levels_is_fine():
    message = {u"list": [u"\u0100\u0101" * 500], u"bytes": [b"\x91" * 1000]}
    assert unpack(pack(message)) == message


def test_error_of_foreign_code_is_told():
    def fail():
        raise RuntimeError("no items today")

    assert "no items today" in refusal({u"a": Interrupting(fail)})

    class Shy(object):
        def __repr__(self):
            raise RuntimeError("no repr today")

    assert refusal({u"a": Shy()}).startswith(place(u"a") + "a Shy cannot be sent")
    assert refusal({Shy(): 1}).startswith("message: the key <Shy>: a Shy cannot be sent")


def test_long_keys_are_shortened():
    text = refusal({u"k" * 1000: set()})
    assert len(text) < 300


# -- nothing harms the next ------------------------------------------------------------------

GOOD = {u"type": u"chat.message", u"text": u"hello world"}


def test_refusal_leaves_nothing_behind():
    for bad in ({u"a": u"kept?", u"b": set()}, {(1,): 2}, nested(2000, list), {u"a": 2**70}):
        refusal(bad)
        assert unpack(pack(GOOD)) == GOOD
        assert unpack(pack({u"t": (1,)})) == {u"t": [1]}


class Interrupting(dict):
    """Its items raise, or do as told, in the middle of a message."""

    def __init__(self, act):
        dict.__init__(self, a=1)
        self.act = act

    def items(self):
        self.act()
        return [(u"a", 1)]

    def iteritems(self):  # what pure Python msgpack calls on 2.7
        return iter(self.items())


def test_interrupted_pack_does_not_harm_the_next():
    def interrupt():
        raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            pack({u"before": u"x" * 100, u"now": Interrupting(interrupt)})
        assert unpack(pack(GOOD)) == GOOD


def test_pack_inside_pack():
    inner = []

    def send():
        inner.append(pack(GOOD))
        inner.append(pack(collections.OrderedDict(GOOD)))

    message = {
        u"before": u"x",
        u"now": Interrupting(send),
        u"then": u"y",
    }
    assert unpack(pack(message)) == {u"before": u"x", u"now": {u"a": 1}, u"then": u"y"}
    assert inner
    assert all(unpack(data) == GOOD for data in inner)


def test_finalizer_that_packs_inside_pack():
    packed = []

    class Finalized(object):
        def __init__(self):
            self.loop = self

        def __del__(self):
            packed.append(pack(GOOD))

    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(200):
            Finalized()
            message = {u"rows": [{u"a": [1], u"b": {}} for _ in range(5)]}
            assert unpack(pack(message)) == message
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    assert all(unpack(data) == GOOD for data in packed)
    if not six.PY2:  # where cycles with finalizers are never collected
        assert len(packed) == 200


def test_threads():
    faults = []

    def work(number):
        message = {u"n": number, u"t": (number,) * 5, u"s": u"x" * number}
        expected = {u"n": number, u"t": [number] * 5, u"s": u"x" * number}
        faults.extend(number for _ in range(2000) if unpack(pack(message)) != expected)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


def test_message_changed_while_it_is_packed():
    rows = [1]
    message = {u"v": Interrupting(lambda: rows.append(2)), u"rows": rows}
    assert unpack(pack(message))[u"rows"][0] == 1
    grown = {u"a": 0, u"v": Interrupting(lambda: grown.update({len(grown): 1}))}
    assert "message: it could not be packed" in refusal(grown)


def test_large_message_leaves_no_large_buffer():
    del codec._shelf[:]
    pack({u"file": b"x" * (4 << 20)})
    assert codec._shelf == []
    pack(GOOD)
    assert len(codec._shelf) == 1


# -- the whole, at random ----------------------------------------------------------------------


def test_refused_or_equal():
    hypothesis = pytest.importorskip("hypothesis")
    from hypothesis import strategies as st

    def hashable(key):
        return not any(isinstance(part, set) for part in (key if type(key) is tuple else [key]))

    leaves = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(min_value=-(2**63), max_value=2**64 - 1),
        st.floats(),
        st.text(),
        st.text(alphabet=u"a\u20ac\ud800\udfff"),
        st.binary(),
        st.builds(set),
    )
    keys = st.one_of(leaves, st.tuples(leaves, leaves)).filter(hashable)
    keys = st.one_of(keys, st.text(), st.text(), st.text())
    values = st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner),
            st.lists(inner).map(tuple),
            st.dictionaries(keys, inner),
            st.dictionaries(keys, inner).map(collections.OrderedDict),
        ),
        max_leaves=20,
    )

    def plain(value):
        if isinstance(value, (list, tuple)):
            return [plain(inner) for inner in value]
        if isinstance(value, dict):
            return {as_one(key): plain(inner) for key, inner in value.items()}
        return as_one(value)

    def as_one(value):
        # Python 2 has UTF-8 for a pair of surrogates, that of the character that they stand for.
        if six.PY2 and isinstance(value, six.text_type):
            return value.encode("utf-8").decode("utf-8")
        return value

    outcomes = collections.Counter()

    def everything(value):
        """All that is in value, keys too."""
        yield value
        if isinstance(value, dict):
            for key, inner in value.items():
                yield "key", key
                for deeper in everything(key):
                    yield deeper
                for deeper in everything(inner):
                    yield deeper
        elif isinstance(value, (list, tuple)):
            for inner in value:
                for deeper in everything(inner):
                    yield deeper

    def cannot(value):
        if isinstance(value, tuple) and value[:1] == ("key",) and len(value) == 2:
            return isinstance(value[1], tuple)
        if isinstance(value, six.text_type):
            return any(0xD800 <= ord(letter) <= 0xDFFF for letter in as_one(value))
        if isinstance(value, six.integer_types):
            return not -(2**63) <= value < 2**64
        return isinstance(value, set)

    @hypothesis.settings(
        deadline=None,
        max_examples=300,
        # On a busy machine it is.
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    @hypothesis.given(st.dictionaries(keys, values))
    @hypothesis.example({None: u"\ud800\udfff"})
    @hypothesis.example({u"\ud800\udfff": [u"\udfff\ud800"]})
    def check(message):
        if any(map(cannot, everything(message))):
            assert refusal(message).startswith("message")
            outcomes["refused"] += 1
        else:
            assert same(unpack(pack(message)), plain(message))
            outcomes["arrived"] += 1

    check()
    assert outcomes["refused"] > 10
    assert outcomes["arrived"] > 10
