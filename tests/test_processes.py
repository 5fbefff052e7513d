"""Processes and threads as they come and go: fork, spawn, exec, namespaces, ends of all kinds."""
import atexit
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from functools import partial

import pytest
from processkit import (
    Paused,
    at_line,
    at_step,
    bells,
    children_of,
    descriptors_of,
    ends,
    eventually,
    is_locked,
    left_behind,
    run_python,
    steps_inside,
    traced,
    waits,
    when,
)
from storekit import Child, in_child

from asgi_ipc import IPCChannelLayer
from asgi_ipc._shm import clock, doorbell
from asgi_ipc.core import unlink
from asgi_ipc.errors import LayerClosed, LockTimeout, ReentrantCall

pytestmark = [
    pytest.mark.skipif(
        not os.path.exists("/proc/self/wchan"),
        reason="the system does not tell what processes wait for",
    ),
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]

SIZES = {"message_memory": 256 * 1024, "group_memory": 256 * 1024, "block_timeout": 60}


def open_layer(prefix, **options):
    return IPCChannelLayer(prefix, **dict(SIZES, **options))


@pytest.fixture
def make(prefix, no_child_stays):
    """A function that makes a layer of the test's prefix; all are closed at the end."""
    layers = []

    def make_one(**options):
        layers.append(open_layer(prefix, **options))
        return layers[-1]

    yield make_one
    for layer in layers:
        layer.close()


@pytest.fixture
def layer(make):
    return make()


def in_threads(count, function, *args):
    """Call a function with its number in so many threads; raise what any of them raised."""
    errors = []

    def call(number):
        try:
            function(number, *args)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def use_everything(layer, name):
    """Every operation once, on channels and groups that nobody else has."""
    channel, local, group = u"own." + name, u"proc." + name + u"!x", u"group." + name
    layer.send(channel, {"n": 1})
    assert layer.receive([channel]) == (channel, {"n": 1})
    layer.send(local, {"n": 2})
    assert layer.receive([local.partition(u"!")[0] + u"!"], block=True) == (local, {"n": 2})
    layer.group_add(group, local)
    layer.group_add(group, channel)
    layer.send_group(group, {"n": 3})
    assert layer.receive([channel], block=True) == (channel, {"n": 3})
    assert layer.receive([local.partition(u"!")[0] + u"!"]) == (local, {"n": 3})
    layer.group_discard(group, channel)
    assert layer.group_channels(group) == [local]
    layer.group_discard(group, local)
    before, layer.block_timeout = layer.block_timeout, 0.01
    assert layer.receive([channel], block=True) == (None, None)
    layer.block_timeout = before
    return layer.new_channel(u"reply?")


