"""Scenes with a MessageStore: each of its public operations, on each way that it can take."""
from stage import ROOMY, Scene, but
from stages import BACKLOG, LAST, MANY
from storekit import LONG, PLENTY, drain, get, put, try_put

from asgi_ipc import records
from asgi_ipc._shm.clock import SECOND
from asgi_ipc.crossing import GROUPS, OUTBOX, OWN
from asgi_ipc.layout import SEQUENCE
from asgi_ipc.sending import SWEEP_EVERY

FILLING = b"f" * 800
BIG = b"0123456789" * 500
LONG_BODY = b"0123456789" * 1650
assert len(LONG_BODY) > records.SMALL


def with_expired(stage, store):
    """Channels whose first messages have two seconds to live, and the last more."""
    for number in range(4):
        put(store, u"old", b"o%d" % number, lifetime=LONG if number == 3 else 2 * SECOND)
        put(store, u"old!", b"e%d" % number, local=u"x", lifetime=2 * SECOND)
    stage.furnish(store)


def before_a_sweep(stage, store):
    """The same, and the next send is one that sweeps."""
    with_expired(stage, store)
    while (store._words[SEQUENCE] + 1) % SWEEP_EVERY:
        put(store, u"passing", b"x")
        get(store, u"passing")


def sent(queue, payload, local=u""):
    """One more message at the end of a queue."""
    return lambda before: [but(before, {queue: before.get(queue, []) + [(local, payload)]})]


def taken(queue, count=1):
    """The first messages of a queue gone."""
    return lambda before: [but(before, {queue: before[queue][count:]})]


def fanned(before):
    """The outcome of ``fan_out``."""
    changes = {
        u"a": before[u"a"] + [(u"", b"all")],
        u"p!": before[u"p!"] + [(u"x", b"all"), (u"z", b"all")],
        u"q!": [(u"y", b"all")],
    }
    return [but(before, changes)]


def fan_out(stage):
    targets = [(u"p!", b"x\nz", PLENTY), (u"q!", b"y", PLENTY), (u"a", b"", PLENTY)]
    stage.victim.send_each(targets, b"all", LONG)


def refused(stage):
    """A send to a channel that holds what it may."""
    assert not try_put(stage.victim, u"a", b"new", capacity=3)


def hang_up(stage):
    """Somebody waits at "w"."""
    stage.bystander = stage.open()
    stage.waiter = stage.bystander.borrow_waiter()
    assert stage.bystander.receive([u"w"], stage.waiter) is None


def hang_up_behind_a_dead_one(stage):
    """One who waited at "w" has died, and somebody else waits behind it."""
    leave_a_dead_one(stage, stage.open())
    hang_up(stage)


def leave_a_dead_one(_, store):
    dead = store.borrow_waiter()
    assert store.receive([u"w"], dead) is None
    # As far as others can see: nobody has the FIFO open.
    dead.doorbell.close()


def still_woken(stage):
    """Once it has looked, the next message wakes the one who waits."""
    bystander, waiter = stage.bystander, stage.waiter
    assert bystander.receive([u"w"], waiter) is None
    waiter.doorbell.silence()
    put(stage.judge, u"w", b"next")
    assert waiter.doorbell.wait(0)
    assert bystander.receive([u"w"], waiter) == (u"w", u"", b"next")
    bystander.leave(waiter)


def still_served(stage):
    """Where the one who failed hung itself up, messages come through."""
    for queue in (u"w", u"v"):
        put(stage.judge, queue, b"next")
        assert drain(stage.judge, queue) == [b"next"]


def wait_in_vain(stage):
    stage.waiter = stage.victim.borrow_waiter()
    assert stage.victim.receive([u"w", u"v"], stage.waiter) is None


def wait_and_be_called(stage):
    wait_in_vain(stage)
    put(stage.victim, u"v", b"news")


def take_the_news(stage):
    assert stage.victim.receive([u"w", u"v"], stage.waiter) == (u"v", u"", b"news")


def wait_with_another_behind(stage):
    """Two of one process wait, the first one is called, and takes nothing."""
    wait_in_vain(stage)
    stage.victim.receive([u"v"], stage.victim.borrow_waiter())
    put(stage.victim, u"v", b"news")


def come_and_go(store, count):
    """Channels that hold nothing any more."""
    for number in range(count):
        put(store, u"gone{0}".format(number), b"x")
        assert get(store, u"gone{0}".format(number))


def pass_by(store):
    put(store, u"fast", FILLING)
    assert get(store, u"fast")


