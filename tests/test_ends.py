"""How processes end, and what programs that they execute inherit: nothing is left."""
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import six
from processkit import (
    bells,
    descriptors_of,
    ends,
    eventually,
    in_threads,
    left_behind,
    limit,
    open_layer,
    run_python,
    use_everything,
    waits,
)
from storekit import Child

from asgi_ipc._shm import clock

pytestmark = [
    pytest.mark.skipif(
        not os.path.exists("/proc/self/wchan"),
        reason="the system does not tell what processes wait for",
    ),
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]


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
    elif six.PY2 and function is end_with_busy_daemons:
        # Threads go on there while Python takes itself apart, and complain.
        assert words.count("Traceback") == words.count("during interpreter shutdown")
    else:
        assert words == ""
    assert left_behind(prefix) == []
    assert layer.check() == []
    use_everything(layer, u"after")


@pytest.mark.slow
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
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        signal.setitimer(signal.ITIMER_REAL, 0.3)
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
    # Python 2 opens a descriptor first, and then has it closed on exec: a thread that starts a
    # program in between hands it on.
    for _ in range(1 if six.PY3 else 3):
        in_threads(3 if six.PY3 else 1, use)
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
