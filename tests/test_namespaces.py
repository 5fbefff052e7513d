"""Processes of another pid namespace, as containers that share /dev/shm are."""
import os
import signal
import subprocess
import sys
import time

import pytest
from processkit import (
    bells,
    children_of,
    ends,
    eventually,
    is_locked,
    left_behind,
    open_layer,
    run_python,
    steps_inside,
    traced,
)
from storekit import Child, in_child
from stormkit import killer

from asgi_ipc._shm import clock
from asgi_ipc.errors import LockTimeout

pytestmark = [
    pytest.mark.skipif(
        not os.path.exists("/proc/self/wchan"),
        reason="the system does not tell what processes wait for",
    ),
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]


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
    """Be killed at a step inside of a second send."""
    layer = open_layer(prefix)
    layer.send(u"c", {"n": 1})
    # In a child, for the first process of a namespace cannot kill itself.
    if not os.fork():
        traced(killer(int(step), inside=True), layer.send, u"c", {"n": 2})
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
    count = campaign.amount(3, 100)
    for step in campaign.random.sample(range(1, len(steps)), min(count, len(steps) - 1)):
        layer.flush()
        before = layer._stores.messages._lock.recoveries
        assert ends(start_inside(die_in_the_midst, prefix, step)) == 0
        found = [layer.receive([u"c"])[1] for _ in range(3)]
        assert found in ([{"n": 1}, None, None], [{"n": 1}, {"n": 2}, None])
        died += layer._stores.messages._lock.recoveries - before
        assert layer.check() == []
    assert died > 0
    campaign.note("killed at {0} steps inside".format(died))


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
