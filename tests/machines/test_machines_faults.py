"""Faults between machines: nothing twice, nothing lost that need not be, and nobody waits.

All agents send numbered messages all the time while something breaks; then ``accounts`` says
what became of each. What holds in every case is in ``holds_at_home``; what may be lost, each
test says. The short forms are here in full; the campaign's ``--full`` repeats them for long.
"""
import time

import pytest
from accounts import take
from fleetkit import PATIENCE
from sandbox import faketime_library

MEMBERS = 2
EVERY = 0.01  # seconds between two messages of an agent
SHORT = 3  # seconds: an expiry for tests that have something expire
STUCK = 5  # seconds: who waits for so long on its own machine waits for somebody
STANDS_BY = "stand"  # what a bridge says that finds another one at work
LAPSE = 2.0  # seconds around a fault in which a message was under way, on a busy machine


def site(make_fleet, bridges=("bridge",), **options):
    """Three machines, on each of them bridges and a process of the site; all connected."""
    fleet = make_fleet(**options)
    return populate(fleet, bridges)


def populate(fleet, bridges=("bridge",)):
    for place in fleet.places:
        for name in bridges:
            fleet.bridge(place, name)
        fleet.agent(place, MEMBERS)
    fleet.connect()
    return fleet


def flow(fleet, count=1):
    for agent in fleet.agents:
        agent.flow(EVERY, count)


def now():
    return time.monotonic()


def holds_at_home(account, outage, campaign):
    """What no fault may change; ``outage``: its seconds, which nobody may have waited."""
    campaign.note(account.summary())
    assert account.total > 100
    assert account.doubled() == []
    assert account.disordered() == []
    assert account.missing(near=True) == []
    assert account.slowest(near=True) < outage


def reconnected(fleet):
    """When each agent hears all others again; what says so does not count as a message."""
    began = now()
    # Whom they heard before does not count.
    for agent in fleet.agents:
        agent.forget_greetings()
    fleet.connect()
    return max(began, now())


@pytest.mark.parametrize("data", ["kept", "lost"])
def test_redis_is_killed_and_comes_back(make_fleet, campaign, data):
    fleet = site(make_fleet)
    flow(fleet)
    killed, outages = [], []
    for _ in range(campaign.amount(1, 10)):
        time.sleep(1)
        # So that each bridge has something under way for sure.
        fleet.redis.freeze()
        time.sleep(0.3)
        killed.append(now())
        fleet.redis.kill()
        if data == "lost":
            fleet.redis.forget()
        time.sleep(campaign.amount(2, campaign.random.uniform(1, 8)))
        fleet.redis.start()
        reconnected(fleet)
        outages.append(now() - killed[-1])
    time.sleep(1)
    account = take(fleet.agents, MEMBERS, within=PATIENCE if data == "kept" else LAPSE)
    holds_at_home(account, min(outages), campaign)
    lost = account.missing(near=False)
    if data == "kept":
        assert lost == []
    # Else what was in Redis, or under way to or from it.
    assert [
        case for case in lost if not any(abs(case.sent - moment) < LAPSE for moment in killed)
    ] == []


def test_what_was_held_up_does_not_fill_the_queues_of_those_who_read(make_fleet, campaign):
    """It comes at once, and is more than a queue holds that has the default capacity."""
    fleet = site(make_fleet, capacity=100)
    for agent in fleet.agents:
        # Twice as quick as what is sent, and not as quick as a bridge.
        agent.dawdle(EVERY / 3 / MEMBERS / 2)
    flow(fleet)
    for _ in range(campaign.amount(2, 60)):
        # Many times in a row, the readers have to come up with it in between.
        time.sleep(campaign.amount(1, 4))
        assert fleet.redis.command("CLIENT", "PAUSE", "2000", "ALL") == "OK"
        time.sleep(2)
    reconnected(fleet)
    account = take(fleet.agents, MEMBERS)
    holds_at_home(account, STUCK, campaign)
    assert account.missing() == []


def test_redis_comes_back_without_data_and_with_an_earlier_clock(make_fleet, campaign):
    """Its stream's numbers are times: the new ones are below those that were read."""
    fleet = site(make_fleet)
    # As if its clock had been an hour ahead; nobody's bridge, so it is refused besides.
    stream = "{{{0}}}:groups".format(fleet.name)
    later = "{0}-0".format(int((time.time() + 3600) * 1000))
    assert fleet.redis.command("XADD", stream, later, "d", "nonsense") == later
    flow(fleet)
    time.sleep(1)
    killed = now()
    fleet.redis.kill()
    fleet.redis.forget()
    time.sleep(1)
    fleet.redis.start()
    back = reconnected(fleet)
    time.sleep(1)
    newest = fleet.redis.command("XREVRANGE", stream, "+", "-", "COUNT", "1").partition("-")[0]
    assert int(newest) < int(later.partition("-")[0])
    account = take(fleet.agents, MEMBERS, within=LAPSE)
    holds_at_home(account, back - killed, campaign)
    # A bridge that reads on in the new stream takes what is in it for known.
    lost = account.missing(near=False)
    assert [case for case in lost if not killed - LAPSE < case.sent < back] == []


