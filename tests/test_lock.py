"""SegmentLock: one at a time, whatever dies, stops, is lost or comes twice."""
import contextlib
import errno
import gc
import os
import signal
import sys
import threading
import time
from functools import partial

import posix_ipc
import pytest
from processkit import Paused, Turns, at_line
from stepkit import settrace
from storekit import Child, in_child

from asgi_ipc._shm import clock, inside, lane
from asgi_ipc._shm import lock as lock_module
from asgi_ipc._shm.lane import BOARD, BUSY, DOWN, EMPTY, SLOW
from asgi_ipc._shm.lock import SegmentLock
from asgi_ipc._shm.segment import PAGE, RECOVERIES, Segment
from asgi_ipc.errors import LayerClosed, LockTimeout, ReentrantCall

A_SECOND = 1.0
COUNTER = RECOVERIES + 1


def a_page(size):
    return PAGE


def formatted(words, size):
    """Nothing to lay out."""


def open_segment(prefix, lock_timeout=10.0):
    return Segment(
        "/{0}-messages".format(prefix), 9, 1, PAGE, a_page, formatted, 0o600, lock_timeout
    )


@pytest.fixture
def attach(prefix):
    """A function that attaches the test's segment once more."""
    segments = []

    def attach_one(lock_timeout=10.0):
        segments.append(open_segment(prefix, lock_timeout))
        return segments[-1]

    yield attach_one
    for segment in segments:
        segment.close()


@pytest.fixture
def segment(attach):
    return attach()


@pytest.fixture(params=["all", "no count", "no lanes", "neither"])
def capabilities(request, monkeypatch):
    """Also as on systems whose semaphores tell no value (macOS), and where all go slowly."""
    if request.param in ("no count", "neither"):
        monkeypatch.setattr(lock_module, "COUNT_SUPPORTED", False)
    if request.param in ("no lanes", "neither"):
        monkeypatch.setattr(lane, "SUPPORTED", False)
    return request.param


def use(lock):
    """Get in and out as every user does; True if a rebuild was asked for."""
    try:
        found = lock.acquire()
        lock.release()
    except BaseException:
        lock.abandon()
        raise
    return found


def semaphore(segment):
    return posix_ipc.Semaphore(segment.name)


def value(segment):
    handle = semaphore(segment)
    try:
        return handle.value
    finally:
        handle.close()


def enter_and_tell(segment, pipe, seconds=60):
    """In a child: stay inside, by the fast way if there is one, after having told so."""
    use(segment.lock)
    segment.lock.acquire()
    os.write(pipe, b"!")
    time.sleep(seconds)


def child_inside(segment):
    """Return a Child that is inside the lock by now."""
    reader, writer = os.pipe()
    child = Child(enter_and_tell, segment, writer)
    os.close(writer)
    assert os.read(reader, 1) == b"!"
    os.close(reader)
    return child


def test_in_and_out(segment):
    """The first time by the slow way."""
    assert segment.lock.acquire() is False
    assert segment.words[BUSY] == os.getpid()
    segment.lock.release()
    assert segment.map[BOARD] == EMPTY
    assert use(segment.lock) is False
    assert segment.lock.recoveries == 0


def test_a_lost_token_is_made_good(segment, attach, capabilities):
    """As by one who was killed between the semaphore and the flock."""
    handle = semaphore(segment)
    handle.acquire()
    handle.close()
    for _number, lock in enumerate((segment.lock, attach().lock, segment.lock)):
        began = time.time()
        assert use(lock) is False
        assert time.time() - began < A_SECOND
        assert value(segment) == 1


def test_a_doubled_token_lets_nobody_in(segment, attach, capabilities):
    handle = semaphore(segment)
    handle.release()
    handle.release()
    handle.close()
    other = attach().lock
    inside = []

    def enter():
        other.acquire()
        inside.append(segment.words[COUNTER])
        other.release()

    segment.lock.acquire()
    segment.words[COUNTER] = 0
    thread = threading.Thread(target=enter)
    thread.start()
    time.sleep(0.1)
    assert not inside
    segment.words[COUNTER] = 7
    segment.lock.release()
    thread.join(10)
    assert inside == [7]
    assert use(segment.lock) is False


