"""``bench``: how fast the layer is here, with nothing but the package.

Knows the public synchronous layer alone. All that it makes is under a prefix of its own, and gone
at the end. For a comparison with other layers there is ``benchmarks/`` in the source.
"""
from __future__ import division

import binascii
import os
import platform

from six.moves import range

from asgi_ipc._shm import clock
from asgi_ipc._shm.clock import SECOND
from asgi_ipc.commands import output
from asgi_ipc.core import IPCChannelLayer, unlink

ABOUT = """\
Measures, on this machine and this Python: sending, receiving, both with a backlog elsewhere, a
group send to 100 members, and the latency between two processes. It uses a prefix of its own,
takes 40 MiB of shared memory at most, and removes it at the end. A running site notices it as it
would any program that keeps two processors busy. For a comparison with other layers see
`benchmarks/` in the source.

    asgi-ipc bench --quick
    asgi-ipc bench --json

Exit status: 0; 1 on an error.
"""
MESSAGE = {u"type": u"chat.message", u"text": u"hello world", u"user": u"alice"}
QUICK, LONG = 0.5, 5.0
"""Seconds for one measurement."""

BATCH = 500
BACKLOG, BACKLOG_CHANNELS = 10000, 100
MEMBERS, PROCESSES = 100, 4
MEMORY = {"message_memory": 32 * 1024 * 1024, "group_memory": 1024 * 1024}
PATIENCE = 10
"""Seconds for the answer of a process that takes microseconds."""


def register(commands):
    """Add the command to the command line."""
    bench = commands.add("bench", run, "measure how fast it is here", ABOUT, json=True)
    bench.add_argument("--quick", action="store_true", help="less than 10 seconds, less exact")


def run(arguments):
    """Run ``bench``."""
    seconds = QUICK if arguments.quick else LONG
    prefix = "bench-{0}-{1}".format(os.getpid(), binascii.hexlify(os.urandom(4)).decode("ascii"))
    try:
        with IPCChannelLayer(prefix, capacity=10 * BACKLOG, **MEMORY) as layer:
            results = [
                result
                for measure in (_one_way, _round_trip, _backlog, _group, _latency)
                for result in measure(layer, seconds)
            ]
    finally:
        unlink(prefix)
    machine = "{0} {1}, {2} on {3}".format(
        platform.python_implementation(),
        platform.python_version(),
        platform.system(),
        platform.machine(),
    )
    if arguments.json:
        output.emit({"machine": machine, "results": results})
    else:
        output.say(machine)
        output.table(
            ("", ">P50", ">P99", ">A SECOND", ">MEASURED"),
            [
                (
                    one["name"],
                    output.seconds(one["p50"]),
                    output.seconds(one["p99"]),
                    "{0:,}".format(int(one["per_second"])),
                    one["count"],
                )
                for one in results
            ],
        )
    return 0


def _result(name, times):
    """Figures of one measurement; ``times`` are nanoseconds."""
    ordered = sorted(times)
    return {
        "name": name,
        "count": len(ordered),
        "p50": ordered[len(ordered) // 2] / SECOND,
        "p99": ordered[len(ordered) * 99 // 100] / SECOND,
        "per_second": len(ordered) * SECOND / (sum(ordered) or 1),
    }


def _timed(function, *arguments):
    begin = clock.now()
    function(*arguments)
    return clock.now() - begin


def _until(seconds):
    """Go round until so many seconds are over, once at least."""
    end = clock.now() + int(seconds * SECOND)
    yield
    while clock.now() < end:
        yield


def _one_way(layer, seconds):
    sends, receives = [], []
    for _ in _until(2 * seconds):
        sends += [_timed(layer.send, u"bench.one", MESSAGE) for _ in range(BATCH)]
        receives += [_timed(layer.receive, [u"bench.one"]) for _ in range(BATCH)]
    return [_result("send", sends), _result("receive", receives)]


def _there_and_back(layer):
    layer.send(u"bench.one", MESSAGE)
    layer.receive([u"bench.one"])


def _round_trip(layer, seconds, name="send and receive"):
    times = []
    for _ in _until(seconds):
        times += [_timed(_there_and_back, layer) for _ in range(BATCH)]
    return [_result(name, times)]


def _backlog(layer, seconds):
    for number in range(BACKLOG):
        layer.send(u"bench.backlog.{0}".format(number % BACKLOG_CHANNELS), MESSAGE)
    name = "the same, {0:,} messages waiting elsewhere".format(BACKLOG)
    found = _round_trip(layer, seconds, name)
    layer.flush()
    return found


def _group(layer, seconds):
    for number in range(MEMBERS):
        layer.group_add(u"bench", u"bench.{0}!{1}".format(number % PROCESSES, number))
    queues = [u"bench.{0}!".format(number) for number in range(PROCESSES)]
    times = []
    for _ in _until(seconds):
        times += [_timed(layer.send_group, u"bench", MESSAGE) for _ in range(10)]
        while layer.receive(queues)[0] is not None:
            pass
    name = "group send to {0} members in {1} processes, the call".format(MEMBERS, PROCESSES)
    return [_result(name, times)]


# -- two processes -----------------------------------------------------------------------------


def _latency(layer, seconds):
    parent = os.getpid()
    child = os.fork()
    if not child:
        status = 1
        try:
            _echo(layer, parent)
            status = 0
        finally:
            os._exit(status)
    try:
        _ask(layer)
        times = []
        for _ in _until(seconds):
            times += [_timed(_ask, layer) for _ in range(20)]
    finally:
        layer.send(u"bench.ask", {u"end": True})
        os.waitpid(child, 0)
    return [_result("two processes, there and back", times)]


def _ask(layer):
    layer.send(u"bench.ask", MESSAGE)
    deadline = clock.now() + PATIENCE * SECOND
    while layer.receive([u"bench.answer"], block=True)[0] is None:
        if clock.now() > deadline:
            raise ValueError("the other process did not answer for {0} seconds".format(PATIENCE))


def _echo(layer, parent):
    while os.getppid() == parent:
        channel, message = layer.receive([u"bench.ask"], block=True)
        if channel is None:
            continue
        if u"end" in message:
            return
        layer.send(u"bench.answer", message)
