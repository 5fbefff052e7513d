"""The class as Channels sees it: what it is made of, what it takes, and what it refuses."""
import asyncio
import inspect
import os
import re
import subprocess
import sys
import textwrap
import warnings

import pytest
from aiokit import run
from channels import exceptions
from channels.exceptions import InvalidChannelLayerError
from channels.layers import BaseChannelLayer, channel_layers, get_channel_layer
from django.test import override_settings

import asgi_ipc
from asgi_ipc import aio, errors, options
from asgi_ipc.aio import IPCChannelLayer
from asgi_ipc.core import unlink

HELLO = {"type": "test.message"}
HERE = os.path.dirname(os.path.abspath(__file__))
METHODS = [
    "send", "receive", "new_channel", "group_add", "group_discard", "group_send", "flush", "close",
]  # fmt: skip


# -- what it is ------------------------------------------------------------------------------


def test_it_is_a_channel_layer(layer):
    assert isinstance(layer, BaseChannelLayer)
    assert layer.extensions == ["groups", "flush"]
    assert layer.ChannelFull is exceptions.ChannelFull
    assert layer.MessageTooLarge is exceptions.MessageTooLarge


@pytest.mark.parametrize("method", METHODS)
def test_coroutine_functions(layer, method):
    assert inspect.iscoroutinefunction(getattr(layer, method))
    assert inspect.iscoroutinefunction(getattr(IPCChannelLayer, method))
    assert asyncio.iscoroutinefunction(getattr(layer, method))


def test_nothing_else_of_the_base_is_left_to_it():
    # Whatever Channels' class only announces, this one has.
    for name, value in vars(BaseChannelLayer).items():
        if inspect.iscoroutinefunction(value):
            assert name in vars(IPCChannelLayer), name


def test_signatures_are_those_of_channels():
    def parameters(name):
        return list(inspect.signature(getattr(IPCChannelLayer, name)).parameters)

    assert parameters("send") == ["self", "channel", "message"]
    assert parameters("receive") == ["self", "channel"]
    assert parameters("new_channel") == ["self", "prefix"]
    assert parameters("group_add") == ["self", "group", "channel"]
    assert parameters("group_discard") == ["self", "group", "channel"]
    assert parameters("group_send") == ["self", "group", "message"]


async def test_an_error_is_one_of_channels_and_one_of_ours(open_layer):
    layer = open_layer(capacity=1, max_message_size=100)
    await layer.send("full", HELLO)
    own = await layer.new_channel()
    await layer.send(own, HELLO)
    for channel in ("full", own):
        with pytest.raises(layer.ChannelFull) as caught:
            await layer.send(channel, HELLO)
        assert isinstance(caught.value, exceptions.ChannelFull)
        assert isinstance(caught.value, errors.ChannelFull)
        assert type(caught.value) is aio.ChannelFull
        assert re.search(r"holds 1 messages, its capacity.*raise\s+capacity", str(caught.value))
    with pytest.raises(layer.MessageTooLarge) as caught:
        await layer.send("full", {"text": "x" * 200})
    assert isinstance(caught.value, exceptions.MessageTooLarge)
    assert isinstance(caught.value, errors.MessageTooLarge)


# -- what it takes ---------------------------------------------------------------------------


def test_options_are_those_of_the_synchronous_layer():
    own = inspect.signature(IPCChannelLayer).parameters
    other = inspect.signature(asgi_ipc.IPCChannelLayer).parameters
    named = [name for name in own if own[name].kind is not inspect.Parameter.VAR_KEYWORD]
    assert named == list(other)
    assert [own[name].default for name in named] == [other[name].default for name in other]


def test_options_in_published_order(prefix):
    layer = IPCChannelLayer(prefix, 30, 100, 7, {"x": 3}, 1 << 20, 1 << 20, 0o600, 1000, 5, 2)
    assert (layer.prefix, layer.expiry, layer.group_expiry) == (prefix, 30, 100)
    assert (layer.capacity, layer.max_message_size, layer.lock_timeout) == (7, 1000, 2)
    assert layer.get_capacity("x") == 3
    assert layer.get_capacity("y") == 7
    assert [pattern.pattern for pattern, _ in layer.channel_capacity]
    layer._stores.close()


def test_one_set_of_options_serves_both_layers(prefix):
    config = {"prefix": prefix, "capacity": 7, "block_timeout": 1, "message_memory": 1 << 20}
    with asgi_ipc.IPCChannelLayer(**config) as other:
        layer = IPCChannelLayer(**config)
        assert layer.capacity == other.capacity
        layer._stores.close()


@pytest.mark.parametrize("name", sorted(options.WITHOUT_MEANING))
def test_options_of_channels_redis_that_mean_nothing(prefix, name):
    with pytest.raises(ValueError, match="channels_redis") as caught:
        IPCChannelLayer(prefix=prefix, **{name: None})
    assert name in str(caught.value)
    assert options.WITHOUT_MEANING[name] in str(caught.value)