def nothing_is_lost(make_fleet, campaign, rounds, cut, mend, seconds):
    """Cut one machine off, again and again, for so many seconds (a function)."""
    fleet = make_fleet()
    fleet.needs_namespaces()
    populate(fleet)
    flow(fleet)
    outages = []
    for _ in range(rounds):
        place = campaign.random.choice(fleet.places)
        began = now()
        cut(place)
        time.sleep(seconds())
        mend(place)
        reconnected(fleet)
        outages.append(now() - began)
    account = take(fleet.agents, MEMBERS)
    holds_at_home(account, min(outages), campaign)
    assert account.missing() == []


def test_a_link_is_cut_and_mended(make_fleet, campaign):
    nothing_is_lost(
        make_fleet, campaign, campaign.amount(1, 5),
        lambda place: place.cut(), lambda place: place.mend(), lambda: 5,
    )  # fmt: skip


def test_what_is_sent_arrives_and_the_answers_are_lost(make_fleet, campaign):
    """So that Redis has a batch of which its bridge does not know."""
    nothing_is_lost(
        make_fleet, campaign, campaign.amount(1, 10),
        lambda place: place.deafen(), lambda place: place.undeafen(),
        lambda: campaign.amount(4, campaign.random.uniform(1, 8)),
    )  # fmt: skip


def test_a_link_is_cut_for_longer_than_messages_live(make_fleet, campaign):
    fleet = make_fleet(expiry=SHORT)
    fleet.needs_namespaces()
    if faketime_library() is not None:
        # What is expired, and what is not, is a matter of time.
        fleet.places[0].hours_off, fleet.places[2].hours_off = 1, -1
    populate(fleet)
    flow(fleet)
    time.sleep(1)
    place = fleet.places[2]
    cut = now()
    place.cut()
    time.sleep(campaign.amount(3 * SHORT, 10 * SHORT))
    place.mend()
    back = reconnected(fleet)
    time.sleep(1)
    account = take(fleet.agents, MEMBERS, within=2 * SHORT)
    holds_at_home(account, back - cut, campaign)
    lost = account.missing(near=False)
    # Those who were not cut off miss nothing of each other, ...
    away = fleet.agents[2].name
    assert [case for case in lost if away not in (case.receiver, case.origin)] == []
    # ... what was lost had no time left when the cable was back, and what had none was lost.
    assert [case for case in lost if not cut - LAPSE < case.sent < back - SHORT + LAPSE] == []
    assert len(lost) > 0
    assert account.late(2 * SHORT) == []


def test_bridges_are_killed_at_any_moment(make_fleet, campaign):
    fleet = site(make_fleet)
    # What agents remember of an hour would be too much otherwise.
    flow(fleet, count=campaign.amount(5, 1))
    rounds = campaign.amount(8, 300)
    for number in range(rounds):
        place = campaign.random.choice(fleet.places)
        if number % 2:
            # So that a batch is under way for sure.
            fleet.redis.command("CLIENT", "PAUSE", "300", "ALL")
        time.sleep(campaign.random.uniform(0, 0.3))
        place.kill("bridge")
        fleet.bridge(place)
        time.sleep(campaign.random.choice([0, 0, 0.5, 1]))
        if number % 50 == 49:
            # So many wait nowhere: the agents remember each message.
            fleet.connect()
    reconnected(fleet)
    account = take(fleet.agents, MEMBERS)
    campaign.note("killed {0} times".format(rounds))
    holds_at_home(account, STUCK, campaign)
    assert account.missing() == []


def test_the_second_bridge_of_a_machine_takes_over(make_fleet, campaign):
    fleet = site(make_fleet, bridges=("one", "two"))
    flow(fleet)
    for number in range(campaign.amount(4, 60)):
        # In the first round it may be the one that stands by: from then on it is the other one.
        name = ("one", "two")[number % 2]
        for place in fleet.places:
            place.kill(name)
        reconnected(fleet)
        for place in fleet.places:
            fleet.bridge(place, name)
            place.wait_for_log(name, STANDS_BY)
    account = take(fleet.agents, MEMBERS)
    holds_at_home(account, STUCK, campaign)
    assert account.missing() == []


def test_clocks_that_differ_by_hours(make_fleet, campaign):
    if faketime_library() is None:
        pytest.skip("needs libfaketime (Debian: apt-get install libfaketime)")
    fleet = make_fleet(expiry=SHORT)
    for place, hours in zip(fleet.places, (0, 1, -1)):
        place.hours_off = hours
    populate(fleet)
    flow(fleet)
    time.sleep(campaign.amount(2 * SHORT, 600))
    account = take(fleet.agents, MEMBERS)
    holds_at_home(account, SHORT, campaign)
    assert account.missing() == []
