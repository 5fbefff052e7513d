"""A cluster, a master that a sentinel knows, a password: as redis-py's URLs have them."""
import os

import pytest
from bridgekit import Machine, Server
from processkit import eventually

pytest.importorskip("redis", reason="NO BRIDGE WAS TESTED: redis-py is not installed")


class Sentinel(Server):
    """A sentinel that watches a server."""

    def __init__(self, watched):
        self._watched = watched
        Server.__init__(self, options=["--sentinel"])

    def _first_words(self):
        path = os.path.join(self._own_folder, "sentinel.conf")
        with open(path, "w", encoding="ascii") as stream:
            stream.write("sentinel monitor mine 127.0.0.1 {0} 1\n".format(self._watched.port))
        return [path]


@pytest.fixture
def start(server):
    """A function that starts one more server; ``server`` is there to skip where none can be."""
    started = []

    def one(kind, *watched, **options):
        started.append(kind(*watched, **options))
        return started[-1]

    yield one
    for found in started:
        found.close()


def talk(machines, url, *options):
    """Have a message go from one machine to another, by this Redis, and a job."""
    (first,) = machines(1, bridges=False)
    two = [first]
    two.append(Machine(first.prefix + "-2", first._name, url))
    first._url = url
    try:
        for machine in two:
            machine.start("--share", "jobs", *options)
        for machine in two:
            machine.connected()
        member = two[1].member("room")
        for number in range(10):
            two[0].layer.send_group("room", {"n": number})
        assert len(two[1].receive_all(member, {"n": 9})) == 10
        two[0].layer.send(member, {"n": 10})
        assert two[1].receive(member) == {"n": 10}
        two[0].layer.send("jobs", {"n": 11})
        job = eventually(lambda: two[1].layer.receive(["jobs"], block=True)[1], "the job")
        assert job == {"n": 11}
    finally:
        two[1].close()


def test_a_cluster(machines, start):
    server = start(Server, options=["--cluster-enabled", "yes"])
    server.client().execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    eventually(lambda: "ok" in str(server.client().cluster("INFO")["cluster_state"]), "the cluster")
    talk(machines, "redis://127.0.0.1:{0}".format(server.port), "--cluster")


def test_a_master_that_a_sentinel_knows(machines, start):
    sentinel = start(Sentinel, start(Server))
    talk(machines, "redis://127.0.0.1:{0}/0".format(sentinel.port), "--sentinel", "mine")


def test_a_password(machines, start):
    server = start(Server, options=["--requirepass", "secret"])
    talk(machines, "redis://:secret@127.0.0.1:{0}/3".format(server.port))
    bridge = machines(1, bridges=False)[0]
    bridge._url = "redis://:wrong@127.0.0.1:{0}/3".format(server.port)
    started = bridge.start()
    eventually(lambda: "no Redis" in started.log(), "its word")
    assert "wrong" not in started.log().replace("wrong password", "")