def feed(stage, store, reached, step=pass_by):
    """Do ``step`` until it is what comes next that the scene is about.

    ``reached``: called with (functions that the operation comes through now, whether TAIL goes
    back in it).
    """
    for _ in range(300):
        if reached(*stage.rehearse(store)):
            return
        step(store)
    raise AssertionError("{0} cannot be brought about".format(stage.scene))


def before_it_moves(stage, store):
    """A ring round which messages have gone past the backlog, which is in the way now."""
    stage.furnish(store)
    feed(stage, store, lambda functions, back: "_move" in functions and not back)


def before_it_goes_round(stage, store):
    """Nothing is live: what is would be moved first."""
    feed(stage, store, lambda functions, back: back and "_move" not in functions)


def before_it_shifts(stage, store):
    """A big one that nobody reads at HEAD, dead ones behind it, and no room beyond TAIL."""
    put(store, u"big", b"s" * 6000)
    while try_put(store, u"fast", b"x" * 200):
        pass
    drain(store, u"fast")
    feed(stage, store, lambda functions, back: "_shift" in functions)


def before_it_grows(stage, store):
    stage.furnish(store)
    feed(
        stage,
        store,
        lambda functions, back: "_reserve_more" in functions,
        lambda store: put(store, u"big", b"b" * 8000),
    )


def before_entries_grow(stage, store):
    come_and_go(store, 61)
    stage.furnish(store)


def filled(stage, store):
    stage.furnish(store)
    while try_put(store, u"big", b"x" * 200):
        pass


def nearly_filled(stage, store):
    """There is room for two of the three, one at a time."""
    filled(stage, store)
    drain(store, u"b")
    for _ in range(2):
        get(store, u"big")


def all_entries_in_use(stage, store):
    stage.furnish(store)
    number = 0
    while try_put(store, MANY[number], b"x"):
        number += 1


def idle_entries(stage, store):
    come_and_go(store, 6)
    stage.furnish(store)


def none_but_idle_entries(stage, store):
    come_and_go(store, 61)
    stage.furnish(store)


def in_pieces(before):
    """What ``send_each`` does where the log has no room for all at once: one after the other."""
    first = but(before, {u"p!": before[u"p!"] + [(u"x", b"y" * 200), (u"z", b"y" * 200)]})
    return [first, but(first, {u"q!": [(u"y", b"y" * 200)]})]


ENTRY = (7, 3)
"""The id of an entry from another machine."""

WAITING = [(u"ggroup", b"x0"), (u"cp!x", b"x1"), (u"ggroup", b"x2")]
"""What the outbox holds."""


def with_outbox(stage, store):
    """What is usual, and three messages for other machines."""
    stage.furnish(store)
    store.lease(store.now() + LONG, 100)
    for routing, payload in WAITING:
        put(store, OUTBOX, payload, local=routing)


def reserve(stage):
    """A bridge hangs at "w" and "v", behind all who come."""
    stage.bystander = stage.open()
    stage.waiter = stage.bystander.stand_in()
    stage.bystander.hang_up(stage.waiter, [u"w", u"v"])


def take_from_outbox(stage):
    """Redis has the first two."""
    batch = stage.victim.peek_batch(2, 1000)
    stage.victim.depart(batch[-1].seq, 1)
    stage.victim.drop_through(batch[-1].seq)


def deliver(targets, payload=b"all", stream=OWN):
    def operation(stage):
        stage.victim.deliver(stream, ENTRY, targets, payload, LONG)

    return operation


def arrived(outcomes):
    """The same, and the entry noted as the last one, in each."""
    return lambda before: [but(each, {LAST: [(u"", b"7-3")]}) for each in outcomes(before)]


def sending(name, body, **options):
    """The scene in which one message is sent."""
    return Scene(name, lambda stage: put(stage.victim, u"a", body), sent(u"a", body), **options)


def receiving(name, body, **options):
    """The scene in which the only message is received."""
    return Scene(
        name,
        lambda stage: get(stage.victim, u"big"),
        taken(u"big"),
        furnish=lambda _, store: put(store, u"big", body),
        before={u"big": [(u"", body)]},
        **options
    )


