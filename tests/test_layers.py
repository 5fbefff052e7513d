"""Several layers and threads in one process; one that is closed while others are at it."""
import gc
import os
import signal
import threading
import traceback
from functools import partial

import pytest
from processkit import (
    Paused,
    at_line,
    at_step,
    bells,
    descriptors_of,
    eventually,
    in_threads,
    left_behind,
    limit,
    open_layer,
    steps_inside,
    traced,
    use_everything,
    waits,
    when,
)
from storekit import Child, in_child

from asgi_ipc._shm import clock, doorbell
from asgi_ipc._shm.lane import BOARD, EMPTY
from asgi_ipc.errors import LayerClosed, LockTimeout, ReentrantCall

pytestmark = [
    pytest.mark.skipif(
        not os.path.exists("/proc/self/wchan"),
        reason="the system does not tell what processes wait for",
    ),
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]


def test_two_layers_of_one_prefix_in_one_process(make_layer):
    """Also with different options: each has its own, and they share what is stored."""
    small = make_layer(capacity=2, expiry=1000)
    large = make_layer(capacity=5, expiry=2000, block_timeout=0.01)
    for number in range(5):
        large.send(u"c", {"n": number})
    for layer in (small, large):
        with pytest.raises(layer.ChannelFull):
            layer.send(u"c", {"n": 9})
    assert [small.receive([u"c"])[1]["n"], large.receive([u"c"])[1]["n"]] == [0, 1]
    small.group_add(u"g", u"c")
    assert large.group_channels(u"g") == [u"c"]
    large.send_group(u"g", {"n": 5})
    small.group_discard(u"g", u"c")
    large.send_group(u"g", {"n": 6})
    assert [large.receive([u"c"])[1]["n"] for _ in range(4)] == [2, 3, 4, 5]
    assert large.receive([u"c"], block=True) == (None, None)
    assert small.check() == large.check() == []


def test_two_layers_wake_each_other(make_layer):
    first, second = make_layer(), make_layer()

    def serve(number):
        one, other = ((first, second), (second, first))[number]
        for turn in range(50):
            one.send(u"to{0}".format(number), {"n": turn})
            channel = u"to{0}".format(1 - number)
            assert other.receive([channel], block=True) == (channel, {"n": turn})

    began = clock.now()
    in_threads(2, serve)
    # 50 waits that end with their own look would take 50 s.
    assert clock.now() - began < 25 * clock.SECOND
    assert first.check() == []


def test_closing_one_layer_leaves_the_other(make_layer, prefix):
    """Also while a thread waits with the other, and with what the closed one had waiting."""
    first, second = make_layer(), make_layer()
    first.group_add(u"g", u"c")
    got = []
    waiting = threading.Thread(target=lambda: got.append(second.receive([u"c"], block=True)))
    waiting.start()
    eventually(lambda: waits(os.getpid()), "waiting")
    first.block_timeout = 0.01
    first.receive([u"c"], block=True)
    assert len(bells(prefix)) == 2
    first.close()
    assert len(bells(prefix)) == 1
    for call in (
        lambda: first.send(u"c", {}),
        lambda: first.receive([u"c"]),
        lambda: first.receive([u"c"], block=True),
        lambda: first.group_add(u"g", u"c"),
        lambda: first.group_discard(u"g", u"c"),
        lambda: first.group_channels(u"g"),
        lambda: first.send_group(u"g", {}),
        first.flush,
        first.check,
        first.global_statistics,
        lambda: first.channel_statistics(u"c"),
    ):
        with pytest.raises(LayerClosed):
            call()
    first.close()
    second.send_group(u"g", {"n": 1})
    waiting.join(60)
    assert got == [(u"c", {"n": 1})]
    use_everything(second, u"second")
    assert second.check() == []


def test_many_layers_made_and_closed_leave_no_descriptors(prefix):
    def use_one(number):
        with open_layer(prefix, block_timeout=0.001) as layer:
            use_everything(layer, u"layer{0}".format(number))

    use_one(0)
    before = len(descriptors_of())
    for number in range(20):
        use_one(number)
    in_threads(5, use_one)
    assert len(descriptors_of()) <= before
    assert left_behind(prefix) == []


def test_a_handler_that_calls_another_layer_is_told(make_layer):
    """It would wait for its own thread; the error comes in time, and both go on."""
    layer, other = make_layer(), make_layer(lock_timeout=0.1)
    told = []

    def handler(*_):
        try:
            other.send(u"c", {"n": 2})
        except (LockTimeout, ReentrantCall) as error:
            told.append(error)

    def interrupt():
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        inside = when(lambda: layer._stores.messages._map[BOARD] != EMPTY, interrupt)
        traced(inside, layer.send, u"c", {"n": 1})
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(told) == 1
    assert layer.receive([u"c"]) == (u"c", {"n": 1})
    assert layer.receive([u"c"]) == (None, None)
    use_everything(other, u"other")
    assert layer.check() == []


