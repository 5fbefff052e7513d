"""Scenes with a GroupStore, and those with a whole layer."""
import time
import warnings

from stage import Scene, but
from stages import FAR, LAYER, MEMBERS

from asgi_ipc import core, errors
from asgi_ipc._shm.clock import SECOND
from asgi_ipc._shm.segment import LOOK

SOON = 1002 * SECOND
"""Nanoseconds of the clock, two seconds after the beginning."""


def some_expire(_, store):
    store.add(u"g0", u"c0", FAR)
    store.add(u"g0", u"c1", SOON)
    store.add(u"g1", u"c0", FAR)
    store.add(u"g2", u"c5", SOON)


def no_room(stage, store):
    """All cells in use, those of one group for two seconds more."""
    for number in range(3):
        store.add(u"short", u"s{0}".format(number), SOON)
    stage.furnish(store)
    number = 0
    try:
        while True:
            store.add(u"g3", u"n{0}".format(number), FAR)
            number += 1
    except errors.GroupsFull:
        pass


def try_add(stage):
    try:
        stage.victim.add(u"g2", u"c9", FAR)
    except errors.GroupsFull:
        pass


def joined(group, channel):
    return lambda before: [but(before, {group: before.get(group, []) + [channel]})]


def left(group, channel):
    return lambda before: [
        but(before, {group: [name for name in before[group] if name != channel]})
    ]


def left_everywhere(before):
    """Each membership ends wholly or not at all; which goes first is not promised."""
    one, other = left(u"g0", u"c0")(before)[0], left(u"g1", u"c0")(before)[0]
    return [one, other, left(u"g1", u"c0")(one)[0]]


SOME = {u"g0": [u"c0"], u"g1": [u"c0"]}
"""What is left of ``some_expire``."""

GROUPS = [
    Scene("join", lambda stage: stage.victim.add(u"g0", u"c9", FAR), joined(u"g0", u"c9")),
    Scene("found", lambda stage: stage.victim.add(u"g2", u"c0", FAR), joined(u"g2", u"c0")),
    Scene(
        "join as the first of all",
        lambda stage: stage.victim.add(u"g0", u"c0", FAR),
        joined(u"g0", u"c0"),
        {},
        lambda stage, store: None,
        reaches=["_grow"],
    ),
    Scene("renew", lambda stage: stage.victim.add(u"g0", u"c1", FAR + 5)),
    Scene("shorten", lambda stage: stage.victim.add(u"g0", u"c1", FAR - 5)),
    Scene(
        "rejoin after expiry",
        lambda stage: stage.victim.add(u"g0", u"c1", FAR),
        joined(u"g0", u"c1"),
        SOME,
        some_expire,
        passes=3,
        reaches=["_end"],
    ),
    Scene(
        "renew and sweep",
        lambda stage: stage.victim.add(u"g1", u"c0", FAR),
        None,
        SOME,
        some_expire,
        passes=3,
        reaches=["_sweep", "_end"],
    ),
    Scene(
        "join where expired ones take the room",
        lambda stage: stage.victim.add(u"g2", u"c9", FAR),
        joined(u"g2", u"c9"),
        furnish=no_room,
        passes=3,
        reaches=["_sweep", "_end"],
    ),
    Scene("join with no room left", try_add, furnish=no_room, full=True),
    Scene("discard", lambda stage: stage.victim.discard(u"g0", u"c1"), left(u"g0", u"c1")),
    Scene("last one out", lambda stage: stage.victim.discard(u"g1", u"c0"), left(u"g1", u"c0")),
    Scene("discard nobody", lambda stage: stage.victim.discard(u"g1", u"c2")),
    Scene("leave all", lambda stage: stage.victim.leave_all([u"c0", u"c7"]), left_everywhere),
    Scene("list the members", lambda stage: stage.victim.members(u"g0")),
    Scene(
        "list the members where some have expired",
        lambda stage: stage.victim.members(u"g0"),
        None,
        SOME,
        some_expire,
        passes=3,
        reaches=["_end"],
    ),
    Scene("take a snapshot", lambda stage: stage.victim.snapshot(u"g0")),
    Scene("look at all groups", lambda stage: stage.victim.statistics()),
    Scene("check groups", lambda stage: stage.victim.check()),
    Scene(
        "flush groups",
        lambda stage: stage.victim.flush(),
        lambda _: [{}],
        reaches=["rebuild"],
    ),
    Scene("close groups", lambda stage: stage.victim.close(), closes=True),
    Scene("make groups", lambda stage: stage.open(), absent=True, reaches=["_make"]),
    Scene(
        "make groups that were half made",
        lambda stage: stage.open(),
        blank=True,
        reaches=["_make"],
    ),
    Scene("attach groups", lambda stage: stage.open(), reaches=["_validate"]),
    Scene(
        "rebuild and join",
        lambda stage: stage.victim.add(u"g0", u"c9", FAR),
        lambda before: [but(before, {u"g0": MEMBERS[u"g0"] + [u"c9"]})],
        {u"g1": MEMBERS[u"g1"]},
        corpse=True,
        reaches=["rebuild"],
    ),
    Scene(
        "rebuild and list",
        lambda stage: (stage.victim.discard(u"g0", u"c1"), stage.victim.members(u"g0")),
        lambda before: [but(before, {u"g0": [u"c0", u"c2"]})],
        {u"g1": MEMBERS[u"g1"]},
        corpse=True,
        reaches=["rebuild"],
    ),
    Scene(
        "rebuild and flush",
        lambda stage: stage.victim.flush(),
        lambda _: [{}],
        corpse=True,
        reaches=["rebuild"],
    ),
]


# -- both stores ----------------------------------------------------------------------

def to_the_group(before):
    news = {u"n": 2}
    return [
        but(
            before,
            {
                u"a": before[u"a"] + [(u"a", news)],
                u"p!": before[u"p!"] + [(u"p!x", news), (u"p!y", news)],
                u"q!": [(u"q!z", news)],
            },
        )
    ]


def without_messages(before):
    """First the messages go, then the groups."""
    return [{u"group g": before[u"group g"]}, {}]


def without_groups(before):
    """First the groups go, then the messages."""
    return [{name: there for name, there in before.items() if name != u"group g"}, {}]


def use_a_layer(stage):
    stage.bystander = stage.open()
    assert stage.bystander.group_channels(u"g") == LAYER[u"group g"]


def still_together(stage):
    """Who was attached before finds its way to where the others are, when it looks."""
    with warnings.catch_warnings():
        # "the shared memory was removed while in use"
        warnings.simplefilter("ignore", RuntimeWarning)
        assert stage.bystander.receive([u"nothing"]) == (None, None)
        stage.judge.send(u"a", {u"n": 7})
        assert stage.bystander.receive([u"a"]) == (u"a", {u"n": 7})
        # It looked at the groups just now, when they were still there.
        time.sleep(2 * LOOK / float(SECOND))
        stage.bystander.group_add(u"h", u"a")
    assert stage.judge.group_channels(u"h") == [u"a"]


LAYERS = [
    Scene("send to a group", lambda stage: stage.victim.send_group(u"g", {u"n": 2}), to_the_group),
    Scene("flush the layer", lambda stage: stage.victim.flush(), without_messages),
    Scene(
        "remove all",
        lambda stage: core.unlink(stage.prefix),
        without_groups,
        arrange=use_a_layer,
        finish=still_together,
        afresh=True,
    ),
]
