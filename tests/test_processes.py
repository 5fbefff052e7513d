"""Processes that come of others: fork in every way, spawn, forkserver."""
import atexit
import multiprocessing
import os
import threading
import time
from functools import partial

import pytest
from processkit import (
    Paused,
    at_line,
    at_step,
    bells,
    descriptors_of,
    eventually,
    everything_in_child,
    in_threads,
    left_behind,
    limit,
    open_layer,
    steps_inside,
    use_everything,
    waits,
)
from storekit import Child, in_child

from asgi_ipc._shm import clock, forks
from asgi_ipc.core import unlink

pytestmark = [
    pytest.mark.skipif(
        not os.path.exists("/proc/self/wchan"),
        reason="the system does not tell what processes wait for",
    ),
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]


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
def test_fork_while_another_thread_is_anywhere_inside(make_layer, campaign):
    """Whatever that thread was doing, the child does all it wants, and the thread goes on."""
    layer = make_layer(channel_capacity={"full.one": 1})
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


def test_fork_while_another_thread_holds_a_lock_of_pythons(make_layer, monkeypatch):
    """Dropped messages are counted under one; in a child, nobody would ever free it."""
    layer = make_layer(channel_capacity={"full.one": 1})
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


@pytest.mark.filterwarnings("ignore:.*was removed while in use:RuntimeWarning")
def test_fork_while_another_thread_attaches_anew(make_layer, prefix, monkeypatch):
    """The child attaches anew itself."""
    layer = make_layer()
    unlink(prefix)
    renewing = Paused(partial(at_line, layer._stores._open, 2), layer._stores._renew)
    assert renewing.pauses()

    def use():
        limit(10)
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


def test_a_dead_parents_doorbell_is_not_held_open_by_its_children(prefix, make_layer):
    """A FIFO that a child still has open would look like a living waiter's."""

    def parent():
        mine = make_layer()
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
    layer = make_layer()
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


class TakesLong(object):
    """Something that needs a while to become a child's own."""

    own = True

    def forked(self):
        self.own = False
        time.sleep(0.2)
        self.own = True


def test_no_thread_of_a_child_goes_on_before_all_is_its_own():
    thing = TakesLong()
    forks.watch(thing)

    def use(number):
        forks.check()
        assert thing.own

    in_child(lambda: in_threads(4, use))


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
def test_a_child_that_never_calls_holds_nothing_of_its_parent(prefix, make_layer):
    """Neither the lock, nor the FIFO of a parent that was waiting."""
    layer = make_layer()
    layer.block_timeout = 0.01
    layer.receive([u"c"], block=True)

    def look():
        return [path for path in descriptors_of() if path.endswith(".bell")]

    assert len(bells(prefix)) == 1
    assert in_child(look) == []


def test_a_child_that_never_calls_leaves_its_parents_doorbell(prefix, make_layer):
    """It ends as any Python does, so what was registered for the end is done in it."""

    def parent():
        layer = make_layer(block_timeout=0.01)
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
