"""Both faces under one prefix: the synchronous one on an old Python, this one on a new one.

What the old interpreter needs (posix_ipc, msgpack, six) it has itself, or is installed for it
once into pytest's cache folder. ``ASGI_IPC_PYTHON27`` and ``ASGI_IPC_PYTHON37`` may name
interpreters; else they are looked for on the path.
"""
import asyncio
import os
import shutil
import subprocess
import sys

import pytest
from aiokit import end, never, soon, started
from channels.exceptions import ChannelFull
from far import HERE, FarProcess

import asgi_ipc
from asgi_ipc.core import IPCChannelLayer as SynchronousLayer

HELLO = {"type": "test.message", "text": "Ahoy \u20ac"}
EVERYTHING = {
    "none": None,
    "true": True,
    "numbers": [0, -1, 2**63, -(2**63), 1.5],
    "text": "Gr\u00fc\u00dfe \U0001f600",
    "bytes": b"\x00\xff",
    "nested": {"list": [1, ["two", {"three": 3}]], "empty": {}},
}
# As in setup.py.
NEEDS = [
    'msgpack>=0.5.6,<1.0; python_version < "3.8"',
    'posix_ipc>=1.0.5,<1.1; python_version < "3.6"',
    'posix_ipc>=1.0.5,<2; python_version >= "3.7"',
    "six>=1.10",
]


def works(python, script, **environment):
    """Whether a Python runs a script without an error."""
    environment = dict(os.environ, PYTHONDONTWRITEBYTECODE="1", **environment)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.call([python, "-c", script], env=environment, **quiet) == 0


def interpreter(version, folder):
    """(an old Python, where it finds what it needs), or skip."""
    named = "ASGI_IPC_PYTHON{0}".format(version.replace(".", ""))
    found = [os.environ.get(named)] + [
        # All of them: those of pyenv that come first may be there without working.
        shutil.which("python" + version, path=place)
        for place in os.environ.get("PATH", "").split(os.pathsep)
    ]
    python = next((path for path in found if path and works(path, "")), None)
    if python is None:
        pytest.skip("no python{0} on the path, and no {1}".format(version, named))
    check = "import msgpack, posix_ipc, six"
    if not works(python, check, PYTHONPATH=folder):
        command = [python, "-m", "pip", "install", "--quiet", "--upgrade", "--target", folder]
        subprocess.call(command + NEEDS, env=dict(os.environ, PYTHONPATH=""))
        if not works(python, check, PYTHONPATH=folder):
            pytest.skip("python{0} has no posix_ipc, and pip cannot install it".format(version))
    return python, dict(os.environ, PYTHONPATH=folder, PYTHONDONTWRITEBYTECODE="1")


@pytest.fixture(scope="module", params=["2.7", "3.7", "own"])
def old_process(request, tmp_path_factory):
    """A process of an old Python; "own" is the one that runs the tests."""
    if request.param == "own":
        python, environment = sys.executable, dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    else:
        folder = str(request.config.cache.mkdir("needs-of-python" + request.param))
        python, environment = interpreter(request.param, folder)
        # The package alone: its neighbours are for another Python.
        package = tmp_path_factory.mktemp("package")
        (package / "asgi_ipc").symlink_to(os.path.dirname(asgi_ipc.__file__))
        environment["PYTHONPATH"] += os.pathsep + str(package)
    process = FarProcess([python, os.path.join(HERE, "sync_child.py")], environment)
    if request.param != "own":
        assert process.do("version") == [int(part) for part in request.param.split(".")]
    yield process
    process.close()


@pytest.fixture
def old(old_process, prefix):
    """The synchronous layer over there, with a capacity of 3."""
    layer = old_process.open(prefix=prefix, capacity=3)
    yield layer
    layer.close()


@pytest.fixture
def new(open_layer):
    """The layer here, with a capacity of 3."""
    return open_layer(capacity=3)


async def receive(old, *channels):
    """What the synchronous layer receives, as a tuple."""
    return tuple(await soon(old.receive(list(channels), True)))


async def test_sent_by_the_one_and_received_by_the_other(new, old):
    own = await new.new_channel()
    for channel in ("normal", own):
        for number in range(3):
            await old.send(channel, dict(HELLO, n=number))
        for number in range(3):
            assert await soon(new.receive(channel)) == dict(HELLO, n=number)
    for channel in ("normal", "reply?x", "old.server!client"):
        for number in range(3):
            await new.send(channel, dict(HELLO, n=number))
        queue = channel.split("!")[0] + "!" if "!" in channel else channel
        for number in range(3):
            assert await receive(old, queue) == (channel, dict(HELLO, n=number))


@pytest.mark.usefixtures("no_looks")
async def test_woken_by_the_other(new, old, old_process):
    old_process.do("look_again_after", 1000.0)
    own = await new.new_channel()
    for channel in ("normal", own) * 2:
        waiting = await started(new.receive(channel))
        await asyncio.sleep(0.05)
        await old.send(channel, HELLO)
        assert await soon(waiting) == HELLO
        waiting = await started(old.receive(["answer"], True))
        await asyncio.sleep(0.05)
        await new.send("answer", HELLO)
        assert await soon(waiting) == ["answer", HELLO]
    old_process.do("look_again_after", 1.0)


