"""``asgi-ipc demo``: processes that talk through shared memory, and two that are killed.

Knows the public layer and nothing of what is behind it: this is also an example of its use.
The processes are started anew (not forked), and all that they share is a prefix.

``run`` plays the parts; each part starts workers, which run one of the functions in
``ROLES``, and asks each for what it saw, which a worker writes to a file of its own line by
line, so that one that is killed has told all but its last message. A worker says that it is
ready, and is told to end, by messages. Whatever happens, ``run`` ends what it has started and
removes the shared memory.
"""
from __future__ import division, unicode_literals

import binascii
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from six.moves import range

import asgi_ipc
from asgi_ipc._shm import clock
from asgi_ipc.core import IPCChannelLayer, unlink
from asgi_ipc.errors import ChannelFull

ROUND_TRIPS = 2000
TALKING = 1.0  # seconds at most for the round trips
SENDERS = RECEIVERS = 3
SENDING = 0.6  # seconds
SITES, MEMBERS, GROUP_SENDS = 3, 50, 40
PATIENCE = 10  # seconds for what takes a fraction of one


class Failure(Exception):
    """Something did not happen that should have."""


# -- the workers: each in a process of its own -------------------------------------------------


def answer(layer, parent, _):
    """Answer each question on the reply channel that it names."""
    for _, question in _messages(layer, "demo.ask", parent):
        layer.send(question["reply"], {"received": clock.now()})


def send(layer, parent, number, seconds=SENDING):
    """Send numbered messages for a while, waiting where the channel is full."""
    count = waits = 0
    for _ in _messages(layer, "demo.go", parent):
        end = clock.now() + int(seconds * clock.SECOND)
        while clock.now() < end:
            waits += _send_patiently(layer, "demo.work", {"from": int(number), "count": count + 1})
            count += 1
        break
    _tell(count, waits)


def send_on(layer, parent, number):
    """Send for longer than anybody wants to hear: this one is to be killed."""
    send(layer, parent, number, seconds=PATIENCE)


def receive(layer, parent, _):
    """Tell of each message who sent it, its number, and when it came."""
    for _, message in _messages(layer, "demo.work", parent):
        _tell(message["from"], message["count"], clock.now())


def serve(layer, parent, number):
    """Be a server with some clients, all of them in one group; count what each gets."""
    queue = "demo.site{0}!".format(number)
    counts = {}
    for client in range(MEMBERS):
        name = "{0}client{1}".format(queue, client)
        counts[name] = 0
        layer.group_add("demo.room", name)
    for channel, _ in _messages(layer, queue, parent):
        counts[channel] += 1
    _tell(min(counts.values()), max(counts.values()))


ROLES = {role.__name__: role for role in (answer, send, send_on, receive, serve)}


def work(role, prefix, parent, number):
    """Be a worker, until told to end or without a parent."""
    with IPCChannelLayer(prefix=prefix) as layer:
        ROLES[role](layer, int(parent), number)


def _messages(layer, channel, parent):
    """Say that we are ready; yield (channel, message) until a message says that it is the end."""
    layer.send("demo.ready", {})
    while os.getppid() == parent:
        name, message = layer.receive([channel], block=True)
        if name is None:
            continue
        if "end" in message:
            return
        yield name, message


def _send_patiently(layer, channel, message):
    """Send; return how often the channel was full."""
    waits = 0
    while True:
        try:
            layer.send(channel, message)
        except ChannelFull:
            waits += 1
            time.sleep(0.0005)
        else:
            return waits


def _tell(*numbers):
    """Write one line, in one piece, which is in the file even if we are killed at once."""
    os.write(1, " ".join(str(number) for number in numbers).encode("ascii") + b"\n")


# -- the parts ---------------------------------------------------------------------------------


