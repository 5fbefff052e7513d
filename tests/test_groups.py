"""GroupStore: behaviour, layout, agreement with a model, damage."""
import binascii
import collections
import logging
import os
import random
import re
import traceback
import warnings

import pytest

from asgi_ipc import errors, group_cells
from asgi_ipc._shm import lane, segment, slots
from asgi_ipc.groups import MINIMUM_SIZE, GroupStore

DEFAULT_SIZE = 20 * 1024 * 1024
FAR = 10 ** 15

slow = pytest.mark.slow


class FakeClock(object):
    """Time stands still until a test moves it."""

    def __init__(self):
        self.time = 1000

    def __call__(self):
        return self.time


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def make(prefix, clock):
    """Returns a function that opens one more store on the test's prefix."""
    stores = []

    def open_store(size=MINIMUM_SIZE, **options):
        options.setdefault("clock", clock)
        stores.append(GroupStore(prefix, size, **options))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


@pytest.fixture
def store(make):
    return make()


def everything(store, groups):
    """All memberships of the groups: {group: names}."""
    found = {}
    for group in groups:
        names = store.members(group)
        if names:
            found[group] = names
    return found


# -- behaviour ---------------------------------------------------------------------------


def test_members_are_text_in_order_of_joining(store):
    for name in (u"c", u"a", u"b"):
        store.add(u"g", name, FAR)
    assert store.members(u"g") == [u"c", u"a", u"b"]
    assert all(isinstance(name, type(u"")) for name in store.members(u"g"))
    assert store.check() == []


def test_unknown_group_is_empty(store):
    assert store.members(u"nobody") == []
    assert store.snapshot(u"nobody") is None
    store.discard(u"nobody", u"c")
    assert store.leave_all([u"c"]) == 0
    assert store.statistics()["groups"] == 0


def test_renewal_keeps_place_and_extends(store, clock):
    store.add(u"g", u"a", 2000)
    store.add(u"g", u"b", 2000)
    store.add(u"g", u"a", 4000)
    assert store.members(u"g") == [u"a", u"b"]
    clock.time = 2000
    assert store.members(u"g") == [u"a"]
    clock.time = 3999
    assert store.members(u"g") == [u"a"]
    clock.time = 4000
    assert store.members(u"g") == []
    assert store.statistics()["memberships"] == 0
    assert store.check() == []


def test_who_rejoins_after_expiry_comes_last(store, clock):
    store.add(u"g", u"a", 2000)
    store.add(u"g", u"b", FAR)
    clock.time = 2000
    store.add(u"g", u"a", FAR)
    assert store.members(u"g") == [u"b", u"a"]
    assert store.check() == []


def test_rejoining_alone_after_expiry(store, clock):
    store.add(u"g", u"a", 2000)
    clock.time = 2000
    store.add(u"g", u"a", FAR)
    assert store.members(u"g") == [u"a"]
    assert store.statistics()["groups"] == 1
    assert store.check() == []


def test_discard_first_middle_last_and_only(store):
    names = [u"a", u"b", u"c", u"d"]
    for name in names:
        store.add(u"g", name, FAR)
    for gone in (u"b", u"a", u"d", u"c"):
        store.discard(u"g", gone)
        store.discard(u"g", gone)
        names.remove(gone)
        assert store.members(u"g") == names
        assert store.check() == []
    assert store.statistics()["groups"] == 0


def test_leave_all_ends_the_channels_memberships_everywhere(store, clock):
    for group in (u"g", u"h", u"i"):
        for channel in (u"a", u"b", u"c"):
            store.add(group, channel, FAR)
    store.add(u"j", u"a", 2000)
    clock.time = 2000
    # The one that has expired does not count.
    assert store.leave_all([u"a", u"c", u"unknown"]) == 6
    assert everything(store, u"ghij") == {u"g": [u"b"], u"h": [u"b"], u"i": [u"b"]}
    assert store.statistics()["memberships"] == 3
    assert store.check() == []


