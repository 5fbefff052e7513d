"""Random operations over several stores and processes agree with plain deques and dicts.

Each worker is a process (one of them this one) with its own MessageStore and GroupStore. The
driver picks an operation, sends it with the time to one worker, and compares the answer with
the model's: so each call is made by another process than the one before it.
"""
import os
import pickle
import random
import struct
import traceback
from collections import OrderedDict, deque

import pytest
from storekit import FakeClock, open_messages

from asgi_ipc._shm.clock import SECOND
from asgi_ipc.errors import ChannelFull
from asgi_ipc.groups import GroupStore

try:
    import hypothesis
    from hypothesis import strategies
except ImportError:
    hypothesis = None

SIZE, GROUP_SIZE = 256 * 1024, 64 * 1024
CHANNELS = [u"a", u"b", u"http.request", u"reply?1", u"reply?2", u"deep"]
PROCESSES = [u"p!", u"q.r!", u"s!"]
LOCALS = [u"x", u"y", u"z9"]
GROUPS = [u"g", u"h", u"room.1"]
MEMBERS = CHANNELS[:3] + [queue + local for queue in PROCESSES for local in LOCALS]


# -- what is tested ------------------------------------------------------------------------


class Real(object):
    """One worker's stores; each method is one command."""

    def __init__(self, prefix):
        self.clock = FakeClock()
        self.messages = open_messages(prefix, SIZE, clock=self.clock)
        self.groups = GroupStore(prefix, GROUP_SIZE, clock=self.clock)

    def send(self, queue, local, payload, lifetime, capacity):
        try:
            self.messages.send(queue, local, payload, lifetime, capacity)
        except ChannelFull:
            return False
        return True

    def receive(self, queues):
        return self.messages.receive(queues)

    def batch(self, queue, limit):
        found = self.messages.receive_batch(queue, limit)
        return [(names.split("\n"), payload, expires) for names, payload, expires in found]

    def send_each(self, targets, payload, lifetime):
        return [queue for queue, _ in self.messages.send_each(targets, payload, lifetime)]

    def flush(self):
        self.messages.flush()
        self.groups.flush()

    def add(self, group, channel, expires):
        self.groups.add(group, channel, expires)

    def discard(self, group, channel):
        self.groups.discard(group, channel)

    def members(self, group):
        return self.groups.members(group)

    def leave(self, channels):
        return self.groups.leave_all(channels)

    def pending(self, queue):
        return self.messages.channel_statistics(queue)["messages_pending"]

    def check(self):
        return self.messages.check() + self.groups.check()

    def used(self):
        return self.messages.memory()["messages"]

    def interrupt(self):
        """Die inside, as far as the others can tell: they rebuild."""
        for store in (self.messages, self.groups):
            lock = store._lock
            lock.acquire()
            lock.abandon()

    def close(self):
        self.messages.close()
        self.groups.close()


class Model(object):
    """The same with a deque for each queue and a dict for each group."""

    def __init__(self):
        self.clock = FakeClock()
        self.queues = {}
        self.groups = {}

    def _queue(self, name):
        queue = self.queues.setdefault(name, deque())
        while queue and queue[0][2] <= self.clock():
            queue.popleft()
        return queue

    def _put(self, queue, locals_, payload, lifetime, capacity):
        if len(self.queues.setdefault(queue, deque())) >= capacity:
            self._queue(queue)
        if len(self.queues[queue]) >= capacity:
            return False
        self.queues[queue].append([list(locals_), payload, self.clock() + lifetime])
        return True

    def send(self, queue, local, payload, lifetime, capacity):
        return self._put(queue, [local], payload, lifetime, capacity)

    def receive(self, queues):
        for name in queues:
            queue = self._queue(name)
            if queue:
                locals_, payload, _ = queue[0]
                local = locals_.pop(0)
                if not locals_:
                    queue.popleft()
                return name, local, payload
        return None

    def batch(self, name, limit):
        found = []
        while len(found) < limit and self._queue(name):
            found.append(tuple(self.queues[name].popleft()))
        return found

    def send_each(self, targets, payload, lifetime):
        return [
            queue
            for queue, names, capacity in targets
            if not self._put(
                queue, names.decode("ascii").split("\n"), payload, lifetime, capacity
            )
        ]

    def flush(self):
        self.queues.clear()
        self.groups.clear()

    def _group(self, name):
        found = self.groups.setdefault(name, OrderedDict())
        for channel in [channel for channel in found if found[channel] <= self.clock()]:
            del found[channel]
        return found

    def add(self, group, channel, expires):
        self._group(group)[channel] = expires

    def discard(self, group, channel):
        self._group(group).pop(channel, None)

    def members(self, group):
        return list(self._group(group))

    def leave(self, channels):
        return sum(
            self._group(group).pop(channel, None) is not None
            for group in list(self.groups)
            for channel in channels
        )

    def pending(self, queue):
        return len(self._queue(queue))

    def check(self):
        return []

    def interrupt(self):
        """Changes nothing."""