# -- closed while others are at it ---------------------------------------------------------


def closed_while_paused(prefix, function, step):
    """Pause a thread at a step of an operation, close its layer, let it go on.

    Returns (whether it paused there, the name of what it raised or None, problems).
    """
    layer = open_layer(prefix, block_timeout=0.01)
    thread = Paused(partial(at_step, step), function, layer)
    paused = thread.pauses()
    problems = []

    def close():
        try:
            layer.close()
        except BaseException:
            problems.append(traceback.format_exc())

    closer = threading.Thread(target=close)
    closer.start()
    # It may have to wait for the lock.
    closer.join(0.01)
    thread.go_on()
    closer.join(60)
    if closer.is_alive():
        problems.append("the close hangs")
    return paused, thread.error and repr(thread.error), problems


def act_a_lot(layer):
    """Every operation, and one waits in vain."""
    layer.send(u"c", {"n": 1})
    layer.receive([u"c"])
    layer.receive([u"none"], block=True)
    layer.group_add(u"g", u"c")
    layer.send_group(u"g", {"n": 1})
    layer.receive([u"c"])
    layer.group_discard(u"g", u"c")


@pytest.mark.slow
def test_a_layer_closed_at_any_step_of_another_thread(prefix, make_layer, campaign):
    """That thread finishes or gets LayerClosed, nothing else; and nothing is left or broken."""

    def all_steps():
        layer = open_layer(prefix, block_timeout=0.01)
        for _ in range(2):
            outside, inside = steps_inside(act_a_lot, layer)
        layer.close()
        return outside + inside

    steps = campaign.choose(sorted(in_child(all_steps)), 80)
    watcher = make_layer()

    def close_at_each():
        before = len(descriptors_of())
        paused, raised, wrong = 0, 0, []
        for step in steps:
            did_pause, error, problems = closed_while_paused(prefix, act_a_lot, step)
            paused += did_pause
            if error:
                raised += 1
                if "LayerClosed" not in error:
                    problems.append(error)
            if problems:
                wrong.append((step, problems))
            if left_behind(prefix):
                # What the exception still refers to.
                gc.collect()
                wrong += [(step, name) for name in left_behind(prefix)]
            watcher.flush()
        gc.collect()
        return paused, raised, wrong, len(descriptors_of()) - before

    # In a child: touching memory that was unmapped would end the process.
    paused, raised, wrong, more = in_child(close_at_each)
    campaign.note("closed at {0} steps, {1} got LayerClosed".format(paused, raised))
    assert wrong == []
    assert more <= 2
    assert paused > 0.9 * len(steps)
    assert raised > 0.2 * len(steps)
    watcher.flush()
    use_everything(watcher, u"watcher")
    assert watcher.check() == []


def test_a_layer_closed_while_a_thread_begins_to_wait_leaves_nothing(prefix):
    """Its doorbell was not among those that the close took away; it goes when the wait ends."""
    layer = open_layer(prefix)
    thread = Paused(
        partial(when, lambda: bells(prefix)),
        partial(layer.receive, block=True),
        [u"c"],
    )
    assert thread.pauses()
    assert len(bells(prefix)) == 1
    layer.close()
    thread.go_on()
    assert isinstance(thread.error, LayerClosed)
    assert left_behind(prefix) == []


@pytest.mark.parametrize("part", ["messages", "groups"])
def test_a_layer_closed_while_a_thread_looks_at_its_segment(prefix, part):
    """The look once a second, which needs no lock, meets a descriptor that is closed."""
    layer = open_layer(prefix)
    segment = getattr(layer._stores, part)._segment
    thread = Paused(partial(at_line, segment.replaced, 2), layer.group_channels, u"g")
    assert thread.pauses()
    layer.close()
    thread.go_on()
    assert isinstance(thread.error, LayerClosed)


@pytest.mark.parametrize("line", range(1, 8))
def test_a_layer_closed_while_a_new_thread_opens_its_descriptor(prefix, line):
    """The file that has its number by then is not taken for the segment."""
    layer = open_layer(prefix)
    segment = layer._stores.messages._segment
    number = segment._descriptor
    before = len(descriptors_of())
    opening = partial(at_line, segment._open_description, line)
    thread = Paused(opening, layer.send, u"c", {"n": 1})
    assert thread.pauses()
    layer.close()
    other = os.open(os.devnull, os.O_RDWR)
    if other != number:
        os.dup2(other, number)
        os.close(other)
    thread.go_on()
    os.close(number)
    assert isinstance(thread.error, LayerClosed)
    del thread
    gc.collect()
    assert len(descriptors_of()) < before
    assert left_behind(prefix) == []


def test_threads_in_receive_hear_of_a_close_at_once(prefix, make_layer):
    """Well before their own look, and however many there are."""
    layer = open_layer(prefix)
    answers = []

    def wait(number):
        try:
            answers.append(layer.receive([u"c{0}".format(number % 3)], block=True))
        except LayerClosed:
            answers.append(clock.now())

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    eventually(lambda: waits(os.getpid(), 12), "waiting")
    began = clock.now()
    layer.close()
    for thread in threads:
        thread.join(60)
    assert len(answers) == 12
    # One may be at its own look, the rest were rung.
    assert sorted(answers)[6] - began < 0.5 * clock.SECOND
    assert left_behind(prefix) == []


