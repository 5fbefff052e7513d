"""``python -m benchmarks.across``: group sends to three machines, by the bridge and by Redis.

Three machines (``machines``: namespaces, else prefixes on this one), four processes on each with
250 members of one group, a sender on the first, and one Redis beyond. channels_redis, whose
every process talks to that Redis, against asgi_ipc with one bridge on each machine. All of them
are ready at the same time and take turns, as in the other workloads.

Knows the site and what is counted; how it is told is in ``across_report``.
"""
import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import namedtuple

from benchmarks import across_report, machines, peers
from benchmarks.environment import describe
from benchmarks.peers.base import CAPACITY, EXPIRY
from benchmarks.redis_server import RedisMissing, RedisServer
from benchmarks.session import ROOT, Host, PeerFailed, current_interpreter

COMMITTED = os.path.join(ROOT, "benchmarks", "results", "across.json")
OUTPUT = os.path.join(ROOT, "build", "benchmarks", "across.json")

MACHINES, PROCESSES, MEMBERS = 3, 4, 250
CONTESTANTS = (peers.OURS_ASYNC, peers.REDIS_PUBSUB, peers.REDIS_CORE)
GROUP = "room"
CONNECT_SECONDS = 30
TASK_SECONDS = 120
SECOND = 10 ** 9

Pace = namedtuple("Pace", "rounds single burst calls")
"""``rounds`` of each contestant, in each of them so many ``single`` sends, of which each waits for
its last delivery, one ``burst``, and so many ``calls`` of which none waits."""

FULL = Pace(rounds=9, single=20, burst=30, calls=100)
QUICK = Pace(rounds=2, single=5, burst=20, calls=50)


class Ground:
    """What the contestants run on: the machines, if they can be had, and the Redis."""

    def __init__(self, folder):
        self.folder = folder
        self._rooms = contextlib.ExitStack()
        self.obstacle = self._machines = None
        try:
            self._machines = self._rooms.enter_context(machines.Machines(MACHINES))
        except machines.NoMachines as error:
            self.obstacle = str(error)
        try:
            self.redis = self._rooms.enter_context(contextlib.closing(self._start_redis()))
        except BaseException:
            self._rooms.close()
            raise

    def _start_redis(self):
        if self._machines is None:
            return RedisServer(self.folder)
        hub = self._machines
        return RedisServer(self.folder, machines.HUB, hub.hub_command(), hub.hub_networking)

    def before(self, number):
        """The words that have a command run on a machine."""
        if self._machines is None:
            return []
        return self._machines.machines[number].command(folder=self.folder)

    def prefix(self, number):
        """The prefix on a machine: the same on all of them, where they are machines."""
        name = "across-{0}".format(os.getpid())
        return name if self._machines else "{0}-{1}".format(name, number)

    def ahead(self, number):
        """Nanoseconds by which a machine's clock is ahead of ours."""
        return machines.BOOTED * (number + 1) * SECOND if self._machines else 0

    def close(self):
        """Remove all of it."""
        self._rooms.close()


