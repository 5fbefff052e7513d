"""Segments that are not ours, are cut or removed under us, or have bytes written over.

What must come of it is a clear error, or correct work after a rebuild: never a hang, a message
that was not sent there, one that comes twice, memory without bounds, or foreign code that runs.
"""
import os
import pickle
import random
import resource
import signal
import struct
import time
import warnings

import posix_ipc
import pytest
from storekit import LONG, Child, FakeClock, in_child

import asgi_ipc
from asgi_ipc import core
from asgi_ipc._shm import segment
from asgi_ipc._shm.lane import BUSY
from asgi_ipc._shm.segment import KEY, KIND, LAYOUT, MAGIC, PAGE, SEAL, SIZE
from asgi_ipc.errors import ChannelFull, GroupsFull, SegmentError
from asgi_ipc.groups import GroupStore
from asgi_ipc.messages import MessageStore
from asgi_ipc.records import SMALL

BYTES = 64 * 1024
ROOMY = 512 * 1024
BOTH = ["messages", "groups"]


@pytest.fixture
def open_layer(prefix):
    layers = []

    def open_one(**options):
        options.setdefault("message_memory", BYTES)
        options.setdefault("group_memory", BYTES)
        layers.append(asgi_ipc.IPCChannelLayer(prefix, **options))
        return layers[-1]

    yield open_one
    for layer in layers:
        layer.close()


def path_of(prefix, kind):
    return "/dev/shm/{0}-{1}".format(prefix, kind)


needs_files = pytest.mark.skipif(
    segment.SHM_FOLDER is None, reason="the system does not show shared memory as files"
)


def overwrite(prefix, kind, data, place=0):
    with open(path_of(prefix, kind), "r+b") as stream:
        stream.seek(place)
        stream.write(data)


def works(layer):
    layer.send(u"a", {"text": u"hello"})
    assert layer.receive([u"a"]) == (u"a", {u"text": u"hello"})
    layer.group_add(u"g", u"a")
    assert layer.group_channels(u"g") == [u"a"]
    layer.group_discard(u"g", u"a")
    assert layer.check() == []


# -- segments that are not ours ------------------------------------------------------------