# -- workers in processes of their own -----------------------------------------------------


def write_frame(descriptor, value):
    data = pickle.dumps(value, 2)
    data = struct.pack("=I", len(data)) + data
    while data:
        data = data[os.write(descriptor, data) :]


def read_exactly(descriptor, count):
    data = b""
    while len(data) < count:
        piece = os.read(descriptor, count - len(data))
        if not piece:
            raise EOFError("the other end is gone")
        data += piece
    return data


def read_frame(descriptor):
    (length,) = struct.unpack("=I", read_exactly(descriptor, 4))
    return pickle.loads(read_exactly(descriptor, length))


class Worker(object):
    """A forked process that executes commands on stores of its own."""

    def __init__(self, prefix):
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                os.close(self._commands)
                os.close(self._answers)
                self._serve(prefix, commands, answers)
            finally:
                os._exit(0)
        os.close(commands)
        os.close(answers)

    @staticmethod
    def _serve(prefix, commands, answers):
        real = Real(prefix)
        while True:
            time, name, args = read_frame(commands)
            real.clock.time = time
            try:
                answer = (True, getattr(real, name)(*args))
            except Exception:
                answer = (False, traceback.format_exc())
            write_frame(answers, answer)
            if name == "close":
                return

    def call(self, time, name, args):
        write_frame(self._commands, (time, name, args))
        good, answer = read_frame(self._answers)
        assert good, answer
        return answer

    def close(self):
        try:
            self.call(0, "close", ())
        finally:
            os.close(self._commands)
            os.close(self._answers)
            os.waitpid(self.pid, 0)


class Here(object):
    """The same in this process."""

    def __init__(self, prefix):
        self._real = Real(prefix)

    def call(self, time, name, args):
        self._real.clock.time = time
        return getattr(self._real, name)(*args)

    def close(self):
        self._real.close()


# -- drivers -------------------------------------------------------------------------------


class Driver(object):
    """Gives each command to one worker and to the model, and compares."""

    def __init__(self, prefix, processes, layers):
        self.workers = [Worker(prefix) for _ in range(processes)]
        self.workers += [Here(prefix) for _ in range(layers)]
        self.model = Model()
        self.done = 0

    def do(self, worker, name, *args):
        self.done += 1
        answer = self.workers[worker % len(self.workers)].call(self.model.clock(), name, args)
        expected = getattr(self.model, name)(*args)
        assert answer == expected, "{0}: {1}{2!r}".format(self.done, name, args)

    def finish(self):
        """What is left agrees, memory comes back, and nothing is wrong."""
        self.do(0, "check")
        for group in GROUPS:
            self.do(1, "members", group)
        for turn, queue in enumerate(CHANNELS + PROCESSES):
            while self.model._queue(queue):
                self.do(turn, "receive", [queue])
            self.do(turn, "receive", [queue])
        assert self.workers[0].call(self.model.clock(), "used", ()) == 0
        self.do(1, "check")

    def close(self):
        for worker in self.workers:
            worker.close()