def test_flush_and_go_on(store):
    for number in range(50):
        store.add(u"g{0}".format(number % 7), u"c{0}".format(number), FAR)
    store.flush()
    assert store.statistics()["memberships"] == store.statistics()["groups"] == 0
    assert everything(store, [u"g{0}".format(number) for number in range(7)]) == {}
    assert store.check() == []
    store.add(u"g1", u"c1", FAR)
    assert store.members(u"g1") == [u"c1"]
    assert store.check() == []


def test_two_stores_see_one_truth(make):
    one, other = make(), make()
    assert one.created and not other.created
    one.add(u"g", u"a", FAR)
    other.add(u"g", u"b", FAR)
    assert one.members(u"g") == other.members(u"g") == [u"a", u"b"]
    one.discard(u"g", u"b")
    assert other.members(u"g") == [u"a"]


def test_memberships_outlive_the_store(make):
    first = make()
    first.add(u"g", u"a", FAR)
    first.close()
    first.close()
    with pytest.raises(errors.LayerClosed):
        first.members(u"g")
    assert make().members(u"g") == [u"a"]


def test_names_of_the_longest_kind(store):
    group, channel = u"g" * 100, u"c" * 99 + u"!"
    store.add(group, channel, FAR)
    store.add(group[:99], channel[:99], FAR)
    assert store.members(group) == [channel]
    assert store.members(group[:99]) == [channel[:99]]
    assert store.check() == []
    for wrong in (u"", u"x" * 101, u"\xe9" * 51, u"a\0b"):
        with pytest.raises(ValueError):
            store.add(wrong, u"c", FAR)


def test_names_of_one_hash_are_told_apart(store):
    store._segment.hash = lambda name: 7
    for group in (u"g", u"h"):
        for channel in (u"a", u"b", u"ab"):
            store.add(group, channel, FAR)
    store.discard(u"h", u"b")
    assert store.leave_all([u"a"]) == 2
    assert everything(store, u"gh") == {u"g": [u"b", u"ab"], u"h": [u"ab"]}
    assert store.check() == []


def test_times_beyond_a_word(store):
    store.add(u"g", u"a", 2 ** 80)
    store.add(u"g", u"b", -5)
    assert store.members(u"g") == [u"a"]
    assert store.check() == []


def test_many_names_do_not_fill_the_process(store, monkeypatch):
    monkeypatch.setattr("asgi_ipc.groups.KNOWN_NAMES", 10)
    for number in range(100):
        store.add(u"g", u"c{0}".format(number), FAR)
    assert len(store._names) <= 10
    assert len(store.members(u"g")) == 100


# -- snapshots ---------------------------------------------------------------------------


def test_snapshot_stays_current_until_membership_changes(make):
    store, other = make(), make()
    changes = [
        lambda: other.add(u"g", u"new", FAR),
        lambda: other.discard(u"g", u"new"),
        lambda: other.leave_all([u"a"]),
        other.flush,
    ]
    store.add(u"g", u"a", FAR)
    store.add(u"g", u"b", FAR)
    for change in changes:
        taken = store.snapshot(u"g")
        other.add(u"elsewhere", u"a", FAR)
        other.members(u"g")
        assert store.current(taken) and other.current(taken)
        change()
        assert not store.current(taken)
        assert not other.current(taken)


def test_snapshot_of_a_group_that_ended_is_never_current_again(store):
    store.add(u"g", u"a", FAR)
    taken = store.snapshot(u"g")
    store.discard(u"g", u"a")
    for _ in range(5):
        store.add(u"g", u"a", FAR)
        assert not store.current(taken)
        store.discard(u"g", u"a")


def test_until_is_a_lower_bound(store, clock):
    store.add(u"g", u"a", 5000)
    store.add(u"g", u"b", 3000)
    taken = store.snapshot(u"g")
    assert taken.until == 3000
    store.add(u"g", u"b", 4000)
    assert store.current(taken)
    assert store.snapshot(u"g").until == 4000
    # Brought forward: what says 3000 must not be believed until then.
    taken = store.snapshot(u"g")
    store.add(u"g", u"b", 2000)
    assert not store.current(taken)


