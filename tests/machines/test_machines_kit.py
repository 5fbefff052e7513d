"""The machines of these tests are machines: they share the Redis, and nothing else."""
import os
import socket
import time

import pytest
from fleetkit import PREFIXES, machines
from processkit import eventually
from sandbox import faketime_library


def test_each_has_its_own_memory(make_fleet):
    fleet = make_fleet(count=2)
    here, there = [fleet.agent(place) for place in fleet.places]
    assert here.send("jobs", {"n": 1}) is None
    assert there.receive("jobs", 0.2) is None
    assert here.receive("jobs", 0.2) == {"n": 1}
    here.say(3)
    eventually(lambda: here.count() == 6, "a group send")
    assert there.count() == 0
    assert here.check() == there.check() == []


def test_each_has_its_own_clocks(make_fleet):
    fleet = make_fleet(count=3)
    fleet.places[1].hours_off = 1 if faketime_library() else 0
    found = [fleet.agent(place).clocks() for place in fleet.places]
    for place, (_, monotonic) in zip(fleet.places, found):
        assert abs(monotonic - time.monotonic()) < 60
        assert place.isolated == (place.ahead > 0)
    # The kit reckons with it: that is seen where it does not.
    if fleet.places[0].isolated:
        assert len({place.ahead for place in fleet.places}) == 3
    if faketime_library() is None:
        pytest.skip("needs libfaketime (Debian: apt-get install libfaketime)")
    assert [round((wall - time.time()) / 3600) for wall, _ in found] == [0, 1, 0]


def test_a_cable_can_be_pulled(make_fleet):
    fleet = make_fleet(count=2)
    fleet.needs_namespaces()
    one, other = fleet.places

    def reach(place):
        with place.networking():
            try:
                socket.create_connection((machines.HUB, 6379), 1).close()
            except OSError:
                return False
        return True

    one.cut()
    assert not reach(one)
    assert reach(other)
    one.mend()
    # The bridge learns of it a moment later, and drops what comes before.
    eventually(lambda: reach(one), "a link that was mended")


def test_no_trace_is_left(make_fleet):
    fleet = make_fleet(count=1)
    pid = fleet.redis._process.pid
    fleet.agent(fleet.places[0])
    fleet.close()
    assert not os.path.exists("/proc/{0}".format(pid))
    assert not [name for name in os.listdir("/dev/shm") if fleet.name in name]


def test_a_redis_that_is_killed_has_its_data_or_not(make_fleet):
    redis = make_fleet(count=1).redis
    redis.command("XADD", "a", "*", "k", "v")
    redis.kill()
    assert redis.command("PING") == ""
    redis.start()
    assert redis.command("XLEN", "a") == "1"
    redis.kill()
    redis.forget()
    redis.start()
    assert redis.command("XLEN", "a") == "0"


def test_without_namespaces_it_is_said(make_fleet, monkeypatch):
    monkeypatch.setenv(PREFIXES, "1")
    fleet = make_fleet(count=2)
    assert [place.isolated for place in fleet.places] == [False, False]
    here, there = [fleet.agent(place) for place in fleet.places]
    here.say(1)
    eventually(lambda: here.count() == 2, "a group send")
    assert there.count() == 0
    with pytest.raises(pytest.skip.Exception) as caught:
        fleet.needs_namespaces()
    assert PREFIXES in str(caught.value)
