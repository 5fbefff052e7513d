"""For tests of processes: children that stop in the midst, and looks at them from outside."""
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time

import six
from stepkit import is_inside, settrace
from storekit import Child

from asgi_ipc import IPCChannelLayer
from asgi_ipc._shm import clock, lane
from asgi_ipc._shm.segment import PAGE, runtime_folder

SIZES = {"message_memory": 256 * 1024, "group_memory": 256 * 1024, "block_timeout": 60}

LONG_ENOUGH = 60
"""Seconds after which what has not happened will not."""


def eventually(condition, what="it", seconds=LONG_ENOUGH):
    """Wait until a condition holds; return what it answered, or fail.

    :param what: what is waited for, or a function that tells it then.
    """
    deadline = clock.now() + int(seconds * clock.SECOND)
    while True:
        answer = condition()
        if answer:
            return answer
        if clock.now() >= deadline:
            raise AssertionError(
                "{0} did not happen".format(what() if callable(what) else what)
            )
        time.sleep(0.002)


def bells(prefix):
    """The FIFOs of a prefix."""
    return sorted(
        name
        for name in os.listdir(runtime_folder())
        if name.startswith(prefix + "-") and name.endswith(".bell")
    )


def left_behind(prefix):
    """What a prefix has in shared memory besides its segments and semaphores."""
    expected = [
        "{0}{1}-{2}".format(before, prefix, kind)
        for before in ("", "sem.")
        for kind in ("messages", "groups")
    ]
    return sorted(
        name for name in os.listdir(runtime_folder()) if prefix in name and name not in expected
    )


def is_locked(prefix, kind):
    """Whether somebody keeps out those who come the fast way.

    That is, whether somebody has the flock, or lives and has its flag up. Asked of the kernel, not
    of the lock.
    """
    descriptor = os.open(os.path.join(runtime_folder(), prefix + "-" + kind), os.O_RDWR)
    try:
        page = os.read(descriptor, PAGE)
        if page[lane.BOARD] == lane.EMPTY:
            return False
        if any(lane.lives(descriptor, number) for number in lane.raised(page)[0]):
            return True
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (IOError, OSError):
        return True
    finally:
        os.close(descriptor)
    return False


SELECTS = {"23", "270", "72"}
"""Numbers of select and pselect, on x86-64 and on ARM: before Python 3.11, a nap is one."""


def waits(pid, threads=1):
    """Whether so many threads of a process sleep in poll, as receivers do."""
    count = 0
    for thread in os.listdir("/proc/{0}/task".format(pid)):
        place, call = (_read_of_thread(pid, thread, name) for name in ("wchan", "syscall"))
        # The kernel sleeps in the same place for both.
        count += "poll" in place and call.split(" ")[0] not in SELECTS
    return count >= threads


def _read_of_thread(pid, thread, name):
    """A file of its folder in /proc; "" if it has ended, or we may not read it."""
    try:
        with open("/proc/{0}/task/{1}/{2}".format(pid, thread, name)) as source:
            return source.read()
    except (IOError, OSError):
        return ""


def children_of(pid):
    """The pids of the children of a process, in whichever of its threads it started them."""
    found = []
    for thread in os.listdir("/proc/{0}/task".format(pid)):
        with open("/proc/{0}/task/{1}/children".format(pid, thread)) as source:
            found += [int(child) for child in source.read().split()]
    return found


def descriptors_of(pid="self"):
    """Where the descriptors of a process lead."""
    found = []
    folder = "/proc/{0}/fd".format(pid)
    for name in os.listdir(folder):
        try:
            found.append(os.readlink(os.path.join(folder, name)))
        except OSError:
            # The one that listed the folder.
            pass
    return sorted(found)


def opcodes(frame):
    """Have a frame traced by opcode, where Python can (3.7 and later)."""
    if hasattr(frame, "f_trace_opcodes"):
        frame.f_trace_opcodes = True


def at_step(step, act):
    """A trace function that acts once, at the ``step``-th opcode of what is traced."""
    left = [step]

    def trace(frame, event, _):
        opcodes(frame)
        left[0] -= 1
        if left[0] == 0:
            act()
        return trace

    return trace


def at_line(function, count, act):
    """A trace function that acts once, at the ``count``-th line run in a Python function."""
    code = six.get_function_code(getattr(function, "__func__", function))
    left = [count]

    def trace(frame, event, _):
        if frame.f_code is code and event == "line":
            left[0] -= 1
            if left[0] == 0:
                act()
        return trace

    return trace


