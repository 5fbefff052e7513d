"""What a page must not be able to do: break its own connection, or reach another's room."""
import asyncio
import json

import pytest
from chatkit import HOST, STRAY, Page
from test_chat_servers import DAPHNE, start
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

pytestmark = [pytest.mark.chat, pytest.mark.slow]

BAD_FRAMES = [
    b"binary",
    "",
    "no JSON",
    "[" * 10000,
    "x" * 30000,
    "null",
    "[]",
    "{}",
    json.dumps({"kind": []}),
    json.dumps({"kind": "hello"}),
    json.dumps({"kind": "say", "id": "1"}),
    json.dumps({"kind": "say", "id": "1", "text": " "}),
    json.dumps({"kind": "say", "id": "1", "text": "x" * 2001}),
    json.dumps({"kind": "say", "id": "x" * 65, "text": "x"}),
    json.dumps({"kind": "say", "id": {}, "text": "x"}),
    json.dumps({"kind": "name", "name": 1}),
    json.dumps({"kind": "paint", "id": "1", "words": "x" * 81}),
]


async def check_frames(port):
    page, other = await Page.open(port, "Ann"), await Page.open(port, "Ben")
    for frame in BAD_FRAMES:
        await page.send_frame(frame)
        error = await page.next("error")
        assert error["text"].startswith(("Expected ", "“")), error
    # Characters that are hard on something on the way arrive all the same.
    for text in ("<b>&amp;</b>", "a\u2028\u0001 \U0001f375", "\\", "x" * 2000):
        await page.say(text, "an id")
        for listener in (page, other):
            assert await listener.lines(1) == [("Ann", text)]
    await page.send_frame('{"kind": "say", "id": "2", "text": "half \\ud83c"}')
    assert await other.lines(1) == [("Ann", "half ?")]


async def check_doors(port):
    address = f"ws://{HOST}:{port}/ws/"
    for path, origin in [
        ("lobby/", "http://elsewhere.example"),
        ("lobby/", None),
        ("no%20room/", f"http://{HOST}:{port}"),
    ]:
        with pytest.raises(InvalidStatus):
            await connect(address + path, origin=origin, proxy=None)


def test_frames_and_doors(site):
    ports = start(site, [DAPHNE, DAPHNE])
    asyncio.run(check_frames(ports[0]))
    assert not STRAY.search(site.log("server0")), site.log("server0")
    asyncio.run(check_doors(ports[1]))
