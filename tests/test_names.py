"""Name rules, capacity patterns and the caches of names."""
import collections
import re
import threading

import pytest
import six

from asgi_ipc import names

GOOD_ANYWHERE = [u"a", u"http.request", u"A-Z_09.x", u".", u"-", u"x" * 99]
GOOD_CHANNELS = GOOD_ANYWHERE + [
    u"reply?a",
    u"http.response!",
    u"http.response!aB-9_.",
    u"a?.",
    u"a!-",
]

BAD_ANYWHERE = [
    u"",
    u"x" * 100,
    u"x" * 10000,
    u" ",
    u"a b",
    u"a/b",
    u"a:b",
    u"a*",
    u"name\n",
    u"\nname",
    u"name\x00",
    u"caf\u00e9",
    u"\u0661\u0662",  # digits, in Arabic
    u"a\u0967",
    u"\uff41",  # a letter, full width
    u"\U0001f612",
    u"\ud800",
    b"bytes" if six.PY3 else str("bytes"),
    bytearray(b"a"),
    None,
    0,
    1,
    True,
    1.5,
    (),
    (u"a",),
    [u"a"],
    [],
    {u"a": 1},
    set(),
    object(),
]
BAD_CHANNELS = BAD_ANYWHERE + [
    u"?",
    u"!",
    u"?a",
    u"!a",
    u"a?",
    u"a??b",
    u"a?b?",
    u"a?b?c",
    u"a!b!c",
    u"a!!",
    u"a?b!c",
    u"a!b?c",
    u"a!\n",
    u"a!b\n",
    u"a?b\n",
    u"a!\u0661",
    u"a?\u00e9",
    u"a!" + u"b" * 98,
]
BAD_GROUPS = BAD_ANYWHERE + [u"a?b", u"a!b", u"a!", u"a?", u"group\n"]


def identify(value):
    # Without addresses: every worker of pytest-xdist is to give a test the same name.
    text = ascii(value) if six.PY3 else repr(value)
    return text.split(" at 0x")[0][:30]


class Text(six.text_type):
    """As Django's SafeText: operations on it give it again."""

    def __str__(self):
        return self

    def __getitem__(self, index):
        return Text(six.text_type.__getitem__(self, index))


# -- single names ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOOD_CHANNELS, ids=identify)
def test_good_channel_names(name):
    assert names.channel_name(name) == name
    assert type(names.channel_name(name)) is six.text_type


@pytest.mark.parametrize("name", BAD_CHANNELS, ids=identify)
def test_bad_channel_names(name):
    for receive in (False, True):
        with pytest.raises(TypeError) as caught:
            names.channel_name(name, receive=receive)
        assert repr(name)[:100] in str(caught.value)
        assert "A channel name is text of 1 to 99 characters: ASCII letters" in str(caught.value)
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", GOOD_ANYWHERE, ids=identify)
def test_good_group_names(name):
    assert names.group_name(name) == name
    assert type(names.group_name(name)) is six.text_type


@pytest.mark.parametrize("name", BAD_GROUPS, ids=identify)
def test_bad_group_names(name):
    with pytest.raises(TypeError) as caught:
        names.group_name(name)
    assert repr(name)[:100] in str(caught.value)
    assert "A group name is text of 1 to 99 characters: ASCII letters" in str(caught.value)


def test_local_part_cannot_be_received_from():
    assert names.channel_name(u"a!", receive=True) == u"a!"
    assert names.channel_name(u"a?b", receive=True) == u"a?b"
    with pytest.raises(TypeError) as caught:
        names.channel_name(u"a!b", receive=True)
    assert repr(u"a!b") in str(caught.value)
    assert "must end at its '!'" in str(caught.value)


def test_text_subclass_becomes_plain_text():
    for result in (
        names.channel_name(Text(u"abc")),
        names.group_name(Text(u"abc")),
        names.channel_names([Text(u"never-seen")])[0],
        names.ChannelNames()[Text(u"abc")][0],
        list(names.GroupNames().__getitem__(Text(u"abc"))) and names.GroupNames()[Text(u"abc")],
    ):
        assert type(result) is six.text_type
    cache = names.ChannelNames()
    cache[Text(u"abc")]
    assert [type(key) for key in cache.known] == [six.text_type]