def test_every_option_of_channels_redis_is_known():
    redis = pytest.importorskip("channels_redis.core", reason="channels_redis is not installed")
    pubsub = pytest.importorskip("channels_redis.pubsub")
    ours = set(inspect.signature(IPCChannelLayer).parameters) | set(options.WITHOUT_MEANING)
    for layer in (
        redis.RedisChannelLayer, pubsub.RedisPubSubChannelLayer, pubsub.RedisPubSubLoopLayer
    ):
        theirs = inspect.signature(layer).parameters
        named = {name for name in theirs if theirs[name].kind not in (2, 4)}
        assert named - ours - {"channel_layer"} == set()


def test_an_option_that_nobody_knows(prefix):
    with pytest.raises(TypeError, match="capacitty"):
        IPCChannelLayer(prefix=prefix, capacitty=3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"prefix": "a/b"},
        {"expiry": 0},
        {"group_expiry": "1"},
        {"capacity": 0},
        {"channel_capacity": {"a": 0}},
        {"channel_capacity": 7},
        {"message_memory": 1},
        {"group_memory": 1},
        {"mode": 0o777},
        {"max_message_size": 0},
        {"block_timeout": -1},
        {"lock_timeout": 0},
    ],
)
def test_wrong_options(prefix, wrong):
    # Never a KeyError: Channels takes one for "no layer is configured".
    with pytest.raises(ValueError):
        IPCChannelLayer(**dict({"prefix": prefix}, **wrong))


# -- in Django's settings, as README.rst has it ----------------------------------------------


def readme_blocks():
    """The code blocks of the section on Channels 3 and 4."""
    path = os.path.join(os.path.dirname(HERE), os.pardir, "README.rst")
    with open(path, encoding="utf-8") as stream:
        text = stream.read().split("\nWith Channels 3 and 4\n")[1].split("\nWith Channels 1\n")[0]
    pattern = r"^\.\. code-block:: python\n\n((?:(?:    .*)?\n)+)"
    return [textwrap.dedent(block) for block in re.findall(pattern, text, re.MULTILINE)]


def test_the_readme(prefix):
    in_settings, in_a_view, _ = readme_blocks()
    written = {}
    exec(in_settings, written)
    layers = written["CHANNEL_LAYERS"]
    layers["default"]["CONFIG"]["prefix"] = prefix
    with override_settings(CHANNEL_LAYERS=layers):
        layer = get_channel_layer()
        assert type(layer) is IPCChannelLayer
        run(layer.group_add("news", "reader"))
        exec(in_a_view, {})
        assert run(layer.receive("reader")) == {"type": "news.flash", "text": "it works"}
        layer._stores.close()


def test_the_readme_knows_the_options_of_channels_redis():
    path = os.path.join(os.path.dirname(HERE), os.pardir, "README.rst")
    with open(path, encoding="utf-8") as stream:
        table = stream.read().split("Coming from channels_redis")[1].split("With Channels 1")[0]
    for name in options.WITHOUT_MEANING:
        assert "``{0}``".format(name) in table


def settings(**config):
    return {"default": {"BACKEND": "asgi_ipc.aio.IPCChannelLayer", "CONFIG": config}}


def test_configured_in_settings(prefix):
    with override_settings(CHANNEL_LAYERS=settings(prefix=prefix, capacity=7)):
        layer = get_channel_layer()
        assert type(layer) is IPCChannelLayer
        assert layer.capacity == 7
        assert get_channel_layer() is layer

        async def main():
            await layer.send("test.channel", HELLO)
            assert await layer.receive("test.channel") == HELLO

        run(main())
        layer._stores.close()
    with override_settings(CHANNEL_LAYERS=settings(prefix=prefix)):
        # The next one is another one.
        assert get_channel_layer() is not layer
        get_channel_layer()._stores.close()


def test_configured_for_tests(prefix):
    layers = settings(prefix=prefix)
    with override_settings(CHANNEL_LAYERS=layers), pytest.raises(InvalidChannelLayerError):
        channel_layers.make_test_backend("default")
    layers["default"]["TEST_CONFIG"] = {"prefix": prefix, "expiry": 100500}
    with override_settings(CHANNEL_LAYERS=layers):
        layer = channel_layers.make_test_backend("default")
        assert layer.expiry == 100500
        layer._stores.close()


@pytest.mark.parametrize("config", [{"hosts": [("localhost", 6379)]}, {"capacity": 0}])
def test_wrong_settings_are_an_error_not_silence(prefix, config):
    with override_settings(CHANNEL_LAYERS=settings(prefix=prefix, **config)):
        with pytest.raises(ValueError):
            get_channel_layer()


# -- the helpers of the base class -----------------------------------------------------------


VALID = ["chat", "chat.world", "chat-world", "chat_world", "1", "specific!", "specific.1!x-y_z.0"]
INVALID = ["chat world", "=+", "\u00af\\_(\u30c4)_/\u00af", "a!b!c", "", "a" * 100, b"chat", None]