def test_snapshot_is_not_current_in_a_closed_store(store):
    store.add(u"g", u"a", FAR)
    taken = store.snapshot(u"g")
    store.close()
    assert store.current(taken) is False


def test_snapshot_is_not_current_in_the_next_segment(make, prefix):
    store = make()
    store.add(u"g", u"a", FAR)
    taken = store.snapshot(u"g")
    segment.unlink("/{0}-groups".format(prefix))
    other = make()
    other.add(u"g", u"b", FAR)
    assert store.current(taken) and not other.current(taken)


def test_rebuild_ends_snapshots(store):
    store.add(u"g", u"a", FAR)
    taken = store.snapshot(u"g")
    store._inside.words[lane.BUSY] = 1
    assert store.members(u"g") == [u"a"]
    assert not store.current(taken)


# -- memory ------------------------------------------------------------------------------


def test_idle_store_holds_little_memory(make):
    assert make(DEFAULT_SIZE).statistics()["memory_used"] < 600 * 1024


@pytest.mark.parametrize("one_group", [True, False])
def test_default_memory_holds_50000_memberships(make, one_group):
    store = make(DEFAULT_SIZE)
    for number in range(50000):
        group = u"g" if one_group else u"group-{0}".format(number)
        store.add(group, u"specific.abcdef!{0}".format(number), FAR)
    assert store.statistics()["memberships"] == 50000
    assert store.statistics()["groups"] == (1 if one_group else 50000)
    assert store.check() == []
    if one_group:
        names = store.members(u"g")
        assert names == [u"specific.abcdef!{0}".format(number) for number in range(50000)]
    else:
        assert store.members(u"group-4711") == [u"specific.abcdef!4711"]


def fill(store, expires):
    """Add until refused: each channel in a group of its own. Returns how many, and the error."""
    count = 0
    while True:
        try:
            store.add(u"g{0}".format(count), u"c{0}".format(count), expires)
        except errors.GroupsFull as error:
            return count, error
        count += 1


def test_full_says_what_and_works_again(store, clock):
    count, error = fill(store, 5000)
    assert count > 100
    assert "group_memory={0}".format(MINIMUM_SIZE) in str(error)
    assert "{0} memberships".format(count) in str(error)
    assert store.statistics()["memberships"] == count
    assert store.check() == []
    # Renewing needs no room, and refused is refused wholly.
    store.add(u"g0", u"c0", 6000)
    assert store.members(u"g{0}".format(count)) == []
    store.discard(u"g1", u"c1")
    store.add(u"again", u"c", 6000)
    with pytest.raises(errors.GroupsFull):
        store.add(u"and-again", u"c", 6000)
    clock.time = 5000
    store.add(u"and-again", u"c", 6000)
    assert store.statistics()["memberships"] == 3
    assert everything(store, [u"g0", u"g2", u"again"]) == {u"g0": [u"c0"], u"again": [u"c"]}
    assert store.check() == []


def test_one_cell_left_is_not_taken_by_half_a_membership(store):
    count = 0
    with pytest.raises(errors.GroupsFull):
        while True:
            store.add(u"g", u"c{0}".format(count), FAR)
            count += 1
    store.discard(u"g", u"c7")
    with pytest.raises(errors.GroupsFull):
        # A new group needs two cells.
        store.add(u"another", u"x", FAR)
    assert store.members(u"another") == []
    assert store.check() == []
    store.add(u"g", u"x", FAR)
    assert store.members(u"g")[-1] == u"x"
    assert store.statistics()["memberships"] == count


def test_hand_forgets_no_expiry_that_it_passed(store, clock):
    store.add(u"g", u"first", 2000)
    store.add(u"g", u"second", 5000)
    store.add(u"g", u"third", FAR)
    clock.time = 3000
    for number in range(10):
        store.add(u"g", u"third", FAR)
        assert store.check() == [], number
    clock.time = 6000
    for _ in range(10):
        store.add(u"g", u"third", FAR)
    assert store.statistics()["memberships"] == 1