def test_repr_that_fails_does_not_hide_the_refusal():
    class Shy(object):
        def __repr__(self):
            raise RuntimeError("no repr today")

    with pytest.raises(TypeError) as caught:
        names.channel_name(Shy())
    assert "<Shy> is not a channel name" in str(caught.value)


# -- lists of names --------------------------------------------------------------------------


def test_channel_names():
    given = [u"a", u"b!", u"c?d"]
    result = names.channel_names(given)
    assert result == given
    assert result is not given
    assert names.channel_names(tuple(given)) == given
    assert names.channel_names(name for name in given) == given
    assert names.channel_names(collections.OrderedDict.fromkeys(given)) == given
    assert names.channel_names([u"a", u"a"]) == [u"a", u"a"]


@pytest.mark.parametrize(
    "given", [u"abc", b"abc", u"", b"", None, 1, object(), [], (), {}, iter([])], ids=identify
)
def test_what_is_no_list_of_names(given):
    with pytest.raises(TypeError) as caught:
        names.channel_names(given)
    assert "receive takes a list of" in str(caught.value)


@pytest.mark.parametrize("name", BAD_CHANNELS + [u"a!b"], ids=identify)
def test_bad_name_in_a_list(name):
    for given in ([name], [u"good", name], iter([u"good", name])):
        with pytest.raises(TypeError) as caught:
            names.channel_names(given)
        assert repr(name)[:100] in str(caught.value)


def test_byte_string_is_no_name_after_its_twin():
    twin = u"twin".encode("ascii")
    names.channel_names([u"twin"])
    with pytest.raises(TypeError):
        names.channel_names([twin])
    for cache in (names.NameCache(), names.ChannelNames(), names.GroupNames()):
        assert cache[u"twin"]
        for _ in range(2):
            with pytest.raises(TypeError):
                cache[twin]
        assert len(cache.known) == 1


# -- parts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, queue, local",
    [
        (u"a", u"a", u""),
        (u"a.b-c", u"a.b-c", u""),
        (u"a?b", u"a?b", u""),
        (u"a!", u"a!", u""),
        (u"a!b", u"a!", u"b"),
        (u"http.response!x.Y-1", u"http.response!", u"x.Y-1"),
    ],
)
def test_parts(name, queue, local):
    assert names.non_local_name(name) == queue
    assert names.split_local(name) == (queue, local)
    assert names.ChannelNames()[name] == (queue, local)
    assert [type(part) for part in names.split_local(name)] == [six.text_type] * 2


# -- capacities ------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", [None, {}, [], ()])
def test_no_capacities(empty):
    assert names.compile_capacities(empty) == []
    assert names.get_capacity([], 100, u"a!b") == 100


def test_order_is_kept():
    rules = [(u"http.*", 1), (re.compile(u"^http"), 2), (u"*", 3), (u"http.request", 4)]
    for given in (collections.OrderedDict(rules), rules, tuple(rules), iter(rules)):
        patterns = names.compile_capacities(given)
        assert [capacity for _, capacity in patterns] == [1, 2, 3, 4]
        assert patterns[1][0] is rules[1][0]
        assert names.get_capacity(patterns, 9, u"http.request") == 1
        assert names.get_capacity(patterns, 9, u"httpx") == 2
        assert names.get_capacity(patterns, 9, u"other") == 3


def test_compiled_list_passes():
    patterns = names.compile_capacities({u"a*": 5})
    assert names.compile_capacities(patterns) == patterns


