"""Channels that machines share: a message goes where somebody waits, once."""
import threading
import time

import pytest
from bridgekit import Machine
from processkit import eventually


class Worker(threading.Thread):
    """Receives jobs with a layer of its own, as a process of that machine would."""

    def __init__(self, machine, channel="jobs", takes=0.0):
        super().__init__(daemon=True)
        self.had = []
        self.ending = False
        self._other = Machine(machine.prefix, "", "", capacity=100000, block_timeout=0.2)
        self._channel = channel
        self._takes = takes

    def run(self):
        while not self.ending:
            _, message = self._other.layer.receive([self._channel], block=True)
            if message is not None:
                self.had.append(message["n"])
                time.sleep(self._takes)

    def end(self):
        self.ending = True
        self.join()
        self._other.layer.close()


@pytest.fixture
def hire():
    workers = []

    def one(machine, **options):
        workers.append(Worker(machine, **options))
        workers[-1].start()
        return workers[-1]

    yield one
    for worker in workers:
        worker.end()


SHARE = ("--share", "jobs*", "--capacity", "100000")


def test_a_job_goes_to_the_machine_that_has_a_worker(machines, hire):
    here, there, _ = machines(3, *SHARE, capacity=100000)
    worker = hire(there)
    for number in range(30):
        here.layer.send("jobs", {"n": number})
    eventually(lambda: len(worker.had) >= 30, "all jobs")
    time.sleep(0.3)
    assert sorted(worker.had) == list(range(30))


def test_a_worker_here_comes_first(machines, hire):
    here, there = machines(2, *SHARE, capacity=100000)
    near, far = hire(here), hire(there)
    time.sleep(0.3)
    for number in range(20):
        here.layer.send("jobs", {"n": number})
        eventually(lambda number=number: number in near.had + far.had, "the job")
        # It waits again.
        time.sleep(0.02)
    assert near.had == list(range(20))
    assert far.had == []


def test_a_job_waits_for_a_worker_anywhere(machines, hire):
    here, there = machines(2, *SHARE, capacity=100000)
    for number in range(10):
        here.layer.send("jobs", {"n": number})
    eventually(lambda: here.figures()["sent"] >= 10, "the jobs on their way")
    there.layer.send("jobs", {"n": 10})
    worker = hire(there)
    eventually(lambda: len(worker.had) >= 11, "all jobs")
    time.sleep(0.3)
    assert sorted(worker.had) == list(range(11))


def test_what_does_not_match_stays(machines, hire):
    here, there = machines(2, *SHARE)
    worker = hire(there, channel="other")
    here.layer.send("other", {"n": 1})
    time.sleep(0.5)
    assert worker.had == []
    assert here.layer.receive(["other"]) == ("other", {"n": 1})


def test_each_job_once_whoever_dies(machines, hire):
    """Jobs from two machines, workers on all three, bridges killed and started again."""
    here, there, third = three = machines(3, *SHARE, capacity=100000)
    workers = [hire(machine, takes=0.005) for machine in three for _ in range(2)]
    count = 0
    for victim in (here, there, third, there):
        for _ in range(60):
            for machine in (here, there):
                machine.layer.send("jobs", {"n": count})
                count += 1
            time.sleep(0.002)
        bridge = victim.bridges[-1]
        victim.start(*SHARE)
        bridge.kill()
    eventually(lambda: sum(len(worker.had) for worker in workers) >= count, "all jobs", 40)
    time.sleep(0.5)
    assert sorted(number for worker in workers for number in worker.had) == list(range(count))