class Cast(object):
    """The workers of one run, and the layer of the process that directs them."""

    def __init__(self, prefix):
        self.prefix = prefix
        self.layer = IPCChannelLayer(prefix=prefix)
        self._folder = tempfile.mkdtemp(prefix="asgi-ipc-demo-")
        self._workers = []

    def start(self, *roles):
        """Start a worker for each role; return them once all are ready."""
        workers = [self._start(role, number) for number, role in enumerate(roles)]
        for _ in workers:
            deadline = clock.now() + PATIENCE * clock.SECOND
            while self.layer.receive(["demo.ready"], block=True)[0] is None:
                if clock.now() > deadline:
                    raise Failure("a process did not start in time")
        return workers

    def _start(self, role, number):
        path = os.path.join(self._folder, "{0}-{1}".format(len(self._workers), role))
        package_folder = os.path.dirname(os.path.dirname(os.path.abspath(asgi_ipc.__file__)))
        paths = [package_folder, os.environ.get("PYTHONPATH")]
        command = [sys.executable, "-m", "asgi_ipc.demo"]
        with open(path, "wb") as output:
            process = subprocess.Popen(  # noqa: S603 - it is this very package
                command + [role, self.prefix, str(os.getpid()), str(number)],
                stdout=output,
                env=dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, paths))),
            )
        worker = Worker(process, path)
        self._workers.append(worker)
        return worker

    def end(self, workers, *channels):
        """Tell workers to end, by a message to each of the channels; wait until they have."""
        for channel in channels:
            _send_patiently(self.layer, channel, {"end": True})
        for worker in workers:
            worker.wait()

    def leave(self):
        """End what still runs, and remove all that was made."""
        for worker in self._workers:
            worker.kill()
        self.layer.close()
        unlink(self.prefix)
        shutil.rmtree(self._folder, ignore_errors=True)


class Worker(object):
    """A process that was started, and the file that it tells its tale to."""

    def __init__(self, process, path):
        self._process = process
        self._path = path
        self.pid = process.pid

    def wait(self):
        """Wait for its proper end."""
        deadline = clock.now() + PATIENCE * clock.SECOND
        while self._process.poll() is None:
            if clock.now() > deadline:
                raise Failure("process {0} did not end in time".format(self.pid))
            time.sleep(0.002)
        if self._process.returncode:
            raise Failure(
                "process {0} ended with status {1}".format(self.pid, self._process.returncode)
            )

    def kill(self):
        """SIGKILL it, if it has not ended by itself; True if that is what ended it."""
        if self._process.poll() is None:
            self._process.kill()
        return self._process.wait() == -signal.SIGKILL

    def told(self):
        """What it has told: a list of tuples of numbers."""
        with open(self._path, "rb") as lines:
            return [tuple(int(number) for number in line.split()) for line in lines]


def talk(cast):
    """Part 1: round trips between this process and another, over a reply channel."""
    layer = cast.layer
    workers = cast.start("answer")
    reply = layer.new_channel("demo.reply?")
    latencies = []
    start = clock.now()
    while len(latencies) < ROUND_TRIPS and clock.now() - start < TALKING * clock.SECOND:
        sent = clock.now()
        layer.send("demo.ask", {"reply": reply})
        name, message = layer.receive([reply], block=True)
        if name != reply:
            raise Failure("a question was not answered within 5 seconds")
        latencies.append(message["received"] - sent)
    seconds = (clock.now() - start) / clock.SECOND
    cast.end(workers, "demo.ask")
    latencies.sort()
    count = len(latencies)
    _say("   {0:,} questions, {0:,} answers in {1:.2f} s", count, seconds)
    _say("   round trips   {0:>8,} a second", int(count / seconds))
    _say("   one way       p50 {0:,} us, p99 {1:,} us", *_percentiles(latencies))


def crowd(cast, casualties=0):
    """Parts 2 and 3: senders and receivers on one channel; the first ``casualties`` of each die."""
    roles = ["receive"] * RECEIVERS + ["send_on"] * casualties + ["send"] * (SENDERS - casualties)
    workers = cast.start(*roles)
    receivers, senders = workers[:RECEIVERS], workers[RECEIVERS:]
    for _ in senders:
        cast.layer.send("demo.go", {})
    killed_at = None
    if casualties:
        time.sleep(SENDING / 3)
        killed_at = clock.now()
        _kill(senders[:casualties] + receivers[:casualties])
    cast.end(senders[casualties:])
    alive = receivers[casualties:]
    cast.end(alive, *["demo.work"] * len(alive))
    tales = [receiver.told() for receiver in receivers]
    counts = {RECEIVERS + i: sender.told() for i, sender in enumerate(senders)}
    _judge_crowd(tales, counts, may_lack=casualties)
    arrivals = sorted(line[2] for tale in tales for line in tale)
    seconds = (arrivals[-1] - arrivals[0]) / clock.SECOND
    _say("   throughput    {0:>8,} messages a second", int(len(arrivals) / seconds))
    if casualties:
        after = [arrival for arrival in arrivals if arrival >= killed_at]
        pause = max(later - earlier for earlier, later in zip([killed_at] + after, after))
        _say("   after that    {0:>8,} messages; longest pause {1:.1f} ms", len(after), pause / 1e6)
    waits = sum(told[0][1] for told in counts.values() if told)
    _say("   channel full  {0:>8,} times: the sender waited, and sent again", waits)