def test_tokens_do_not_pile_up(segment, capabilities):
    for _ in range(5):
        segment.lock.abandon()
        use(segment.lock)
        segment.lock.abandon()
    assert value(segment) == 1


def test_a_holder_that_was_killed(segment, capabilities):
    for _number in range(3):
        child_inside(segment).kill(signal.SIGKILL)
        began = time.time()
        assert use(segment.lock) is True
        assert time.time() - began < A_SECOND
        assert use(segment.lock) is False
    assert segment.lock.recoveries == 3


def test_all_who_queue_get_in_after_a_kill(segment):
    holder = child_inside(segment)
    queue = [Child(use, segment.lock) for _ in range(4)]
    time.sleep(0.1)
    holder.kill(signal.SIGKILL)
    assert sorted(child.result() for child in queue) == [False, False, False, True]


def test_a_stopped_holder_is_named_and_waited_for(attach):
    segment = attach(lock_timeout=0.2)
    child = child_inside(segment)
    try:
        child.kill(signal.SIGSTOP)
        for _ in range(2):
            with pytest.raises(LockTimeout) as error:
                use(segment.lock)
            assert "process {0}".format(child.pid) in str(error.value)
            assert "kill -CONT" in str(error.value)
    finally:
        child.kill(signal.SIGCONT)
        child.kill(signal.SIGKILL)
    assert use(segment.lock) is True
    assert use(segment.lock) is False


def test_it_works_after_a_stopped_holder_went_on(attach):
    segment = attach(lock_timeout=0.2)
    reader, writer = os.pipe()

    def stay():
        segment.lock.acquire()
        os.write(writer, b"!")
        os.kill(os.getpid(), signal.SIGSTOP)
        segment.lock.release()

    child = Child(stay)
    assert os.read(reader, 1) == b"!"
    with pytest.raises(LockTimeout):
        use(segment.lock)
    child.kill(signal.SIGCONT)
    child.result()
    assert use(segment.lock) is False
    os.close(reader)
    os.close(writer)


def test_a_signal_handler_that_calls_in_is_told(segment):
    """It would wait for its own thread; instead it is an error, and the lock stays sound."""
    told = []

    def handler(*_):
        try:
            use(segment.lock)
        except ReentrantCall as error:
            told.append(str(error))

    def interrupted(lock):
        lock.acquire()
        os.kill(os.getpid(), signal.SIGUSR1)
        for _ in range(100):
            if told:
                break
            time.sleep(0.01)
        lock.release()

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        interrupted(segment.lock)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert "signal handler" in told[0]
    use(segment.lock)
    assert use(segment.lock) is False


class Raised(Exception):
    """What a signal's handler raises."""


def raises_at(bytecode, function):
    """Call ``function``; raise at that bytecode of lock.py and segment.py, if it has so many.

    Returns whether it had.
    """
    left = [bytecode]
    modules = (lock_module.__name__, Segment.__module__)

    def trace(frame, event, _):
        finalizer = "__del__" in (frame.f_code.co_name, frame.f_back.f_code.co_name)
        if frame.f_globals.get("__name__") not in modules or finalizer:
            # What is raised in a finalizer is printed, and goes no further.
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left[0] -= 1
            if left[0] < 0:
                sys.settrace(None)
                raise Raised
        return trace

    settrace(trace)
    try:
        function()
    except Raised:
        return True
    finally:
        sys.settrace(None)
    return False


@pytest.mark.skipif(sys.version_info < (3, 7), reason="bytecodes are traced since Python 3.7")
@pytest.mark.parametrize("what", ["attach", "close"])
def test_an_exception_at_any_bytecode_of_attach_or_close_leaves_it_free(prefix, what):
    other = open_segment(prefix, lock_timeout=0.1)
    held = []
    bytecode = 0
    segment = None
    while True:
        if what == "close":
            segment = open_segment(prefix)
        if not raises_at(bytecode, segment.close if segment else lambda: open_segment(prefix)):
            break
        try:
            use(other.lock)
        except LockTimeout:
            held.append(bytecode)
            gc.collect()
        if segment is not None:
            segment.close()
        use(other.lock)
        bytecode += 1
    other.close()
    # As many as there are in what lies open here, a method each.
    assert bytecode > 50
    assert not held