MESSAGES = [
    sending("send", b"new"),
    sending("send a big one", BIG),
    sending("send a long one", LONG_BODY, reaches=["_write_body"]),
    sending("send a long one, stored twice", LONG_BODY, reaches=["_write_body"], size=ROOMY),
    Scene(
        "send to many a long one, stored twice",
        lambda stage: stage.victim.send_each(
            [(u"p!", b"x\nz", PLENTY), (u"a", b"", PLENTY)], LONG_BODY, LONG
        ),
        lambda before: [
            but(
                before,
                {
                    u"a": before[u"a"] + [(u"", LONG_BODY)],
                    u"p!": before[u"p!"] + [(u"x", LONG_BODY), (u"z", LONG_BODY)],
                },
            )
        ],
        reaches=["_write_body"],
        size=ROOMY,
    ),
    Scene(
        "send to a local name",
        lambda stage: put(stage.victim, u"p!", b"new", local=u"y"),
        sent(u"p!", b"new", u"y"),
    ),
    Scene(
        "send where expired ones take the room",
        lambda stage: put(stage.victim, u"old", b"new", capacity=4),
        sent(u"old", b"new"),
        {u"old": [(u"", b"o3")]},
        with_expired,
        passes=3,
        reaches=["drop_expired"],
    ),
    Scene(
        "send where expired ones of a process take the room",
        lambda stage: put(stage.victim, u"old!", b"new", local=u"y", capacity=4),
        sent(u"old!", b"new", u"y"),
        furnish=with_expired,
        passes=3,
        reaches=["_lapse"],
    ),
    Scene("send at capacity", refused),
    Scene(
        "send with no memory left",
        lambda stage: try_put(stage.victim, u"a", b"x" * 200),
        furnish=filled,
        full=True,
        reaches=["_expire_some"],
    ),
    Scene(
        "send to a new name",
        lambda stage: put(stage.victim, u"new", b"new"),
        sent(u"new", b"new"),
        reaches=["_enter"],
    ),
    Scene(
        "send to a new name in place of an idle one",
        lambda stage: put(stage.victim, u"new", b"new"),
        sent(u"new", b"new"),
        furnish=idle_entries,
        passes=61,
        reaches=["_recycle", "give"],
    ),
    Scene(
        "send to a new name where all entries were used",
        lambda stage: put(stage.victim, u"new", b"new"),
        sent(u"new", b"new"),
        furnish=none_but_idle_entries,
        passes=1,
        reaches=["_recycle", "give"],
    ),
    Scene(
        "send to a new name where all entries are in use",
        lambda stage: try_put(stage.victim, u"new", b"new"),
        furnish=all_entries_in_use,
        passes=1,
        full=True,
        reaches=["_recycle"],
    ),
    Scene(
        "send the first message of all",
        lambda stage: put(stage.victim, u"new", b"new"),
        sent(u"new", b"new"),
        {},
        lambda stage, store: None,
        reaches=["_grow", "_reserve_more"],
    ),
    Scene(
        "send to one who waits",
        lambda stage: put(stage.victim, u"w", b"new"),
        sent(u"w", b"new"),
        arrange=hang_up,
        finish=still_woken,
        reaches=["summon", "ring"],
    ),
    Scene(
        "send where the first who waits is dead",
        lambda stage: put(stage.victim, u"w", b"new"),
        sent(u"w", b"new"),
        arrange=hang_up_behind_a_dead_one,
        finish=still_woken,
        reaches=["strike"],
    ),
    Scene(
        "send when a window of the rates ends",
        lambda stage: put(stage.victim, u"a", b"new"),
        sent(u"a", b"new"),
        passes=2,
        reaches=["roll"],
    ),
    Scene(
        "send and sweep over expired ones",
        lambda stage: put(stage.victim, u"a", b"new"),
        sent(u"a", b"new"),
        furnish=before_a_sweep,
        passes=3,
        reaches=["sweep", "drop_expired"],
    ),
    Scene(
        "send and move a live one",
        lambda stage: put(stage.victim, u"a", FILLING),
        sent(u"a", FILLING),
        furnish=before_it_moves,
        reaches=["_move"],
    ),
    Scene(
        "send and shift a live one",
        lambda stage: put(stage.victim, u"a", FILLING),
        sent(u"a", FILLING),
        {u"big": [(u"", b"s" * 6000)]},
        before_it_shifts,
        reaches=["_shift"],
    ),
    Scene(
        "send and go round",
        lambda stage: put(stage.victim, u"a", FILLING),
        sent(u"a", FILLING),
        furnish=before_it_goes_round,
    ),
    Scene(
        "send and reserve more memory",
        lambda stage: put(stage.victim, u"a", b"n" * 8000),
        sent(u"a", b"n" * 8000),
        furnish=before_it_grows,
        reaches=["_reserve_more"],
        size=ROOMY,
    ),
    Scene(
        "send to a new name and reserve more entries",
        lambda stage: put(stage.victim, u"new", b"new"),
        sent(u"new", b"new"),
        furnish=before_entries_grow,
        reaches=["_grow"],
        size=ROOMY,
    ),
    Scene("receive", lambda stage: get(stage.victim, u"a"), taken(u"a")),
    Scene("receive from the second", lambda stage: get(stage.victim, u"w", u"b"), taken(u"b")),
    Scene("receive nothing", lambda stage: get(stage.victim, u"w", u"v")),
    receiving("receive a big one", BIG),
    receiving("receive a long one", LONG_BODY),
    receiving("receive a long one, stored twice", LONG_BODY, reaches=["stored_by"], size=ROOMY),
    Scene(
        "receive by a name in the middle",
        lambda stage: get(stage.victim, u"p!"),
        taken(u"p!"),
        {u"p!": BACKLOG[u"p!"][2:]},
        lambda stage, store: (stage.furnish(store), get(store, u"p!"), get(store, u"p!")),
    ),
    Scene(
        "receive by the last name",
        lambda stage: get(stage.victim, u"p!"),
        taken(u"p!"),
        {u"p!": BACKLOG[u"p!"][3:]},
        lambda stage, store: (stage.furnish(store), [get(store, u"p!") for _ in range(3)]),
    ),
    Scene(
        "receive behind expired ones",
        lambda stage: get(stage.victim, u"old"),
        taken(u"old"),
        {u"old": [(u"", b"o3")]},
        with_expired,
        passes=3,
        reaches=["drop_expired"],
    ),
    Scene(
        "receive where all have expired",
        lambda stage: get(stage.victim, u"old!"),
        furnish=with_expired,
        passes=3,
        reaches=["_lapse"],
    ),
    Scene(
        "receive and begin to wait",
        wait_in_vain,
        finish=still_served,
        reaches=["hang"],
    ),
    Scene(
        "receive and wait no more",
        take_the_news,
        lambda before: [but(before, {u"v": []})],
        prelude=wait_and_be_called,
        added={u"v": [(u"", b"news")]},
        finish=still_served,
        reaches=["dismiss"],
    ),
    Scene(
        "receive at once, ready to wait",
        lambda stage: stage.victim.receive_blocking([u"w", u"a"], 0),
        taken(u"a"),
    ),
    Scene(
        "wait until there is no time left",
        lambda stage: stage.victim.receive_blocking([u"w", u"v"], 0),
        finish=still_served,
        reaches=["hang", "dismiss"],
    ),
    Scene(
        "begin to wait where others died",
        lambda stage: stage.victim.borrow_waiter(),
        arrange=lambda stage: leave_a_dead_one(stage, stage.open()),
        passes=3,
        finish=still_served,
        reaches=["strike"],
    ),
    Scene(
        "stop waiting when called",
        lambda stage: stage.victim.leave(stage.waiter),
        prelude=wait_with_another_behind,
        added={u"v": [(u"", b"news")]},
        finish=still_served,
        reaches=["dismiss", "summon"],
    ),
    Scene(
        "receive a batch",
        lambda stage: stage.victim.receive_batch(u"p!", 10),
        lambda before: taken(u"p!")(before) + taken(u"p!", 4)(before),
    ),
    Scene("send to many", fan_out, fanned),
    Scene(
        "send to many of whom one waits",
        lambda stage: stage.victim.send_each(
            [(u"w", b"", PLENTY), (u"a", b"", PLENTY)], b"all", LONG
        ),
        lambda before: [
            but(before, {u"w": [(u"", b"all")], u"a": before[u"a"] + [(u"", b"all")]})
        ],
        arrange=hang_up,
        finish=still_woken,
        reaches=["summon"],
    ),
    Scene(
        "send to many piece by piece",
        lambda stage: stage.victim.send_each(
            [(u"p!", b"x\nz", PLENTY), (u"q!", b"y", PLENTY), (u"a", b"", PLENTY)],
            b"y" * 200,
            LONG,
        ),
        in_pieces,
        {u"a": BACKLOG[u"a"]},
        nearly_filled,
        full=True,
    ),
    Scene("look at a channel", lambda stage: stage.victim.channel_statistics(u"a")),
    Scene(
        "look at a channel where messages have expired",
        lambda stage: stage.victim.channel_statistics(u"old!"),
        furnish=with_expired,
        passes=3,
        reaches=["_lapse"],
    ),
    Scene("look at all channels", lambda stage: stage.victim.global_statistics()),
    Scene("look at a message", lambda stage: stage.victim.peek(u"a")),
    Scene("copy a table", lambda stage: stage.victim.entries_from(0)),
    Scene("check", lambda stage: stage.victim.check()),
    Scene("flush", lambda stage: stage.victim.flush(), lambda _: [{}], reaches=["rebuild"]),
    Scene(
        "flush where somebody waits",
        lambda stage: stage.victim.flush(),
        lambda _: [{}],
        arrange=hang_up,
        finish=still_woken,
        reaches=["rebuild"],
    ),
    Scene("close", lambda stage: stage.victim.close(), closes=True),
    Scene(
        "close after having waited",
        lambda stage: stage.victim.close(),
        prelude=lambda stage: (wait_in_vain(stage), stage.victim.leave(stage.waiter)),
        finish=still_served,
        reaches=["strike"],
        closes=True,
    ),
    Scene("make", lambda stage: stage.open(), absent=True, reaches=["_make"]),
    Scene("make what was half made", lambda stage: stage.open(), blank=True, reaches=["_make"]),
    Scene("attach", lambda stage: stage.open(), reaches=["_validate"]),
    Scene(
        "rebuild and send",
        lambda stage: put(stage.victim, u"a", b"new"),
        sent(u"a", b"new"),
        {u"b": BACKLOG[u"b"]},
        corpse=True,
        reaches=["rebuild"],
    ),
    Scene(
        "rebuild and receive",
        lambda stage: get(stage.victim, u"b"),
        taken(u"b"),
        {u"a": BACKLOG[u"a"]},
        corpse=True,
        reaches=["rebuild"],
    ),
    Scene(
        "rebuild where somebody died waiting",
        lambda stage: put(stage.victim, u"w", b"new"),
        sent(u"w", b"new"),
        BACKLOG,
        lambda stage, store: (stage.furnish(store), leave_a_dead_one(stage, store)),
        corpse=True,
        reaches=["rebuild", "strike"],
    ),
    Scene(
        "rebuild after a fan-out",
        fan_out,
        lambda before: [
            but(
                before,
                {
                    u"a": before[u"a"] + [(u"", b"all")],
                    u"p!": before[u"p!"] + [(u"x", b"all"), (u"z", b"all")],
                    u"q!": before.get(u"q!", []) + [(u"y", b"all")],
                },
            )
        ],
        {u"b": BACKLOG[u"b"]},
        corpse=True,
        reaches=["rebuild"],
    ),
    Scene(
        "rebuild after a move",
        lambda stage: put(stage.victim, u"a", FILLING),
        sent(u"a", FILLING),
        {u"b": BACKLOG[u"b"]},
        before_it_moves,
        corpse=True,
        reaches=["rebuild"],
    ),
    Scene(
        "deliver to many",
        deliver([(u"p!", b"x\nz", PLENTY), (u"q!", b"y", PLENTY), (u"a", b"", PLENTY)]),
        arrived(fanned),
        reaches=["begin_delivery", "end_delivery"],
    ),
    Scene(
        "deliver to one who waits",
        deliver([(u"w", b"", PLENTY)]),
        arrived(sent(u"w", b"all")),
        arrange=hang_up,
        reaches=["summon", "ring"],
    ),
    Scene(
        "deliver to many piece by piece",
        deliver(
            [(u"p!", b"x\nz", PLENTY), (u"q!", b"y", PLENTY), (u"a", b"", PLENTY)], b"y" * 200
        ),
        arrived(in_pieces),
        {u"a": BACKLOG[u"a"]},
        nearly_filled,
        full=True,
    ),
    Scene(
        "wait in front of a bridge",
        wait_in_vain,
        arrange=reserve,
        finish=still_served,
        reaches=["hang"],
    ),
    Scene("deliver to nobody", deliver([]), arrived(lambda before: [before])),
    Scene(
        "deliver to one who is full",
        deliver([(u"a", b"", 3)]),
        arrived(lambda before: [before]),
    ),
    Scene(
        "deliver of the other stream",
        deliver([(u"a", b"", PLENTY)], stream=GROUPS),
        sent(u"a", b"all"),
    ),
    Scene(
        "take from the outbox",
        take_from_outbox,
        lambda before: [but(before, {OUTBOX: before[OUTBOX][number:]}) for number in (1, 2)],
        {OUTBOX: WAITING},
        with_outbox,
    ),
    Scene(
        "move to the outbox",
        lambda stage: stage.victim.move(u"a", b"sa"),
        lambda before: [
            but(before, {u"a": before[u"a"][1:], OUTBOX: before[OUTBOX] + [(u"sa", b"a0")]})
        ],
        {OUTBOX: WAITING},
        with_outbox,
        reaches=["begin_move"],
    ),
]
