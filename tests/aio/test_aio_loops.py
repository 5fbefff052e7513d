"""Any number of loops, threads and processes, and nothing to be closed with care."""
import asyncio
import concurrent.futures
import contextlib
import gc
import multiprocessing
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import asgiref
import pytest
from aiokit import descriptors, doorbells, end, factory, in_thread, run, soon, started, until
from asgiref.sync import async_to_sync, sync_to_async
from storekit import Child, in_child

from asgi_ipc.aio import IPCChannelLayer

HELLO = {"type": "test.message"}


# -- async_to_sync ---------------------------------------------------------------------------


def test_from_synchronous_code_again_and_again(open_layer, open_far):
    layer, far = open_layer(), open_far()
    for _ in range(3):
        name = async_to_sync(layer.new_channel)()
        async_to_sync(layer.group_add)("room", name)
        async_to_sync(layer.send)(name, {"n": 1})
        async_to_sync(far.send)(name, {"n": 2})
        async_to_sync(layer.group_send)("room", {"n": 3})
        got = [async_to_sync(layer.receive)(name)["n"] for _ in range(3)]
        assert got == [1, 2, 3]
        async_to_sync(layer.group_discard)("room", name)
    async_to_sync(layer.flush)()


def test_two_loops_receive_in_turn(open_layer):
    layer = open_layer(capacity=3)
    first, second = [async_to_sync(layer.new_channel)() for _ in range(2)]
    async_to_sync(layer.send)(first, {"n": 1})
    async_to_sync(layer.send)(second, {"n": 2})
    assert async_to_sync(layer.receive)(second) == {"n": 2}
    assert async_to_sync(layer.receive)(first) == {"n": 1}


def test_one_loop_receives_what_another_sent(open_layer):
    layer = open_layer()
    loop = asyncio.new_event_loop()
    channel = loop.run_until_complete(layer.new_channel())
    for number in range(3):
        async_to_sync(layer.send, force_new_loop=True)(channel, {"n": number})
    for number in range(3):
        assert loop.run_until_complete(layer.receive(channel)) == {"n": number}
    loop.close()


@pytest.mark.skipif(
    tuple(map(int, asgiref.__version__.split(".")[:2])) < (3, 9),
    reason="this asgiref now and then gives a thread the executor of one that has ended",
)
async def test_from_threads_of_a_running_loop(layer):
    # As a synchronous view or consumer does it.
    channel = await layer.new_channel()
    await layer.group_add("room", channel)

    def work(number):
        async_to_sync(layer.group_send)("room", {"n": number})

    waiting = await started(layer.receive(channel))
    await sync_to_async(work)(0)
    assert await soon(waiting) == {"n": 0}
    await asyncio.gather(*[sync_to_async(work, thread_sensitive=False)(n) for n in range(20)])
    got = [(await soon(layer.receive(channel)))["n"] for _ in range(20)]
    assert sorted(got) == list(range(20))


# -- loops and threads -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["normal", "own"])
def test_threads_with_loops_of_their_own(open_layer, open_far, kind):
    # Each waits for its own messages, from all others and from another process.
    layer, far = open_layer(capacity=10000), open_far(capacity=10000)
    count, each = 4, 50
    names, got, ready = {}, {}, threading.Barrier(count + 1, timeout=60)

    def work(number):
        async def main():
            names[number] = (
                await layer.new_channel() if kind == "own" else "normal.{0}".format(number)
            )
            waiting = await started(layer.receive(names[number]))
            await asyncio.get_running_loop().run_in_executor(None, ready.wait)
            for turn in range(each):
                for other in range(count):
                    await layer.send(names[other], {"from": number, "n": turn})
                    await asyncio.sleep(0)
            mine = [await soon(waiting)]
            while len(mine) < (count + 1) * each:
                mine.append(await soon(layer.receive(names[number])))
            got[number] = mine

        run(main())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    ready.wait()

    async def from_afar():
        for turn in range(each):
            for other in range(count):
                await far.send(names[other], {"from": "afar", "n": turn})

    run(from_afar())
    for thread in threads:
        thread.join(60)
    assert sorted(got) == list(range(count))
    for mine in got.values():
        for sender in [*range(count), "afar"]:
            # All, once, and in the sender's order.
            numbers = [message["n"] for message in mine if message["from"] == sender]
            assert numbers == list(range(each))
    assert not layer._process.inbox


