"""Runs the cases: every contestant in turn, round by round.

Knows hosts, workloads and figures; prints nothing, but tells a listener what happens
(``Listener``). Within a case all contestants are open at the same time, those that are not at
work asleep, and each round goes once through all of them: A B C A B C. One that fails leaves
the case, with the reason noted, and the others go on.
"""
import os
import shutil
import tempfile
import time

from benchmarks import old_python, peers
from benchmarks.environment import describe
from benchmarks.figures import Figure
from benchmarks.redis_server import RedisMissing, RedisServer
from benchmarks.results import Run
from benchmarks.session import Host, PeerFailed, current_interpreter
from benchmarks.workloads import Baseline, Contestant


class Listener(object):
    """Hears what the runner does. This one keeps silent."""

    def note(self, text):
        """Something the user should know."""

    def left_out(self, peer, case, reason):
        """A peer does not take part in a case, or ("") at all."""

    def case(self, title, steps):
        """A case begins that has so many steps."""

    def step(self, title):
        """One of them is about to be done."""


class Entry(object):
    """A contestant of a case, its workload, and its figures so far."""

    def __init__(self, case, workload, contestant):
        self.case = case
        self.workload = workload
        self.contestant = contestant
        self.figures = {}
        self.spent = 0.0

    @property
    def details(self):
        """The parameters, as text."""
        parameters = sorted(self.contestant.parameters.items())
        return ", ".join("{0} {1:,}".format(*item) for item in parameters)

    @property
    def title(self):
        """Peer and parameters."""
        return ", ".join([self.contestant.peer.title] + [self.details] * bool(self.details))

    def round(self):
        """Do one round."""
        begun = time.monotonic()
        for measure, (value, samples) in self.workload.round(self.contestant).items():
            self.figure(measure).add(value, samples)
        self.spent += time.monotonic() - begun

    def figure(self, measure):
        """The figure of one measure, made when first asked for."""
        if measure not in self.figures:
            workload, name, parameters = self.case.name, measure, self.contestant.parameters
            if isinstance(self.workload, Baseline):
                # Not to be taken for one of the case's own.
                workload, name, parameters = "baseline", workload, {"case": self.case.title}
            self.figures[measure] = Figure(
                self.case.title, workload, name, self.contestant.peer.name, parameters
            )
        return self.figures[measure]

    def close(self):
        """End its processes."""
        session, self.contestant.session = self.contestant.session, None
        if session is not None:
            session.close()


class Runner(object):
    """One run.

    :param pace: a ``plan.Pace``.
    :param wanted: names of peers, None for all.
    """

    def __init__(self, pace, listener, quick, wanted=None):
        self.pace = pace
        self.listener = listener
        self.run = Run(describe(), quick)
        self._wanted = wanted
        self._hosts = {}
        self._redis = None
        self._folder = None

    def __enter__(self):
        # In memory where that is to be had, so that nobody waits for a disk.
        memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self._folder = tempfile.mkdtemp(prefix="bench-", dir=memory)
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for host in self._hosts.values():
            host.close()
        if self._redis is not None:
            self._redis.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _leave_out(self, peer, case, reason):
        self.run.leave_out(peer.name, case, reason)
        self.listener.left_out(peer, case, reason)

    # -- hosts -----------------------------------------------------------------------

    def _start(self):
        chosen = [
            peer
            for peer in peers.PEERS
            if self._wanted is None or peer.name in self._wanted or peer.name == peers.BASELINE
        ]
        old = self._old_interpreter(chosen)
        no_redis = self._start_redis(chosen)
        for peer in chosen:
            if peer.redis and no_redis:
                self._leave_out(peer, "", no_redis)
            elif peer.interpreter == peers.OLD and old is None:
                continue
            else:
                isolated = peer.interpreter == peers.OLD
                self._hosts[peer.name] = Host(
                    peer,
                    old if isolated else current_interpreter(),
                    isolated,
                    self._folder,
                    self._redis and self._redis.url,
                    self.pace.seconds,
                )
        versions = self.run.environment["versions"]
        for name, host in list(self._hosts.items()):
            try:
                host.started()
                versions[name] = "{0}, Python {1}".format(host.version, host.python)
            except PeerFailed as error:
                host.close()
                del self._hosts[name]
                self._leave_out(host.peer, "", str(error))

    def _old_interpreter(self, chosen):
        old = [peer for peer in chosen if peer.interpreter == peers.OLD]
        if not old:
            return None
        try:
            return old_python.interpreter(self.listener.note)
        except old_python.OldPythonMissing as error:
            for peer in old:
                self._leave_out(peer, "", str(error))
            return None

    def _start_redis(self, chosen):
        """Why there is no Redis, or None."""
        if not any(peer.redis for peer in chosen):
            return None
        try:
            self._redis = RedisServer(self._folder)
        except RedisMissing as error:
            return str(error)
        self.run.environment["redis"] = "redis-server {0}, {1}".format(
            self._redis.version, self._redis.transport
        )
        return None

    # -- cases -----------------------------------------------------------------------

    def measure(self, case):
        """Run one case; its figures are added to the run."""
        if hasattr(case, "expect"):
            case.expect(self.run.figures)
        entries = [
            Entry(case, workload, Contestant(host.peer, parameters))
            for host in self._hosts.values()
            for workload in (case, Baseline())
            for parameters in workload.contestants(host.peer)
            if workload is case or not case.contestants(host.peer)
        ]
        self.listener.case(case.title, len(entries) * (1 + self.pace.rounds))
        try:
            ready = [entry for entry in entries if self._prepare(entry)]
            for number in range(self.pace.rounds):
                ready = [entry for entry in ready if self._round(entry, number)]
        finally:
            for entry in entries:
                entry.close()
        self._finish(entries)

    def _prepare(self, entry):
        contestant = entry.contestant
        self.listener.step(entry.title + ": preparing")
        host = self._hosts[contestant.peer.name]
        try:
            actors = entry.workload.actors(contestant)
            contestant.session = host.open(actors, entry.workload.size)
            entry.workload.prepare(contestant)
            entry.workload.settle(contestant, self.pace.target)
        except (PeerFailed, OSError) as error:
            return self._failed(entry, error)
        return True

    def _round(self, entry, number):
        self.listener.step("{0}: round {1}".format(entry.title, number + 1))
        if number >= self.pace.least and entry.spent > self.pace.budget:
            return True
        try:
            entry.round()
        except (PeerFailed, OSError) as error:
            return self._failed(entry, error)
        return True

    def _failed(self, entry, error):
        reason = ": ".join([entry.details] * bool(entry.details) + [str(error)])
        self._leave_out(entry.contestant.peer, entry.case.title, reason)
        entry.figures = {}
        entry.close()
        return False

    def _finish(self, entries):
        if self._redis is not None:
            self._redis.flush()
        figures = [figure for entry in entries for figure in entry.figures.values()]
        baseline = [figure for figure in figures if figure.peer == peers.BASELINE]
        for figure in figures:
            figure.finish(baseline[0] if baseline else None)
            self.run.figures.add(figure)
