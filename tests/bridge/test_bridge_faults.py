"""Redis killed, with its data and without; bridges killed: nothing twice, nothing lost."""
import threading
import time

import pytest
from processkit import eventually

MANY = 300


class Sender(threading.Thread):
    """Sends numbers to a group, at a pace, until it is told the last one."""

    def __init__(self, machine, pause=0.002):
        super().__init__()
        self.sent = 0
        self.slowest = 0.0
        self._machine = machine
        self._pause = pause
        self._ending = False

    def run(self):
        while not self._ending:
            self.send()
            time.sleep(self._pause)

    def send(self):
        begun = time.monotonic()
        self._machine.layer.send_group("room", {"n": self.sent})
        self.slowest = max(self.slowest, time.monotonic() - begun)
        self.sent += 1

    def reach(self, number):
        eventually(lambda: self.sent >= number, "message {0}".format(number))

    def end(self):
        self._ending = True
        self.join()
        return {"n": self.sent - 1}


@pytest.fixture
def pair(machines):
    """Two machines, and a member on the second one, whose channel is never full."""
    here, there = machines(2, "--capacity", "100000", capacity=100000)
    return here, there, there.member("room")


@pytest.mark.parametrize("server", [True], indirect=True)
def test_redis_killed_and_back_with_its_data(server, pair):
    here, there, member = pair
    sender = Sender(here)
    sender.start()
    for number in (100, 200, 300):
        sender.reach(number)
        server.kill()
        sender.reach(number + 50)
        server.start()
    last = sender.end()
    found = there.receive_all(member, last)
    assert found == [{"n": number} for number in range(sender.sent)]
    assert here.figures()["reconnects"] >= 1
    assert here.figures()["unsure"] == 0


def test_redis_killed_and_back_without_its_data(server, pair):
    """No message twice; those that Redis never had, or that came after, arrive."""
    here, there, member = pair
    sender = Sender(here)
    sender.start()
    sender.reach(100)
    server.kill()
    sender.reach(150)
    server.start()
    sender.reach(250)
    last = sender.end()
    found = [message["n"] for message in there.receive_all(member, last)]
    assert found == sorted(set(found))
    assert set(range(250, sender.sent)) <= set(found)


def test_redis_stopped_for_longer_than_its_answers_may_take(server, pair):
    here, there, member = pair
    sender = Sender(here)
    sender.start()
    sender.reach(50)
    server.freeze()
    time.sleep(4)
    server.thaw()
    last = sender.end()
    found = there.receive_all(member, last)
    assert found == [{"n": number} for number in range(sender.sent)]


def test_bridges_killed_under_traffic(pair):
    """The ones that stand by take over, on both sides, again and again."""
    here, there, member = pair
    for machine in (here, there):
        for _ in range(3):
            machine.start("--capacity", "100000")
    eventually(lambda: "standing by" in here.bridges[-1].log(), "a second bridge")
    eventually(lambda: "standing by" in there.bridges[-1].log(), "a second bridge")
    sender = Sender(here)
    sender.start()
    for machine in (here, there, here, there):
        sender.reach(sender.sent + 100)
        worker = machine.figures()["pid"]
        (bridge,) = [one for one in machine.bridges if one.process.pid == worker]
        bridge.kill()
        eventually(
            lambda machine=machine, worker=worker: machine.figures()["pid"] != worker, "an heir"
        )
    sender.reach(sender.sent + 100)
    last = sender.end()
    found = there.receive_all(member, last)
    assert found == [{"n": number} for number in range(sender.sent)]


def test_all_bridges_of_a_machine_dead_for_a_while(pair):
    """What is sent meanwhile, here and there, waits."""
    here, there, member = pair
    own = here.member("room")
    here.bridges[0].kill()
    for number in range(20):
        here.layer.send_group("room", {"n": number})
        there.layer.send_group("room", {"m": number})
    assert len(here.receive_all(own, {"n": 19})) == 20
    here.start("--capacity", "100000")
    assert here.receive_all(own, {"m": 19}) == [{"m": number} for number in range(20)]
    found = there.receive_all(member, {"n": 19})
    assert [one for one in found if "n" in one] == [{"n": number} for number in range(20)]