@pytest.mark.parametrize("helper", ["require_valid_channel_name", "valid_channel_name"])
def test_names_of_channels(layer, helper):
    check = getattr(layer, helper)
    for name in VALID:
        assert check(name) is True
    for name in INVALID:
        with pytest.raises(TypeError):
            check(name)
    assert check("specific!", receive=True)
    with pytest.raises(TypeError, match="end at its '!'"):
        check("specific!x", receive=True)
    # The synchronous layer's names for replies.
    assert check("reply?x")


@pytest.mark.parametrize("helper", ["require_valid_group_name", "valid_group_name"])
def test_names_of_groups(layer, helper):
    check = getattr(layer, helper)
    assert check("chat.world-1_2") is True
    for name in INVALID + ["specific!", "a!b", "a?b"]:
        with pytest.raises(TypeError):
            check(name)


def test_every_name_that_channels_takes_is_taken(layer):
    pure = BaseChannelLayer()
    theirs = getattr(pure, "require_valid_channel_name", None) or pure.valid_channel_name
    for name in VALID + [item for item in INVALID if isinstance(item, str)]:
        try:
            theirs(name)
        except TypeError:
            continue
        assert layer.require_valid_channel_name(name)


def test_helpers_of_the_base_class_that_use_them(layer):
    assert layer.valid_channel_names(["chat", "x!y"])
    with pytest.raises(TypeError):
        layer.valid_channel_names(["chat", "a b"])
    assert layer.match_type_and_length("a" * 99)
    assert not layer.match_type_and_length("a" * 100)
    assert layer.non_local_name("specific.a!b") == "specific.a!"
    assert layer.non_local_name("chat") == "chat"
    compiled = layer.compile_capacities({"http.*": 2, re.compile("^chat"): 3})
    assert [capacity for _, capacity in compiled] == [2, 3]


async def test_a_subclass_of_text_is_a_name_like_any_other(layer):
    from django.utils.safestring import SafeString

    channel = await layer.new_channel()
    group, member = SafeString("room"), SafeString(channel)
    await layer.group_add(group, member)
    await layer.group_send(group, {"type": "test.message"})
    assert await layer.receive(member) == {"type": "test.message"}
    assert [type(name) for name in layer._stores.groups.members("room")] == [str]
    assert [type(name) for name in layer._stores._plans] == [str]
    await layer.group_discard(group, member)
    assert layer._stores.groups.members("room") == []


async def test_a_reply_to_the_synchronous_layer(layer, prefix):
    with asgi_ipc.IPCChannelLayer(prefix) as other:
        reply = other.new_channel("reply?")
        await layer.send(reply, HELLO)
        assert other.receive([reply]) == (reply, HELLO)


# -- the end ---------------------------------------------------------------------------------


async def test_close(layer, prefix):
    own = await layer.new_channel()
    await layer.send("test.channel", HELLO)
    await layer.close()
    await layer.close()
    for call in (
        layer.send("test.channel", HELLO),
        layer.send(own, HELLO),
        layer.receive("test.channel"),
        layer.receive(own),
        layer.group_add("group", "test.channel"),
        layer.group_discard("group", "test.channel"),
        layer.group_send("group", HELLO),
        layer.flush(),
    ):
        with pytest.raises(errors.LayerClosed):
            await call
    # What was sent is there for others.
    other = IPCChannelLayer(prefix)
    assert await other.receive("test.channel") == HELLO
    await other.close()


async def test_close_ends_those_who_wait(layer):
    own = await layer.new_channel()
    tasks = [asyncio.ensure_future(layer.receive(name)) for name in ("a", own, own, "b")]
    await asyncio.sleep(0.05)
    await layer.close()
    for task in tasks:
        with pytest.raises(errors.LayerClosed):
            await task
    assert layer._process._loops._seats == {}


async def test_removed_under_it(layer, prefix):
    own = await layer.new_channel()
    await layer.send(own, HELLO)
    assert await layer.receive(own) == HELLO
    waiting = [asyncio.ensure_future(layer.receive(name)) for name in ("test.channel", own)]
    await asyncio.sleep(0.05)
    assert unlink(prefix)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        await asyncio.sleep(1.5)
    assert [str(warning.message) for warning in caught if "removed while in use" in str(warning)]
    other = IPCChannelLayer(prefix)
    for receive, channel in zip(waiting, ("test.channel", own)):
        await other.send(channel, HELLO)
        assert await asyncio.wait_for(receive, 5) == HELLO
    await other.close()


def test_its_name(layer, prefix):
    assert repr(layer) == "<IPCChannelLayer prefix='{0}'>".format(prefix)


def test_nobody_but_this_module_knows_channels():
    script = (
        "import sys, asgi_ipc, asgi_ipc.process; "
        "assert not {'channels', 'django'} & set(sys.modules), sys.modules"
    )
    environment = {"PYTHONPATH": ":".join(sys.path)}
    assert subprocess.call([sys.executable, "-c", script], env=environment) == 0