def limit(seconds=60):
    """In a child: be ended by SIGALRM if it takes so long."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)


def everything_in_child(layer, name):
    """Start a child that does ``use_everything`` with the layer it inherits."""

    def work():
        limit()
        return use_everything(layer, name)

    return Child(work)


# -- fork ----------------------------------------------------------------------------------


def lapse_and_send(layer):
    """As ``send``, and the rarely done besides: drops noted, memberships ended, a look around."""
    layer.send_group(u"crowd", {"n": 1})
    layer.send(u"busy", {"n": 2})
    layer.receive([u"busy"])
    layer.group_add(u"crowd", u"one.more")
    layer.group_discard(u"crowd", u"one.more")


def prepare_crowd(layer):
    layer.group_add(u"crowd", u"full.one")
    layer.send(u"full.one", {"n": 0})


@pytest.mark.slow
def test_fork_while_another_thread_is_anywhere_inside(make, campaign):
    """Whatever that thread was doing, the child does all it wants, and the thread goes on."""
    layer = make(channel_capacity={"full.one": 1})
    prepare_crowd(layer)
    everything_in_child(layer, u"first").result()
    for _ in range(2):
        outside, inside = steps_inside(lapse_and_send, layer)
    steps = campaign.choose(outside, 15) + campaign.choose(inside, 15)
    paused = 0
    for step in steps:
        layer._drops._next = 0
        thread = Paused(partial(at_step, step), lapse_and_send, layer)
        paused += thread.pauses()
        child = everything_in_child(layer, u"child")
        time.sleep(0.005)
        thread.go_on()
        assert thread.error is None
        child.result()
        use_everything(layer, u"parent")
    assert layer.check() == []
    assert paused > 0.9 * len(steps)
    campaign.note("forked at {0} steps, {1} of them paused".format(len(steps), paused))


def test_fork_while_another_thread_holds_a_lock_of_pythons(make, monkeypatch):
    """Dropped messages are counted under one; in a child, nobody would ever free it."""
    layer = make(channel_capacity={"full.one": 1})
    prepare_crowd(layer)
    noting = Paused(
        partial(at_line, layer._drops.add, 3), layer.send_group, u"crowd", {"n": 1}
    )
    assert noting.pauses()
    def drop_one():
        limit(10)
        layer.send_group(u"crowd", {"n": 2})

    child = Child(drop_one)
    status = child.wait()
    noting.go_on()
    assert noting.error is None
    assert status == 0


def test_fork_while_another_thread_attaches_anew(make, prefix, monkeypatch):
    """The child attaches anew itself."""
    layer = make()
    unlink(prefix)
    renewing = Paused(partial(at_line, layer._stores._open, 2), layer._stores._renew)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert renewing.pauses()

        def use():
            limit(10)
            warnings.simplefilter("ignore")
            layer._stores._next_look = 0
            layer.group_add(u"g", u"c")
            layer.send(u"c", {"n": 1})

        child = Child(use)
        status = child.wait()
        renewing.go_on()
    assert renewing.error is None
    assert status == 0
    assert layer.group_channels(u"g") == [u"c"]


def generation(layer, left, names):
    """A child of a child of ... which all use the layer of the first one."""
    limit()
    layer.receive([u"nobody"], block=False)
    names.append(use_everything(layer, u"generation{0}".format(left)))
    own = sum("memfd" not in path for path in descriptors_of())
    counts = [own]
    if left:
        more, counts_below = in_child(generation, layer, left - 1, [])
        names += more
        counts += counts_below
        names.append(use_everything(layer, u"again{0}".format(left)))
    return names, counts


def test_many_generations_use_one_layer(layer, prefix):
    """Each works, has names of its own, and no more descriptors open than its parent."""
    names, counts = in_child(generation, layer, 12, [])
    assert len(names) == 25
    assert len(set(names)) == 25
    # One more for each, the pipe to its parent.
    pipes = [count - number for number, count in enumerate(counts)]
    assert max(pipes) <= pipes[0] + 1
    assert layer.check() == []


def test_a_parent_that_waits_is_not_robbed_of_its_rings(prefix, layer):
    """Forked in the midst of a blocking receive; the child waits too, and ends before it."""
    got = []
    thread = threading.Thread(target=lambda: got.append(layer.receive([u"c"], block=True)))
    thread.start()
    eventually(lambda: waits(os.getpid()), "waiting")
    parents = bells(prefix)
    child = Child(lambda: (limit(), layer.receive([u"d"], block=True)))
    eventually(lambda: waits(child.pid), "waiting")
    assert len(bells(prefix)) == 2
    layer.send(u"d", {"n": 1})
    assert child.result()[1] == (u"d", {"n": 1})
    assert set(parents) <= set(bells(prefix))
    began = clock.now()
    layer.send(u"c", {"n": 2})
    thread.join(60)
    assert got == [(u"c", {"n": 2})]
    # Its own look may come right then, and prove nothing: mostly, it was rung.
    assert clock.now() - began < clock.SECOND


def test_a_dead_parents_doorbell_is_not_held_open_by_its_children(prefix, make):
    """A FIFO that a child still has open would look like a living waiter's."""

    def parent():
        mine = make()
        threading.Thread(target=mine.receive, args=([u"c"],), kwargs={"block": True}).start()
        eventually(lambda: waits(os.getpid()), "waiting")
        if not os.fork():
            limit()
            # Any call; where Python tells of forks none is needed.
            mine.receive([u"x"])
            os.close(ready_writer)
            os.read(stay_reader, 1)
            os._exit(0)
        os.close(ready_writer)
        os.close(stay_reader)
        time.sleep(60)

    stay_reader, stay_writer = os.pipe()
    ready_reader, ready_writer = os.pipe()
    layer = make()
    child = Child(parent)
    os.close(ready_writer)
    os.close(stay_reader)
    # The end of the file: both have come so far.
    assert os.read(ready_reader, 1) == b""
    assert len(bells(prefix)) == 1
    child.kill()
    layer.send(u"c", {"n": 1})
    found = bells(prefix)
    os.close(stay_writer)
    os.close(ready_reader)
    assert found == []


