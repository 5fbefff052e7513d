"""A layer in another process, used as if it were here.

One child is started for the whole run (to import Django takes a while); it opens layers and
calls their methods as it is told, each call in a task of its own. ``FarLayer`` has a layer's
coroutine methods; to cancel one cancels the task over there, and waits for its end.
"""
import asyncio
import concurrent.futures
import itertools
import json
import os
import subprocess
import sys
import threading

from channels import exceptions

HERE = os.path.dirname(os.path.abspath(__file__))
ERRORS = {
    "ChannelFull": exceptions.ChannelFull,
    "MessageTooLarge": exceptions.MessageTooLarge,
    "TypeError": TypeError,
    "ValueError": ValueError,
}


class FarProcess:
    """The child, and the thread that reads its answers."""

    def __init__(self, command=None, environment=None):
        self._child = subprocess.Popen(
            command or [sys.executable, os.path.join(HERE, "far_child.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            universal_newlines=True,
            env=environment or dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
        )
        self.pid = self._child.pid
        self._numbers = itertools.count()
        self._calls = {}
        self._write = threading.Lock()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def call(self, *words):
        """Have something done; return a ``concurrent.futures.Future``, and its number."""
        number = next(self._numbers)
        future = self._calls[number] = concurrent.futures.Future()
        self.tell(number, *words)
        return future, number

    def tell(self, *words):
        with self._write:
            self._child.stdin.write(json.dumps(words) + "\n")
            self._child.stdin.flush()

    def do(self, *words):
        """Have something done, and wait for it."""
        return self.call(*words)[0].result(60)

    def open(self, **options):
        return FarLayer(self, self.do("open", options))

    def close(self):
        """Let the child come to its end."""
        self._child.stdin.close()
        try:
            assert self._child.wait(30) == 0
        finally:
            self._child.kill()
            self._child.wait()
            self._reader.join()
            self._child.stdout.close()

    def _read(self):
        for line in self._child.stdout:
            number, kind, value = json.loads(line)
            future = self._calls.pop(number)
            if kind in ("result", "cancelled"):
                # Who cancelled waits for the end only.
                future.set_result(value)
            else:
                future.set_exception(ERRORS.get(kind, RuntimeError)(value))
        for future in list(self._calls.values()):
            future.set_exception(RuntimeError("the other process has died"))


class FarLayer:
    """A layer over there."""

    def __init__(self, process, key):
        self.process = process
        self.key = key

    def __getattr__(self, method):
        async def call(*arguments):
            future, number = self.process.call("do", self.key, method, arguments)
            try:
                return await asyncio.shield(asyncio.wrap_future(future))
            except asyncio.CancelledError:
                if not future.done():
                    self.process.tell(-1, "cancel", number)
                    await asyncio.wait([asyncio.wrap_future(future)])
                raise

        return call

    def close(self):
        self.process.do("close", self.key)