def _kill(workers):
    for worker in workers:
        if not worker.kill():
            raise Failure("process {0} had ended before it was killed".format(worker.pid))
    _say("   SIGKILL to processes {0}", " and ".join(str(worker.pid) for worker in workers))


def _judge_crowd(tales, counts, may_lack):
    """Say what arrived; Failure if it was not all, or not in order, or twice.

    ``counts`` maps a sender's number to what it told. One that was killed told nothing: what
    came of it must have no gap. A receiver that was killed may have had a message in its hand.
    """
    missing = total = 0
    for number, told in sorted(counts.items()):
        arrived = []
        for tale in tales:
            taken = [line[1] for line in tale if line[0] == number]
            if taken != sorted(taken):
                raise Failure("messages of sender {0} came out of order".format(number))
            arrived += taken
        if len(set(arrived)) != len(arrived):
            raise Failure("messages of sender {0} came twice".format(number))
        missing += (told[0][0] if told else max(arrived + [0])) - len(arrived)
        total += len(arrived)
    if missing > may_lack:
        raise Failure("{0} messages were lost".format(missing))
    _say("   {0:,} messages arrived: each once, those of one sender in order, none lost", total)
    if missing:
        _say("   (the one that the killed receiver had in its hand went with it)")


def gather(cast):
    """Part 4: one send to a group reaches every client of every process."""
    layer = cast.layer
    workers = cast.start(*["serve"] * SITES)
    before = layer.global_statistics()["messages_count"]
    members = len(layer.group_channels("demo.room"))
    times = []
    for _ in range(GROUP_SENDS):
        start = clock.now()
        layer.send_group("demo.room", {"text": "to all of you"})
        times.append(clock.now() - start)
    stored = layer.global_statistics()["messages_count"] - before
    queues = ["demo.site{0}!client0".format(number) for number in range(SITES)]
    cast.end(workers, *queues)
    if members != SITES * MEMBERS or any(
        worker.told() != [(GROUP_SENDS, GROUP_SENDS)] for worker in workers
    ):
        raise Failure("a member of the group missed a message")
    received = GROUP_SENDS * members
    _say("   {0} sends to {1} members: {2:,} received, none lost", GROUP_SENDS, members, received)
    _say("   stored        {0:>8,} messages: one for each process, not each member", stored)
    _say("   one send      p50 {0:,} us, p99 {1:,} us", *_percentiles(sorted(times)))


def inspect(cast):
    """At the end: verify the shared memory, which has seen two die."""
    faults = cast.layer.check()
    if faults:
        raise Failure("the shared memory is damaged: " + "; ".join(faults))
    _say("\nThe shared memory was checked: sound.")


def run():
    """Play all parts; return the exit status."""
    unique = binascii.hexlify(os.urandom(3)).decode("ascii")
    prefix = "demo-{0}-{1}".format(os.getpid(), unique)
    _say("asgi_ipc {0} on Python {1}, {2}; all processes share only the prefix {3}",
         asgi_ipc.__version__, platform.python_version(), platform.system(), prefix)
    start = clock.now()
    cast = Cast(prefix)
    status = 0
    try:
        _say("\n1. Question and answer between two processes, over a channel for the reply")
        talk(cast)
        _say("\n2. {0} senders, {1} blocking receivers, one channel", SENDERS, RECEIVERS)
        crowd(cast)
        _say("\n3. The same, and a sender and a receiver are killed in the middle")
        crowd(cast, casualties=1)
        _say("\n4. A group: {0} processes with {1} clients each", SITES, MEMBERS)
        gather(cast)
        inspect(cast)
    except Failure as failure:
        _say("\nFAILED: {0}", failure)
        status = 1
    finally:
        cast.leave()
    _say("All processes have ended, and nothing is left of them. {0:.1f} s.",
         (clock.now() - start) / clock.SECOND)
    return status


def _percentiles(ordered):
    """Median and 99th percentile of ns in order, in us."""
    return tuple(int(ordered[len(ordered) * part // 100] / 1000) for part in (50, 99))


def _say(text, *values):
    sys.stdout.write(text.format(*values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    work(*sys.argv[1:])