def test_parent_and_child_at_once(layer):
    """Both send and receive, in threads, on what they have in common."""
    count, threads = 100, 3

    def work(who):
        heard = []

        def go(number):
            name = "{0}.{1}".format(who, number)
            for turn in range(count):
                layer.send(u"both", {"from": name, "n": turn})
                _, message = layer.receive([u"both"], block=True)
                heard.append((number, message["from"], message["n"]))

        in_threads(threads, go)
        return heard

    child = Child(lambda: (limit(), work("child"))[1])
    mine = work("parent")
    heard = [mine, child.result()]
    assert sorted(entry[1:] for each in heard for entry in each) == sorted(
        ("{0}.{1}".format(who, number), turn)
        for who in ("child", "parent")
        for number in range(threads)
        for turn in range(count)
    )
    for each in heard:
        last = {}
        for number, name, turn in each:
            assert turn > last.get((number, name), -1)
            last[number, name] = turn
    assert layer.check() == []


def test_fork_in_a_thread(layer):
    """There, the child's only thread is not what was the main thread."""
    results = []

    def fork(number):
        layer.send(u"from.thread", {"n": number})
        results.append(everything_in_child(layer, u"thread{0}".format(number)).result())

    in_threads(4, fork)
    assert len(set(results)) == 4
    assert sorted(layer.receive([u"from.thread"])[1]["n"] for _ in range(4)) == [0, 1, 2, 3]
    assert layer.check() == []


def test_a_layer_made_before_the_fork_and_used_first_in_children(prefix, layer):
    """As under gunicorn --preload: identity, doorbells and names are each child's own."""

    def serve(number):
        limit()
        own = [layer.new_channel(u"reply?") for _ in range(20)]
        while True:
            _, message = layer.receive([u"ask"], block=True)
            if "stop" in message:
                return own
            layer.send(message["reply"], {"pid": os.getpid()})
            time.sleep(0.002)

    workers = [Child(serve, number) for number in range(5)]
    for child in workers:
        eventually(lambda child=child: waits(child.pid), "waiting")
    assert len(bells(prefix)) == 5
    answered = set()
    for _ in range(100):
        reply = layer.new_channel(u"reply?")
        layer.send(u"ask", {"reply": reply})
        answered.add(layer.receive([reply], block=True)[1]["pid"])
    for _ in workers:
        layer.send(u"ask", {"stop": True})
    names = [name for child in workers for name in child.result()]
    assert len(set(names)) == 100
    assert answered == {child.pid for child in workers}
    assert layer.check() == []


@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="all is done at the first call")
def test_a_child_that_never_calls_holds_nothing_of_its_parent(prefix, make):
    """Neither the lock, nor the FIFO of a parent that was waiting."""
    layer = make()
    layer.block_timeout = 0.01
    layer.receive([u"c"], block=True)

    def look():
        return [path for path in descriptors_of() if path.endswith(".bell")]

    assert len(bells(prefix)) == 1
    assert in_child(look) == []


def test_a_child_that_never_calls_leaves_its_parents_doorbell(prefix, make):
    """It ends as any Python does, so what was registered for the end is done in it."""

    def parent():
        layer = make(block_timeout=0.01)
        layer.receive([u"c"], block=True)
        before = bells(prefix)
        pid = os.fork()
        if not pid:
            atexit._run_exitfuncs()
            os._exit(0)
        os.waitpid(pid, 0)
        return before, bells(prefix)

    before, after = in_child(parent)
    assert len(before) == 1
    assert after == before


# -- multiprocessing -----------------------------------------------------------------------


def serve_once(prefix, number):
    """Answer one question, having waited for it; a member of a group meanwhile."""
    limit()
    layer = open_layer(prefix)
    layer.group_add(u"all", u"mp{0}!x".format(number))
    _, message = layer.receive([u"ask{0}".format(number)], block=True)
    layer.send(message["reply"], {"pid": os.getpid(), "name": layer.new_channel(u"x?")})
    _, message = layer.receive([u"mp{0}!".format(number)], block=True)
    layer.send(u"done", {"n": message["n"]})