def when(condition, act):
    """A trace function that acts once, at the first line at which a condition holds."""
    acted = []

    def trace(frame, event, _):
        if event == "line" and not acted and condition():
            acted.append(True)
            act()
        return trace

    return trace


def traced(trace, function, *args):
    """Call under a trace function."""
    settrace(trace)
    try:
        return function(*args)
    finally:
        sys.settrace(None)


def steps_inside(function, *args):
    """Call; return the numbers of the steps (see ``at_step``) outside of and inside a lock.

    Who attaches is not inside, nor is one on the way out: others may be in meanwhile.
    """
    steps = ([], [])
    count = [0]

    def trace(frame, event, _):
        opcodes(frame)
        count[0] += 1
        steps[is_inside(frame)].append(count[0])
        return trace

    traced(trace, function, *args)
    return steps


def stop_self():
    """Stop this process, until somebody continues it."""
    os.kill(os.getpid(), signal.SIGSTOP)


class Stopping(Child):
    """A child that may stop itself on its way."""

    def goes_on(self):
        """Continue it, and return what its function returns."""
        os.kill(self.pid, signal.SIGCONT)
        return self.result()


class Turns(object):
    """In place of giving way to others: something happens at the turns that it is told."""

    def __init__(self, monkeypatch, then=()):
        self.count = 0
        self.then = dict(then)
        monkeypatch.setattr(clock, "give_way", self)

    def __call__(self):
        self.count += 1
        if self.count in self.then:
            self.then[self.count]()


class Paused(object):
    """A thread that calls a function, and pauses at a step of it until told to go on.

    :param where: called with what is to be done there; returns a trace function.
    """

    def __init__(self, where, function, *args):
        self._reached, self._resume = threading.Event(), threading.Event()
        self._over = threading.Event()
        self.result = self.error = None
        self._thread = threading.Thread(target=self._run, args=(where, function) + args)
        self._thread.start()

    def _run(self, where, function, *args):
        try:
            self.result = traced(where(self._pause), function, *args)
        except BaseException as error:
            self.error = error
        finally:
            self._over.set()
            self._reached.set()

    def _pause(self):
        self._reached.set()
        self._resume.wait(LONG_ENOUGH)

    def pauses(self):
        """Wait until it pauses or is through; whether it paused."""
        assert self._reached.wait(LONG_ENOUGH)
        return not self._over.is_set()

    def go_on(self):
        """Let it go on, and wait for its end."""
        self._resume.set()
        self._thread.join(LONG_ENOUGH)
        assert not self._thread.is_alive()


def run_python(function, *args, **options):
    """Start a Python of its own that calls a function of a module of the tests with texts.

    :param before: words of the command before the interpreter's name.
    """
    code = "import sys; sys.path[:0] = {0!r}; import {1}; {1}.{2}(*sys.argv[1:])".format(
        [path for path in sys.path if path] + [os.getcwd()], function.__module__, function.__name__
    )
    command = list(options.pop("before", ())) + [sys.executable, "-c", code]
    return subprocess.Popen(command + [str(arg) for arg in args], **options)


def ends(process):
    """Wait for the end of a ``Popen``; return its exit status."""
    eventually(lambda: process.poll() is not None, "the end of a process")
    return process.returncode


def open_layer(prefix, **options):
    """A small layer that waits long."""
    return IPCChannelLayer(prefix, **dict(SIZES, **options))


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


def numbers(layer, *channels):
    """The numbers of all messages that can be received."""
    found = []
    while True:
        channel, message = layer.receive(list(channels))
        if channel is None:
            return found
        found.append(message["n"])


def die_inside(layer, part):
    """Have a child die inside a lock, so that the next one has to rebuild."""

    def die():
        getattr(layer._stores, part)._lock.acquire()
        os.kill(os.getpid(), signal.SIGKILL)

    Child(die).wait()


def child_inside(make_layer, part="messages", slow=False):
    """A child that is stopped inside, where it came by the fast way or by the slow one."""

    def work():
        layer = make_layer()
        lock = getattr(layer._stores, part)._lock
        if not slow:
            lock.acquire()
            lock.release()
        lock.acquire()
        stop_self()
        lock.release()

    child = Stopping(work)
    assert child.stops()
    return child