@pytest.mark.usefixtures("no_looks")
def test_a_message_drained_in_one_loop_wakes_the_receiver_in_another(open_layer, open_far):
    layer, far = open_layer(), open_far()
    channel, other = run(layer.new_channel()), run(layer.new_channel())
    got, waits = [], threading.Event()

    async def wait():
        waiting = await started(layer.receive(channel))
        waits.set()
        got.append(await soon(waiting))

    async def drain():
        # This loop takes all there is for the process, and has no use for it.
        await far.send(other, HELLO)
        await far.send(channel, {"n": 1})
        assert await soon(layer.receive(other)) == HELLO

    thread = threading.Thread(target=lambda: run(wait()))
    thread.start()
    waits.wait(20)
    run(drain())
    thread.join(20)
    assert got == [{"n": 1}]


def test_a_pool_of_threads(open_layer):
    layer = open_layer(capacity=1000)

    def work(number):
        channel = async_to_sync(layer.new_channel)()
        async_to_sync(layer.send)(channel, {"n": number})
        assert async_to_sync(layer.receive)(channel) == {"n": number}
        async_to_sync(layer.send)("results", {"n": number})

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(100)))

    async def main():
        return sorted([(await layer.receive("results"))["n"] for _ in range(100)])

    assert run(main()) == list(range(100))


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_run_twice(open_layer, open_far, kind):
    if kind == "uvloop":
        pytest.importorskip("uvloop", reason="uvloop is not installed")
    layer, far = open_layer(), open_far()

    async def main(channels):
        own = await layer.new_channel()
        for channel in (own, *channels):
            waiting = await started(layer.receive(channel))
            await far.send(channel, {"to": channel})
            assert await soon(waiting) == {"to": channel}
        return own

    channels = ["normal"]
    for _ in range(3):
        channels.append(run(main(channels), factory(kind)))


# -- nothing is left -------------------------------------------------------------------------


SCRIPTS = {
    "a message, and the end": """
        async def main():
            channel = await layer.new_channel()
            await layer.send(channel, {"n": 1})
            await layer.receive(channel)
    """,
    "waited for, and the end": """
        async def main():
            for channel in (await layer.new_channel(), "normal"):
                task = asyncio.ensure_future(layer.receive(channel))
                await asyncio.sleep(0.05)
                await sender.send(channel, {"n": 1})
                await task
    """,
    "cancelled by the end": """
        async def main():
            for channel in (await layer.new_channel(), "normal"):
                asyncio.ensure_future(layer.receive(channel))
            await asyncio.sleep(0.05)
    """,
    "timed out": """
        async def main():
            for channel in (await layer.new_channel(), "normal"):
                try:
                    await asyncio.wait_for(layer.receive(channel), 0.05)
                except asyncio.TimeoutError:
                    pass
    """,
    "closed": """
        async def main():
            task = asyncio.ensure_future(layer.receive(await layer.new_channel()))
            await asyncio.sleep(0.05)
            await layer.close()
            try:
                await task
            except Exception as error:
                assert "closed" in str(error)
    """,
}


@pytest.mark.parametrize("name", sorted(SCRIPTS))
@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_process_ends_without_a_word(prefix, name, kind):
    if kind == "uvloop":
        pytest.importorskip("uvloop", reason="uvloop is not installed")
    script = textwrap.dedent(
        """
        import asyncio, sys, threading
        from asgi_ipc.aio import IPCChannelLayer
        if sys.argv[2] == "uvloop":
            import uvloop
            uvloop.install()
        layer, sender = [IPCChannelLayer(prefix=sys.argv[1]) for _ in range(2)]
        """
    ) + textwrap.dedent(SCRIPTS[name]) + textwrap.dedent(
        """
        for _ in range(2 if "closed" not in sys.argv[3] else 1):
            asyncio.run(main(), debug=True)
        assert threading.active_count() == 1, threading.enumerate()
        """
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-W", "ignore::DeprecationWarning",
         "-c", script, prefix, kind, name],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    said = [
        line
        for line in done.stdout.decode().splitlines()
        # The loop's own remark about what took long, on a loaded machine.
        if not re.search(r"took [\d.]+ seconds|executing .* took|poll .* took", line, re.IGNORECASE)
    ]
    assert said == []
    assert done.returncode == 0
    assert doorbells(prefix) == []