class Contestant:
    """One peer on all machines: its processes, their members joined.

    ``counts``: name -> values, one a round. ``samples``: name -> nanoseconds of single ones. What
    they are is told in ``across_report``.

    :param name: unlike those of all others.
    """

    def __init__(self, ground, peer, name):
        self.peer = peer
        self.name = name
        self.ground = ground
        self.counts = {}
        self.samples = {"delivered": [], "call": [], "alone": []}
        self._bridges = {}
        self._sessions = []
        self._rooms = contextlib.ExitStack()

    def open(self):
        """Start everything."""
        for number in range(MACHINES):
            host = self._rooms.enter_context(contextlib.closing(self._host(number)))
            host.started()
            prefix = self._prefix(number)
            # The sender is one more process, of the first machine.
            session = host.open(PROCESSES + (number == 0), prefix=prefix)
            self._sessions.append(self._rooms.enter_context(contextlib.closing(session)))
            self.version = host.version
        for actor in self._everybody():
            actor.call("prepare")
        for _, actor in self._receivers():
            actor.begin("join", group=GROUP, number=MEMBERS)
        for _, actor in self._receivers():
            actor.finish()

    def _prefix(self, number):
        if self.peer.redis:
            # What machines share by Redis, they share by name.
            number = 0
        return "{0}-{1}".format(self.ground.prefix(number), self.name)

    def _host(self, number):
        redis = self.ground.redis.tcp_url
        folder = os.path.join(self.ground.folder, "{0}{1}".format(self.name, number))
        os.mkdir(folder)
        before = self.ground.before(number)
        return Host(
            self.peer, current_interpreter(), False, folder, redis, TASK_SECONDS, before
        )

    def _everybody(self):
        return [actor for session in self._sessions for actor in session.actors]

    @property
    def sender(self):
        """The process that sends."""
        return self._sessions[0].actors[-1]

    def _receivers(self):
        return [
            (number, actor)
            for number, session in enumerate(self._sessions)
            for actor in session.actors[:PROCESSES]
        ]

    # -- the bridges -----------------------------------------------------------------

    def start_bridges(self):
        """One on each machine, and wait until they are connected."""
        for number in range(MACHINES):
            self._start_bridge(number)
        self._rooms.callback(self._end_bridges)
        self._await_bridges()

    def _start_bridge(self, number):
        command = [*self.ground.before(number), sys.executable, "-m", "asgi_ipc", "bridge"]
        command += [self.ground.redis.tcp_url, "--prefix", self._prefix(number)]
        command += ["--name", "across", "--capacity", str(CAPACITY), "--expiry", str(EXPIRY)]
        path = os.path.join(self.ground.folder, "log-bridge{0}".format(number))
        with open(path, "ab") as log:
            self._bridges[number] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=dict(os.environ, PYTHONPATH=ROOT),
            )

    def _end_bridges(self):
        while self._bridges:
            _end(self._bridges.popitem()[1])

    def _await_bridges(self):
        deadline = time.monotonic() + CONNECT_SECONDS
        while not self._all_hear():
            if time.monotonic() > deadline:
                raise PeerFailed("the bridges do not connect")
        # What was sent before all were connected may be late.
        while any(self._hear()):
            pass

    def _hear(self):
        """How many members of each process get something within a second."""
        self._begin("absorb_within", seconds=1)
        return [actor.finish() for _, actor in self._receivers()]

    def _all_hear(self):
        """Send one; whether it got everywhere."""
        self._begin("absorb_within", seconds=1)
        self.sender.call("group_send", group=GROUP)
        found = [actor.finish() for _, actor in self._receivers()]
        return all(number == MEMBERS for number in found)

    # -- what is measured ------------------------------------------------------------

    def settle(self):
        """Warm up, and have nothing on its way."""
        for _ in range(3):
            self._deliver()

    def round(self, pace):
        """One round of everything."""
        self.samples["delivered"] += [self._deliver() for _ in range(pace.single)]
        self._burst(pace.burst)
        # Milliseconds need fewer of them than microseconds.
        calls = pace.calls // 5 if self.peer.redis else pace.calls
        self.samples["call"] += self._calls(calls, self._receivers())
        if self._bridges:
            # The same processes, with no bridge on their machine.
            _end(self._bridges.pop(0))
            self.samples["alone"] += self._calls(calls, self._receivers()[:PROCESSES])
            self._start_bridge(0)
            self._await_bridges()

    def _begin(self, task, reached=None, **arguments):
        reached = reached or self._receivers()
        for _, actor in reached:
            actor.begin(task, **arguments)
        for _, actor in reached:
            actor.await_ready()

    def _deliver(self):
        """Nanoseconds from a group send to its last delivery; all members wait for it."""
        self._begin("collect", number=MEMBERS)
        started = self.sender.call("group_send", group=GROUP)[0]
        last = [actor.finish() - self.ground.ahead(number) for number, actor in self._receivers()]
        return max(last) - (started - self.ground.ahead(0))

    def _burst(self, count):
        """Sends without a pause, and what they cost."""
        self._begin("absorb_group", count=count)
        before, bridges = self.ground.redis.figures(), self._bridges_time()
        times, sending = self.sender.call("emit_group", group=GROUP, count=count)
        found = [(number, *actor.finish()) for number, actor in self._receivers()]
        after = self.ground.redis.figures()
        last = max(stamp - self.ground.ahead(number) for number, stamp, _ in found)
        self._count("message", (last - (times[0] - self.ground.ahead(0))) / count)
        web = sending + sum(spent for _, _, spent in found)
        self._count("web", web / count)
        self._count("bridges", (self._bridges_time() - bridges) / count)
        for name, value in redis_costs(before, after).items():
            self._count(name, value / count)

    def _calls(self, count, reached):
        """Nanoseconds of group sends that nobody waits for; then all is received."""
        times = self.sender.call("emit_group", group=GROUP, count=count)[0]
        self._begin("absorb_group", reached, count=count)
        for _, actor in reached:
            actor.finish()
        return [later - earlier for earlier, later in zip(times, times[1:])]

    def _count(self, name, value):
        self.counts.setdefault(name, []).append(value)

    def _bridges_time(self):
        """Nanoseconds of the processor that all bridges took so far."""
        ticks = 0
        for process in self._bridges.values():
            with open("/proc/{0}/stat".format(process.pid)) as stream:
                ticks += sum(map(int, stream.read().rpartition(")")[2].split()[11:13]))
        return ticks * SECOND // os.sysconf("SC_CLK_TCK")

    def close(self):
        """End all of it."""
        self._rooms.close()