def test_full_store_is_not_searched_in_vain(store, clock, monkeypatch):
    fill(store, 5000)
    sweeps = []
    real = store._inside._sweep
    monkeypatch.setattr(
        store._inside, "_sweep", lambda *given: sweeps.append(given) or real(*given)
    )
    for _ in range(3):
        with pytest.raises(errors.GroupsFull):
            store.add(u"new", u"c", 9000)
    assert sweeps == []
    for number in range(50):
        store.add(u"g{0}".format(number), u"c{0}".format(number), 9000)
    # The hand now looks for those of 5000 that are renewed, and the first search finds none.
    clock.time = 5000
    for number in range(200):
        try:
            store.add(u"new{0}".format(number), u"c", 9000)
        except errors.GroupsFull:
            break
    assert sweeps
    assert store.check() == []


def test_expired_memory_comes_back_with_nobody_sending(store, clock):
    for number in range(60):
        store.add(u"g{0}".format(number % 9), u"c{0}".format(number), 2000)
    store.add(u"alive", u"c", FAR)
    clock.time = 3000
    for _ in range(60):
        store.add(u"alive", u"c", FAR)
    assert store.statistics()["memberships"] == 1
    assert store.statistics()["groups"] == 1
    assert store.check() == []


def test_hand_rests_when_nothing_can_have_expired(store, clock, monkeypatch):
    store.add(u"g", u"short", 2000)
    for number in range(20):
        store.add(u"g", u"c{0}".format(number), FAR)
    clock.time = 3000
    for _ in range(20):
        store.add(u"g", u"c0", FAR)
    monkeypatch.setattr(store._inside, "_sweep", None)
    store.add(u"g", u"c1", FAR)
    assert store.members(u"g") == [u"c{0}".format(number) for number in range(20)]


def test_no_shared_memory_left(store, monkeypatch):
    monkeypatch.setattr(store._inside.cells.slots, "_reserve", lambda first, end: False)
    with pytest.raises(errors.GroupsFull) as caught:
        store.add(u"g", u"a", FAR)
    assert "no shared memory left" in str(caught.value)
    assert store.check() == []
    monkeypatch.undo()
    store.add(u"g", u"a", FAR)
    assert store.members(u"g") == [u"a"]


def test_size_in_force_is_told(make):
    first = make(MINIMUM_SIZE)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        second = make(2 * MINIMUM_SIZE)
        make(MINIMUM_SIZE - 5)
    assert [each.category for each in caught] == [RuntimeWarning]
    assert "exists with {0} bytes".format(MINIMUM_SIZE) in str(caught[0].message)
    assert first.size == second.size == MINIMUM_SIZE
    assert second.requested == 2 * MINIMUM_SIZE
    second.add(u"g", u"a", FAR)
    assert first.members(u"g") == [u"a"]


def test_replaced(store, prefix):
    assert not store.replaced()
    segment.unlink("/{0}-groups".format(prefix))
    assert store.replaced() is (segment.SHM_FOLDER is not None)


# -- layout ------------------------------------------------------------------------------


def test_cell_is_as_documented(store):
    hashes = {b"chat": 5, b"web.a!b": 0x1122334455667788}
    store._segment.hash = hashes.__getitem__
    store.add(u"chat", u"web.a!b", 5 * 10 ** 9)
    lines = re.findall(
        r"^    \d0  ((?:[0-9a-f]{2} +){16})", group_cells.__doc__ + "\n", re.MULTILINE
    )
    assert len(lines) == 6
    documented = binascii.unhexlify("".join(lines).replace(" ", "").encode("ascii"))
    cell = store._inside._memory[640 * 8 : 664 * 8]
    assert cell == documented + b"\0" * (192 - len(documented))