def test_loops_that_were_closed_are_collected(open_layer):
    layer = open_layer()
    references = []
    for number in range(5):
        loop = asyncio.new_event_loop()
        channel = loop.run_until_complete(layer.new_channel())

        async def main(channel=channel):
            for name in (channel, "normal"):
                task = await started(layer.receive(name))
                await layer.send(name, HELLO)
                assert await soon(task) == HELLO

        loop.run_until_complete(main())
        loop.close()
        references.append(weakref.ref(loop))
        del loop, main
        gc.collect()
        assert [reference() for reference in references] == [None] * (number + 1)
    # And what they held was handed on from each to the next.
    assert len(layer._process._loops._seats) <= 1
    assert len(doorbells(layer.prefix)) <= 1


def test_loops_dropped_with_receives_pending_are_collected(open_layer):
    layer = open_layer()
    references = []
    before = None
    for number in range(5):
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)
        channel = loop.run_until_complete(layer.new_channel())
        tasks = [loop.create_task(layer.receive(name)) for name in (channel, "normal")]
        loop.run_until_complete(asyncio.sleep(0.02))
        if number % 2:
            loop.close()
        references.append(weakref.ref(loop))
        with contextlib.suppress(ResourceWarning):
            del loop, tasks
            gc.collect()
        assert [reference() for reference in references] == [None] * (number + 1)
        if number == 1:
            before = descriptors()
    assert descriptors() <= before + 2

    async def main():
        await layer.send("normal", HELLO)
        assert await soon(layer.receive("normal")) == HELLO
        task = await started(layer.receive("normal"))
        await end(task)

    run(main())
    assert layer._process._loops._seats == {}
    assert layer._process._loops._owed == []
    assert layer._stores.messages._waiting == set()


async def test_an_idle_loop_lets_go_of_everything_after_a_second(layer):
    channel = await layer.new_channel()
    for name in (channel, "normal"):
        task = await started(layer.receive(name))
        await layer.send(name, HELLO)
        assert await soon(task) == HELLO
    loops = layer._process._loops
    assert len(loops._seats) == 1
    await until(lambda: not loops._seats, 5)
    assert layer._stores.messages._waiting == set()


def test_many_loops_need_no_more_descriptors_than_one(open_layer):
    layer = open_layer()

    async def main():
        task = await started(layer.receive("normal"))
        await layer.send("normal", HELLO)
        assert await soon(task) == HELLO

    run(main())
    gc.collect()
    before = descriptors()
    for _ in range(30):
        run(main())
        in_thread(lambda: run(main()))
    gc.collect()
    # The lock has a descriptor for each segment and thread; the threads are gone.
    assert descriptors() <= before + 4


def test_layers_that_are_dropped_leave_nothing(prefix):
    # As Channels drops them, when a test changes its settings.
    before = None
    for number in range(20):
        layer = IPCChannelLayer(prefix)

        async def main(layer=layer):
            channel = await layer.new_channel()
            task = await started(layer.receive(channel))
            await layer.send(channel, HELLO)
            assert await soon(task) == HELLO

        run(main())
        reference = weakref.ref(layer._process)
        del layer, main
        gc.collect()
        assert reference() is None
        if number == 4:
            before = descriptors()
    assert descriptors() <= before + 2


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_idle_costs_no_processor(prefix, kind):
    if kind == "uvloop":
        pytest.importorskip("uvloop", reason="uvloop is not installed")

    def work():
        layer = IPCChannelLayer(prefix)

        async def main():
            channels = [await layer.new_channel() for _ in range(100)] + ["normal"]
            tasks = [await started(layer.receive(name)) for name in channels]
            await asyncio.sleep(0.2)
            before = time.process_time()
            await asyncio.sleep(2)
            used = time.process_time() - before
            await end(*tasks)
            return used

        return run(main(), factory(kind))

    # A look each second, with a hundred that wait; 40 ms would be 2 %.
    assert in_child(work) < 0.04


# -- processes -------------------------------------------------------------------------------


def test_a_forked_child_has_a_name_of_its_own(open_layer):
    layer = open_layer()
    names = [run(layer.new_channel())]
    names += [in_child(lambda: run(layer.new_channel())) for _ in range(3)]
    names.append(run(layer.new_channel()))
    parts = [name.split("!")[0] for name in names]
    assert len(set(parts)) == 4
    assert parts[0] == parts[-1]