@pytest.mark.parametrize(
    "pattern, channel, matches",
    [
        (u"a", u"a", True),
        (u"a", u"ab", False),
        (u"a*", u"ab", True),
        (u"?b", u"ab", True),
        (u"[ab]c", u"bc", True),
        (u"a?b", u"a?b", True),
        (u"A", u"a", False),
        (re.compile(u"a"), u"ab", True),
        (re.compile(u"a$"), u"ab", False),
        (u"http.response!*", u"http.response!abc", True),
        (u"http.response!*", u"http.response!", True),
        (u"http.response!", u"http.response!abc", True),
        (u"http.response*", u"http.response!abc", True),
        (u"http.response", u"http.response!abc", False),
        (u"http.response!abc", u"http.response!abc", True),
        (u"http.response!abc", u"http.response!abd", False),
        (u"websocket.send!*", u"http.response!abc", False),
        (re.compile(r"^websocket.send\!.+"), u"websocket.send!abc", True),
        (re.compile(r"^websocket.send\!.+"), u"websocket.send!", False),
        (re.compile(r"^websocket.send\!$"), u"websocket.send!abc", True),
    ],
    ids=lambda value: getattr(value, "pattern", str(value)),
)
def test_matching(pattern, channel, matches):
    patterns = names.compile_capacities({pattern: 7})
    assert names.get_capacity(patterns, 100, channel) == (7 if matches else 100)


def test_first_pattern_wins_whichever_form_it_matches():
    rules = [(u"a!", 1), (u"a!b", 2), (u"a!*", 3)]
    assert names.get_capacity(names.compile_capacities(rules), 9, u"a!b") == 1
    rules.reverse()
    assert names.get_capacity(names.compile_capacities(rules), 9, u"a!b") == 3


@pytest.mark.parametrize("capacity", [0, -1, True, False, 1.0, u"5", None, [5], float("inf")])
def test_wrong_capacity(capacity):
    for pattern in (u"http.request*", re.compile(u"http.request*")):
        with pytest.raises(ValueError) as caught:
            names.compile_capacities([(u"fine", 1), (pattern, capacity)])
        assert repr(u"http.request*") in str(caught.value)
        assert "is %r." % (capacity,) in str(caught.value)
        assert "1 or more" in str(caught.value)


@pytest.mark.parametrize(
    "pattern",
    [None, 5, (u"a",)] + ([b"a*", re.compile(b"a")] if six.PY3 else []),
    ids=identify,
)
def test_wrong_pattern(pattern):
    with pytest.raises(ValueError) as caught:
        names.compile_capacities({pattern: 5})
    assert repr(pattern) in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [5, u"", b"", u"ab", b"ab", [u"a"], [(u"a", 1, 2)], [5], object()],
    ids=identify,
)
def test_what_is_no_set_of_capacities(given):
    with pytest.raises(ValueError) as caught:
        names.compile_capacities(given)
    assert "channel_capacity takes a dict" in str(caught.value)


def test_capacity_of_an_int_subclass():
    class Size(int):
        pass

    ((_, capacity),) = names.compile_capacities({u"a": Size(2)})
    assert type(capacity) is int
    assert capacity == 2


# -- caches ----------------------------------------------------------------------------------


def test_caches_hold_what_is_valid_and_nothing_else():
    channels, groups = names.ChannelNames(), names.GroupNames()
    assert channels[u"a!b"] is channels[u"a!b"]
    assert groups[u"room"] == u"room"
    for name in BAD_CHANNELS:
        with pytest.raises(TypeError):
            channels[name]
    for name in BAD_GROUPS:
        with pytest.raises(TypeError):
            groups[name]
    assert list(channels.known) == [u"a!b"]
    assert list(groups.known) == [u"room"]


def test_cache_is_bounded():
    class Small(names.ChannelNames):
        limit = 10

    cache = Small()
    for number in range(1000):
        name = u"c!%d" % number
        assert cache[name] == (u"c!", u"%d" % number)
        assert 1 <= len(cache.known) <= 10
        assert name in cache.known


def test_list_cache_is_bounded():
    for number in range(names.NameCache.limit + 100):
        names.channel_names([u"bounded.%d" % number])
    assert len(names._readable.known) <= names.NameCache.limit


def test_cache_among_threads():
    class Small(names.ChannelNames):
        limit = 50

    cache = Small()
    faults = []

    def work(seed):
        for number in range(5000):
            local = u"%d" % (number * seed % 211)
            if cache[u"q!" + local] != (u"q!", local):
                faults.append(local)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 3, 5, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert len(cache.known) <= 50 + len(threads)
