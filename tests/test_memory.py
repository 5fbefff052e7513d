"""A /dev/shm that is small or full, files and descriptors that run out: refused, never killed.

Each test has a tmpfs of its own at /dev/shm, in a mount namespace that ends with it. A child
that dies by a signal (SIGBUS, for one) fails its test, since ``Child.result`` wants a result.
"""
import errno
import gc
import os
import random
import resource
import signal
import sys
import threading
import time
import warnings
import zlib

import pytest
from sandbox import (
    MIB,
    PAGE,
    Hog,
    descriptors,
    free_bytes,
    needs_linux,
    on_small_shm,
    skip_without_own_shm,
)
from stepkit import Tripwire, kill_self
from storekit import Child

from asgi_ipc import IPCChannelLayer, core
from asgi_ipc._shm import forks, inside
from asgi_ipc.errors import ChannelFull, GroupsFull, IPCError, SegmentError

pytestmark = needs_linux

KIB = 1024
SMALL = {"message_memory": 64 * KIB, "group_memory": 64 * KIB}
DEFAULT = {}
UNBOUNDED = 10 ** 6

SAYS = {
    ChannelFull: ("message_memory", "shared memory"),
    GroupsFull: ("group_memory",),
    SegmentError: ("shared memory", "semaphore"),
}
"""Kind of refusal to what its text has to name."""


@pytest.fixture(scope="module", autouse=True)
def _own_shm():
    skip_without_own_shm()


def clear(error):
    """The text of a refusal that is one of ours and says what it is about; else raise it."""
    for kind, words in SAYS.items():
        if isinstance(error, kind):
            assert any(word in str(error) for word in words), str(error)
            return str(error)
    raise error


def refused(call, *args):
    """Call; return "" or the text of a clear refusal."""
    try:
        call(*args)
    except IPCError as error:
        return clear(error)
    return ""


def attempt(**options):
    """Make a layer; return it and "", or None and the text of a clear SegmentError."""
    try:
        return IPCChannelLayer("p", **options), ""
    except SegmentError as error:
        return None, clear(error)


def make(**options):
    """The same. A refusal leaves no descriptor behind, be it one that the collector would find."""
    gc.disable()
    before = descriptors()
    layer, refusal = attempt(**options)
    if refusal:
        assert descriptors() == before
    return layer, refusal


def assert_made_anew(refusal, **options):
    """What a refused constructor has left behind is in nobody's way; return a layer.

    It was the groups' segment that was refused if that of messages is wholly there: then that
    one's size counts, as always.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if "/p-groups" in refusal:
            warnings.filterwarnings("ignore", "the segment /p-messages exists with")
        layer = IPCChannelLayer("p", **options)
    if "/p-groups" not in refusal:
        wanted = options.get("message_memory", 100 * MIB)
        assert layer._stores.messages.memory()["size"] == wanted
    assert layer._stores.groups.statistics()["memory_size"] == options.get("group_memory", 20 * MIB)
    assert_works(layer)
    return layer


def assert_works(layer):
    """Every kind of operation does what it should, and the segments are sound."""
    layer.flush()
    layer.send(u"works", {"n": 1})
    assert layer.receive([u"works"]) == (u"works", {u"n": 1})
    layer.group_add(u"works", u"p!a")
    layer.send_group(u"works", {"n": 2})
    assert layer.receive([u"p!"], block=True) == (u"p!a", {u"n": 2})
    layer.group_discard(u"works", u"p!a")
    assert layer.group_channels(u"works") == []
    assert layer.check() == []


def files_of(prefix):
    return sorted(name for name in os.listdir("/dev/shm") if prefix in name)


# -- filled by ourselves -----------------------------------------------------------------------


def fill_messages(layer, tag):
    """Send ever smaller messages until not even the smallest is taken; return what was sent."""
    sent = []
    for size in (1 << 18, 1 << 14, 1 << 10, 0):
        if size > layer.max_message_size * 3 // 4:
            continue
        refusals = 0
        while refusals < 3:
            message = {u"tag": tag, u"n": len(sent), u"body": os.urandom(size)}
            channel = u"c{0}".format(len(sent) % 50)
            if refused(layer.send, channel, message):
                refusals += 1
            else:
                sent.append((channel,) + short(message))
    return sent


def short(message):
    """What identifies a message, its body included."""
    return message[u"tag"], message[u"n"], zlib.crc32(message[u"body"])


def fill_groups(layer, tag, most=10 ** 6):
    """Add members until refused three times, or there are many; return the memberships."""
    added = []
    refusals = 0
    while refusals < 3 and len(added) < most:
        group, channel = u"g{0}".format(len(added) % 7), u"{0}!{1}".format(tag, len(added))
        if refused(layer.group_add, group, channel):
            refusals += 1
        else:
            added.append((group, channel))
    return added


def read_all(layer):
    """Everything that is in the channels that ``fill_messages`` sends to."""
    found = []
    channels = [u"c{0}".format(number) for number in range(50)]
    while True:
        channel, message = layer.receive(channels)
        if channel is None:
            return found
        found.append((channel,) + short(message))


def by_channel(messages):
    """The messages of one channel after those of another, each channel's in their order."""
    return sorted(messages, key=lambda message: message[0])