def test_a_handler_that_was_refused_frees_nothing(segment):
    """Its abandon comes after the refusal, and the frame that it interrupted goes on."""

    def handler(*_):
        with pytest.raises(ReentrantCall):
            use(segment.lock)

    def interrupted(lock):
        try:
            lock.acquire()
            os.kill(os.getpid(), signal.SIGUSR1)
            other = Child(use, segment.lock)
            time.sleep(0.1)
            segment.words[COUNTER] = 1
            assert inside.written_down(segment.map) == os.getpid()
            lock.release()
        except BaseException:
            lock.abandon()
            raise
        return other

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        other = interrupted(segment.lock)
    finally:
        signal.signal(signal.SIGUSR1, before)
    # It came in after the release: it would have been told to rebuild else.
    assert other.result() is False
    assert value(segment) == 1


def test_what_a_handler_was_refused_for_can_still_be_given_up(segment, attach):
    """The handler lets the refusal through: it ends the operation that it interrupted."""

    def handler(*_):
        use(segment.lock)

    def interrupted(lock):
        try:
            lock.acquire()
            os.kill(os.getpid(), signal.SIGUSR1)
            lock.release()
        except BaseException:
            lock.abandon()
            raise

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(ReentrantCall):
            interrupted(segment.lock)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert use(attach().lock) is True
    assert use(segment.lock) is False


def test_a_hold_left_behind_is_recovered_by_its_own_thread(segment, attach):
    """An exception between the return of acquire and the try that would abandon."""

    def leave_behind(lock):
        lock.acquire()

    leave_behind(segment.lock)
    assert use(segment.lock) is True
    assert use(segment.lock) is False
    assert use(attach().lock) is False


def test_abandon_at_any_time_any_number_of_times(segment, attach, capabilities):
    other = attach().lock
    segment.lock.abandon()
    segment.lock.abandon()
    assert use(other) is False
    segment.lock.acquire()
    segment.lock.abandon()
    segment.lock.abandon()
    assert use(other) is True
    assert use(segment.lock) is False


def test_abandon_does_not_free_what_another_thread_holds(segment):
    segment.lock.acquire()
    thread = threading.Thread(target=segment.lock.abandon)
    thread.start()
    thread.join()
    probe = Child(use, segment.lock)
    time.sleep(0.1)
    segment.words[COUNTER] = 1
    assert inside.written_down(segment.map) == os.getpid()
    segment.lock.release()
    assert probe.result() is False


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_fork_while_another_thread_is_inside(segment):
    """The child neither holds what that thread holds, nor frees it."""
    entered, leave = threading.Event(), threading.Event()

    def stay():
        segment.lock.acquire()
        entered.set()
        leave.wait(10)
        segment.words[COUNTER] = 5
        segment.lock.release()

    thread = threading.Thread(target=stay)
    thread.start()
    entered.wait(10)

    def look():
        segment.lock.acquire()
        seen = segment.words[COUNTER]
        segment.lock.release()
        return seen

    child = Child(look)
    time.sleep(0.1)
    leave.set()
    assert child.result() == 5
    thread.join()
    assert use(segment.lock) is False


@contextlib.contextmanager
def outlived_by_a_child(enter):
    """One that died after ``enter()``, while a child that it forked then lives on."""

    def parent():
        enter()
        if not os.fork():
            # Any call in the child; where Python tells of forks, none is needed.
            lock_module.forks.check()
            os.close(stay_writer)
            os.read(stay_reader, 1)
            os._exit(0)
        os.write(ready_writer, b"!")
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)

    stay_reader, stay_writer = os.pipe()
    ready_reader, ready_writer = os.pipe()
    child = Child(parent)
    assert os.read(ready_reader, 1) == b"!"
    child.wait()
    yield
    for descriptor in (stay_reader, stay_writer, ready_reader, ready_writer):
        os.close(descriptor)


def test_a_child_does_not_keep_alive_what_its_parent_held(segment, attach):
    """The parent dies inside while a child of it, forked in between, lives on."""
    with outlived_by_a_child(segment.lock.acquire):
        began = time.time()
        assert in_child(use, segment.lock) is True
        assert time.time() - began < 5


