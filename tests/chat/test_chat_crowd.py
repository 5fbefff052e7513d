"""Many pages in one room, on two server processes: all hear everything, once and in order."""
import asyncio
import collections
import time

import pytest
from chatkit import PATIENCE, Page
from test_chat_servers import DAPHNE, UVICORN, start

from asgi_ipc.core import IPCChannelLayer

pytestmark = [pytest.mark.chat, pytest.mark.slow]

SPEAKERS = 10  # pages of each process that say something
RATE = 1000  # frames a second that all pages together get when lines come at a pace
ENDLESS = 10**6  # seconds; what does not come is noticed by all together


class Listener:
    """One page of the crowd: what it has heard, and when."""

    def __init__(self, page):
        self.page = page
        self.heard = []  # ids of lines
        self.delays = []  # seconds

    async def listen(self, expected):
        """Until so many lines were heard."""
        while len(self.heard) < expected:
            line = await self.page.next("line", patience=ENDLESS)
            self.delays.append(time.monotonic() - float(line["text"]))
            self.heard.append(line["id"])


async def gather_crowd(ports, count, room):
    """As many pages, a part on each process; connected a few at a time."""
    gate = asyncio.Semaphore(20)

    async def come(number):
        async with gate:
            port = ports[number % len(ports)]
            return Listener(await Page.open(port, f"person {number}", room))

    return await asyncio.gather(*[come(number) for number in range(count)])


def speakers_of(crowd):
    """Some pages of each process: {process: pages}."""
    pages = collections.defaultdict(list)
    for listener in crowd:
        pages[listener.page.process].append(listener.page)
    assert len(pages) == 2
    return {process: found[:SPEAKERS] for process, found in pages.items()}


async def speak(speakers, lines, pause):
    """Lines in turn from the pages of each process; the id says which, the text says when."""
    for number in range(lines):
        for process, pages in speakers.items():
            speaker = number % len(pages)
            await pages[speaker].say(str(time.monotonic()), f"{process} {speaker} {number}")
            if pause:
                await asyncio.sleep(pause)


def check_heard(crowd, speakers, lines):
    """Everyone heard all, once; each speaker in order; one process's lines in one order."""
    expected = sorted(
        f"{process} {number % len(pages)} {number}"
        for process, pages in speakers.items()
        for number in range(lines)
    )
    first = crowd[0].heard
    for listener in crowd:
        assert sorted(listener.heard) == expected
        for process, pages in speakers.items():
            of_process = [line for line in listener.heard if line.startswith(f"{process} ")]
            assert of_process == [line for line in first if line.startswith(f"{process} ")]
            for speaker in range(len(pages)):
                own = [line for line in of_process if line.startswith(f"{process} {speaker} ")]
                assert own == sorted(own, key=lambda line: int(line.split()[2]))


async def until_it_stops(work, progress):
    """Wait for some work, or until ``progress()`` has stood still for PATIENCE seconds."""
    done = None
    while not work.done() and done != progress():
        done = progress()
        await asyncio.wait([work], timeout=PATIENCE)
    if work.done():
        work.result()
    else:
        work.cancel()


async def hear_all(crowd, speakers, lines, pause):
    """Speak and listen; return the seconds that it took, and the delays in order."""
    for listener in crowd:
        listener.heard, listener.delays = [], []
    began = time.monotonic()
    await until_it_stops(
        asyncio.gather(
            speak(speakers, lines, pause),
            *[listener.listen(lines * len(speakers)) for listener in crowd],
        ),
        lambda: sum(len(listener.heard) for listener in crowd),
    )
    took = time.monotonic() - began
    check_heard(crowd, speakers, lines)
    return took, sorted(delay for listener in crowd for delay in listener.delays)


def figures(took, delays):
    """What to note of one run."""
    p50, p99 = (delays[len(delays) * part // 100] * 1000 for part in (50, 99))
    rate = len(delays) / took
    return (
        f"{len(delays):,} lines heard in {took:.1f} s ({rate:,.0f} a second), "
        f"p50 {p50:.1f} ms, p99 {p99:.1f} ms"
    )


async def crowd_on(server, ports, prefix, campaign):
    """A crowd in a room of the server's name."""
    people, lines = campaign.amount(100, 500), campaign.amount(40, 200)
    crowd = await gather_crowd(ports, people, server)
    with IPCChannelLayer(prefix=prefix) as layer:
        assert len(layer.group_channels(f"chat-{server}")) == people
    speakers = speakers_of(crowd)
    for manner, pause in (("at a pace", people / RATE), ("all at once", 0)):
        took, delays = await hear_all(crowd, speakers, lines, pause)
        campaign.note(
            f"{people} pages on two processes of {server}, {lines} lines from each process, "
            f"{manner}: {figures(took, delays)}"
        )
    # Whatever came twice would stand before this one.
    await crowd[0].page.say("the end")
    ends = await asyncio.gather(*[listener.page.lines(1) for listener in crowd])
    assert {text for ((_, text),) in ends} == {"the end"}


@pytest.mark.timeout(3600)
def test_a_crowd_hears_everything(site, campaign):
    site.use_settings("crowd_settings")
    servers = {"daphne": [DAPHNE, DAPHNE], "uvicorn-uvloop": [[*UVICORN, "uvloop"]]}
    for server in campaign.amount(["daphne"], list(servers)):
        ports = start(site, servers[server])
        asyncio.run(crowd_on(server, ports, site.prefix, campaign))
        site.end_all()