def memberships(layer):
    groups = [u"g{0}".format(number) for number in range(7)]
    return {(group, channel) for group in groups for channel in layer.group_channels(group)}


def fill_and_go_on(options, most):
    """Fill, read and discard, fill again; return how much went in each time."""
    layer, other = (IPCChannelLayer("p", capacity=UNBOUNDED, **options) for _ in range(2))
    # Messages would take everything: groups get their first cells before.
    layer.group_add(u"g0", u"first")
    figures = []
    for tag in (u"first", u"second", u"third"):
        sent, added = fill_messages(layer, tag), fill_groups(layer, tag, most)
        assert memberships(other) - {(u"g0", u"first")} == set(added)
        assert other.check() == []
        assert by_channel(read_all(other)) == by_channel(sent)
        for group, channel in added:
            other.group_discard(group, channel)
        assert_works(layer)
        figures.append((len(sent), len(added)))
    return figures


@pytest.mark.parametrize("options", [DEFAULT, SMALL], ids=["default", "small"])
@pytest.mark.parametrize(
    "size", [1, pytest.param(8, marks=pytest.mark.slow), pytest.param(64, marks=pytest.mark.slow)]
)
def test_filled_until_refused_and_on_again(size, options, campaign):
    most = campaign.amount(6000, 10 ** 6)
    figures = on_small_shm(size * MIB, fill_and_go_on, options, most)
    # Space that was given back is there again.
    assert min(map(min, figures)) > 5
    campaign.note(
        "{0} MB: {1[0]} messages and {1[1]} memberships, later {2[0]} and {2[1]}".format(
            size, figures[0], figures[-1]
        )
    )


def fill_beside_others(fill):
    """Fill when others have left little, and go on when they go; return how much went in."""
    hog = Hog()
    layer, other = (IPCChannelLayer("p", capacity=UNBOUNDED) for _ in range(2))
    hog.leave(100 * PAGE)
    first = fill(layer, u"first")
    hog.give_back()
    second = fill(layer, u"second")
    assert memberships(other) | set(read_all(other)) == set(first + second)
    assert layer.check() == []
    return len(first), len(second)


@pytest.mark.parametrize("fill", [fill_messages, fill_groups])
def test_works_on_when_other_files_are_removed(fill):
    few, many = on_small_shm(8 * MIB, fill_beside_others, fill)
    assert 0 < few < many


def fill_with_messages_alone():
    """Fill all with messages, read them, then join groups."""
    layer = IPCChannelLayer("p", capacity=UNBOUNDED)
    sent = fill_messages(layer, u"x")
    assert len(read_all(layer)) == len(sent)
    return refused(layer.group_add, u"g", u"p!a")


def test_memory_of_messages_that_were_read_is_there_for_groups():
    assert on_small_shm(8 * MIB, fill_with_messages_alone) == ""


def make_by_default():
    return free_bytes(), refused(IPCChannelLayer, "p")