def random_command(rnd, model):
    """Return (name, arguments) of some operation."""
    kind = rnd.random()
    lifetime = rnd.choice([SECOND // 10, SECOND, 5 * SECOND, 1000 * SECOND])
    payload = os.urandom(1) * int(2000 ** rnd.random())
    if kind < 0.30:
        queue = rnd.choice(CHANNELS + PROCESSES)
        local = rnd.choice(LOCALS) if queue.endswith(u"!") else u""
        return "send", (queue, local, payload, lifetime, rnd.choice([1, 5, 20]))
    if kind < 0.62:
        count = rnd.randrange(1, 4)
        return "receive", (rnd.sample(CHANNELS + PROCESSES, count),)
    if kind < 0.67:
        return "batch", (rnd.choice(PROCESSES), rnd.randrange(1, 6))
    if kind < 0.73:
        targets = [
            (queue, "\n".join(rnd.sample(LOCALS, rnd.randrange(1, 4))).encode("ascii"), 20)
            for queue in rnd.sample(PROCESSES, rnd.randrange(1, 4))
        ]
        targets += [(queue, b"", 20) for queue in rnd.sample(CHANNELS, rnd.randrange(3))]
        return "send_each", (targets, payload, lifetime)
    if kind < 0.85:
        expires = model.clock() + rnd.choice([SECOND, 10 * SECOND, 1000 * SECOND])
        return "add", (rnd.choice(GROUPS), rnd.choice(MEMBERS), expires)
    if kind < 0.90:
        return "discard", (rnd.choice(GROUPS), rnd.choice(MEMBERS))
    if kind < 0.95:
        return "members", (rnd.choice(GROUPS),)
    if kind < 0.965:
        return "leave", (rnd.sample(MEMBERS, 2),)
    if kind < 0.985:
        return "pending", (rnd.choice(CHANNELS + PROCESSES),)
    if kind < 0.993:
        return "check", ()
    return ("interrupt", ()) if kind < 0.998 else ("flush", ())


@pytest.mark.parametrize("processes, layers", [(0, 3), (3, 1)])
@pytest.mark.parametrize("turn", range(3))
def test_random_operations_agree_with_the_model(prefix, processes, layers, turn):
    seed = int(os.environ.get("ASGI_IPC_TEST_SEED", random.randrange(10 ** 9)))
    print("ASGI_IPC_TEST_SEED={0}".format(seed))
    rnd = random.Random(seed)
    driver = Driver(prefix, processes, layers)
    try:
        for _ in range(3000):
            name, args = random_command(rnd, driver.model)
            driver.do(rnd.randrange(10), name, *args)
            if rnd.random() < 0.3:
                driver.model.clock.time += int(SECOND * rnd.random() * rnd.choice([0.1, 1]))
        driver.finish()
    finally:
        driver.close()


if hypothesis is not None:
    queues = strategies.sampled_from(CHANNELS + PROCESSES)
    lifetimes = strategies.sampled_from([SECOND, 5 * SECOND, 1000 * SECOND])
    payloads = strategies.builds(
        lambda length: b"m" * length, strategies.integers(0, 3000)
    )
    locals_of = strategies.lists(
        strategies.sampled_from(LOCALS), min_size=1, max_size=3, unique=True
    ).map(lambda names: "\n".join(names).encode("ascii"))
    commands = strategies.one_of(
        strategies.tuples(
            strategies.just("send"),
            strategies.builds(
                lambda queue, local, payload, lifetime, capacity: (
                    queue,
                    local if queue.endswith(u"!") else u"",
                    payload,
                    lifetime,
                    capacity,
                ),
                queues,
                strategies.sampled_from(LOCALS),
                payloads,
                lifetimes,
                strategies.integers(1, 6),
            ),
        ),
        strategies.tuples(
            strategies.just("receive"),
            strategies.lists(queues, min_size=1, max_size=3, unique=True).map(
                lambda names: (names,)
            ),
        ),
        strategies.tuples(
            strategies.just("batch"),
            strategies.tuples(strategies.sampled_from(PROCESSES), strategies.integers(1, 4)),
        ),
        strategies.tuples(
            strategies.just("send_each"),
            strategies.tuples(
                strategies.lists(
                    strategies.tuples(
                        strategies.sampled_from(PROCESSES), locals_of, strategies.integers(1, 6)
                    ),
                    min_size=1,
                    max_size=3,
                    unique_by=lambda target: target[0],
                ),
                payloads,
                lifetimes,
            ),
        ),
        strategies.tuples(
            strategies.sampled_from(["check", "flush", "interrupt"]), strategies.just(())
        ),
    )
    steps = strategies.lists(
        strategies.tuples(
            strategies.integers(0, 2), strategies.sampled_from([0, 0, SECOND, 7 * SECOND]), commands
        ),
        max_size=60,
    )

    @hypothesis.settings(
        max_examples=60,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(steps)
    def test_any_short_history_agrees_with_the_model(prefix, history):
        """Hypothesis looks for the shortest history that does not."""
        driver = Driver(prefix, 0, 3)
        driver.workers[0].call(driver.model.clock(), "flush", ())
        try:
            for worker, passed, (name, args) in history:
                driver.model.clock.time += passed
                driver.do(worker, name, *args)
            driver.finish()
        finally:
            driver.close()