def test_threads_take_turns(segment):
    problems = []

    def work():
        for _ in range(300):
            segment.lock.acquire()
            seen = segment.words[COUNTER]
            time.sleep(0)
            segment.words[COUNTER] = seen + 1
            segment.lock.release()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert segment.words[COUNTER] == 6 * 300


def test_descriptors_of_threads_that_ended_are_closed(segment):
    def count():
        return len(os.listdir("/proc/self/fd"))

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("the system does not show descriptors")
    use(segment.lock)
    before = count()
    for _ in range(50):
        thread = threading.Thread(target=use, args=(segment.lock,))
        thread.start()
        thread.join()
    assert count() <= before + 2


def test_a_closed_lock_lets_nobody_in(attach):
    segment = attach()
    segment.close()
    with pytest.raises(LayerClosed):
        use(segment.lock)
    assert use(attach().lock) is False


def test_a_child_of_who_closed_it_is_told(attach):
    """It touches no descriptor, whose number may be another file's by now."""
    segment = attach()
    use(segment.lock)
    segment.close()

    def look():
        with pytest.raises(LayerClosed):
            use(segment.lock)
        segment.close()

    in_child(look)


def test_a_thread_that_waits_learns_of_the_close(attach, segment):
    mine = attach()
    child = child_inside(segment)
    answers = []

    def wait():
        try:
            answers.append(use(mine.lock))
        except LayerClosed:
            answers.append("closed")

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    child.kill(signal.SIGKILL)
    mine.close()
    thread.join(10)
    assert answers and answers[0] in ("closed", True, False)


def test_signals_while_waiting_do_not_disturb(segment):
    """Handlers run, and the wait goes on."""
    child = child_inside(segment)
    ran = []
    before = signal.signal(signal.SIGALRM, lambda *_: ran.append(1))
    timer = threading.Timer(0.3, child.kill)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        timer.start()
        assert use(segment.lock) is True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        timer.join()
    assert ran
    assert use(segment.lock) is False


def test_a_handler_that_raises_while_waiting_leaves_it_sound(segment):
    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    child = child_inside(segment)
    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(Stop):
            use(segment.lock)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        child.kill()
    assert use(segment.lock) is True
    assert use(segment.lock) is False


# -- the fast way --------------------------------------------------------------------------

fast_way = pytest.mark.skipif(
    not lane.SUPPORTED, reason="there is a fast way into the lock on Linux on x86 alone"
)


def mine(lock):
    """This thread's own view of a lock."""
    return lock.holders.mine


@fast_way
def test_the_fast_way_makes_no_system_call(segment, monkeypatch):
    """From a thread's second time on."""
    use(segment.lock)
    assert mine(segment.lock).lane
    monkeypatch.setattr(lock_module, "_flock", called)
    monkeypatch.setattr(lane, "_fcntl", called)
    monkeypatch.setattr(SegmentLock, "_take_token", called)
    for _ in range(3):
        assert segment.lock.acquire() is False
        assert segment.map[BOARD] == lane.alone(mine(segment.lock).lane)
        segment.lock.release()
        assert segment.map[BOARD] == EMPTY


@fast_way
def test_who_waits_on_the_slow_way_is_next(segment, attach):
    """Whoever wants in by the fast way meanwhile finds SLOW, and comes after it."""
    use(segment.lock)
    other = attach()
    segment.lock.acquire()
    order = []

    def enter():
        other.lock.acquire()
        order.append("slow")
        time.sleep(0.05)
        other.lock.release()

    thread = threading.Thread(target=enter)
    thread.start()
    while not segment.words[SLOW]:
        time.sleep(0.001)
    segment.lock.release()
    segment.lock.acquire()
    order.append("fast")
    segment.lock.release()
    thread.join()
    assert order == ["slow", "fast"]
    assert segment.map[BOARD] == EMPTY


def awake(monkeypatch, then=()):
    """What takes the place of giving way; nobody sleeps."""
    monkeypatch.setattr(lock_module._Patience, "_looks", lock_module.LOOKS)
    monkeypatch.setattr(lock_module.time, "sleep", called)
    return Turns(monkeypatch, then)


