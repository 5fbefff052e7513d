"""A process that does what is timed, as one peer, on command.

It knows how to get commands and answer them; what they do is in ``tasks`` (synchronous peers)
and ``tasks_async``. Between commands it sleeps in a read, and takes no time from the peer
whose turn it is.

A command is ``{"do": task, ...arguments}``, one JSON line. A task that waits for what another
actor does says ``{"ready": true}`` when it is about to; the last line is ``{"result": ...}`` or
``{"error": traceback}``. Runs on Python 3.7 as well.
"""
import asyncio
import json
import os
import socket
import sys
import traceback

from benchmarks import tasks, tasks_async


class Actor(object):
    """One process, connected."""

    def __init__(self, adapter, lines):
        self._adapter = adapter
        self._lines = lines
        self._loop = asyncio.new_event_loop() if adapter.asynchronous else None

    def say(self, answer):
        """Write one line."""
        self._lines.write(json.dumps(answer).encode("ascii") + b"\n")
        self._lines.flush()

    def ready(self):
        """Say that what follows is the wait."""
        self.say({"ready": True})

    def do(self, command):
        """Run one task; its result."""
        task = command.pop("do")
        if self._loop is None:
            return getattr(tasks, task)(self._adapter, self.ready, **command)
        return self._loop.run_until_complete(
            getattr(tasks_async, task)(self._adapter, self.ready, **command)
        )

    def serve(self):
        """Obey until the connection ends."""
        if self._loop is not None:
            asyncio.set_event_loop(self._loop)
        for line in iter(self._lines.readline, b""):
            try:
                self.say({"result": self.do(json.loads(line.decode("ascii")))})
            except Exception:  # noqa: BLE001 (whatever it is, the benchmark is told)
                self.say({"error": traceback.format_exc()})


def live(adapter, number, address):
    """All of a forked actor's life; does not return."""
    code = 1
    try:
        # The host's requests and answers are none of ours.
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(2, 1)
        adapter.settings["actor"] = "{0}.{1}".format(adapter.prefix, number)
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(address)
        lines = connection.makefile("rwb")
        lines.write(b"%d\n" % number)
        lines.flush()
        Actor(adapter, lines).serve()
        code = 0
    except BaseException:  # noqa: BLE001 (nothing may get out of a forked child)
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
