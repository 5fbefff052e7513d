"""The chat of ``examples/chat``, unchanged, on three machines: two servers and a worker on each.

What two processes of one machine do in tests/chat, six processes of three machines do here.
"""
import asyncio
import contextlib
import os
import socket
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.append(os.path.join(os.path.dirname(HERE), "chat"))

for name in ("channels", "django", "psutil", "uvicorn", "websockets"):
    pytest.importorskip(name)

import chatkit  # noqa: E402
from chatkit import APPLICATION, HOST, STRAY, Page, free_port  # noqa: E402

LINES = 10  # that each page says
SERVERS = 2  # of each machine
ROOM = "lobby"


class MachineSite(chatkit.Site):
    """The example's processes of one machine."""

    def __init__(self, place, folder):
        super().__init__(place.prefix, folder)
        self.environment = {**place.environment(), **chatkit.environment(place.prefix)}
        self.place = place
        self.ports = []

    def command(self, *arguments, cwd):
        return self.place.command(sys.executable, *arguments, folder=cwd)

    def get(self, port):
        with self.place.networking():
            return super().get(port)

    def start_all(self):
        """Start servers and a worker."""
        self.start_worker()
        for number in range(SERVERS):
            self.ports.append(free_port())
            options = ["--host", HOST, "--port", str(self.ports[-1]), "--lifespan", "off"]
            options += ["--log-level", "warning"]
            self.start(f"server{number}", "-m", "uvicorn", *options, APPLICATION)

    def wait_for_all(self):
        for number, port in enumerate(self.ports):
            self.wait_for_port(f"server{number}", port)
        self.wait_for_worker()

    async def page(self, number, name):
        """A page at one of its servers."""
        with self.place.networking():
            there = socket.create_connection((HOST, self.ports[number]))
        there.setblocking(False)
        return await Page.open(self.ports[number], name, ROOM, there)


@pytest.fixture
def make_sites(make_fleet, tmp_path):
    """A function that starts the chat on three machines, and waits until it is ready.

    :param settings: a module of this folder, in place of the example's own.
    """
    with contextlib.ExitStack() as rooms:

        def make(settings=None):
            fleet = make_fleet()
            sites = []
            for place in fleet.places:
                folder = tmp_path / f"machine{place.number}"
                folder.mkdir()
                sites.append(rooms.enter_context(MachineSite(place, folder)))
                if settings is not None:
                    sites[-1].environment["CHAT_REDIS"] = fleet.redis.url
                    sites[-1].environment["DJANGO_SETTINGS_MODULE"] = settings
                    sites[-1].environment["PYTHONPATH"] += os.pathsep + HERE
                sites[-1].start_all()
            for site in sites:
                site.wait_for_all()
            return fleet, sites

        yield make


async def chat(sites, script=True):
    """All that the chat offers, between the pages of six processes.

    :param script: whether one without an event loop speaks as well.
    """
    pages = [
        await site.page(number, f"person {place}.{number}")
        for place, site in enumerate(sites)
        for number in range(SERVERS)
    ]
    assert len({page.process for page in pages}) == len(sites) * SERVERS
    names = [f"person {place}.{number}" for place in range(len(sites)) for number in range(SERVERS)]
    await asyncio.gather(*[speak(page, name) for page, name in zip(pages, names)])
    for page in pages:
        heard = await page.lines(LINES * len(pages))
        for name in names:
            said = [text for speaker, text in heard if speaker == name]
            assert said == [f"{name} says {count}" for count in range(LINES)]

    for asker in pages[::SERVERS]:
        await paint(asker, pages)
    if script:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, sites[2].announce, ROOM, "the script was here")
        for page in pages:
            assert (await page.next("announcement"))["text"] == "the script was here"
    everybody = {page.process: 1 for page in pages}
    for page in pages:
        while page.present != everybody:
            await page.next("present")
    for page in pages:
        await page.close()


async def speak(page, name):
    for count in range(LINES):
        await page.say(f"{name} says {count}")


async def paint(asker, pages):
    """A worker of the asker's machine paints; all see the picture, the asker how it goes."""
    await asker.send(kind="paint", id="a picture", words="winter")
    states = []
    while not states or states[-1] != "done":
        told = await asker.next("job", "picture")
        if told["kind"] == "job":
            states.append(told["state"])
    assert states[0] == "waiting"
    assert "painting" in states
    for page in pages:
        if page is not asker:
            assert (await page.next("picture"))["text"] == "winter"


def assert_silent(sites):
    for site in sites:
        for name in ("server0", "server1", "worker"):
            assert not STRAY.search(site.log(name)), site.log(name)


def test_with_bridges(make_sites):
    fleet, sites = make_sites()
    for place in fleet.places:
        fleet.bridge(place)
        # With members of its own, so that it is seen when all are connected.
        fleet.agent(place)
    fleet.connect()
    asyncio.run(chat(sites))
    assert_silent(sites)
    for place in fleet.places:
        assert "Traceback" not in place.log("bridge"), place.log("bridge")


def test_with_channels_redis_by_changing_the_settings_alone(make_sites):
    """For a site that has outgrown the bridge; docs/scaling.rst says when."""
    pytest.importorskip("channels_redis")
    _, sites = make_sites("redis_settings")
    # The script uses the synchronous layer of asgi_ipc, which has no counterpart there.
    asyncio.run(chat(sites, script=False))
    assert_silent(sites)