def test_fixed_part_and_cells_fit():
    for size in (MINIMUM_SIZE, 100 * 1024, 10 ** 6 // 8 * 8, DEFAULT_SIZE, 2 ** 31):
        buckets, start, cells = group_cells.geometry(size)
        assert buckets & (buckets - 1) == 0
        assert 0 < size - start * 8 - cells * 192 < 192
        assert 2 <= float(cells) / buckets < 6
    assert group_cells.fixed_bytes(DEFAULT_SIZE) <= 516 * 1024


# -- the model ---------------------------------------------------------------------------

GROUPS = [u"g{0}".format(number) for number in range(5)]
CHANNELS = [u"c{0}".format(number) for number in range(12)]


class Model(object):
    """What two stores on one prefix should agree with: {group: OrderedDict(channel: expiry)}."""

    def __init__(self, stores, clock):
        self.stores = stores
        self.clock = clock
        self.groups = collections.defaultdict(collections.OrderedDict)
        self.taken = {}

    def alive(self, group):
        return [
            name for name, expiry in self.groups[group].items() if expiry > self.clock.time
        ]

    def add(self, store, group, channel, lifetime):
        expires = self.clock.time + lifetime
        store.add(group, channel, expires)
        if self.groups[group].get(channel, 0) <= self.clock.time:
            self.groups[group].pop(channel, None)
        self.groups[group][channel] = expires

    def discard(self, store, group, channel, _):
        store.discard(group, channel)
        self.groups[group].pop(channel, None)

    def leave(self, store, _, channel, number):
        channels = [channel, CHANNELS[number % len(CHANNELS)]]
        expected = 0
        for group in GROUPS:
            expected += len(set(self.alive(group)) & set(channels))
            for each in channels:
                self.groups[group].pop(each, None)
        assert store.leave_all(channels) == expected

    def flush(self, store, group, channel, number):
        if number % 8 == 0:
            store.flush()
            self.groups.clear()

    def rebuild(self, store, group, channel, number):
        if number % 4 == 0:
            store._inside.words[lane.BUSY] = 1

    def advance(self, store, group, channel, number):
        self.clock.time += number

    def look(self, store, group, _, number):
        taken = self.taken.get(group)
        if taken and self.clock.time < taken.until and store.current(taken):
            assert taken.names == self.alive(group)
        assert store.members(group) == self.alive(group)
        self.taken[group] = store.snapshot(group)

    def run(self, operations):
        for name, which, group, channel, number in operations:
            getattr(self, name)(self.stores[which], GROUPS[group], CHANNELS[channel], number)
        for store in self.stores:
            for group in GROUPS:
                assert store.members(group) == self.alive(group)
            assert store.check() == []
        stored = self.stores[0].statistics()["memberships"]
        assert stored >= sum(len(self.alive(group)) for group in GROUPS)


OPERATIONS = ["add"] * 4 + ["discard"] * 2 + ["leave", "flush", "rebuild", "advance", "look"]


@pytest.mark.parametrize("seed", range(20))
def test_random_operations_agree_with_the_model(make, clock, seed):
    chance = random.Random(seed)
    operations = [
        (
            chance.choice(OPERATIONS),
            chance.randrange(2),
            chance.randrange(len(GROUPS)),
            chance.randrange(len(CHANNELS)),
            chance.randrange(1, 60),
        )
        for _ in range(600)
    ]
    Model([make(), make()], clock).run(operations)


def test_found_operations_agree_with_the_model(make, clock):
    hypothesis = pytest.importorskip("hypothesis")
    draw = hypothesis.strategies
    stores = [make(), make()]

    @hypothesis.settings(max_examples=80, deadline=None, database=None)
    @hypothesis.given(
        draw.lists(
            draw.tuples(
                draw.sampled_from(sorted(set(OPERATIONS))),
                draw.integers(0, 1),
                draw.integers(0, len(GROUPS) - 1),
                draw.integers(0, len(CHANNELS) - 1),
                draw.integers(1, 60),
            ),
            max_size=60,
        )
    )
    def agree(operations):
        stores[0].flush()
        Model(stores, clock).run(operations)

    agree()


# -- damage ------------------------------------------------------------------------------


def furnish(store):
    """Six groups of a few members; returns them as ``everything`` does."""
    for number in range(40):
        store.add(GROUPS[number * 7 % 5], CHANNELS[number % 12], FAR)
    return everything(store, GROUPS)


def force_rebuild(store):
    store._inside.words[lane.BUSY] = 1
    store.statistics()


def cells_of(store):
    """The cells of all memberships, in order of joining."""
    words = store._inside.words
    return sorted(
        (cell for cell in store._inside.cells.slots.all() if words[cell] > 1), key=words.__getitem__
    )


def test_check_notices_each_wrong_word(store):
    furnish(store)
    words = store._inside.words
    cell = cells_of(store)[7]
    mutable = (slots.GEN, group_cells.EXPIRY)
    for word in range(24):
        if word in mutable:
            continue
        before = words[cell + word]
        words[cell + word] = before ^ 1 << 20
        assert store._check(), word
        words[cell + word] = before
    assert store._check() == []
    for word in list(range(group_cells.FLUSHED, group_cells.MEMBERSHIPS + 1)) + [
        group_cells.HAND, group_cells.CONTROL, group_cells.CONTROL + 2, group_cells.CONTROL + 3,
    ]:
        before = words[word]
        words[word] = 1 if word == group_cells.SEQUENCE else before + 1000
        assert store._check(), word
        words[word] = before
    words[store._inside.cells.first] ^= 1 << 20
    assert store._check()


@pytest.mark.parametrize(
    "word", [slots.STATE, group_cells.CHECK, group_cells.HASH, group_cells.GROUP, 11, 23]
)
def test_a_damaged_membership_is_dropped_and_told(store, caplog, word):
    before = furnish(store)
    cell = cells_of(store)[5]
    store._inside.words[cell + word] ^= 1 << 17
    with caplog.at_level(logging.ERROR):
        force_rebuild(store)
    assert "1 cells were damaged" in caplog.text
    after = everything(store, GROUPS)
    assert sum(map(len, before.values())) - sum(map(len, after.values())) == 1
    assert store.check() == []


def test_a_damaged_name_is_never_handed_out(store, caplog):
    store.add(u"g", u"aaaa", FAR)
    store.add(u"g", u"bbbb", FAR)
    store._inside.words[cells_of(store)[0] + group_cells.NAME] ^= 2
    with caplog.at_level(logging.ERROR):
        assert store.members(u"g") == [u"bbbb"]
    assert "rebuilt" in caplog.text
    assert store.check() == []


def test_a_damaged_length_is_never_believed(store):
    store.add(u"g", u"aaaa", FAR)
    store.add(u"g", u"bbbb", FAR)
    store._inside.words[cells_of(store)[0] + group_cells.CHECK] ^= 1 << 44
    assert store.members(u"g") == [u"bbbb"]


@pytest.mark.parametrize("word", [group_cells.PREV, group_cells.NEXT, group_cells.BACK])
def test_neighbours_are_asked_before_they_are_changed(store, caplog, word):
    names = [u"c{0}".format(number) for number in range(6)]
    for name in names:
        store.add(u"g", name, FAR)
    cells = cells_of(store)
    store._inside.words[cells[2] + word] = cells[4]
    with caplog.at_level(logging.ERROR):
        store.discard(u"g", u"c2")
    assert "has been rebuilt" in caplog.text
    assert store.check() == []
    names.remove(u"c2")
    assert store.members(u"g") == names


def test_twins_are_dropped(store):
    store.add(u"g", u"a", FAR)
    store.add(u"g", u"b", FAR)
    words = store._inside.words
    one, other = cells_of(store)
    # The second becomes what the first is, with a right CHECK.
    for word in range(group_cells.HASH, 24):
        words[other + word] = words[one + word]
    words[other + group_cells.CHECK] = group_cells.check_word(
        words[other], store._inside.cells.body(other), 1
    )
    assert any("what another says" in each for each in store._check())
    force_rebuild(store)
    assert store.members(u"g") == [u"a"]
    assert store.check() == []


def test_a_ring_where_a_chain_should_be_does_not_hang(store, caplog):
    store._segment.hash = lambda name: 7
    store.add(u"g", u"a", FAR)
    cell = cells_of(store)[0]
    words = store._inside.words
    group = words[cell + group_cells.GROUP]
    words[group + group_cells.LINK] = group
    words[cell + group_cells.PEER] = cell
    with caplog.at_level(logging.ERROR):
        store.discard(u"h", u"a")
        words[cell + group_cells.PEER] = cell
        assert store.leave_all([u"b"]) == 0
    assert store.members(u"g") == [u"a"]
    assert store.check() == []


def test_unrepairable_is_an_error_and_not_a_hang(store, monkeypatch):
    def broken(*_):
        raise group_cells.Damage("again and again")

    monkeypatch.setattr(store._inside, "discard", broken)
    with pytest.raises(errors.SegmentError) as caught:
        store.discard(u"g", u"a")
    assert "asgi-ipc rm" in str(caught.value)
    monkeypatch.undo()
    store.add(u"g", u"a", FAR)
    assert store.members(u"g") == [u"a"]


def test_a_damaged_key_is_refused_at_attach(store, make):
    store._inside.words[segment.KEY] ^= 1
    with pytest.raises(errors.SegmentError) as caught:
        make()
    assert "damaged" in str(caught.value)
    store._inside.words[segment.KEY] ^= 1
    assert make().check() == []


def flip_and_use(store, other, chance):
    """Flip a byte where something is, use the store, and demand sense of the answers."""
    store.flush()
    known = furnish(store)
    used = store._inside.cells.start * 8 + store._inside.cells.slots.high * 192
    # The first words are the segment's own, and judged when somebody attaches.
    place = chance.randrange(group_cells.FLUSHED * 8, used)
    byte = bytearray(store._inside._memory[place : place + 1])
    byte[0] ^= chance.randrange(1, 256)
    store._inside._memory[place : place + 1] = bytes(byte)
    for user in (store, other):
        for action in chance.sample(range(5), 5):
            try:
                if action == 0:
                    user.add(chance.choice(GROUPS), u"new", FAR)
                elif action == 1:
                    user.discard(chance.choice(GROUPS), chance.choice(CHANNELS))
                elif action == 2:
                    user.leave_all([chance.choice(CHANNELS)])
                elif action == 3 and chance.randrange(4) == 0:
                    user.flush()
                else:
                    for group, names in everything(user, GROUPS).items():
                        assert set(names) <= set(known[group] + [u"new"])
                        assert len(set(names)) == len(names)
            except (errors.SegmentError, errors.GroupsFull):
                pass
    force_rebuild(other)
    assert other.check() == [], place
    for group, names in everything(other, GROUPS).items():
        assert set(names) <= set(known[group] + [u"new"])


def fuzz(make, seeds):
    store, other = make(), make()
    log = logging.getLogger("asgi_ipc")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        for seed in seeds:
            try:
                flip_and_use(store, other, random.Random(seed))
            except Exception:
                print("fuzz seed {0}".format(seed))
                raise
    finally:
        log.setLevel(level)


def test_flipped_bytes(make):
    fuzz(make, range(300))


@slow
def test_flipped_bytes_exhaustively(make):
    fuzz(make, range(300, 10300))


# -- processes ---------------------------------------------------------------------------


def in_children(count, work):
    """Run ``work(number)`` in that many forked children; all must end well."""
    children = []
    for number in range(count):
        child = os.fork()
        if child == 0:
            try:
                work(number)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        children.append(child)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0


def test_processes_with_one_inherited_store(store):
    def work(number):
        chance = random.Random(number)
        mine = u"p{0}.".format(number)
        for count in range(1500):
            group, channel = chance.choice(GROUPS), mine + chance.choice(CHANNELS)
            if chance.randrange(2):
                store.add(group, channel, FAR)
            else:
                store.discard(group, channel)
            if count % 100 == 0:
                names = store.members(group)
                assert len(names) == len(set(names))
        store.leave_all([mine + channel for channel in CHANNELS])
        store.add(GROUPS[0], mine + u"done", FAR)

    in_children(4, work)
    assert everything(store, GROUPS) == {GROUPS[0]: store.members(GROUPS[0])}
    assert sorted(store.members(GROUPS[0])) == [u"p{0}.done".format(number) for number in range(4)]
    assert store.check() == []