@pytest.mark.slow
def test_a_layer_closed_while_threads_are_in_send(prefix, make_layer, campaign):
    """What was sent before is there, once; what was refused is not."""
    rounds = campaign.amount(40, 2000)

    def hammer_and_close(number):
        layer = open_layer(prefix, capacity=10 ** 6)
        sent, wrong = [], []
        ready = threading.Event()

        def send(thread):
            turn = 0
            try:
                while True:
                    turn += 1
                    layer.send(u"c", {"n": [number, thread, turn]})
                    sent.append([number, thread, turn])
                    if turn == 5:
                        ready.set()
            except LayerClosed:
                pass
            except BaseException:
                wrong.append(traceback.format_exc())

        threads = [threading.Thread(target=send, args=(thread,)) for thread in range(3)]
        for thread in threads:
            thread.start()
        ready.wait(60)
        layer.close()
        for thread in threads:
            thread.join(60)
        return sent, wrong

    watcher = make_layer(message_memory=4 * 1024 * 1024)
    total = 0
    for number in range(rounds):
        sent, wrong = in_child(hammer_and_close, number)
        assert wrong == []
        found = []
        while True:
            _, message = watcher.receive([u"c"])
            if message is None:
                break
            found.append(message["n"])
        assert sorted(found) == sorted(sent)
        total += len(sent)
    assert watcher.check() == []
    campaign.note("{0} rounds, {1} sent".format(rounds, total))


# -- threads -------------------------------------------------------------------------------


def test_many_threads_on_one_layer(layer):
    """Each gets what is its own; and when they have ended, so have their descriptors."""
    layer.receive([u"c"])
    before = len(descriptors_of())

    def work(number):
        for turn in range(5):
            use_everything(layer, u"thread{0}.{1}".format(number, turn))

    in_threads(30, work)
    assert layer.check() == []
    # The doorbells of those that waited at one time are kept for the next ones: two descriptors
    # each, for as many as there were threads at most.
    assert len(descriptors_of()) - before <= 60
    idle = len(of_segments())
    for _ in range(3):
        in_threads(10, work)
    assert len(of_segments()) <= idle
    assert len(descriptors_of()) - before <= 60


def of_segments():
    """The descriptors that lead to segments, as those do that threads have of a lock."""
    return [path for path in descriptors_of() if path.endswith(("-messages", "-groups"))]


def test_threads_one_after_the_other_leave_no_descriptors(layer):
    in_threads(1, lambda _: use_everything(layer, u"warm.up"))
    before = len(descriptors_of())
    for number in range(50):
        in_threads(1, lambda _, number=number: use_everything(layer, u"t{0}".format(number)))
    assert len(descriptors_of()) <= before


def test_threads_that_ring_many_doorbells(make_layer, prefix):
    """More than are kept open: no thread closes what another one writes to."""
    layer = make_layer(message_memory=2 * 1024 * 1024)
    ringer = layer._stores.messages._ringer
    ringer.most_kept = 128
    count = ringer.most_kept + 30

    def wait():
        limit()
        mine = open_layer(prefix, capacity=10 ** 6)

        def answer(number):
            for _ in range(4):
                _, message = mine.receive([u"ask{0}".format(number)], block=True)
                mine.send(u"answer", {"n": [number, message["n"]]})

        in_threads(count, answer)

    child = Child(wait)
    eventually(lambda: waits(child.pid, count), "waiting")

    def ring(thread):
        for number in range(count):
            layer.send(u"ask{0}".format(number), {"n": thread})

    in_threads(4, ring)
    found = [tuple(layer.receive([u"answer"], block=True)[1]["n"]) for _ in range(4 * count)]
    child.result()
    assert sorted(found) == [(number, thread) for number in range(count) for thread in range(4)]
    assert layer.check() == []


def test_a_descriptor_that_a_thread_rings_with_is_not_closed_by_another(prefix, tmpdir):
    """Its number would be another file's by the time of the write."""
    name = "/{0}-messages".format(prefix)
    bell, ringer = doorbell.Doorbell(name, 0o600), doorbell.Ringer(name)
    # From then on its descriptor is kept.
    assert ringer.ring(bell.number)
    bell.silence()
    thread = Paused(partial(at_line, ringer.ring, 4), ringer.ring, bell.number)
    assert thread.pauses()
    ringer.close()
    other = os.open(str(tmpdir.join("other")), os.O_RDWR | os.O_CREAT)
    thread.go_on()
    size = os.fstat(other).st_size
    os.close(other)
    assert size == 0
    assert thread.result is True
    assert bell.wait(0) is True
    bell.close()
    assert left_behind(prefix) == []
