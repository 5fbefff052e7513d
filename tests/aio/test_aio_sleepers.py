"""What receivers await: as futures are, for any task of any loop; many go on in one callback."""
import asyncio
import contextvars

import pytest
from aiokit import factory, run

from asgi_ipc.sleepers import Sleeper, wake

name = contextvars.ContextVar("name", default=None)


@pytest.fixture(params=["asyncio", "uvloop", "debug", "tasks in Python"])
def make_loop(request):
    """Loops, and what may be in use in one."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
        return factory("uvloop")

    def make():
        loop = asyncio.new_event_loop()
        if request.param == "debug":
            loop.set_debug(True)
        elif request.param == "tasks in Python":
            loop.set_task_factory(
                lambda loop, coroutine, **more: asyncio.tasks._PyTask(
                    coroutine, loop=loop, **more
                )
            )
        return loop

    return make


async def sleep_on(sleeper):
    return await sleeper


async def asleep(count, sleep=sleep_on):
    """So many sleepers, and the tasks that sleep on them."""
    loop = asyncio.get_running_loop()
    sleepers = [Sleeper(loop) for _ in range(count)]
    tasks = [asyncio.ensure_future(sleep(sleeper)) for sleeper in sleepers]
    await asyncio.sleep(0)
    return sleepers, tasks


def test_many_go_on_in_one_callback(make_loop, monkeypatch):
    async def main():
        sleepers, tasks = await asleep(100)
        loop = asyncio.get_running_loop()
        call_soon, calls = loop.call_soon, []

        def counted(callback, *arguments, **more):
            calls.append(callback)
            return call_soon(callback, *arguments, **more)

        monkeypatch.setattr(loop, "call_soon", counted)
        wake(sleepers)
        assert len(calls) == 1
        assert not any(task.done() for task in tasks)
        await asyncio.sleep(0)
        assert all(task.done() for task in tasks)
        return [task.result() for task in tasks]

    assert run(main(), make_loop) == [None] * 100


def test_what_ends_the_wait_is_raised(make_loop):
    why = ValueError("why")

    async def main():
        sleepers, tasks = await asleep(2)
        wake(sleepers, why)
        return await asyncio.gather(*tasks, return_exceptions=True)

    assert run(main(), make_loop) == [why, why]


def test_one_that_is_awake_already_is_not_waited_for(make_loop):
    why = ValueError("why")

    async def main():
        sleeper = Sleeper(asyncio.get_running_loop())
        wake([sleeper], why)
        with pytest.raises(ValueError, match="why") as caught:
            await sleeper
        return caught.value

    assert run(main(), make_loop) is why


def test_cancelled(make_loop):
    async def main():
        (first, second), (cancelled, other) = await asleep(2)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert first.awake
        assert first.cancelled()
        assert not second.done()
        assert not other.done()
        wake([second])
        await other

    run(main(), make_loop)


def test_cancelled_with_a_message(make_loop):
    told = []

    async def listen(sleeper):
        try:
            await sleeper
        except asyncio.CancelledError as error:
            told.append(error.args)
            raise

    async def main():
        _, (task,) = await asleep(1, listen)
        try:
            task.cancel("enough")
        except TypeError:
            pytest.skip("this Python's tasks are cancelled without a message")
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main(), make_loop)
    assert told == [("enough",)]


def test_cancelled_after_it_was_woken(make_loop):
    """It counts as woken: whoever woke it has to be told that nobody took anything."""

    async def main():
        (sleeper,), (task,) = await asleep(1)
        wake([sleeper])
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sleeper.awake
        assert not sleeper.cancelled()

    run(main(), make_loop)


def test_each_task_has_its_own_context(make_loop):
    async def in_a_context(sleeper):
        name.set(sleeper)
        await sleeper
        return name.get()

    async def main():
        sleepers, tasks = await asleep(3, in_a_context)
        wake(sleepers)
        assert await asyncio.gather(*tasks) == sleepers
        assert name.get() is None

    run(main(), make_loop)


def test_one_that_fails_keeps_nobody_from_going_on(make_loop):
    async def fail(sleeper):
        await sleeper
        raise ValueError("mine")

    async def main():
        sleepers, tasks = await asleep(3, fail)
        wake(sleepers)
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(error) for error in found] == ["mine"] * 3

    run(main(), make_loop)


def test_one_that_ends_the_loop_leaves_the_others_to_the_next_run(make_loop):
    loop = make_loop()
    went_on = []

    async def end(sleeper):
        await sleeper
        raise SystemExit("enough")

    async def go_on(sleeper):
        await sleeper
        went_on.append(sleeper)

    sleepers = [Sleeper(loop) for _ in range(3)]
    try:
        coroutines = [go_on(sleepers[0]), end(sleepers[1]), go_on(sleepers[2])]
        tasks = [loop.create_task(coroutine) for coroutine in coroutines]
        loop.run_until_complete(asyncio.sleep(0.01))
        wake(sleepers)
        with pytest.raises(SystemExit):
            loop.run_until_complete(asyncio.sleep(0.01))
        # uvloop has called the rest by then.
        assert went_on[0] is sleepers[0]
        loop.run_until_complete(asyncio.sleep(0.01))
        assert went_on == [sleepers[0], sleepers[2]]
        assert isinstance(tasks[1].exception(), SystemExit)
    finally:
        loop.close()