def _end(process):
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def redis_costs(before, after):
    """What Redis counts between two looks: name -> number, the looks themselves left out."""

    def calls(figures):
        found = {}
        for name, value in figures.items():
            if name.startswith("cmdstat_") and name != "cmdstat_info":
                found[name[8:]] = int(value.partition("calls=")[2].partition(",")[0])
        return found

    def difference(*names):
        return sum(float(after[name]) - float(before[name]) for name in names)

    earlier, later = calls(before), calls(after)
    commands = {name: number - earlier.get(name, 0) for name, number in later.items()}
    return {
        "commands": sum(commands.values()),
        "entries": commands.get("xadd", 0),
        "bytes_in": difference("total_net_input_bytes"),
        "bytes_out": difference("total_net_output_bytes"),
        "redis": difference("used_cpu_user", "used_cpu_sys") * SECOND,
    }


def measure(ground, pace, say):
    """All contestants, in turn; the result as ``across_report`` has it."""
    result = across_report.new(describe(), ground.obstacle, pace == QUICK)
    by_name = peers.by_name()
    wanted = [
        (name, Contestant(ground, by_name[name], "c{0}".format(number)))
        for number, name in enumerate(CONTESTANTS)
    ]
    ready = []
    try:
        for name, contestant in wanted:
            say("starting " + name)
            try:
                contestant.open()
                if name == peers.OURS_ASYNC:
                    contestant.start_bridges()
                contestant.settle()
                ready.append((name, contestant))
            except (PeerFailed, OSError) as error:
                result["left_out"][name] = str(error)
        for number in range(pace.rounds):
            say("round {0} of {1}".format(number + 1, pace.rounds))
            ready = [entry for entry in ready if _goes_on(entry, pace, result)]
    finally:
        for _, contestant in wanted:
            contestant.close()
    for name, contestant in ready:
        across_report.add(result, name, contestant)
    return result


def _goes_on(entry, pace, result):
    """Do one round of a contestant; False if it failed, which is noted."""
    name, contestant = entry
    try:
        contestant.round(pace)
    except (PeerFailed, OSError) as error:
        result["left_out"][name] = str(error)
        contestant.close()
        return False
    return True


def parse(arguments):
    """The command line; what belongs to ``python -m benchmarks`` alone is told apart."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.across", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few rounds, and no verdict")
    parser.add_argument("--save", action="store_true", help="make this run the committed one")
    parser.add_argument("--output", default=OUTPUT, help="where the JSON goes")
    options, others = parser.parse_known_args(arguments)
    if options.save and options.quick:
        parser.error("--save takes a whole run")
    return options, others


def main(arguments=None):
    """Measure and report; returns the exit status."""
    options, others = parse(arguments)
    if others:
        # tox hands the same words to both: those ask for a part of the other one.
        print("across: not measured, as {0} was asked for".format(" ".join(others)))
        return 0
    # So that a run that is told to stop ends its processes.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    folder = tempfile.mkdtemp(prefix="across-")
    try:
        with contextlib.closing(Ground(folder)) as ground:
            result = measure(ground, QUICK if options.quick else FULL, print)
    except RedisMissing as error:
        print("nothing could be measured: {0}".format(error), file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    across_report.write(result, options.output)
    print(across_report.text(result))
    if options.save:
        across_report.write(result, COMMITTED)
        across_report.refresh(result)
    return 1 if not options.quick and across_report.missed(result) else 0


if __name__ == "__main__":
    sys.exit(main())
