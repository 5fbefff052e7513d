"""Ends a busy Channels 1 worker by SIGTERM, many times, and looks at the layer after each.

Run by ``test_channels1_stops.py``: ``python stops_driver.py 100``, with Django's settings in
the environment. Prints one JSON object: ``stops``, ``quiet`` (stops that met the worker
outside a job, and so raised SystemExit out of the layer's own code or its wait), ``slowest``
(seconds, of a probe), ``failures`` (texts).

How it works: Django is set up once, then every child is a fork of this process, which
itself never opens the layer. A sender keeps more in the worker's channel than it can
handle; the worker is Channels' own ``Worker`` with its own signal handlers; the consumer
writes to a pipe, so that a stop only comes once the worker is well at work. After each
stop a third child sends and receives, bounded by an alarm.
"""
from __future__ import unicode_literals

import json
import os
import random
import select
import signal
import sys
import time
import traceback

WORK, ECHO, PROBE, GROUP = "stops.work", "stops.echo", "stops.probe", "stops-group"
HANDLED_BEFORE_STOP = 10  # messages
PATIENCE = 20  # seconds until a worker is at work, or has ended
PROBE_SECONDS = 5  # a layer that needs longer than this for a message is not a working one
STOPPED_IN_A_JOB, STOPPED_OUTSIDE = 0, 7  # exit statuses of a worker


def layer_of_this_process():
    from channels.asgi import ChannelLayerManager

    return ChannelLayerManager()["default"]


def fork(function, *args):
    """Run ``function`` in a child, whose exit status is what the function returns."""
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        random.seed()
        status = function(*args)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def keep_sending():
    """The sender: fills the worker's channel and reads what the worker says to the group."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    layer = layer_of_this_process()
    layer.group_add(GROUP, ECHO)
    while True:
        try:
            layer.send(WORK, {"payload": "x" * 200})
        except layer.ChannelFull:
            layer.receive([ECHO])


def work(pipe):
    """The worker: what ``manage.py runworker`` does once it has its layer."""
    from channels import Group
    from channels.routing import route
    from channels.worker import Worker

    def consume(message):
        Group(GROUP, channel_layer=message.channel_layer).send({"done": 1}, immediately=True)
        os.write(pipe, b".")

    layer = layer_of_this_process()
    layer.router.add_route(route(WORK, consume))
    layer.router.check_default()
    worker = Worker(channel_layer=layer)
    worker.ready()
    try:
        worker.run()
    except SystemExit as stop:
        return STOPPED_OUTSIDE if not stop.code else 71
    return STOPPED_IN_A_JOB


def probe(number):
    """Another process: a message of its own, and one through a group, there and back."""
    signal.alarm(PROBE_SECONDS)
    layer = layer_of_this_process()
    channel = "%s.%d" % (PROBE, number)
    layer.send(channel, {"number": number})
    direct = layer.receive([channel])
    layer.group_add(channel, channel)
    layer.send_group(channel, {"number": -number})
    fanned = layer.receive([channel])
    layer.group_discard(channel, channel)
    expected = ((channel, {"number": number}), (channel, {"number": -number}))
    if (direct, fanned) == expected:
        return 0
    sys.stderr.write("probe %d: expected %r, got %r\n" % (number, expected, (direct, fanned)))
    return 1


def ended(pid, seconds):
    """The wait status of a child, or ``None`` (and it is killed) when the time is up."""
    deadline = time.time() + seconds
    while time.time() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def wait_for_work(pipe):
    """Until the worker has handled some messages; false when it never does."""
    handled, deadline = 0, time.time() + PATIENCE
    while handled < HANDLED_BEFORE_STOP:
        readable, _, _ = select.select([pipe], [], [], max(0, deadline - time.time()))
        if not readable:
            return False
        handled += len(os.read(pipe, 4096))
    return True


def stop_one(number, report):
    """One worker, its stop and the probe; notes in ``report`` what came of it."""
    reader, writer = os.pipe()
    worker = fork(work, writer)
    try:
        busy = wait_for_work(reader)
        # Long enough for the stop to come anywhere in a message's handling.
        time.sleep(random.random() * 0.005)
        os.kill(worker, signal.SIGTERM)
        status = ended(worker, PATIENCE)
    finally:
        os.close(reader)
        os.close(writer)
    if not busy:
        report["failures"].append("stop %d: the worker was given no work" % number)
    if status not in (STOPPED_IN_A_JOB << 8, STOPPED_OUTSIDE << 8):
        report["failures"].append("stop %d: the worker's wait status is %r" % (number, status))
    report["quiet"] += status == STOPPED_OUTSIDE << 8

    started = time.time()
    status = ended(fork(probe, number), PROBE_SECONDS + 1)
    report["slowest"] = max(report["slowest"], time.time() - started)
    if status != 0:
        report["failures"].append("stop %d: the probe's wait status is %r" % (number, status))
    report["stops"] += 1


def main(stops):
    import django

    django.setup()
    report = {"stops": 0, "quiet": 0, "slowest": 0.0, "failures": []}
    sender = fork(keep_sending)
    try:
        for number in range(1, stops + 1):
            stop_one(number, report)
            if report["failures"]:
                break
    finally:
        os.kill(sender, signal.SIGTERM)
        if ended(sender, PATIENCE) is None:
            report["failures"].append("the sender did not end")
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
