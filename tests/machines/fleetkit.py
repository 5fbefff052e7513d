"""Three machines with a bridge on each, and a Redis that they share.

Machines are namespaces (``benchmarks/machines.py``). Where those cannot be had, each is a prefix
on this very machine (``PREFIXES``): all runs as well, but for what needs a cable or a clock.

Knows machines, processes and their logs. Must not know what is expected of a bridge.
"""
import contextlib
import glob
import json
import os
import select
import subprocess
import sys

import pytest
from benchkit import benchmark
from processkit import eventually
from rediskit import RedisServer, end_with_parent
from sandbox import faketime_library

HERE = os.path.dirname(os.path.abspath(__file__))
PROJECT = os.path.dirname(os.path.dirname(HERE))
PATIENCE = 60  # seconds for what merely has to happen, on a busy machine
PREFIXES = "BRIDGE_TESTS_WITHOUT_NAMESPACES"
"""In the environment: do as if there were no namespaces."""


machines = benchmark("machines")


def why_no_namespaces():
    """The reason why machines are prefixes here, or None."""
    if os.environ.get(PREFIXES):
        return PREFIXES + " is set"
    try:
        machines.Machines(1).close()
    except machines.NoMachines as error:
        return str(error)
    return None


class Place:
    """One machine as the tests see it; this one is a prefix on the tests' own."""

    ahead = 0  # seconds of its monotonic clock before the tests' own
    isolated = False

    def __init__(self, number, prefix, folder):
        self.number = number
        self.prefix = prefix
        self.hours_off = 0  # of the time of day of what is started
        self.folder = str(folder)
        self._processes = {}

    def command(self, *words, folder=None):
        """The command that runs another one on it, in a folder or in ours."""
        return list(words)

    def networking(self):
        """Sockets that are made in the meantime are those of its network."""
        return contextlib.nullcontext()

    def environment(self, **more):
        """That of its processes; the package is the one that we test."""
        paths = [path for path in sys.path if path and path != HERE]
        if self.hours_off:
            paths.insert(0, os.path.join(HERE, "faked"))
        found = dict(os.environ, PYTHONUNBUFFERED="1", PYTHONPATH=os.pathsep.join(paths), **more)
        if self.hours_off:
            found.update(
                LD_PRELOAD=faketime_library(),
                FAKETIME="{0:+d}h".format(self.hours_off),
                FAKETIME_DONT_FAKE_MONOTONIC="1",
            )
        return found

    def start(self, name, *arguments, **options):
        """Start a Python on it with some arguments; what it says goes to a log of that name."""
        options.setdefault("stdin", subprocess.DEVNULL)
        with open(self.log_path(name), "ab") as log:
            options.setdefault("stdout", log)
            self._processes[name] = subprocess.Popen(
                self.command(sys.executable, *arguments),
                stderr=log,
                env=options.pop("env", None) or self.environment(),
                preexec_fn=end_with_parent,  # noqa: PLW1509 (it does one call of the system)
                **options,
            )
        return self._processes[name]

    def log_path(self, name):
        return os.path.join(self.folder, "{0}-{1}.log".format(name, self.number))

    def log(self, name):
        with open(self.log_path(name), errors="replace") as lines:
            return lines.read()

    def wait_for_log(self, name, words):
        """Until a process has said some words."""
        eventually(lambda: words in self.log(name), lambda: words + " in:\n" + self.log(name))

    def kill(self, name):
        """End a process at once."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()
        self._sweep(process.pid)

    def _sweep(self, pid):
        """Remove what libfaketime leaves in shared memory of a process that was killed, or not."""
        # Here too, where it ran elsewhere: who enters a namespace begins outside of it.
        for path in glob.glob("/dev/shm/*faketime_*_{0}".format(pid)):
            os.unlink(path)

    def stop(self, name):
        """Ask a process to end; its exit status."""
        process = self._processes.pop(name)
        process.terminate()
        try:
            return process.wait(PATIENCE)
        finally:
            process.kill()
            self._sweep(process.pid)

    def run(self, *arguments):
        """What a command ``asgi-ipc`` prints on it."""
        command = self.command(sys.executable, "-m", "asgi_ipc", *arguments)
        return subprocess.check_output(command, env=self.environment(), text=True)

    def close(self):
        for name in list(self._processes):
            self.kill(name)
        if not self.isolated:
            subprocess.run(
                [sys.executable, "-m", "asgi_ipc", "rm", "--force", self.prefix],
                env=self.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                check=False,
            )


class Namespaced(Place):
    """A machine of its own."""

    isolated = True

    def __init__(self, number, prefix, folder, machine):
        super().__init__(number, prefix, folder)
        self._machine = machine
        self.networking = machine.networking
        self.cut, self.mend = machine.cut, machine.mend
        self.deafen, self.undeafen = machine.deafen, machine.undeafen
        self.ahead = machines.BOOTED * (number + 1)

    def command(self, *words, folder=None):
        return self._machine.command(*words, folder=folder or os.getcwd())


class Agent:
    """A process of ``agent.py``; its commands are methods."""

    def __init__(self, place, name, members, options):
        self.place, self.name = place, name
        words = [os.path.join(HERE, "agent.py"), name, place.prefix, str(place.ahead)]
        words += [str(members), json.dumps(options)]
        self._process = place.start(
            "agent-" + name, *words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._answer() == "ready"

    def _answer(self):
        assert select.select([self._process.stdout], [], [], PATIENCE)[0], "no answer"
        line = self._process.stdout.readline()
        assert line, self.place.log("agent-" + self.name)
        answer = json.loads(line)
        assert answer != "failed", self.place.log("agent-" + self.name)
        return answer

    def __getattr__(self, command):
        def call(*arguments):
            self._process.stdin.write(json.dumps([command, *arguments]) + "\n")
            self._process.stdin.flush()
            return self._answer()

        return call


class Fleet:
    """The machines, what runs on them, and the Redis.

    :param options: of all layers.
    """

    def __init__(self, folder, prefix, count=3, **options):
        self.name = prefix
        self.options = dict({"expiry": 30, "capacity": 100000}, **options)
        self.agents = []
        self._folder = str(folder)
        self._machines = self.redis = None
        self.places = []
        try:
            if why_no_namespaces() is None:
                self._machines = machines.Machines(count)
                self.redis = self._start_redis(machines.HUB, 6379, self._machines.hub_command())
                self.places = [
                    Namespaced(number, "site", folder, machine)
                    for number, machine in enumerate(self._machines.machines)
                ]
            else:
                self.redis = self._start_redis("127.0.0.1", None, [])
                self.places = [
                    Place(number, "{0}-{1}".format(prefix, number), folder)
                    for number in range(count)
                ]
        except BaseException:
            self.close()
            raise

    def _start_redis(self, host, port, before):
        return RedisServer(self._folder, host, port, before)

    def bridge(self, place, name="bridge", *arguments):
        """Start one more bridge on a machine."""
        words = ["-m", "asgi_ipc", "bridge", self.redis.url, "--prefix", place.prefix]
        words += ["--name", self.name, "--expiry", str(self.options["expiry"])]
        words += ["--capacity", str(self.options["capacity"])]
        return place.start(name, *words, *arguments)

    def agent(self, place, members=2):
        """Start one more process of the site on a machine."""
        name = "agent{0}".format(len(self.agents))
        self.agents.append(Agent(place, name, members, self.options))
        return self.agents[-1]

    def connect(self):
        """Wait until each agent hears all others."""
        everybody = {agent.name for agent in self.agents}

        def connected():
            # All of them greet, also when the first has not heard everybody yet.
            greeted = [set(agent.greet()) for agent in self.agents]
            return all(found == everybody for found in greeted)

        def why():
            return "connecting:\n" + "\n".join(place.log("bridge") for place in self.places)

        eventually(connected, why)

    def needs_namespaces(self):
        """Skip the test where machines are prefixes."""
        if self._machines is None:
            pytest.skip("there is no cable to pull: " + why_no_namespaces())

    def close(self):
        """End and remove everything."""
        for place in self.places:
            place.close()
        if self.redis is not None:
            self.redis.kill()
        if self._machines is not None:
            self._machines.close()