def called(*arguments):
    raise AssertionError("this was not to be called")


class Through(object):
    """A segment's memory, for those between whom and which a test is to come."""

    def __init__(self, memory):
        self.memory = memory

    def __getitem__(self, where):
        return self.memory[where]

    def __setitem__(self, where, what):
        self.memory[where] = what


@fast_way
def test_who_finds_another_inside_watches_the_board(segment, attach, monkeypatch):
    """And goes in by the fast way as soon as it is empty."""
    other = attach()
    use(segment.lock)
    use(other.lock)
    other.lock.acquire()
    turns = awake(monkeypatch, {3: other.lock.release})
    monkeypatch.setattr(SegmentLock, "_go_slowly", called)
    assert segment.lock.acquire() is False
    assert turns.count == 3
    assert segment.map[BOARD] == lane.alone(mine(segment.lock).lane)
    segment.lock.release()


@fast_way
def test_two_that_raise_their_flags_at_once_put_them_down_again(segment, attach, monkeypatch):
    """Each finds the other's, so neither is in; they try anew."""
    other = attach()
    use(segment.lock)
    use(other.lock)
    number = mine(other.lock).lane
    looks = []

    class Meeting(Through):
        """The other has raised its flag as well, for once."""

        def __getitem__(self, where):
            if where is BOARD and not looks:
                looks.append(self.memory[where])
                self.memory[number] = lane.flag_of(number)
                found = self.memory[where]
                self.memory[number] = DOWN
                return found
            return self.memory[where]

    awake(monkeypatch)
    monkeypatch.setattr(segment.lock, "memory", Meeting(segment.map))
    monkeypatch.setattr(SegmentLock, "_go_slowly", called)
    assert segment.lock.acquire() is False
    assert looks == [lane.alone(mine(segment.lock).lane)]
    segment.lock.release()
    assert segment.map[BOARD] == EMPTY


@fast_way
def test_a_board_that_does_not_clear_is_not_watched_for_long(segment, monkeypatch):
    use(segment.lock)
    segment.words[SLOW] = 1
    turns = awake(monkeypatch)
    assert segment.lock.acquire() is False
    assert turns.count == lane.TURNS
    assert mine(segment.lock).slow
    segment.lock.release()
    assert segment.map[BOARD] == EMPTY


@fast_way
def test_where_python_cannot_give_way_nothing_is_watched(segment, monkeypatch):
    use(segment.lock)
    segment.words[SLOW] = 1
    monkeypatch.setattr(clock, "give_way", None)
    assert segment.lock.acquire() is False
    assert mine(segment.lock).slow
    segment.lock.release()


@fast_way
def test_closed_while_it_watches_the_board(attach, monkeypatch):
    other, closed = attach(), attach()
    use(closed.lock)
    other.lock.acquire()

    def close():
        other.lock.release()
        thread = threading.Thread(target=closed.close)
        thread.start()
        thread.join()

    awake(monkeypatch, {2: close})
    with pytest.raises(LayerClosed):
        use(closed.lock)


@fast_way
def test_who_comes_in_when_it_was_closed_goes_again(segment, attach):
    """Closed, but its words not gone yet: another thread's flag may be the only one just then."""
    use(segment.lock)
    segment.lock.closed = True
    with pytest.raises(LayerClosed):
        use(segment.lock)
    assert segment.map[BOARD] == EMPTY
    segment.lock.closed = False
    assert use(attach().lock) is False


def test_who_comes_slowly_looks_before_it_naps(segment, attach, capabilities, monkeypatch):
    """Who is inside leaves within microseconds mostly, and a nap is hundreds."""
    other = attach()
    other.lock.acquire()
    turns = awake(monkeypatch, {2: other.lock.release})
    assert use(segment.lock) is False
    assert turns.count >= 2


@fast_way
@pytest.mark.parametrize("flag", [True, False], ids=["its flag up", "its flag down"])
def test_a_flag_of_the_dead_keeps_nobody_out_and_tells_of_it(segment, attach, flag):
    use(segment.lock)

    def die_with_a_lane():
        use(segment.lock)
        number = mine(segment.lock).lane
        if flag:
            segment.map[number] = lane.flag_of(number)
        os.kill(os.getpid(), signal.SIGKILL)

    Child(die_with_a_lane).wait()
    assert bool(lane.raised(segment.map)[0]) == flag
    other = attach(lock_timeout=0.2)
    assert [use(lock) for lock in (other.lock, segment.lock, other.lock)] == [flag, False, False]
    assert segment.map[BOARD] == EMPTY