def test_too_small_for_the_beginning_says_so():
    """Half a megabyte is not enough for the tables of the default options: told at once."""
    free, refusal = on_small_shm(MIB // 2, make_by_default)
    assert free <= MIB // 2
    assert "Docker: --shm-size" in refusal


# -- filled by others, at every amount ---------------------------------------------------------


def make_with(pages, options, other_options):
    """Make a layer with so many pages left, and go on with other options when there are more."""
    hog = Hog()
    hog.leave(pages * PAGE)
    layer, refusal = make(**options)
    held = sum(os.stat("/dev/shm/" + name).st_blocks * 512 for name in files_of("p-"))
    hog.give_back()
    if refusal:
        assert held <= pages * PAGE
        layer = assert_made_anew(refusal, capacity=UNBOUNDED, **other_options)
    # Nothing of it is touched that is not reserved.
    hog.leave(0)
    for number in range(500):
        refused(layer.send, u"c{0}".format(number), {})
        refused(layer.group_add, u"g{0}".format(number), u"c")
    hog.give_back()
    assert_works(layer)
    return refusal


@pytest.mark.parametrize(
    "options, other_options",
    [(DEFAULT, SMALL), (SMALL, DEFAULT), (SMALL, SMALL)],
    ids=["default-small", "small-default", "small-small"],
)
@pytest.mark.slow
def test_creation_with_every_number_of_pages_left(options, other_options, campaign):
    whole = 210 if options is DEFAULT else 12
    refusals = [
        on_small_shm(4 * MIB, make_with, pages, options, other_options)
        for pages in campaign.choose(range(whole), 12)
    ]
    kinds = [("messages" in text) + 2 * ("groups" in text) for text in refusals]
    campaign.note(
        "{0} amounts, refused for messages at {1}, for groups at {2}".format(
            len(kinds), kinds.count(1), kinds.count(2)
        )
    )
    assert kinds.count(1) > 0
    assert kinds.count(2) > 0


def make_without_files(files):
    """The same with so many files left that may be made: memory, semaphore, FIFO."""
    hog = Hog()
    hog.take_files()
    for number in range(files):
        os.unlink("{0}.{1}".format(hog.path, number))
    layer, refusal = make(block_timeout=0.2, **SMALL)
    if not refusal:
        # Without a FIFO it polls.
        assert layer.receive([u"x"], block=True) == (None, None)
        layer.send(u"x", {"n": 1})
        assert layer.receive([u"x"], block=True) == (u"x", {u"n": 1})
        late = Child(lambda: (time.sleep(0.05), layer.send(u"x", {"n": 2}))[1])
        assert layer.receive([u"x"], block=True) == (u"x", {u"n": 2})
        late.result()
    hog.give_back()
    assert_made_anew(refusal, **SMALL)
    return refusal


def test_no_files_left():
    """Two memories, two semaphores (each by way of a second name), then the FIFO."""
    answers = [on_small_shm(4 * MIB, make_without_files, files, inodes=40) for files in range(8)]
    made = [not refusal for refusal in answers]
    assert made == sorted(made)
    assert made[-1]
    assert made.count(False) >= 4


# -- filled by others, at every step -----------------------------------------------------------


def fill_at(step, hog, function):
    """Run a function, and fill /dev/shm when it comes to its ``step``-th line in the package.

    Returns the number of lines. The rest runs with no page and no file left.
    """
    count = [0]

    def trace(frame, event, _):
        if event == "call":
            ours = frame.f_globals.get("__name__", "").startswith("asgi_ipc")
            return trace if ours else None
        if event == "line":
            count[0] += 1
            if count[0] == step:
                hog.leave(0)
                hog.take_files()
        return trace

    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(None)
    return count[0]


class Scene(object):
    """Something to be done while others fill /dev/shm: ``prepare``, ``act``, ``verify``."""

    options = dict(SMALL, capacity=UNBOUNDED, block_timeout=0.05)

    def open(self):
        return IPCChannelLayer("p", **self.options)

    def prepare(self):
        self.layer = self.open()
        self.refusals = []
        self.done = []

    def attempt(self, call, *args):
        """Do it; note what was done, and what was refused."""
        refusal = refused(call, *args)
        if refusal:
            self.refusals.append(refusal)
        else:
            self.done.append(args)

    def verify(self):
        """What was done is there, once and in order; what was refused is not."""
        messages = [args for args in self.done if isinstance(args[1], dict)]
        found = []
        channels = sorted({channel for channel, _ in messages}) or [u"none"]
        while True:
            channel, message = self.layer.receive(channels)
            if channel is None:
                break
            found.append((channel, message))
        key = lambda pair: (pair[0], pair[1]["n"])  # noqa: E731
        assert sorted(found, key=key) == sorted(messages, key=key)
        members = {args for args in self.done if not isinstance(args[1], dict)}
        for group in {group for group, _ in members}:
            names = {channel for one, channel in members if one == group}
            assert set(self.layer.group_channels(group)) == names
        assert self.layer.check() == []
        assert_works(self.layer)


class Creating(Scene):
    def prepare(self):
        self.refusals = []

    def act(self):
        layer, refusal = make(**self.options)
        if refusal:
            self.refusals.append(refusal)
        else:
            layer.close()

    def verify(self):
        if self.refusals:
            assert_made_anew(self.refusals[0], **SMALL)
        else:
            assert_works(self.open())


class CreatingByDefault(Creating):
    options = {}


class Attaching(Creating):
    def prepare(self):
        Creating.prepare(self)
        self.first = self.open()

    def verify(self):
        assert not self.refusals
        Creating.verify(self)


class GrowingTables(Scene):
    """New channels: their table grows in steps of 64."""

    options = dict(Scene.options, message_memory=2 * MIB)

    def prepare(self):
        Scene.prepare(self)
        for number in range(60):
            self.attempt(self.layer.send, u"c{0}".format(number), {"n": number})

    def act(self):
        for number in range(60, 72):
            self.attempt(self.layer.send, u"c{0}".format(number), {"n": number})
        # Not "the table is full": it has room for ten times as many.
        assert all("shared memory" in text for text in self.refusals)


class GrowingLog(Scene):
    """Its memory is reserved in steps of 256 KiB."""

    options = dict(Scene.options, message_memory=2 * MIB)

    def act(self):
        for number in range(40):
            self.attempt(self.layer.send, u"c", {"n": number, "body": b"x" * 16 * KIB})


class GrowingGroups(Scene):
    """Their cells come in steps of 512."""

    options = dict(Scene.options, group_memory=2 * MIB)

    def prepare(self):
        Scene.prepare(self)
        for number in range(500):
            self.attempt(self.layer.group_add, u"g{0}".format(number % 3), u"p!{0}".format(number))

    def act(self):
        for number in range(500, 520):
            self.attempt(self.layer.group_add, u"g{0}".format(number % 3), u"p!{0}".format(number))


class Rebuilding(Scene):
    """After the death of one who was inside both segments."""

    def prepare(self):
        Scene.prepare(self)
        for number in range(20):
            self.attempt(self.layer.send, u"c{0}".format(number % 3), {"n": number})
            self.attempt(self.layer.group_add, u"g", u"p!{0}".format(number))
        for store in (self.layer._stores.messages, self.layer._stores.groups):
            self.die_inside(store)

    def die_inside(self, store):
        """Have a child killed while it holds the store's lock."""

        def die(step):
            Tripwire(step, kill_self).run(store.check)

        for step in range(200, 20000, 200):
            child = Child(die, step)
            child.close()
            if inside.written_down(store._segment.map) == child.pid:
                return
        raise AssertionError("nobody died inside")

    def act(self):
        before = [store._lock.recoveries for store in self.stores()]
        self.attempt(self.layer.send, u"c0", {"n": 100})
        self.attempt(self.layer.group_add, u"g", u"p!new")
        assert [store._lock.recoveries for store in self.stores()] > before

    def stores(self):
        return self.layer._stores.messages, self.layer._stores.groups


class Waiting(Scene):
    """A doorbell is made, a receiver registered."""

    def act(self):
        assert self.layer.receive([u"a", u"b"], block=True) == (None, None)
        self.attempt(self.layer.send, u"c", {"n": 1})


SCENES = [
    Creating,
    CreatingByDefault,
    Attaching,
    GrowingTables,
    GrowingLog,
    GrowingGroups,
    Rebuilding,
    Waiting,
]


def play(scene, step):
    """Act out a scene with a full /dev/shm from ``step`` on; return (lines, refusals)."""
    scene = scene()
    hog = Hog()
    scene.prepare()
    lines = fill_at(step, hog, scene.act)
    hog.give_back()
    scene.verify()
    return lines, scene.refusals


@pytest.mark.slow
@pytest.mark.parametrize("scene", SCENES)
def test_others_fill_it_at_every_step(scene, campaign):
    lines, refusals = on_small_shm(4 * MIB, play, scene, 0, inodes=60)
    assert refusals == []
    assert lines > 100
    steps = campaign.choose(range(1, lines + 1), 20)
    hit = 0
    for step in steps:
        _, refusals = on_small_shm(4 * MIB, play, scene, step, inodes=60)
        hit += bool(refusals)
    campaign.note("{0} of {1} steps; refused in {2} of them".format(len(steps), lines, hit))
    if scene not in (Attaching, Rebuilding, Waiting):
        # Those may have what they need already; each of these asks for more.
        assert hit >= len(steps) // 10


# -- filled by others, at any moment -------------------------------------------------------------

CHANNELS = [u"c{0}".format(number) for number in range(8)]


def hog_around(seed):
    """Take and leave space and files in every way, until this process is killed."""
    rnd = random.Random(seed)
    hog = Hog()
    while True:
        chance = rnd.random()
        if chance < 0.5:
            hog.leave(rnd.choice((0, 0, PAGE, 16 * PAGE, rnd.randrange(MIB))))
        elif chance < 0.6:
            hog.take_files()
        elif chance < 0.9:
            hog.give_back()
        time.sleep(rnd.random() * 0.004)


class Worker(object):
    """Sends until refused, reads until nothing is left, joins and leaves; remembers it all."""

    def __init__(self, number, seed, largest, options):
        self.number = number
        self.rnd = random.Random("{0}.{1}".format(seed, number))
        self.sizes = (0, 10, 500, 5000, largest)
        self.options = options
        self.sent = []
        self.got = []
        self.refusals = {}
        self.filling = True
        self.layer = None

    def run(self, seconds):
        deadline = time.time() + seconds
        while time.time() < deadline:
            try:
                self.step()
            except IPCError as error:
                clear(error)
                kind = type(error).__name__
                self.refusals[kind] = self.refusals.get(kind, 0) + 1
                self.filling = False
        return self.sent, self.got, self.refusals

    def step(self):
        rnd = self.rnd
        if self.layer is None:
            self.layer = IPCChannelLayer(
                "p", capacity=UNBOUNDED, block_timeout=0.01, **self.options
            )
        chance = rnd.random()
        if chance < 0.8:
            if self.filling:
                self.send()
            else:
                self.receive(block=chance < 0.01)
        elif chance < 0.9:
            self.layer.group_add(u"g", u"m!{0}.{1}".format(self.number, rnd.randrange(30)))
        elif chance < 0.96:
            members = self.layer.group_channels(u"g")
            for channel in rnd.sample(members, len(members) // 2):
                self.layer.group_discard(u"g", channel)
        elif chance < 0.995:
            self.layer.send_group(u"g", {"n": 1})
        else:
            self.layer.close()
            self.layer = None

    def send(self):
        channel = self.rnd.choice(CHANNELS)
        body = os.urandom(self.rnd.choice(self.sizes))
        message = {u"tag": self.number, u"n": len(self.sent), u"body": body}
        self.layer.send(channel, message)
        self.sent.append((channel,) + short(message))

    def receive(self, block):
        channel, message = self.layer.receive(CHANNELS + [u"m!"], block=block)
        if channel is None:
            self.filling = True
        elif channel in CHANNELS:
            self.got.append((channel,) + short(message))


def storm(seed, largest, options, seconds):
    """Several workers, with a hog around; then everything is accounted for."""
    hog = Child(hog_around, seed)
    workers = [
        Child(Worker(number, seed, largest, options).run, seconds) for number in range(3)
    ]
    try:
        results = [worker.result() for worker in workers]
    finally:
        hog.kill()
    for name in os.listdir("/dev/shm"):
        if name.startswith("hog-"):
            os.unlink("/dev/shm/" + name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = IPCChannelLayer("p", capacity=UNBOUNDED, **options)
    assert layer.check() == []
    rest = []
    while True:
        channel, message = layer.receive(CHANNELS)
        if channel is None:
            break
        rest.append((channel,) + short(message))
    sent = [message for part, _, _ in results for message in part]
    got = [message for _, part, _ in results for message in part]
    assert sorted(got + rest) == sorted(sent)
    for heard in [part for _, part, _ in results] + [rest]:
        # Each sender's messages on a channel are heard in order.
        last = {}
        for channel, tag, number, _ in heard:
            assert last.get((channel, tag), -1) < number
            last[channel, tag] = number
    refusals = {}
    for _, _, part in results:
        for kind, count in part.items():
            refusals[kind] = refusals.get(kind, 0) + count
    assert_works(layer)
    return len(sent), refusals


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 8, 64])
def test_others_fill_it_at_any_moment(size, campaign):
    options = {1: {"message_memory": 256 * KIB, "group_memory": 64 * KIB}}.get(size, DEFAULT)
    seconds = campaign.amount(2, 60)
    seed = campaign.random.random()
    largest = min(size * MIB, 4 * options.get("message_memory", size * MIB)) // 100
    sent, refusals = on_small_shm(
        size * MIB, storm, seed, largest, options, seconds, inodes=300
    )
    campaign.note("{0} MB, {1} s: {2} sent, refusals {3}".format(size, seconds, sent, refusals))
    assert sent > 20
    # To fill 64 MB takes longer than a share does on a busy machine.
    assert refusals.get("ChannelFull", 0) > 0 or (size == 64 and not campaign.full)


# -- limits of the process -------------------------------------------------------------------------


def limit(kind, soft):
    resource.setrlimit(kind, (soft, resource.getrlimit(kind)[1]))


def lift(kind):
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (hard, hard))