def test_a_forked_child_uses_the_inherited_layer(open_layer):
    layer = open_layer()

    async def warm_up():
        channel = await layer.new_channel()
        task = await started(layer.receive(channel))
        await layer.send(channel, HELLO)
        await soon(task)

    run(warm_up())

    def work():
        async def main():
            own = await layer.new_channel()
            await layer.group_add("room", own)
            await layer.send("hello", {"from": own})
            return await soon(layer.receive(own))

        return run(main())

    children = [Child(work) for _ in range(3)]

    async def answer():
        names = [(await soon(layer.receive("hello")))["from"] for _ in children]
        assert len({name.split("!")[0] for name in names}) == 3
        own = await layer.new_channel()
        await layer.group_add("room", own)
        await layer.group_send("room", {"n": 1})
        assert await soon(layer.receive(own)) == {"n": 1}

    run(answer())
    assert [child.result() for child in children] == [{"n": 1}] * 3


def test_a_fork_with_everything_under_way(open_layer, open_far):
    # Receives that wait, messages posted and in buffers: all of it is the parent's.
    layer, far = open_layer(), open_far()

    async def main():
        loop = asyncio.get_running_loop()
        own, other = await layer.new_channel(), await layer.new_channel()
        waiting = [await started(layer.receive(name)) for name in (own, "normal")]
        await layer.send(other, {"n": 1})
        await far.send(other, {"n": 2})
        posted = await layer.new_channel("posted")
        await layer.send(posted, {"n": 3})

        def work():
            assert not layer._process.inbox
            assert layer._process._loops._seats == {}

            async def child():
                mine = await layer.new_channel()
                assert not layer._process.owns(own.split("!")[0] + "!")
                task = await started(layer.receive(mine))
                await layer.send(mine, HELLO)
                assert await soon(task) == HELLO
                with pytest.raises(TypeError):
                    await layer.receive(own)

            run(child())

        child = Child(work)
        await loop.run_in_executor(None, child.result)
        # The parent's go on as if nothing had been.
        for name, task in zip((own, "normal"), waiting):
            await far.send(name, {"to": name})
            assert await soon(task) == {"to": name}
        assert [(await soon(layer.receive(other)))["n"] for _ in range(2)] == [1, 2]
        assert await soon(layer.receive(posted)) == {"n": 3}

    run(main())


def test_a_child_of_a_dead_parent_does_not_answer_for_it(prefix):
    # The child has inherited the doorbells' descriptors. If it kept them, whoever rings would
    # believe the dead parent alive.
    ready, go = os.pipe(), os.pipe()

    def parent():
        layer = IPCChannelLayer(prefix)

        async def main():
            tasks = [await started(layer.receive(name)) for name in ("normal", "jobs")]
            await asyncio.sleep(0.05)
            if not os.fork():
                os.write(ready[1], b"!")
                os.read(go[0], 1)
                os._exit(0)
            await asyncio.sleep(100)
            return tasks

        run(main())

    child = Child(parent)
    assert os.read(ready[0], 1) == b"!"
    child.kill()
    assert len(doorbells(prefix)) == 1
    layer = IPCChannelLayer(prefix)

    async def main():
        await layer.send("normal", HELLO)
        assert await soon(layer.receive("normal")) == HELLO

    run(main())
    # Whoever rang has found nobody, and taken it away.
    assert doorbells(prefix) == []
    layer._stores.close()
    os.write(go[1], b"!")
    for descriptor in ready + go:
        os.close(descriptor)


def _started_anew(prefix, channel):
    layer = IPCChannelLayer(prefix)

    async def main():
        own = await layer.new_channel()
        await layer.send(channel, {"from": own})
        assert await soon(layer.receive(own)) == HELLO

    run(main())


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_start_methods_of_multiprocessing(open_layer, method):
    layer = open_layer()

    async def main():
        channel = await layer.new_channel()
        context = multiprocessing.get_context(method)
        process = context.Process(target=_started_anew, args=(layer.prefix, channel))
        process.start()
        message = await soon(layer.receive(channel))
        await layer.send(message["from"], HELLO)
        await asyncio.get_running_loop().run_in_executor(None, process.join)
        assert process.exitcode == 0

    run(main())


def test_a_process_that_is_killed_while_it_waits(open_layer):
    layer = open_layer()

    def work():
        async def main():
            own = await layer.new_channel()
            await layer.group_add("room", own)
            tasks = [await started(layer.receive(name)) for name in (own, "jobs")]
            await layer.send("ready", {"own": own})
            await asyncio.gather(*tasks)

        run(main())

    async def main():
        children = [Child(work) for _ in range(2)]
        for _ in children:
            await soon(layer.receive("ready"))
        for child in children:
            child.kill()
        waiting = await started(layer.receive("jobs"))
        await layer.send("jobs", HELLO)
        assert await soon(waiting) == HELLO
        await layer.group_send("room", HELLO)

    run(main())
    assert layer._stores.messages.check() == []
