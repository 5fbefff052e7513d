"""The chat on every server that people run Channels on, two processes each, and a worker.

The processes find each other by shared memory alone. Each message crosses from one to the
other; then all are told to stop, with pages still connected, and must leave nothing.
"""
import asyncio
import base64
import os
import re
import signal
import struct
import subprocess
import sys
import time

import pytest
from chatkit import (
    APPLICATION,
    EXAMPLE,
    HERE,
    HOST,
    STRAY,
    Page,
    free_port,
    kept_in_shared_memory,
    shared_memory,
)

from asgi_ipc.core import IPCChannelLayer, unlink

pytestmark = [pytest.mark.chat, pytest.mark.slow]

LINES = 25  # that each page says
SERVER_PROCESSES = 2
MOST_TRIES = 60  # connections until both processes have got two
STOPPED = 0.5  # seconds that one which has its two leaves the next connection to the other

GUNICORN = ["-m", "gunicorn", "-w", "2", "-k", "uvicorn_worker.UvicornWorker", "-b",
            f"{HOST}:{{port}}", "--graceful-timeout", "10", "--log-level", "warning"]
DAPHNE = ["-m", "daphne", "-v", "0", "-b", HOST, "-p", "{port}"]
UVICORN = ["-m", "uvicorn", "--workers", "2", "--host", HOST, "--port", "{port}",
           "--log-level", "warning", "--loop"]
HYPERCORN = ["-m", "hypercorn", "-w", "2", "-b", f"{HOST}:{{port}}", "--graceful-timeout", "1",
             "--log-level", "error"]
SERVERS = {
    # Daphne is one process, on Twisted's event loop.
    "daphne": [DAPHNE, DAPHNE],
    "uvicorn": [[*UVICORN, "asyncio"]],
    "hypercorn": [HYPERCORN],
    # Uvicorn in Gunicorn takes uvloop, if that is there.
    "gunicorn": [GUNICORN],
    "gunicorn-preload": [[*GUNICORN, "--preload", "--pythonpath", HERE]],
}
# Having stopped in good order, Uvicorn ends by the signal that it was sent, which runs nothing
# more: the process's doorbell, one file of no size, stays until the prefix is removed.
ENDED_BY_SIGNAL = ("uvicorn", "gunicorn")
# As soon as one of its processes has ended, Hypercorn sends the others SIGTERM, and one that has
# left its event loop by then dies of that, on its way out.
MAY_END_BY_SIGNAL = (*ENDED_BY_SIGNAL, "hypercorn")
# These cancel the consumers when they stop, and tell them nothing: what is sent to their pages
# expires unread, and then they leave their groups.
WITHOUT_DISCONNECT = ("daphne", "hypercorn")
# What servers say of themselves when they stop, whatever they serve. Hypercorn cancels the
# connections that are open, of which asyncio's streams complain; older Gunicorns take it for
# an error that Uvicorn ends by a signal.
SERVERS_OWN = re.compile(
    r"Exception in callback StreamReaderProtocol\.connection_made"
    r".*?\nasyncio\.exceptions\.CancelledError\n"
    r"|\[ERROR\] Worker \(pid:\d+\) was sent SIGTERM!",
    re.DOTALL,
)
# On Python 3.12 and later, Hypercorn waits for open connections for ever (its issue 308).
WAITS_FOR_PAGES = ("hypercorn",) if sys.version_info >= (3, 12) else ()


def start(site, commands, application=APPLICATION):
    """Start servers and a worker; return the ports, once all are ready."""
    site.start_worker()
    ports = []
    for number, command in enumerate(commands):
        ports.append(free_port())
        arguments = [part.format(port=ports[-1]) for part in command]
        site.start(f"server{number}", *arguments, application)
    for number, port in enumerate(ports):
        site.wait_for_port(f"server{number}", port)
    site.wait_for_worker()
    return ports


async def two_pages_each(ports):
    """Two pages of each of two processes, found by trial where the processes share a port."""
    pages = {}
    for number in range(MOST_TRIES):
        served = [process for process, found in pages.items() if len(found) == 2]
        page = await open_beside(served, ports[number % len(ports)], f"trial {number}")
        found = pages.setdefault(page.process, [])
        if len(found) < 2:
            found.append(page)
        else:
            await page.close()
        if len(pages) == 2 and all(len(found) == 2 for found in pages.values()):
            break
    assert sorted(len(found) for found in pages.values()) == [2, 2]
    return [page for found in pages.values() for page in found]


async def open_beside(served, port, name):
    """Open a page, with some processes stopped for a moment: so another one will take it.

    Who takes a connection to a shared port is whoever wakes first, and that may always be the
    same. The other one may also be late to start.
    """
    for process in served:
        os.kill(process, signal.SIGSTOP)
    try:
        opening = asyncio.ensure_future(Page.open(port, name))
        await asyncio.wait([opening], timeout=STOPPED)
    finally:
        for process in served:
            os.kill(process, signal.SIGCONT)
    return await opening