@fast_way
def test_who_breaks_off_inside_leaves_its_flag_up_as_if_it_had_died(segment, attach):
    """In one step: what another one reads of the board, it never looks as if it had left."""
    use(segment.lock)
    number = mine(segment.lock).lane
    segment.lock.acquire()
    segment.lock.abandon()
    assert lane.raised(segment.map)[0] == [number]
    other = attach(lock_timeout=0.2)
    assert not lane.lives(other._descriptor, number)
    assert use(other.lock) is True
    # It gets another lane, or the same one.
    assert use(segment.lock) is False
    assert mine(segment.lock).lane
    assert segment.map[BOARD] == EMPTY


def break_off(lock):
    """Get in the fast way, and break off there."""
    use(lock)
    lock.acquire()
    lock.abandon()


class Visit(threading.Thread):
    """Is inside until told to leave; ``error`` is what it raised."""

    def __init__(self, lock):
        threading.Thread.__init__(self)
        self.error = None
        self.entered, self.told = threading.Event(), threading.Event()
        self._lock = lock
        self.start()

    def run(self):
        lock = self._lock
        try:
            lock.acquire()
            self.entered.set()
            self.told.wait(60)
            lock.release()
        except BaseException as error:
            lock.abandon()
            self.error = error

    def leave(self):
        self.told.set()
        self.join()


@fast_way
def test_another_thread_may_be_inside_before_the_one_that_breaks_off_is_done(segment):
    """Wherever that has come to: from its giving up on, it is the other one who is inside."""
    lock = segment.lock
    early = []
    for line in range(1, 100):
        breaking = Paused(partial(at_line, lock._let_go, line), break_off, lock)
        if not breaking.pauses():
            break
        visit = Visit(lock)
        early.append(visit.entered.wait(0.1))
        breaking.go_on()
        visit.leave()
        assert visit.error is None
        assert breaking.error is None
        use(lock)
        assert not use(lock)
    assert early[0] is False
    assert any(early)


@fast_way
def test_who_breaks_off_outside_leaves_nothing(segment, attach):
    use(segment.lock)
    number = mine(segment.lock).lane
    segment.map[number] = lane.flag_of(number)
    segment.lock.abandon()
    assert segment.map[BOARD] == EMPTY
    assert mine(segment.lock).lane == number
    assert use(attach().lock) is False


@fast_way
def test_what_broke_off_is_known_when_who_finds_it_dies_as_well(segment, attach):
    """The flags of the dead are put down when the busy word tells of them already."""
    other = attach()
    use(segment.lock)
    segment.lock.acquire()
    segment.lock.abandon()

    class Dies(Through):
        def __setitem__(self, where, what):
            self.memory[where] = what
            os.kill(os.getpid(), signal.SIGKILL)

    def die():
        other.lock.memory = Dies(segment.map)
        use(other.lock)

    Child(die).wait()
    assert lane.raised(segment.map) == ([], [])
    assert use(segment.lock) is True
    assert use(segment.lock) is False


@fast_way
def test_a_lane_of_the_dead_is_taken_over_with_its_flag_down(segment, attach, monkeypatch):
    """Else everybody would wait for one that lives, and wants nothing."""
    monkeypatch.setattr(lane, "_first", lambda _: 0)
    other = attach(lock_timeout=0.2)
    monkeypatch.setattr(SegmentLock, "_shut_out", lambda *_: [])
    segment.map[lane.FLAGS] = lane.flag_of(lane.FLAGS)
    use(segment.lock)
    assert mine(segment.lock).lane == lane.FLAGS
    monkeypatch.undo()
    monkeypatch.setattr(lane, "_first", lambda _: 0)
    assert use(other.lock) is False
    assert mine(other.lock).lane == lane.FLAGS + 1