def make_with_short_files(longest):
    """Make a layer where no file may be longer than so many bytes."""
    limit(resource.RLIMIT_FSIZE, longest)
    layer, refusal = make(**SMALL)
    lift(resource.RLIMIT_FSIZE)
    if refusal:
        assert "ulimit -f" in refusal or "File too large" in refusal
        assert_made_anew(refusal, **SMALL)
    else:
        assert_works(layer)
    return refusal


@pytest.mark.parametrize("longest", [0, 32, PAGE, 64 * KIB - 1, 64 * KIB])
def test_file_size_limit_at_creation(longest):
    refusal = on_small_shm(MIB, make_with_short_files, longest)
    assert bool(refusal) == (longest < 64 * KIB)


def grow_with_short_files():
    """An existing layer grows, though its file is longer than the limit."""
    options = {"message_memory": 2 * MIB, "group_memory": MIB, "capacity": UNBOUNDED}
    layer = IPCChannelLayer("p", **options)
    limit(resource.RLIMIT_FSIZE, PAGE)
    other = IPCChannelLayer("p", **options)
    sent, added = fill_messages(other, u"x"), fill_groups(other, u"x")
    assert by_channel(read_all(layer)) == by_channel(sent)
    assert memberships(layer) == set(added)
    assert_works(other)
    return len(sent), len(added)