METHODS = (
    multiprocessing.get_all_start_methods()
    if hasattr(multiprocessing, "get_all_start_methods")
    else ["fork"]
)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_multiprocessing(prefix, layer, method):
    """However its processes are started; and nothing is left in the folder of the memory."""
    context = multiprocessing
    if hasattr(multiprocessing, "get_context"):
        context = multiprocessing.get_context(method)
    workers = [context.Process(target=serve_once, args=(prefix, number)) for number in range(3)]
    for worker in workers:
        worker.start()
    answers = []
    for number in range(3):
        reply = layer.new_channel(u"reply?")
        layer.send(u"ask{0}".format(number), {"reply": reply})
        answers.append(layer.receive([reply], block=True)[1])
    layer.send_group(u"all", {"n": 7})
    for _ in workers:
        assert layer.receive([u"done"], block=True) == (u"done", {"n": 7})
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert len({answer["pid"] for answer in answers}) == 3
    assert len({answer["name"] for answer in answers}) == 3
    layer.close()
    assert left_behind(prefix) == []


def wait_with(layer):
    layer.receive([u"go"], block=True)


def test_multiprocessing_with_an_inherited_layer_leaves_nothing(prefix, layer):
    """Its forked children do not run what Python has registered for its end."""
    layer.send(u"go", {})
    layer.receive([u"go"], block=True)
    context = multiprocessing
    if hasattr(multiprocessing, "get_context"):
        context = multiprocessing.get_context("fork")
    worker = context.Process(target=wait_with, args=(layer,))
    worker.start()
    eventually(lambda: waits(worker.pid), "waiting")
    layer.send(u"go", {})
    worker.join(60)
    assert worker.exitcode == 0
    layer.close()
    assert left_behind(prefix) == []


# -- several layers, and the end of one ----------------------------------------------------


def test_two_layers_of_one_prefix_in_one_process(make):
    """Also with different options: each has its own, and they share what is stored."""
    small, large = make(capacity=2, expiry=1000), make(capacity=5, expiry=2000, block_timeout=0.01)
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


def test_two_layers_wake_each_other(make):
    first, second = make(), make()

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


def test_closing_one_layer_leaves_the_other(make, prefix):
    """Also while a thread waits with the other, and with what the closed one had waiting."""
    first, second = make(), make()
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


def test_a_handler_that_calls_another_layer_is_told(make):
    """It would wait for its own thread; the error comes in time, and both go on."""
    layer, other = make(), make(lock_timeout=0.1)
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
        traced(at_line(layer._stores.messages.send, 14, interrupt), layer.send, u"c", {"n": 1})
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(told) == 1
    assert layer.receive([u"c"]) == (u"c", {"n": 1})
    assert layer.receive([u"c"]) == (None, None)
    use_everything(other, u"other")
    assert layer.check() == []


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
def test_a_layer_closed_at_any_step_of_another_thread(prefix, make, campaign):
    """That thread finishes or gets LayerClosed, nothing else; and nothing is left or broken."""

    def all_steps():
        layer = open_layer(prefix, block_timeout=0.01)
        for _ in range(2):
            outside, inside = steps_inside(act_a_lot, layer)
        layer.close()
        return outside + inside

    steps = campaign.choose(sorted(in_child(all_steps)), 80)
    watcher = make()

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


def test_threads_in_receive_hear_of_a_close_at_once(prefix, make):
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
def test_a_layer_closed_while_threads_are_in_send(prefix, make, campaign):
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

    watcher = make(message_memory=4 * 1024 * 1024)
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
    # The doorbells of those that waited at one time are kept for the next ones.
    assert len(descriptors_of()) - before <= 60
    idle = len(descriptors_of())
    for _ in range(3):
        in_threads(10, work)
    assert len(descriptors_of()) <= idle


