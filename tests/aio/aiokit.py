"""Tools of these tests: loops to run in, and short ways to ask."""
import asyncio
import contextlib
import gc
import os
import threading
import time

SOON = 20
"""Seconds that stand for "it comes": a machine may be slow, but not that slow."""

NEVER = 0.1
"""Seconds that stand for "it does not come"."""


def has_uvloop():
    try:
        import uvloop  # noqa: F401
    except ImportError:
        return False
    return True


def factory(kind):
    """What makes an event loop of a kind."""
    if kind == "uvloop":
        import uvloop

        return uvloop.new_event_loop
    return asyncio.new_event_loop


def run(main, make_loop=asyncio.new_event_loop, strict=True):
    """Run a coroutine in a new loop, and close that as ``asyncio.run`` does.

    ``strict``: fail if it leaves tasks behind, or anything for the exception handler.
    """
    loop = make_loop()
    reported = []
    loop.set_exception_handler(lambda _, context: reported.append(context))
    asyncio.set_event_loop(loop)
    try:
        result = loop.run_until_complete(main)
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        # Futures whose exception nobody saw say so when they go; the young ones are enough.
        gc.collect(0)
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    if strict:
        assert not left, left
        assert not reported, reported
    return result


async def soon(awaitable):
    """The result of something that must come."""
    return await asyncio.wait_for(awaitable, SOON)


async def never(awaitable, seconds=NEVER):
    """Assert that something does not come; it is cancelled."""
    task = asyncio.ensure_future(awaitable)
    done, _ = await asyncio.wait([task], timeout=seconds)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        raise AssertionError("it came: {0!r}".format(await task))
    assert not done


async def started(awaitable):
    """A task of ``awaitable`` that has got to where it waits."""
    task = asyncio.ensure_future(awaitable)
    for _ in range(3):
        await asyncio.sleep(0)
    return task


async def until(condition, seconds=SOON):
    """Wait until ``condition()`` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to hold"
        await asyncio.sleep(0.01)


async def end(*tasks):
    """Cancel tasks, and wait for their end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def in_thread(function, *arguments):
    """Call a function in a thread of its own; return or raise what it does."""
    outcome = []

    def work():
        try:
            outcome.append((function(*arguments), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(SOON)
    assert outcome, "the thread did not come to an end"
    value, error = outcome[0]
    if error is not None:
        raise error
    return value


def descriptors():
    """How many are open."""
    return len(os.listdir("/proc/self/fd"))


def doorbells(prefix):
    """Names of the FIFOs of a prefix."""
    from asgi_ipc._shm import segment

    return [
        name
        for name in os.listdir(segment.runtime_folder())
        if name.startswith(prefix + "-") and name.endswith(".bell")
    ]
