"""What a site gets from bridges: its groups and reply channels reach every machine."""
import time

import pytest
from accounts import take
from processkit import eventually

MEMBERS = 2


@pytest.fixture
def fleet(make_fleet):
    """Three machines with a bridge on each, two processes of the site on the first one."""
    fleet = make_fleet()
    for place in fleet.places:
        fleet.bridge(place)
        fleet.agent(place, MEMBERS)
    fleet.agent(fleet.places[0], MEMBERS)
    fleet.connect()
    return fleet


def test_a_group_send_reaches_each_member_of_each_machine_once(fleet):
    for agent in fleet.agents:
        assert agent.say(50) == 50
    account = take(fleet.agents, MEMBERS)
    assert account.total == 200
    assert account.missing() == account.doubled() == account.disordered() == []


def test_a_reply_channel_is_reached_from_each_machine(fleet):
    asker = fleet.agents[0]
    reply = asker.new_channel()
    for agent in fleet.agents:
        assert agent.send(reply, {"from": agent.name}) is None
    found = {asker.receive(reply, 10)["from"] for _ in fleet.agents}
    assert found == {agent.name for agent in fleet.agents}
    # And on its own machine, as ever, with the bridge gone.
    fleet.places[0].stop("bridge")
    assert asker.send(reply, {"from": "itself"}) is None
    assert asker.receive(reply, 10) == {"from": "itself"}


def test_a_worker_queue_stays_on_its_machine(fleet):
    here, there = fleet.agents[:2]
    assert here.send("jobs", {"n": 1}) is None
    assert there.receive("jobs", 0.5) is None
    assert here.receive("jobs", 10) == {"n": 1}


def test_without_a_bridge_the_other_machines_are_not_reached_and_that_is_said(fleet):
    reply = fleet.agents[0].new_channel()
    there = fleet.agents[1]
    assert fleet.places[1].stop("bridge") == 0
    kind, text = there.send(reply, {"n": 1})
    assert kind not in ("ChannelFull", "TypeError")
    assert "bridge" in text
    before = [agent.count() for agent in fleet.agents]
    there.say(1)
    eventually(lambda: there.count() == before[1] + MEMBERS, "the send on its own machine")
    assert [agent.count() for agent in fleet.agents if agent is not there] == [
        count for agent, count in zip(fleet.agents, before) if agent is not there
    ]


def test_what_a_bridge_counts(fleet):
    here, there = fleet.agents[:2]

    def counted():
        return here.bridge()["sent"], there.bridge()["received"]

    # What says that all are connected is under way still.
    before, again = None, counted()
    while before != again:
        time.sleep(0.5)
        before, again = again, counted()
    here.say(10)
    wanted = before[0] + 10, before[1] + 10
    eventually(lambda: counted() == wanted, lambda: "{0}: {1}".format(wanted, counted()))
    assert '"bridge"' in fleet.places[0].run("stat", "--json", fleet.places[0].prefix)