def test_threads_one_after_the_other_leave_no_descriptors(layer):
    in_threads(1, lambda _: use_everything(layer, u"warm.up"))
    before = len(descriptors_of())
    for number in range(50):
        in_threads(1, lambda _, number=number: use_everything(layer, u"t{0}".format(number)))
    assert len(descriptors_of()) <= before


def test_threads_that_ring_many_doorbells(make, prefix):
    """More than are kept open: no thread closes what another one writes to."""
    layer = make(message_memory=2 * 1024 * 1024)
    count = doorbell.KEPT_OPEN + 30

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


# -- another pid namespace -----------------------------------------------------------------

NAMESPACES = {
    "its own /proc": ["unshare", "--pid", "--fork", "--mount-proc"],
    "the host's /proc": ["unshare", "--pid", "--fork"],
}


def can_unshare():
    try:
        return subprocess.call(NAMESPACES["its own /proc"] + ["true"]) == 0
    except OSError:
        return False


needs_namespaces = pytest.mark.skipif(
    not can_unshare(), reason="needs unshare --pid (util-linux), and the right to use it (root)"
)


def answer_questions(prefix, count):
    """Answer so many, wait for each; in the namespace its pid is a small number."""
    layer = open_layer(prefix)
    layer.send(u"ready", {"pid": os.getpid()})
    for _ in range(int(count)):
        _, message = layer.receive([u"ask"], block=True)
        layer.send(message["reply"], {"n": message["n"] + 1})


def die_in_the_midst(prefix, step):
    """Be killed at a step of a send, the first part of which is done already."""
    layer = open_layer(prefix)
    layer.send(u"c", {"n": 1})
    # Found by its number, for of the namespaces' first process signals of its own are ignored.
    if not os.fork():
        kill = partial(os.kill, os.getpid(), signal.SIGKILL)
        traced(at_step(int(step), kill), layer.send, u"c", {"n": 2})
        os._exit(0)
    os.wait()


def stay_inside(prefix):
    """Be inside for ever, having told so."""
    layer = open_layer(prefix)
    layer._stores.messages._lock.acquire()
    sys.stdout.write("inside\n")
    sys.stdout.flush()
    time.sleep(600)


@pytest.fixture(params=sorted(NAMESPACES))
def start_inside(request):
    """A function that starts a function (``run_python``) in another pid namespace."""
    processes = []

    def start(function, *args, **options):
        processes.append(
            run_python(function, *args, before=NAMESPACES[request.param], **options)
        )
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            # unshare, the first process of the namespace, and with it all the others.
            for pid in children_of(process.pid) + [process.pid]:
                os.kill(pid, signal.SIGKILL)
            process.wait()


@needs_namespaces
@pytest.mark.slow
def test_processes_of_two_pid_namespaces_exchange_messages(prefix, layer, start_inside):
    """Both ways, waking each other: so no doorbell depends on a pid."""
    count = 200
    process = start_inside(answer_questions, prefix, count)
    assert layer.receive([u"ready"], block=True)[1]["pid"] < 20
    began = clock.now()
    for number in range(count):
        layer.send(u"ask", {"reply": u"reply?x", "n": number})
        assert layer.receive([u"reply?x"], block=True) == (u"reply?x", {"n": number + 1})
    # Each side that had to wait for its own look would take a second.
    assert clock.now() - began < count * clock.SECOND // 10
    assert ends(process) == 0
    assert left_behind(prefix) == bells(prefix)
    layer.close()
    assert left_behind(prefix) == []


@needs_namespaces
@pytest.mark.slow
def test_killed_inside_in_another_pid_namespace(prefix, layer, start_inside, campaign):
    """Whoever comes next gets in at once, and rebuilds."""

    def count():
        other = open_layer(prefix)
        other.send(u"c", {"n": 1})
        return steps_inside(other.send, u"c", {"n": 2})[1]

    steps = in_child(count)
    died = 0
    for step in campaign.choose(steps, 3):
        layer.flush()
        before = layer._stores.messages._lock.recoveries
        assert ends(start_inside(die_in_the_midst, prefix, step)) == 0
        found = [layer.receive([u"c"])[1] for _ in range(3)]
        assert found in ([{"n": 1}, None, None], [{"n": 1}, {"n": 2}, None])
        died += layer._stores.messages._lock.recoveries - before
        assert layer.check() == []
    assert died > 0


