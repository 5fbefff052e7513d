"""A process of one peer: it has imported what the peer needs, and forks actors on request.

It knows the peers, and actors; it does not time anything. Started by ``session``, once for each
peer, with the peer's own interpreter. Requests and answers are JSON, one a line, on standard
input and output:

``{"open": id, "actors": n, "address": path, "settings": {...}}``
    Make what the actors share, and fork them; each connects to the Unix socket at ``path`` and
    says which one it is. Answer: ``{"pids": [...]}``.
``{"close": id}``
    Kill them, and remove what they leave. Answer: ``{}``.

End of input closes everything, so nothing is left when the benchmark itself is killed.
Runs on Python 3.7 as well.
"""
import importlib
import json
import os
import signal
import sys
import traceback

from benchmarks import actor


class Host(object):
    """The sessions of one peer that are open."""

    def __init__(self, module, adapter):
        self._adapter = getattr(importlib.import_module("benchmarks.peers." + module), adapter)
        self._sessions = {}

    def version(self):
        """What is measured."""
        return self._adapter({"prefix": ""}).version()

    def open(self, request):
        """Fork the actors of one session."""
        adapter = self._adapter(request["settings"])
        adapter.share()
        pids = []
        self._sessions[request["open"]] = adapter, pids
        for number in range(request["actors"]):
            pid = os.fork()
            if not pid:
                actor.live(adapter, number, request["address"])
            pids.append(pid)
        return {"pids": pids}

    def close(self, session):
        """End the actors of one session."""
        adapter, pids = self._sessions.pop(session)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)
        adapter.destroy()

    def close_all(self):
        """End all that are left."""
        for session in list(self._sessions):
            self.close(session)

    def answer(self, request):
        """Do what a request asks for."""
        if "open" in request:
            return self.open(request)
        self.close(request["close"])
        return {}


def main(module, adapter):
    """Answer requests until there are no more."""
    # Only answers go to standard output, whatever a package prints.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer):
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        host = Host(module, adapter)
        say({"version": host.version(), "python": sys.version.split()[0]})
    except Exception:  # noqa: BLE001 (whatever it is, the peer is left out for it)
        say({"error": traceback.format_exc()})
        return
    try:
        for line in iter(sys.stdin.readline, ""):
            try:
                say(host.answer(json.loads(line)))
            except Exception:  # noqa: BLE001 (as above)
                say({"error": traceback.format_exc()})
    finally:
        host.close_all()
