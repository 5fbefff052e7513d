"""Tools of the store's tests: a fake clock, forked children, short ways to send and receive."""
import os
import pickle
import signal
import traceback

from asgi_ipc._shm.clock import SECOND
from asgi_ipc.errors import ChannelFull
from asgi_ipc.layout import FIRST
from asgi_ipc.messages import MessageStore

LONG = 1000 * SECOND
"""Nanoseconds: a lifetime that no test outlives by accident."""

PLENTY = 10 ** 9
"""Messages: a capacity that is never reached."""


class FakeClock(object):
    """Time stands still until a test moves it."""

    def __init__(self, time=1000 * SECOND):
        self.time = time

    def __call__(self):
        return self.time

    def advance(self, seconds):
        self.time += int(seconds * SECOND)


def open_messages(prefix, size, **options):
    return MessageStore(prefix, size, **options)


def put(store, queue, payload, local=u"", lifetime=LONG, capacity=PLENTY):
    """Send with defaults that do not matter."""
    store.send(queue, local, payload, lifetime, capacity)


def try_put(store, *args, **options):
    """Send; False if it was refused."""
    try:
        put(store, *args, **options)
    except ChannelFull:
        return False
    return True


def get(store, *queues):
    """Receive; (queue, local, payload) or None."""
    return store.receive(list(queues))


def drain(store, queue):
    """All payloads of a queue."""
    found = []
    while True:
        message = store.receive([queue])
        if message is None:
            return found
        found.append(message[2])


def first_record(store, queue):
    """Where the oldest message of a queue lies."""
    return store._words[store._directory.find(queue)[0] + FIRST]


def overwrite(store, place):
    """Damage one byte, as something does that has lost its way."""
    memory = store._segment.map
    memory[place : place + 1] = b"\xff" if memory[place : place + 1] != b"\xff" else b"\0"


class Child(object):
    """A forked child that runs a function, and hands its result (or failure) to ``result``."""

    started = []

    def __init__(self, function, *args):
        reader, writer = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(reader)
            code = 1
            try:
                try:
                    answer = (True, function(*args))
                    code = 0
                except BaseException:
                    answer = (False, traceback.format_exc())
                with os.fdopen(writer, "wb") as pipe:
                    pickle.dump(answer, pipe, 2)
            finally:
                os._exit(code)
        os.close(writer)
        self._pipe = os.fdopen(reader, "rb")
        self._status = None
        self.started.append(self)

    def result(self):
        """Wait for its end; return what the function returned."""
        try:
            data = self._pipe.read()
        finally:
            self._pipe.close()
            self.wait()
        if not data:
            raise AssertionError("the child died with status {0}".format(self._status))
        good, value = pickle.loads(data)
        assert good, value
        return value

    def wait(self):
        """Wait for its end; return its status as ``os.waitpid`` has it."""
        if self._status is None:
            self._status = os.waitpid(self.pid, 0)[1]
        return self._status

    def stops(self):
        """Wait until it stops or ends; whether it stopped."""
        status = os.waitpid(self.pid, os.WUNTRACED)[1]
        if os.WIFSTOPPED(status):
            return True
        self._status = status
        return False

    def kill(self, number=signal.SIGKILL):
        """Send it a signal; after SIGKILL also wait for its end."""
        os.kill(self.pid, number)
        if number == signal.SIGKILL:
            self.close()

    def end(self):
        """See that it is gone, also when a test failed in between."""
        if self._status is None:
            self.kill()

    def close(self):
        """For a child that has no result: wait for its end."""
        self._pipe.close()
        self.wait()


def in_child(function, *args):
    """Run a function in a forked child; return its result."""
    return Child(function, *args).result()