@needs_namespaces
@pytest.mark.slow
def test_a_namespace_killed_as_a_whole_while_one_is_inside(prefix, start_inside):
    """And before: named as this side numbers it, though its busy word has another number."""
    layer = open_layer(prefix, lock_timeout=0.1)
    process = start_inside(stay_inside, prefix, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"inside\n"
    (pid,) = children_of(process.pid)
    with pytest.raises(LockTimeout) as caught:
        layer.send(u"c", {"n": 1})
    assert "by process {0}.".format(pid) in str(caught.value)
    os.kill(pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    layer.send(u"c", {"n": 2})
    assert layer.receive([u"c"]) == (u"c", {"n": 2})
    assert layer._stores.messages._lock.recoveries == 1
    assert layer.check() == []
    layer.close()


def report_timeout(prefix):
    """Tell what error one in the namespace gets, when told to try."""
    layer = open_layer(prefix, lock_timeout=0.1)
    sys.stdout.write("attached\n")
    sys.stdout.flush()
    sys.stdin.readline()
    try:
        layer.send(u"c", {"n": 1})
    except LockTimeout as error:
        sys.stdout.write(str(error))


@needs_namespaces
@pytest.mark.slow
def test_one_inside_a_namespace_is_not_told_a_pid_that_is_another_process_there(
    prefix, layer, start_inside, request
):
    process = start_inside(
        report_timeout, prefix, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"attached\n"
    child = Child(lambda: (layer._stores.messages._lock.acquire(), time.sleep(600)))
    eventually(lambda: is_locked(prefix, "messages"), "locking")
    text = process.communicate(b"try\n")[0].decode("utf-8")
    assert process.returncode == 0
    child.kill()
    assert "by process {0}".format(child.pid) in text
    if "its own" in request.node.name:
        assert "as another pid namespace numbers it" in text


@needs_namespaces
@pytest.mark.slow
def test_killed_inside_outside_of_the_namespace(prefix, layer, start_inside):
    """The other way round: those in the namespace go on at once."""
    process = start_inside(answer_questions, prefix, 2)
    assert layer.receive([u"ready"], block=True)[1]["pid"] < 20
    for number in range(2):
        Child(
            lambda: (layer._stores.messages._lock.acquire(), os.kill(os.getpid(), signal.SIGKILL))
        ).wait()
        layer.send(u"ask", {"reply": u"reply?x", "n": number})
        assert layer.receive([u"reply?x"], block=True) == (u"reply?x", {"n": number + 1})
    assert ends(process) == 0
    assert layer.check() == []


# -- ends of all kinds, and exec -----------------------------------------------------------


def wait_for(layer, channel, ready=None):
    """Wait on a channel in the main thread, or until a signal."""
    if ready is not None:
        ready()
    return layer.receive([channel], block=True)


def end_normally(prefix):
    use_everything(open_layer(prefix), u"end")


def end_by_exit(prefix):
    use_everything(open_layer(prefix), u"end")
    sys.exit(3)


def end_by_exception(prefix):
    use_everything(open_layer(prefix), u"end")
    raise KeyError("meant")


def end_by_signal(prefix):
    """As Channels 1 workers end: SystemExit, raised in the midst of a wait."""

    def stop(*_):
        sys.exit(3)

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    wait_for(open_layer(prefix), u"none")


def end_with_daemons_in_receive(prefix):
    """Threads that nobody waits for, each in a receive."""
    layer = open_layer(prefix)
    for number in range(5):
        thread = threading.Thread(target=wait_for, args=(layer, u"none{0}".format(number)))
        thread.daemon = True
        thread.start()
    eventually(lambda: waits(os.getpid(), 5), "waiting")


def end_with_busy_daemons(prefix):
    """Threads that nobody waits for, in the midst of sends and receives."""
    layer = open_layer(prefix)

    def work(number):
        while True:
            layer.send(u"c{0}".format(number), {"n": 1})
            layer.receive([u"c{0}".format(number)], block=True)

    for number in range(4):
        thread = threading.Thread(target=work, args=(number,))
        thread.daemon = True
        thread.start()
    time.sleep(0.2)


def end_with_a_closed_layer(prefix):
    layer = open_layer(prefix)
    use_everything(layer, u"end")
    layer.close()


def end_with_a_cycle(prefix):
    """The layer is garbage by the end, and nobody has collected it yet."""
    layer = open_layer(prefix)
    use_everything(layer, u"end")
    layer.itself = layer


ENDS = [
    (end_normally, 0),
    (end_by_exit, 3),
    (end_by_exception, 1),
    (end_by_signal, 3),
    (end_with_daemons_in_receive, 0),
    (end_with_busy_daemons, 0),
    (end_with_a_closed_layer, 0),
    (end_with_a_cycle, 0),
]


@pytest.mark.slow
@pytest.mark.parametrize("function, status", ENDS, ids=[end.__name__ for end, _ in ENDS])
def test_a_process_that_ends_by_itself_leaves_nothing(prefix, layer, function, status):
    """No FIFO, no word on stderr that is not its own, and a segment in order."""
    process = run_python(function, prefix, stderr=subprocess.PIPE)
    words = process.stderr.read().decode("utf-8")
    process.stderr.close()
    assert ends(process) == status
    if function is end_by_exception:
        assert words.count("Traceback") == 1
        assert "KeyError" in words.splitlines()[-1]
    else:
        assert words == ""
    assert left_behind(prefix) == []
    assert layer.check() == []
    use_everything(layer, u"after")


def test_os_exit_leaves_a_doorbell_that_the_next_ones_take_away(prefix, layer):
    """Nothing of Python runs then; it is as if it was killed."""

    def leave():
        layer.block_timeout = 0.01
        layer.receive([u"c"], block=True)
        os._exit(0)

    for _ in range(6):
        Child(leave).wait()
    assert len(bells(prefix)) == 6
    layer.block_timeout = 0.01
    time.sleep(2.6)
    layer.receive([u"c"], block=True)
    layer.close()
    assert left_behind(prefix) == []


def test_os_exit_in_the_midst_of_a_wait(prefix, layer):
    """The message that is sent then finds the next one at once."""

    def leave():
        threading.Timer(0.2, os._exit, (0,)).start()
        layer.receive([u"c"], block=True)

    child = Child(leave)
    eventually(lambda: waits(child.pid), "waiting")
    got = []
    thread = threading.Thread(target=lambda: got.append(layer.receive([u"c"], block=True)))
    thread.start()
    child.wait()
    layer.send(u"c", {"n": 1})
    thread.join(60)
    assert got == [(u"c", {"n": 1})]
    assert len(bells(prefix)) == 1


def test_descriptors_are_not_handed_to_executed_programs(prefix, layer):
    """Neither those of the segments, nor of the lock in each thread, nor of doorbells."""

    def use(_):
        layer.send(u"c", {"n": 1})
        layer.block_timeout = 0.01
        layer.receive([u"none"], block=True)
        listing = subprocess.Popen(
            ["ls", "-l", "/proc/self/fd"], close_fds=False, stdout=subprocess.PIPE
        ).communicate()[0]
        assert b"fd" in listing or b"->" in listing
        assert prefix.encode("ascii") not in listing

    waiting = Child(lambda: (limit(), layer.receive([u"c2"], block=True)))
    eventually(lambda: waits(waiting.pid), "waiting")
    layer.send(u"c2", {"n": 1})
    waiting.result()
    in_threads(3, use)
    assert sum(prefix in path for path in descriptors_of()) >= 4


def test_what_is_executed_after_a_fork_holds_no_lock(prefix, layer):
    """A program started while one was inside, and that outlives it, keeps nobody out."""
    reader, writer = os.pipe()

    def start_and_die():
        layer._stores.messages._lock.acquire()
        program = subprocess.Popen(["sleep", "60"], close_fds=False)
        os.write(writer, "{0} ".format(program.pid).encode("ascii"))
        os.kill(os.getpid(), signal.SIGKILL)

    Child(start_and_die).wait()
    program = int(os.read(reader, 100))
    os.close(reader)
    os.close(writer)
    try:
        began = clock.now()
        layer.send(u"c", {"n": 1})
        assert clock.now() - began < 5 * clock.SECOND
        assert layer._stores.messages._lock.recoveries == 1
        os.kill(program, 0)
    finally:
        os.kill(program, signal.SIGKILL)
