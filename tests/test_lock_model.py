"""The lock's protocol, every interleaving of it: see ``lock_model.py``.

That the code takes the model's steps is asked on every Python; what can come of these, on one.
"""
import ast
import functools
import inspect
import sys

import pytest

if sys.version_info < (3, 6):
    pytest.skip("the model is written in generators of Python 3", allow_module_level=True)

import concurrent.futures

import lock_trace
from lock_explorer import CALLS, Broken, Explorer, differences, merged, staying, unfold
from lock_family import BORN, CHILD, LATE, Family
from lock_model import Lock, replay
from lock_order import FENCES, Processors
from lock_variants import BROKEN, SYSTEMS, KeepsItsToken, NoCount, WrittenOut

from asgi_ipc._shm import lock as lock_module
from asgi_ipc._shm.holders import Holder
from asgi_ipc._shm.lane import BUSY, SLOW
from asgi_ipc._shm.lock import SegmentLock
from asgi_ipc.messages import MessageStore
from asgi_ipc.sending import Senders

STILL_HELD = ["at rest with the flock", "at rest with the flag up"]
"""What an exception in the middle of an abandon can do: until its thread comes by once more."""


@pytest.fixture(params=sorted(SYSTEMS))
def system(request):
    return SYSTEMS[request.param]


def model(protocol, interrupts=1, calls=()):
    return unfold(functools.partial(replay, protocol), interrupts, calls)


def code(protocol=Lock, interrupts=1, calls=(), between=()):
    """The Graph of the real SegmentLock."""
    with lock_trace.capabilities(protocol.count_supported, protocol.written_out):
        if not between:
            return unfold(lock_trace.replay, interrupts, calls)
        # What is raised between a handler's end and its last bytecode has the thread believe for
        # ever that it is handling an exception: so in a thread of its own.
        with concurrent.futures.ThreadPoolExecutor(1) as beside:
            return beside.submit(unfold, lock_trace.replay, interrupts, calls, between).result()


def explored(campaign, title, graph, *arguments, **options):
    """Visit all states, see that all get in, and note the figures."""
    explorer = Explorer(merged(graph), *arguments, **options).run()
    enter, leave = explorer.check_progress()
    campaign.note(
        "{0}: {1:,} states, {2:,} transitions; alone, one is in after {3} steps at most, and "
        "out after {4}".format(title, len(explorer.states), explorer.transitions, enter, leave)
    )
    return explorer


# -- the model says what the code does -----------------------------------------------------


@pytest.mark.parametrize("calls", [(), CALLS], ids=["", "calls"])
@pytest.mark.parametrize("interrupts", [0, 1, None])
def test_the_code_takes_the_models_steps(system, interrupts, calls):
    """Whatever its steps are answered, and wherever handlers raise or call."""
    found = differences(model(system, interrupts, calls), code(system, interrupts, calls))
    assert not found, "after {0}\nthe model is at {1}\nand the code at {2}".format(*found[0])


@pytest.mark.slow
def test_other_steps_are_noticed(monkeypatch):
    """In the real code, release does things in another order."""

    def posts_last(self, holder):
        if self._words is not None:
            self._words[BUSY] = 0
            self._words[SLOW] = 0
        lock_module._flock(holder.descriptor, lock_module._UNLOCK)
        self._post(holder)
        holder.slow = False

    def unlocks_first(self, holder):
        lock_module._flock(holder.descriptor, lock_module._UNLOCK)
        if self._words is not None:
            self._words[BUSY] = 0
            self._words[SLOW] = 0
        self._post(holder)
        holder.slow = False

    for broken, problem in (
        (posts_last, "more tokens than there were"),
        (unlocks_first, "two inside"),
    ):
        monkeypatch.setattr(SegmentLock, "_leave_slowly", broken)
        assert differences(model(Lock), code())
        with pytest.raises(Broken) as error:
            Explorer(merged(code()), 2, only=problem).run()
        assert error.value.problem == problem


METHODS = [
    "acquire", "release", "abandon", "close", "_let_go", "_post", "_take_spare", "_try_flock",
    "_take_token", "_go_slowly", "_wait", "_shut_out", "_anyone", "_leave_slowly", "_give_up",
    "_recover_own", "take_lane",
]  # fmt: skip
"""What ``SegmentLock`` and its ``Holder`` have in common with the model."""