class Bomb(object):
    """What unpickling this does would be seen."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return os.mkdir, (self._path,)


@pytest.mark.parametrize("kind", BOTH)
def test_a_pickle_as_the_old_release_leaves_it_is_refused_and_never_read(
    prefix, open_layer, tmpdir, kind
):
    marker = str(tmpdir.join("unpickled"))
    memory = posix_ipc.SharedMemory("/{0}-{1}".format(prefix, kind), posix_ipc.O_CREX, size=BYTES)
    os.write(memory.fd, pickle.dumps({"http.request": [Bomb(marker)]}, protocol=2))
    memory.close_fd()
    with pytest.raises(SegmentError) as error:
        open_layer()
    assert "asgi-ipc rm {0}`".format(prefix) in str(error.value)
    assert not os.path.exists(marker)
    # The error's advice is good.
    assert core.unlink(prefix)
    works(open_layer())


@needs_files
@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("size", [1, 100, PAGE - 8, PAGE + 3])
def test_sizes_that_no_segment_has(prefix, open_layer, kind, size):
    with open(path_of(prefix, kind), "wb") as stream:
        stream.write(b"\0" * size)
    with pytest.raises(SegmentError) as error:
        open_layer()
    assert "asgi-ipc rm {0}`".format(prefix) in str(error.value)
    core.unlink(prefix)
    works(open_layer())


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(
    "word,value,said",
    [
        (MAGIC, 1, "not asgi_ipc's"),
        (LAYOUT, 1, "layout 1 of kind"),
        (LAYOUT, 99, "layout 99 of kind"),
        (KIND, 7, "kind 7"),
        (SIZE, 2 * BYTES, "header is damaged"),
        (KEY, 5, "header is damaged"),
        (SEAL, 5, "header is damaged"),
    ],
)
def test_another_header_is_refused_with_what_is_wrong_and_what_helps(
    prefix, open_layer, kind, word, value, said
):
    open_layer().close()
    overwrite(prefix, kind, struct.pack("=Q", value), word * 8)
    with pytest.raises(SegmentError) as error:
        open_layer()
    assert said in str(error.value)
    assert "asgi-ipc rm {0}`".format(prefix) in str(error.value)
    core.unlink(prefix)
    works(open_layer())


@needs_files
def test_a_lost_magic_is_found_again(prefix, open_layer):
    """All else says that the segment is ours and whole: nothing in it may be made anew."""
    layer = open_layer()
    layer.send(u"a", {"text": u"kept"})
    overwrite(prefix, "messages", b"\0" * 8)
    other = open_layer()
    assert other.receive([u"a"])[1] == {u"text": u"kept"}
    assert layer.check() == []


@needs_files
@pytest.mark.parametrize("kind", BOTH)
def test_zeros_are_not_made_anew_where_only_the_header_is_lost(prefix, open_layer, kind):
    """Made anew under those who use it, it would have a new key, and split the site."""
    layer = open_layer()
    layer.send(u"a", {"text": u"kept"})
    layer.group_add(u"g", u"a")
    overwrite(prefix, kind, b"\0" * 64)
    other = open_layer()
    time.sleep(0.02)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        layer.send_group(u"new", {"text": u"x"})
        layer.send(u"b", {"text": u"one layer"})
    # What was in it is gone with the header; but both are in the same one again.
    assert other.receive([u"b"]) == (u"b", {u"text": u"one layer"})
    other.group_add(u"h", u"c")
    assert layer.group_channels(u"h") == [u"c"]


# -- cut or removed under us ---------------------------------------------------------------


def said_by(call):
    """The text of the SegmentError that a call must raise."""
    with pytest.raises(SegmentError) as error:
        call()
    return str(error.value)


def use_while_it_is_cut(prefix, kind, length):
    """In a child: a SIGBUS would end it. Every call has to say what is wrong, also the last."""
    layer = asgi_ipc.IPCChannelLayer(prefix, message_memory=BYTES, group_memory=BYTES)
    layer.send(u"a", {"text": u"x"})
    layer.group_add(u"g", u"a")
    with open(path_of(prefix, kind), "r+b") as stream:
        stream.truncate(length)
    time.sleep(0.02)
    calls = [lambda: layer.group_add(u"g", u"b"), lambda: layer.send_group(u"g", {"text": u"x"})]
    if kind == "messages":
        calls += [lambda: layer.send(u"a", {"text": u"x"}), lambda: layer.receive([u"a"])]
    for _ in range(2):
        for call in calls:
            text = said_by(call)
            assert "to {0} bytes".format(length) in text
            assert "asgi-ipc rm {0}`".format(prefix) in text
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        core.unlink(prefix)
        works(layer)
    with open(path_of(prefix, kind), "r+b") as stream:
        stream.truncate(length)
    layer.close()
    core.unlink(prefix)
    return True


@needs_files
@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("length", [0, 100, PAGE, BYTES - PAGE])
def test_cut_short_while_in_use_is_an_error_and_no_sigbus(prefix, kind, length):
    assert in_child(use_while_it_is_cut, prefix, kind, length)


@needs_files
def test_a_receiver_that_waits_hears_that_it_was_cut(prefix, open_layer):
    open_layer()

    def wait():
        layer = asgi_ipc.IPCChannelLayer(
            prefix, message_memory=BYTES, group_memory=BYTES, block_timeout=30
        )
        return said_by(lambda: layer.receive([u"a"], block=True))

    child = Child(wait)
    time.sleep(0.3)
    with open(path_of(prefix, "messages"), "r+b") as stream:
        stream.truncate(PAGE)
    assert "has cut it" in child.result()


@needs_files
@pytest.mark.parametrize("kind", BOTH)
def test_cut_to_nothing_and_made_anew_by_a_newcomer_does_not_split_the_site(
    prefix, open_layer, kind
):
    """As a program does that opens the memory with O_TRUNC, or with O_CREAT and a size."""
    old = open_layer()
    old.send(u"a", {"text": u"lost"})
    with open(path_of(prefix, kind), "r+b") as stream:
        stream.truncate(0)
    new = open_layer()
    time.sleep(0.02)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        old.group_add(u"g", u"a")
        old.send(u"b", {"text": u"x"})
        assert new.receive([u"b"]) == (u"b", {u"text": u"x"})
    assert "attaching to a new one" in str(caught[0].message)
    assert new.group_channels(u"g") == [u"a"]
    assert new.check() == old.check() == []


# -- bytes that something wrote over -------------------------------------------------------

CHANNELS = [u"a", u"b", u"reply?1", u"p!", u"q!"]
GROUPS = [u"g0", u"g1", u"g2"]
MEMBERS = [u"m{0}".format(number) for number in range(8)]
SECONDS_FOR_ONE = 20


def write_over(chance, memory, used):
    """Damage of one of several kinds, somewhere in what is used."""
    # Half of it where numbers stand alone, for most of the rest is under check sums.
    place = chance.randrange(0, chance.choice((512, used)))
    kind = chance.randrange(5)
    if kind == 0:
        data = bytearray(memory[place : place + 1])
        data[0] ^= 1 << chance.randrange(8)
    elif kind == 1:
        data = bytearray([chance.randrange(256)])
    else:
        place -= place % 8
        if kind == 2:
            number = chance.choice((0, 1, 2 ** 64 - 1, 2 ** 63, chance.getrandbits(64)))
        elif kind == 3:
            # Near to what is there: a plausible index or count.
            number = struct.unpack("=Q", memory[place : place + 8])[0]
            number = (number + chance.randrange(-40, 41)) % 2 ** 64
        else:
            number = None
        data = struct.pack("=Q", number) if number is not None else os.urandom(
            chance.randrange(1, 300)
        )
    data = bytes(data)[: len(memory) - place]
    memory[place : place + len(data)] = data


class Case(object):
    """One store that is used, damaged, used further, and judged."""

    def __init__(self, prefix, seed):
        self.chance = random.Random(seed)
        # In one of four, long messages have their body twice.
        self.bytes = self.chance.choice((BYTES, BYTES, BYTES, ROOMY))
        self.clock = FakeClock()
        self.prefix = prefix
        self.stores = []
        self.groups = []
        self.attach()
        self.sent = {}
        self.got = set()

    def attach(self):
        self.stores.append(MessageStore(self.prefix, self.bytes, clock=self.clock))
        self.groups.append(GroupStore(self.prefix, BYTES, clock=self.clock))

    def send(self, store):
        chance = self.chance
        number = len(self.sent)
        payload = b"%d:" % number + b"x" * chance.choice((0, 1, 30, 500, 5000, SMALL + 1))
        queue = chance.choice(CHANNELS)
        if queue.endswith(u"!"):
            names = [u"n{0}".format(chance.randrange(100)) for _ in range(chance.randrange(1, 5))]
        else:
            names = [u""]
        # Known before it is sent: an error after the commit does not unsend it.
        self.sent[payload] = (queue, names)
        if len(names) == 1:
            store.send(queue, names[0], payload, LONG, 30)
        else:
            store.send_each([(queue, u"\n".join(names).encode("ascii"), 30)], payload, LONG)

    def note(self, queue, local, payload):
        assert payload in self.sent, "a message that nobody sent: {0!r}".format(payload[:40])
        where, names = self.sent[payload]
        assert queue == where and local in names, "a message to somebody else"
        key = (payload, local)
        # Several of the same name in one fan-out are one each.
        taken = sum(1 for other in self.got if other[:2] == key)
        assert taken < names.count(local), "a message that came twice"
        self.got.add(key + (taken,))

    def receive(self, store):
        queues = self.chance.sample(CHANNELS, 3)
        found = store.receive(queues)
        if found is not None:
            assert found[0] in queues
            self.note(*found)

    def receive_batch(self, store):
        for names, payload, _ in store.receive_batch(u"p!", 4):
            for local in names.split(u"\n"):
                self.note(u"p!", local, payload)

    def wait(self, store):
        waiter = store.borrow_waiter()
        try:
            found = store.receive(self.chance.sample(CHANNELS, 2), waiter)
            if found is not None:
                self.note(*found)
        finally:
            store.leave(waiter)

    def change_groups(self, groups):
        chance = self.chance
        group, member = chance.choice(GROUPS), chance.choice(MEMBERS)
        action = chance.randrange(4)
        if action < 2:
            groups.add(group, member, self.clock() + LONG)
        elif action == 2:
            groups.discard(group, member)
        else:
            names = groups.members(group)
            assert len(names) == len(set(names)) and set(names) <= set(MEMBERS)

    def step(self):
        """Some operation; what it may answer with is an error of ours."""
        which = self.chance.randrange(len(self.stores))
        store, groups = self.stores[which], self.groups[which]
        action = self.chance.choice(
            [self.send] * 4 + [self.receive] * 3 + [self.receive_batch, self.wait]
        )
        self.clock.advance(self.chance.choice((0, 0.001, 0.3)))
        for work, argument in ((action, store), (self.change_groups, groups)):
            try:
                work(argument)
            except (ChannelFull, GroupsFull, SegmentError):
                pass
        if self.chance.randrange(60) == 0:
            try:
                store.flush()
            except SegmentError:
                pass

    def refused(self, error):
        assert "asgi-ipc rm" in str(error)

    def used(self, store):
        words = store._segment.words
        if isinstance(store, GroupStore):
            cells = store._inside.cells
            return cells.start * 8 + words[24] * 192
        return (max(words[16], words[17]) + 40) * 8

    def damage(self):
        which = self.chance.choice((self.stores, self.stores, self.groups))[0]
        used = min(max(self.used(which), 512), len(which._segment.map))
        for _ in range(self.chance.choice((1, 1, 1, 2, 5))):
            write_over(self.chance, which._segment.map, used)

    def judge(self):
        """After one more rebuild all is sound, or told to be beyond it; and goes on."""
        for store in self.stores[:1] + self.groups[:1]:
            words = store._segment.words
            words[BUSY] = 1
            try:
                assert store.check() == []
            except SegmentError as error:
                self.refused(error)
                return "beyond repair"
        for queue in CHANNELS:
            for _ in range(5000):
                found = self.stores[0].receive([queue])
                if found is None:
                    break
                self.note(*found)
            else:
                raise AssertionError("{0} has no end".format(queue))
        assert self.stores[0].memory()["messages"] == 0
        self.stores[0].send(u"a", u"", b"goes on", LONG, 30)
        assert self.stores[0].receive([u"a"])[2] == b"goes on"
        self.groups[0].add(u"new", u"m", self.clock() + LONG)
        assert self.groups[0].members(u"new") == [u"m"]
        assert self.stores[0].check() == self.groups[0].check() == []
        return "rebuilt"

    def run(self):
        for _ in range(self.chance.randrange(5, 60)):
            self.step()
        self.damage()
        if self.chance.randrange(3) == 0:
            try:
                self.attach()
            except SegmentError as error:
                self.refused(error)
                self.stores = self.stores[: len(self.groups)]
        for _ in range(40):
            self.step()
        return self.judge()

    def close(self):
        for store in self.stores + self.groups:
            store.close()
        core.unlink(self.prefix)


def run_cases(prefix, seeds):
    """In a child: how many ended how. A hang or memory without bounds ends it."""
    import logging

    logging.getLogger("asgi_ipc").setLevel(logging.CRITICAL + 1)
    warnings.simplefilter("ignore")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + 512 * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    ended = {}
    for seed in seeds:
        case = Case(prefix, seed)
        signal.alarm(SECONDS_FOR_ONE)
        try:
            how = case.run()
            real = os.stat(path_of(prefix, "messages")).st_blocks * 512
            assert real <= case.bytes
        except BaseException as error:
            raise AssertionError("case {0}: {1!r}".format(seed, error))
        finally:
            signal.alarm(0)
            case.close()
        ended[how] = ended.get(how, 0) + 1
    return ended


def hung(*_):
    raise AssertionError("it hangs")


def fuzz(prefix, campaign, share, whole):
    """Cases by chunks, each chunk in a child of its own."""
    count = campaign.amount(share, whole)
    first = campaign.random.randrange(10 ** 9)
    total = {}
    chunk = 250
    before = signal.signal(signal.SIGALRM, hung)
    try:
        for start in range(first, first + count, chunk):
            seeds = range(start, min(start + chunk, first + count))
            for how, number in in_child(run_cases, prefix, seeds).items():
                total[how] = total.get(how, 0) + number
    finally:
        signal.signal(signal.SIGALRM, before)
    campaign.note(
        "{0} damaged segments, {1}".format(
            count, ", ".join("{0} {1}".format(total[how], how) for how in sorted(total))
        )
    )
    # It would prove nothing if nearly all of them were given up.
    assert total["rebuilt"] > count * 0.9


@needs_files
def test_bytes_written_over_anywhere(prefix, campaign):
    fuzz(prefix, campaign, 100, 100)


@needs_files
@pytest.mark.slow
def test_bytes_written_over_anywhere_ten_thousand_times(prefix, campaign):
    fuzz(prefix, campaign, 1500, 12000)