async def test_groups_of_both(new, old):
    owns = [await new.new_channel() for _ in range(3)]
    await new.group_add("room", owns[0])
    await old.group_add("room", owns[1])
    await old.group_add("room", owns[2])
    for channel in ("old.server!a", "old.server!b", "normal"):
        await (new if channel.endswith("a") else old).group_add("room", channel)
    await new.group_discard("room", owns[2])
    everybody = {owns[0], owns[1], "old.server!a", "old.server!b", "normal"}
    assert set(await old.group_channels("room")) == everybody
    for send in (new.group_send, old.send_group):
        await send("room", HELLO)
        for channel in owns[:2]:
            assert await soon(new.receive(channel)) == HELLO
        got = [await receive(old, "old.server!", "normal") for _ in range(3)]
        assert sorted(got) == [
            ("normal", HELLO), ("old.server!a", HELLO), ("old.server!b", HELLO)
        ]
    await old.group_discard("room", owns[0])
    await new.group_send("room", HELLO)
    assert await soon(new.receive(owns[1])) == HELLO
    await never(new.receive(owns[0]), 0.1)


async def test_a_group_that_waits(new, old):
    owns = [await new.new_channel() for _ in range(50)]
    for channel in owns:
        await new.group_add("room", channel)
    waiting = [await started(new.receive(channel)) for channel in owns]
    await asyncio.sleep(0.05)
    await old.send_group("room", HELLO)
    got = await soon(asyncio.gather(*waiting))
    assert got == [HELLO] * 50
    assert len({id(message) for message in got}) == 50


async def test_everything_that_travels(new, old, old_process):
    echoing, _ = old_process.call("echo", old.key, "to.old", "to.new", 2)
    own = await new.new_channel()
    for reply in ("to.new", own):
        if reply == own:
            echoing, _ = old_process.call("echo", old.key, "to.old", own, 2)
        for message in (EVERYTHING, {"x" * 100: "y" * 100000}):
            await new.send("to.old", message)
            received = await soon(new.receive(reply))
            assert received == message
            assert {key: type(received[key]) for key in received} == {
                key: type(message[key]) for key in message
            }
        await soon(asyncio.wrap_future(echoing))


async def test_capacity_and_expiry_are_the_same_to_both(old_process, open_layer, prefix):
    new = open_layer(capacity=3, expiry=0.4)
    old = old_process.open(prefix=prefix, capacity=3, expiry=0.4)
    own = await new.new_channel()
    await old.send(own, HELLO)
    assert await soon(new.receive(own)) == HELLO
    for channel in ("normal", own):
        for sender in (old, new, old):
            await sender.send(channel, HELLO)
        for sender in (old, new):
            with pytest.raises(ChannelFull):
                await sender.send(channel, HELLO)
    await asyncio.sleep(0.45)
    for channel in ("normal", own):
        await never(new.receive(channel), 0.05)
    await new.send("normal", HELLO)
    await asyncio.sleep(0.45)
    assert await old.receive(["normal"]) == [None, None]
    old.close()


async def test_many_both_ways_at_once(open_layer, old_process, prefix, campaign):
    new = open_layer()
    old = old_process.open(prefix=prefix)
    count = campaign.amount(500, 50000)
    own = await new.new_channel()
    for channel in ("normal", own):
        sending, _ = old_process.call("send_many", old.key, channel, count)
        got = [(await soon(new.receive(channel)))["n"] for _ in range(count)]
        assert got == list(range(count))
        await soon(asyncio.wrap_future(sending))
    receiving, _ = old_process.call("receive_many", old.key, "back", count)
    for number in range(count):
        while True:
            try:
                await new.send("back", {"n": number})
                break
            except ChannelFull:
                await asyncio.sleep(0.001)
    assert await soon(asyncio.wrap_future(receiving)) == list(range(count))
    old.close()


async def test_they_share_the_work(new, old):
    # One message each: whoever waits gets it, the other one does not.
    for number in range(10):
        here = await started(new.receive("jobs"))
        there = await started(old.receive(["jobs"], True))
        await asyncio.sleep(0.02)
        for turn in range(2):
            await new.send("jobs", {"n": 2 * number + turn})
        got = [(await soon(here))["n"], (await soon(there))[1]["n"]]
        assert sorted(got) == [2 * number, 2 * number + 1]


async def test_flush_by_either(new, old):
    own = await new.new_channel()
    for flush in (old.flush, new.flush):
        await new.send("normal", HELLO)
        await new.group_add("room", own)
        await flush()
        await never(new.receive("normal"), 0.05)
        assert await old.receive(["normal"]) == [None, None]
        assert await old.group_channels("room") == []
    assert await old.check() == []


async def test_both_in_one_process(new, prefix):
    own = await new.new_channel()
    with SynchronousLayer(prefix, capacity=3) as beside:
        await new.group_add("room", own)
        waiting = await started(new.receive(own))
        beside.send_group("room", HELLO)
        assert await soon(waiting) == HELLO
        await new.send("normal", HELLO)
        assert beside.receive(["normal"], block=True) == ("normal", HELLO)
        waiting = await started(new.receive("normal"))
        beside.send("normal", HELLO)
        assert await soon(waiting) == HELLO
        await end(waiting)