THE_CODES = {
    "self._semaphore.acquire(0)": "semaphore.acquire(0)",
    "self._semaphore.release()": "semaphore.release()",
    "_flock(descriptor, _TRY)": "flock(TRY)",
    "_flock(holder.descriptor, _UNLOCK)": "flock(UNLOCK)",
    "patience.over()": "patience.over()",
    "lane.take(self.descriptor)": "lane.take()",
    "lane.give(holder.descriptor)": "lane.give()",
    "lane.clears(memory)": "lane.clears()",
    "lane.raised(self.memory)": "flags",
    "act()": "fence",
}
"""The steps, as ``lock.py`` and ``holders.py`` write them."""

ITS_OWN = {
    "clock.now()", "patience.nap()", "_Patience(self.lock_timeout)",
    "lane.fence()", "any((lane.lives(holder.descriptor, other) for other in flags))",
    "lane.lives(holder.descriptor, other)", "lane.owner_word(self.pid)",
    "lane.owner_place(number)", "lane.flag_of(number)", "lane.alone(number)", "sys._getframe(1)",
    "sys._getframe(2)",
    "frame.f_locals.get('lock')", "len(self._descriptors)", "self._semaphore.close()",
    "self.holders.mine.close()", "self._who(holder)",
    "self._book.waited(clock.now() - patience.begin)", "self._book.recovered()",
}  # fmt: skip
"""What else it calls: what others cannot see, and counts, by which nobody goes."""


def methods_of(found):
    found = ast.parse(inspect.getsource(found)).body[0]
    return {node.name: node for node in found.body if isinstance(node, ast.FunctionDef)}


def steps_of(method):
    """Calls, steps and stores of a method in the order of its text; repeated ones once."""
    found = []
    for node in ast.walk(method):
        text = None
        if isinstance(node, (ast.Call, ast.Compare)):
            text = step_of_call(node)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "self._semaphore.value":
            text = "semaphore.value"
        elif isinstance(node, ast.Yield):
            text = node.value.value
        elif isinstance(node, ast.Assign):
            text = step_of_store(node)
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            text = word_of(node)
        if text is not None:
            found.append((node.lineno, node.col_offset, text))
    texts = [text for _, _, text in sorted(found)]
    return [text for text, before in zip(texts, [None] + texts) if text != before]


def step_of_call(node):
    text = ast.unparse(node)
    if text in THE_CODES:
        return THE_CODES[text]
    if isinstance(node, ast.Compare) or text in ITS_OWN or isinstance(node.func, ast.Call):
        return None
    name = ast.unparse(node.func)
    if name.endswith(".format") or name in ("LayerClosed", "LockTimeout", "ReentrantCall"):
        return None
    if name == "holder.take_lane":
        return "take_lane"
    public = ("self.abandon", "self.release", "self.take_lane")
    assert name.startswith("self._") or name in public, text
    return name[len("self.") :]


def word_of(node):
    """Which place of the segment it is, as the model calls it."""
    array, index = ast.unparse(node.value), ast.unparse(node.slice)
    array = array.replace("self._", "").replace("self.", "")
    if array not in ("words", "memory") or index == "lane.owner_place(number)":
        return None
    index = {"holder.lane": "mine", "number": "mine"}.get(index, index)
    return "{0}[{1}]".format(array, index)


def step_of_store(node):
    target = node.targets[0]
    text = ast.unparse(target)
    if isinstance(target, ast.Subscript):
        value = ast.unparse(node.value).replace("holder.", "").replace("lane.", "")
        word = word_of(target)
        return word and "{0} = {1}".format(word, value)
    if "holder.refused" in text:
        return "holder.refused"
    if text == "self.lane":
        return "holder.lane"
    return text if text in KEPT else None


KEPT = (
    "holder.inside", "holder.slow", "holder.broken", "holder.token", "holder.lane", "self.entered"
)  # fmt: skip
"""What a thread remembers of its hold."""


@pytest.mark.skipif(not hasattr(ast, "unparse"), reason="ast.unparse came with Python 3.9")
@pytest.mark.parametrize("name", METHODS)
def test_the_text_has_the_models_steps(name):
    """So that nothing is called, looked at or stored that the fakes of the trace do not see."""
    real, modelled = methods_of(SegmentLock), methods_of(Lock)
    real["take_lane"] = methods_of(Holder)["take_lane"]
    assert set(METHODS) == set(modelled) - {"__init__"}
    assert steps_of(real[name]) == steps_of(modelled[name])


def test_the_fast_way_is_written_out_alike_everywhere():
    """So what is explored of one holds for the other."""
    sent, received = (
        [ast.dump(node) for part in lock_trace.written_out(method) for node in part]
        for method in (Senders.send, MessageStore.receive)
    )
    assert sent == received


# -- every interleaving --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("counts", [(0, 1), (2,)], ids=["lost or right", "doubled"])
def test_two_processes(campaign, system, counts):
    """Of the real code; handlers raise once in an operation, and call at any step."""
    explored(campaign, system.__name__, code(system, 1, calls=CALLS), 2, counts)


