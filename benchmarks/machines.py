"""Three machines on one: each with a network, a /dev/shm and clocks of its own.

Linux namespaces, which need root. A *hub* is a further one, with a network alone: there is the
switch that joins them, and whatever they share (a Redis). Each namespace lives by a process
that sleeps in it, and goes with it: also when whoever made it is killed, nothing stays behind.

Knows namespaces and links; must not know what runs on the machines.
"""
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess

NETWORK = "10.77.0."
HUB = NETWORK + "254"
MEMORY = "256m"
BOOTED = 100000
"""Seconds by which the monotonic clock of each machine is ahead of that of the one before."""

PROGRAMS = ("ip", "nsenter", "unshare")
MISSING = "needs the programs ip, nsenter and unshare (Debian: iproute2, util-linux)"
START_SECONDS = 30

_CLONE_NEWNET = 0x40000000
_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)

_HOLD = "ip link set lo up && {0} echo ready && exec sleep infinity"
_OWN_MEMORY = "mount -t tmpfs -o size={0} tmpfs /dev/shm &&".format(MEMORY)


class NoMachines(Exception):
    """They cannot be had here; the text says why."""


def _end_with_parent():
    _libc.prctl(_SET_PDEATHSIG, signal.SIGKILL)


class Namespaces(object):
    """The process that a set of namespaces lives by.

    :param kinds: options of unshare(1).
    :param memory: whether it gets a /dev/shm of its own.
    """

    def __init__(self, kinds, memory):
        script = _HOLD.format(_OWN_MEMORY if memory else "")
        self._process = subprocess.Popen(
            ["unshare", *kinds, "sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=_end_with_parent,  # noqa: PLW1509 (it does one call of the system)
        )
        said = self._process.stdout.readline()
        if said != "ready\n":
            said += self._process.communicate()[0]
            raise NoMachines("no right to make namespaces: " + " ".join(said.split()))
        self.pid = self._process.pid
        self._folder = "/proc/{0}/ns/".format(self.pid)

    def words(self, *kinds):
        """The beginning of a command that is to run in them: ``words("net")``."""
        files = {"time": "time_for_children", "mount": "mnt"}
        options = ["--{0}={1}{2}".format(k, self._folder, files.get(k, k)) for k in kinds]
        return ["nsenter", *options]

    def run(self, *words):
        """Run ``ip`` in their network."""
        command = self.words("net") + ["ip", *words]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode:
            raise NoMachines("{0}: {1}".format(" ".join(words), done.stdout.strip()))

    @contextlib.contextmanager
    def networking(self):
        """Sockets that this thread makes in the meantime are in their network, for ever."""
        with open("/proc/thread-self/ns/net", "rb") as home:
            with open(self._folder + "net", "rb") as far:
                _enter(far)
            try:
                yield
            finally:
                _enter(home)

    def close(self):
        """End it; the namespaces go with the last process in them."""
        self._process.kill()
        self._process.communicate()


def _enter(namespace):
    if _libc.setns(namespace.fileno(), _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Machine(object):
    """One of them. ``address``: in the network that joins them."""

    def __init__(self, hub, number):
        self.name = "m{0}".format(number)
        self.address = NETWORK + str(number)
        self._hub = hub
        ahead = str(number * BOOTED)
        clocks = ["--time", "--monotonic", ahead, "--boottime", ahead]
        self._spaces = Namespaces(["--net", "--mount", *clocks], memory=True)
        self.networking = self._spaces.networking

    def plug_in(self):
        """Join it to the switch."""
        peer = ["peer", "name", "eth0", "netns", str(self._spaces.pid)]
        self._hub.run("link", "add", self.name, "type", "veth", *peer)
        self._hub.run("link", "set", self.name, "master", "switch", "up")
        self._spaces.run("address", "add", self.address + "/24", "dev", "eth0")
        self._spaces.run("link", "set", "eth0", "up")

    def command(self, *words, folder="/"):
        """The command that runs another one on it, in a folder."""
        enter = self._spaces.words("net", "mount", "time")
        return [*enter, "env", "--chdir", folder, *words]

    def cut(self):
        """Pull its cable: nothing arrives any more, and nobody is told."""
        self._hub.run("link", "set", self.name, "down")

    def mend(self):
        """Plug it in again."""
        self._hub.run("link", "set", self.name, "up")

    def deafen(self):
        """Have what it sends to the hub arrive, and no answer come back."""
        self._hub.run("route", "add", "blackhole", self.address + "/32")

    def undeafen(self):
        """End that."""
        self._hub.run("route", "del", "blackhole", self.address + "/32")

    def close(self):
        """Remove it."""
        self._spaces.close()


class Machines(object):
    """So many machines and their hub; a context manager.

    :raises NoMachines: they cannot be had here.
    """

    def __init__(self, count):
        if not all(shutil.which(program) for program in PROGRAMS):
            raise NoMachines(MISSING)
        self._rooms = contextlib.ExitStack()
        try:
            self._hub = self._rooms.enter_context(
                contextlib.closing(Namespaces(["--net"], memory=False))
            )
            self._hub.run("link", "add", "switch", "type", "bridge")
            self._hub.run("address", "add", HUB + "/24", "dev", "switch")
            self._hub.run("link", "set", "switch", "up")
            self.machines = [self._machine(number + 1) for number in range(count)]
        except BaseException:
            self._rooms.close()
            raise

    def _machine(self, number):
        machine = self._rooms.enter_context(contextlib.closing(Machine(self._hub, number)))
        machine.plug_in()
        return machine

    def hub_command(self, *words):
        """The command that runs another one in the hub's network."""
        return [*self._hub.words("net"), *words]

    def hub_networking(self):
        """As ``Namespaces.networking``, in the hub."""
        return self._hub.networking()

    def close(self):
        """Remove all of it."""
        self._rooms.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