async def chat(site, ports):
    """All that the chat offers, between the pages of two processes; the pages stay open."""
    pages = await two_pages_each(ports)
    for number, page in enumerate(pages):
        await page.send(kind="name", name=f"person {number}")

    await asyncio.gather(*[speak(page, f"person {n}") for n, page in enumerate(pages)])
    for page in pages:
        heard = await page.lines(LINES * len(pages))
        for number in range(len(pages)):
            name = f"person {number}"
            said = [text for speaker, text in heard if speaker == name]
            assert said == [f"{name} says {count}" for count in range(LINES)]

    await paint(pages)
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, site.announce, "lobby", "the script was here")
    for page in pages:
        assert (await page.next("announcement"))["text"] == "the script was here"
    await everybody_is_seen(pages)
    return pages


async def speak(page, name):
    for count in range(LINES):
        await page.say(f"{name} says {count}")


async def paint(pages):
    """The first page asks for a picture, hears how it goes, and all get it."""
    asker = pages[0]
    await asker.send(kind="paint", id="a picture", words="winter")
    states = []
    while not states or states[-1][0] != "done":
        job = await asker.next("job", "picture")
        if job["kind"] == "job":
            states.append((job["state"], job["percent"]))
        else:
            check_picture(job)
    assert states[0] == ("waiting", 0)
    percents = [percent for _, percent in states]
    assert percents == sorted(percents)
    assert len(set(percents)) > 10
    for page in pages[1:]:
        # Nobody else hears of the job: next() would take it for what it is not.
        check_picture(await page.next("picture"))


def check_picture(message):
    png = base64.b64decode(message["png"])
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", png[16:24]) == (message["width"], message["height"])
    assert message["text"] == "winter"


async def everybody_is_seen(pages):
    """Each page is told, in the end, that there are two pages on each process."""
    wanted = dict.fromkeys({page.process for page in pages}, 2)
    for page in pages:
        while page.present != wanted:
            await page.next("present")


@pytest.mark.parametrize("server", list(SERVERS))
def test_two_processes_and_a_worker(site, server):
    preloaded = server == "gunicorn-preload"
    ports = start(site, SERVERS[server], "preloaded:application" if preloaded else APPLICATION)

    async def run():
        pages = await chat(site, ports)
        if server in WAITS_FOR_PAGES:
            for page in pages:
                await page.close()
        # With the pages connected, and in a thread, so that they hear of it.
        loop = asyncio.get_running_loop()
        ends = [await loop.run_in_executor(None, site.end, name) for name in servers]
        for page in pages:
            await page.closed()
        return ends

    servers = [f"server{number}" for number in range(len(ports))]
    ends = asyncio.run(run())
    ends.append(site.end("worker", signal.SIGINT))
    logs = {name: site.log(name) for name in [*servers, "worker"]}
    for status, left in ends:
        assert status in (0, -signal.SIGTERM if server.startswith(ENDED_BY_SIGNAL) else 0), logs
        assert left == []
    for log in logs.values():
        assert not STRAY.search(SERVERS_OWN.sub("", log)), log
    left = shared_memory(site.prefix)
    bells = [name for name in left if name.endswith(".bell")]
    assert len(bells) <= (SERVER_PROCESSES if server.startswith(MAY_END_BY_SIGNAL) else 0)
    assert [name for name in left if name not in bells] == kept_in_shared_memory(site.prefix)
    with IPCChannelLayer(prefix=site.prefix, expiry=0.1) as layer:
        assert layer.check() == []
        if not server.startswith(WITHOUT_DISCONNECT):
            assert layer.group_channels("chat-lobby") == []
        leave_by_expiry(layer)
    assert unlink(site.prefix)
    assert shared_memory(site.prefix) == []


def leave_by_expiry(layer):
    """Members whose process is gone leave the group when a message to them expires unread."""
    queues = {name[: name.index("!") + 1] for name in layer.group_channels("chat-lobby")}
    layer.send_group("chat-lobby", {"type": "nobody.reads.this"})
    time.sleep(2 * layer.expiry)
    while queues and layer.receive(sorted(queues)) != (None, None):
        # What was sent to them before, and is not as old yet as they had it expire.
        pass
    assert layer.group_channels("chat-lobby") == []


def test_live_server_test_case(site, tmp_path):
    """Channels' own test case, as a project uses it, with its server in another process."""
    site.environment["CHAT_TEST_FOLDER"] = str(tmp_path)
    site.environment["PYTHONPATH"] += os.pathsep + HERE
    result = subprocess.run(
        [sys.executable, "manage.py", "test", "--settings", "live_settings", "live_tests"],
        cwd=EXAMPLE,
        env=site.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=180,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    assert "Ran 2 tests" in result.stdout
    assert not STRAY.search(result.stdout), result.stdout
    assert unlink(site.prefix)
    assert shared_memory(site.prefix) == []