@pytest.mark.slow
def test_two_processes_and_any_number_of_exceptions(campaign):
    """One raised in the abandon that another led to may leave flock or flag with a thread, which
    is not inside: then others wait until it calls once more, or ends. Nothing else breaks."""
    graph = code(interrupts=None)
    explored(campaign, "any number", graph, 2, ignore=STILL_HELD)
    with pytest.raises(Broken) as error:
        Explorer(merged(graph), 2).run()
    assert error.value.problem in STILL_HELD


@pytest.mark.slow
def test_three_processes(campaign):
    """Each stays until it dies; in full, exceptions are raised as well, and handlers call."""
    interrupts, calls = (1, CALLS) if campaign.full else (0, ())
    explored(campaign, "three", staying(code(Lock, interrupts, calls)), 3)
    if campaign.full:
        explored(campaign, "no count", staying(code(NoCount)), 3)
        explored(campaign, "doubled", staying(code(interrupts=0)), 3, (2,))
        explored(campaign, "that detach", code(interrupts=0), 3)
        graph = staying(code(interrupts=None))
        explored(campaign, "any number", graph, 3, ignore=STILL_HELD)


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info < (3, 7), reason="bytecodes are traced since Python 3.7")
@pytest.mark.parametrize("protocol", [Lock, WrittenOut])
def test_exceptions_at_every_bytecode(campaign, protocol):
    """Not only at steps: of every bytecode of the lock's between two of them."""
    explored(campaign, "raised", staying(code(protocol, between=["raised at"])), 2)
    if campaign.full:
        explored(campaign, "raised, and detached", code(protocol, between=["raised at"]), 2)
        explored(campaign, "called", staying(code(protocol, 0, between=["called at"])), 2)
        explored(campaign, "both", staying(code(protocol, 1, between=["called at"])), 2)


@pytest.mark.slow
def test_a_fork_at_every_step(campaign):
    """A child closes what it inherits: so it neither keeps nor frees what its parent holds."""
    graph = merged(code(interrupts=0))
    family = Family(graph, stranger=campaign.full).run()
    campaign.note("{0:,} states, {1:,} transitions".format(
        len(family.states), family.transitions
    ))  # fmt: skip
    # What a dead parent held is free with the first step of the child, or its death.
    late = [state for state in family.states if state.bits[LATE]]
    assert late
    assert all(state.places[CHILD] == BORN for state in late)


@pytest.mark.slow
@pytest.mark.parametrize("first", ["unlock", "keep"])
def test_what_a_child_must_not_do_with_what_it_inherits(first):
    with pytest.raises(Broken) as error:
        Family(merged(model(Lock, interrupts=0)), first, stranger=False, only="two inside").run()
    assert error.value.problem == "two inside"


# -- where stores are seen late --------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [Lock, WrittenOut])
def test_processors_that_move_loads_ahead_of_stores(campaign, protocol):
    """As x86 does, but for what the fences stop."""
    found = Processors(merged(model(protocol, interrupts=0)), 2).run()
    figures = "two: {0:,} states, {1:,} transitions"
    campaign.note(figures.format(len(found.states), found.transitions))
    if campaign.full:
        graph = merged(staying(model(protocol, interrupts=0)))
        found = Processors(graph, 3, deaths=False).run()
        campaign.note(figures.replace("two", "three").format(len(found.states), found.transitions))


@pytest.mark.slow
@pytest.mark.parametrize("fence", FENCES)
def test_what_each_fence_is_for(fence):
    graph = merged(model(WrittenOut, interrupts=0))
    with pytest.raises(Broken) as error:
        Processors(graph, 2, [other for other in FENCES if other != fence], only="two inside").run()
    assert error.value.problem == "two inside"


# -- broken on purpose ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "protocol, interrupts, calls, problem",
    BROKEN,
    ids=["{0}: {1}".format(case[0].__name__, case[3]) for case in BROKEN],
)
def test_what_each_rule_is_for(protocol, interrupts, calls, problem):
    """Without it the explorer finds a way to this problem, among two processes."""
    explorer = Explorer(merged(model(protocol, interrupts, calls)), 2, only=problem)
    with pytest.raises(Broken) as error:
        explorer.run().check_progress()
    assert error.value.problem == problem
    assert error.value.trace


@pytest.mark.slow
def test_a_token_that_is_kept_when_giving_up_does_no_harm(campaign):
    """It is dropped for the sake of the queue: who has a token naps, and who has none waits."""

    explored(campaign, "a token is kept", model(KeepsItsToken), 2)
