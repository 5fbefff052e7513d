"""The chat of ``examples/channels1_chat`` on real processes: page, websockets, idleness."""
from __future__ import unicode_literals

import json
import os
import sys
import time

import pytest
from chatsite import PATIENCE, receive_text

pytestmark = [pytest.mark.channels1, pytest.mark.slow]

LINES = 1000
# In flight at most. Channels 1 closes a socket whose messages outrun the workers by more
# than a channel's capacity (100), which is flow control, not loss.
WINDOW = 50
IDLE_SECONDS = 6
WAITING_THROUGH_REACTOR = "Using native Twisted mode"
POLLING = "Using busy-loop synchronous mode"


def say(client, text):
    client.send(json.dumps({"name": "tester", "text": text}))


def hear(client):
    """The next line of the room; what is not one fails the test."""
    message = receive_text(client)
    assert message["kind"] == "line", message
    return message["text"]


def converse(speaker, listener, count):
    """``count`` numbered lines from one to the other; what each of them heard."""
    said, heard = 0, []
    while len(heard) < count:
        while said < count and said - len(heard) < WINDOW:
            say(speaker, "line %d" % said)
            said += 1
        heard.append(hear(listener))
    return heard, [hear(speaker) for _ in range(count)]


def check_chat(site):
    status, page = site.get("/")
    assert status == 200
    assert 'data-room="lobby"' in page
    assert site.get("/static/chat/chat.js")[0] == 200

    ann, ben = site.websocket(), site.websocket()
    elsewhere = site.websocket("another-room")
    expected = ["line %d" % number for number in range(LINES)]
    for speaker, listener in ((ann, ben), (ben, ann)):
        heard, echoed = converse(speaker, listener, LINES)
        assert heard == expected
        assert echoed == expected
    # Whatever came twice would stand before this one; the other room heard nothing at all.
    say(ben, "the end")
    say(elsewhere, "all quiet")
    assert [hear(ann), hear(ben), hear(elsewhere)] == ["the end", "the end", "all quiet"]
    for client in (ann, ben, elsewhere):
        client.close()


def check_stop(site):
    """SIGTERM ends each process by itself, soon and in good order."""
    assert site.stop() == {"daphne": 0, "worker1": 0, "worker2": 0}, site.logs()


def test_chat_loses_nothing(site):
    check_chat(site)
    assert WAITING_THROUGH_REACTOR in site.log("daphne")
    check_stop(site)


def test_chat_loses_nothing_without_the_twisted_extension(polled_site):
    check_chat(polled_site)
    assert POLLING in polled_site.log("daphne")
    check_stop(polled_site)


def test_a_bad_frame_is_answered_and_the_connection_goes_on(site):
    client = site.websocket()
    for frame in ("no json", "[]", '{"name": 1, "text": "x"}', '{"name": " ", "text": "x"}'):
        client.send(frame)
        assert receive_text(client)["kind"] == "error"
    say(client, "still here")
    assert hear(client) == "still here"


def cpu_seconds(pid):
    """Processor time that a process has used, user and system."""
    with open("/proc/%d/stat" % pid) as stat:
        # The command's name may hold spaces: count from behind its closing bracket.
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / float(os.sysconf(str("SC_CLK_TCK")))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_an_idle_site_uses_no_processor(site):
    client = site.websocket()
    say(client, "warm")
    assert hear(client) == "warm"
    assert site.get("/")[0] == 200
    time.sleep(1)

    pids = site.pids
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    started = time.time()
    time.sleep(IDLE_SECONDS)
    elapsed = time.time() - started
    used = {name: (cpu_seconds(pids[name]) - before[name]) / elapsed for name in pids}
    assert max(used.values()) < 0.01, used

    # It was waiting, not dead.
    started = time.time()
    say(client, "awake")
    assert hear(client) == "awake"
    assert time.time() - started < PATIENCE
    client.close()