@fast_way
def test_what_something_else_wrote_onto_the_board_is_put_away(segment, attach):
    """On the place of a lane that is in use, of one that is not, into SLOW and BUSY."""
    use(segment.lock)
    other = attach(lock_timeout=0.2)
    use(other.lock)
    own, others = mine(segment.lock).lane, mine(other.lock).lane
    unused = min({lane.FLAGS, lane.FLAGS + 1, lane.FLAGS + 2}.difference((own, others)))
    wrong = lane.flag_of(own + 1)
    for where, told in ((own, True), (unused, True), (SLOW * 8, False), (BUSY * 8, True)):
        segment.map[where] = wrong
        assert use(other.lock) is told
        assert segment.map[BOARD] == EMPTY
        assert use(segment.lock) is False


@fast_way
def test_who_lives_with_its_flag_up_is_waited_for(segment, attach):
    other = attach(lock_timeout=0.1)
    use(segment.lock)
    number = mine(segment.lock).lane
    segment.map[number] = lane.flag_of(number)
    with pytest.raises(LockTimeout) as error:
        use(other.lock)
    assert "process {0}.".format(os.getpid()) in str(error.value)
    segment.map[number] = DOWN
    assert use(other.lock) is False


@fast_way
def test_whoever_gets_no_lane_goes_slowly(segment, attach, monkeypatch):
    """There are more threads than lanes: all exclude each other still."""
    monkeypatch.setattr(lane, "LANES", 2)
    segments = [segment] + [attach() for _ in range(4)]
    for each in segments:
        use(each.lock)
    assert sorted(bool(mine(each.lock).lane) for each in segments) == [False] * 3 + [True] * 2
    segment.words[COUNTER] = 0

    def work(lock):
        for _ in range(200):
            lock.acquire()
            seen = segment.words[COUNTER]
            if not seen % 10:
                time.sleep(0)
            segment.words[COUNTER] = seen + 1
            lock.release()

    threads = [threading.Thread(target=work, args=(each.lock,)) for each in segments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert segment.words[COUNTER] == 5 * 200


@fast_way
def test_a_fence_that_was_interrupted_is_made_anew(segment):
    """Else it would do nothing the next time: an atomic instruction comes with a change alone."""
    use(segment.lock)
    fence = mine(segment.lock).fence
    assert acts(fence)
    assert not acts(fence)
    segment.lock.abandon()
    fence = mine(segment.lock).fence
    for _ in range(4):
        assert acts(fence)
        fence = fence[1]


def acts(fence):
    """Whether this use of a fence changes anything."""
    try:
        return fence[0]() is not False
    except threading.ThreadError:
        return False


@fast_way
def test_a_thread_that_ends_gives_its_lane_back(segment):
    def enter():
        use(segment.lock)
        lanes.append(mine(segment.lock).lane)
        # Left up, it would be minded as long as the lane is somebody's.
        segment.map[lanes[-1]] = lane.flag_of(lanes[-1])

    lanes = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    use(segment.lock)
    gc.collect()
    assert lanes[0]
    assert not lane.lives(mine(segment.lock).descriptor, lanes[0])


@fast_way
def test_a_child_has_a_lane_of_its_own(segment):
    use(segment.lock)

    def lane_of_the_child():
        use(segment.lock)
        return mine(segment.lock).lane, lane.lives(
            mine(segment.lock).descriptor, mine(segment.lock).lane
        )

    (number, others) = in_child(lane_of_the_child)
    assert number != mine(segment.lock).lane
    assert not others


@fast_way
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_does_not_keep_alive_who_was_inside_by_the_fast_way(segment, attach):
    """The parent dies with its flag up while a child of it, forked in between, lives on."""

    def enter():
        use(segment.lock)
        segment.lock.acquire()

    with outlived_by_a_child(enter):
        assert lane.raised(segment.map)[0]
        assert use(attach(lock_timeout=2).lock) is True


def test_where_there_are_no_such_locks_all_go_slowly(segment, attach, monkeypatch):
    """On other systems, and other processors than x86."""

    def unknown(*arguments):
        raise OSError(errno.EINVAL, "unknown")

    monkeypatch.setattr(lane, "_fcntl", unknown)
    for each in (segment, attach()):
        use(each.lock)
        assert mine(each.lock).lane == 0
        assert use(each.lock) is False