def test_file_size_limit_does_not_bind_what_exists():
    sent, added = on_small_shm(8 * MIB, grow_with_short_files)
    assert sent > 20
    assert added > 2000


def die_of_a_long_file():
    """Where the signal is not ignored, as it is by Python, it ends the process."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    limit(resource.RLIMIT_FSIZE, PAGE)
    IPCChannelLayer("p", **SMALL)


def go_on_after_a_long_file():
    child = Child(die_of_a_long_file)
    child.close()
    status = child.wait()
    left = files_of("p-")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_works(IPCChannelLayer("p", **SMALL))
    return status, left


def test_killed_by_the_file_size_limit_leaves_no_obstacle():
    status, left = on_small_shm(MIB, go_on_after_a_long_file)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGXFSZ
    assert "p-messages" in left


class DescriptorHog(object):
    """Leaves this process, a child, so many descriptors that it can still open."""

    def __init__(self, left=0):
        # What is the parent's here still is closed before, not at some moment after.
        gc.collect()
        forks.check()
        limit(resource.RLIMIT_NOFILE, left + 1 + max(map(int, os.listdir("/proc/self/fd"))))
        self.taken = []
        try:
            while True:
                self.taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
        self.give_back(left)

    def give_back(self, count=None):
        """Close so many of those taken, or all."""
        for _ in range(len(self.taken) if count is None else count):
            os.close(self.taken.pop())


def make_with_few_descriptors(few):
    hog = DescriptorHog(left=10)
    # Looking at what is open takes one as well.
    before = descriptors()
    for _ in range(10 - few):
        hog.taken.append(os.open("/dev/null", os.O_RDONLY))
    gc.disable()
    layer, refusal = attempt(block_timeout=0.2, **SMALL)
    hog.give_back(10 - few)
    if refusal:
        assert descriptors() == before
        assert "ulimit -n" in refusal or "open files" in refusal or "files open" in refusal
        layer = assert_made_anew(refusal, **SMALL)
    assert_works(layer)
    return refusal


def test_descriptor_limit_at_creation():
    """A layer takes four: two memories, and for this thread two that lock."""
    answers = [on_small_shm(MIB, make_with_few_descriptors, few) for few in range(9)]
    made = [not refusal for refusal in answers]
    assert made == sorted(made)
    assert made[-1]
    assert made.count(False) >= 4


def receive_far():
    with IPCChannelLayer("p", block_timeout=20, **SMALL) as layer:
        return layer.receive([u"far"], block=True)


def use_with_few_descriptors(few):
    """Use a layer with so many descriptors left; return what was refused, in words."""
    layer = IPCChannelLayer("p", block_timeout=0.3, **SMALL)
    waiting = Child(receive_far)
    while not files_of(".bell"):
        time.sleep(0.01)
    time.sleep(0.1)
    hog = DescriptorHog(left=few)
    texts = []

    def use(call):
        try:
            call()
        except IPCError as error:
            texts.append(clear(error))

    def use_in_thread(call):
        thread = threading.Thread(target=use, args=(call,))
        thread.start()
        thread.join()

    # This thread has what locks; to ring the other's doorbell, and to have one, takes one more.
    layer.send(u"far", {"n": 1})
    layer.send(u"x", {"n": 2})
    assert layer.receive([u"x"], block=True) == (u"x", {u"n": 2})
    assert layer.receive([u"x"], block=True) == (None, None)
    use_in_thread(lambda: layer.send(u"y", {"n": 3}))
    use_in_thread(lambda: layer.group_add(u"g", u"p!a"))
    # A look at the second, whether it was rung or not.
    assert waiting.result() == (u"far", {u"n": 1})
    hog.give_back()
    found = layer.receive([u"y"]), layer.group_channels(u"g")
    assert len(texts) == (found[0] == (None, None)) + (found[1] == [])
    assert all("ulimit -n" in text or "open files" in text for text in texts)
    assert layer.check() == []
    assert_works(layer)
    use_in_thread(lambda: assert_works(layer))
    return texts


@pytest.mark.slow
def test_descriptor_limit_in_use():
    """What has to open one is refused and works later; what has what it needs goes on."""
    refused_at = [len(on_small_shm(MIB, use_with_few_descriptors, few)) for few in range(5)]
    assert refused_at[0] == 2
    assert refused_at[-1] == 0
    assert refused_at == sorted(refused_at, reverse=True)


# -- other reasons for which a constructor fails ----------------------------------------------


def fail_for_a_warning():
    """A size that is not heeded is a warning, and some make those errors."""
    texts = []
    gc.disable()
    with IPCChannelLayer("p", **SMALL):
        before = descriptors()
        for options in ({"group_memory": 64 * KIB}, {"message_memory": 64 * KIB}):
            texts.append(warning_of(options))
            assert descriptors() == before
    return texts


def warning_of(options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            IPCChannelLayer("p", **options)
        except RuntimeWarning as warning:
            return str(warning)
    return ""


def test_a_warning_that_is_made_an_error_leaves_no_descriptor():
    texts = on_small_shm(MIB, fail_for_a_warning)
    assert "message_memory" in texts[0]
    assert "group_memory" in texts[1]


# -- removed under us while there is no space -------------------------------------------------


def removed_under_us():
    """The segments are removed; the layer cannot attach to new ones before there is space."""
    hog = Hog()
    layer = IPCChannelLayer("p", capacity=UNBOUNDED, **SMALL)
    assert core.unlink("p")
    hog.leave(0)
    hog.take_files()
    texts = []
    deadline = time.time() + 1.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while time.time() < deadline:
            texts.append(refused(layer.send, u"x", {"n": 1}))
            texts.append(refused(layer.group_add, u"g", u"p!a"))
            time.sleep(0.05)
        hog.give_back()
        deadline = time.time() + 20
        while not files_of("p-groups") and time.time() < deadline:
            refused(layer.send, u"x", {"n": 1})
            refused(layer.group_add, u"g", u"p!a")
            time.sleep(0.05)
        other = IPCChannelLayer("p", capacity=UNBOUNDED, **SMALL)
    other.flush()
    layer.send(u"x", {"n": 2})
    assert other.receive([u"x"]) == (u"x", {u"n": 2})
    assert_works(layer)
    return [text for text in texts if "/p-" in text]


@pytest.mark.slow
def test_attaching_anew_waits_for_space():
    assert on_small_shm(MIB, removed_under_us, inodes=60)
