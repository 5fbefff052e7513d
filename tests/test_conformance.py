"""asgiref 1.1.2's conformance suite, unmodified: in one process, and with each call made by
another process than the one before it."""
from __future__ import unicode_literals

import multiprocessing
import os

import pytest

from asgi_ipc import IPCChannelLayer
from asgi_ipc.core import unlink

conformance = pytest.importorskip(
    "asgiref.conformance", reason="asgiref 1.1.2 with its conformance suite is not installed"
)

OPTIONS = {"expiry": 1, "group_expiry": 2, "capacity": 5}


def serve(pipe, prefix):
    """A process of its own: carry out calls until told to stop."""
    with IPCChannelLayer(prefix, **OPTIONS) as layer:
        while True:
            call = pipe.recv()
            if call is None:
                return
            name, args, kwargs = call
            try:
                pipe.send((True, getattr(layer, name)(*args, **kwargs)))
            except Exception as error:
                known = isinstance(error, layer.ChannelFull)
                pipe.send((False, "full" if known else (type(error).__name__, str(error))))


class Scattered(object):
    """A layer whose every call is made by the next one of several processes."""

    def __init__(self, prefix, processes=3):
        self.layer = IPCChannelLayer(prefix, **OPTIONS)
        self.ChannelFull = self.layer.ChannelFull
        self.MessageTooLarge = self.layer.MessageTooLarge
        self.extensions = self.layer.extensions
        self.group_expiry = self.layer.group_expiry
        self.calls = 0
        self.pipes, self.children = [], []
        for _ in range(processes):
            mine, its = multiprocessing.Pipe()
            child = multiprocessing.Process(target=serve, args=(its, prefix))
            child.daemon = True
            child.start()
            its.close()
            self.pipes.append(mine)
            self.children.append(child)

    def __getattr__(self, name):
        def call(*args, **kwargs):
            pipe = self.pipes[self.calls % len(self.pipes)]
            self.calls += 1
            pipe.send((name, args, kwargs))
            good, result = pipe.recv()
            if good:
                return result
            if result == "full":
                raise self.ChannelFull("in another process")
            raise {"TypeError": TypeError, "ValueError": ValueError}.get(result[0], RuntimeError)(
                result[1]
            )

        return call

    def close(self):
        for pipe in self.pipes:
            pipe.send(None)
        for child in self.children:
            child.join()
        self.layer.close()


class OneProcess(conformance.ConformanceTestCase):
    expiry_delay = 1.1
    capacity_limit = 5

    @classmethod
    def setUpClass(cls):
        cls.prefix = "conformance-{0}".format(os.getpid())
        cls.channel_layer = IPCChannelLayer(cls.prefix, **OPTIONS)
        super(OneProcess, cls).setUpClass()

    @classmethod
    def tearDownClass(cls):
        faults = cls.channel_layer.check()
        cls.channel_layer.close()
        unlink(cls.prefix)
        assert faults == []


class EachCallByAnotherProcess(OneProcess):
    @classmethod
    def setUpClass(cls):
        super(EachCallByAnotherProcess, cls).setUpClass()
        cls.channel_layer.close()
        cls.channel_layer = Scattered(cls.prefix)

    @classmethod
    def tearDownClass(cls):
        calls = cls.channel_layer.calls
        faults = cls.channel_layer.check()
        cls.channel_layer.close()
        unlink(cls.prefix)
        assert faults == []
        assert calls > 50


