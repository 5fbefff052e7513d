"""The "twisted" extension: Deferreds that the doorbell fires."""
from __future__ import unicode_literals

import os
import subprocess
import sys
import textwrap

import pytest

from asgi_ipc import reactor
from asgi_ipc.core import IPCChannelLayer

twisted = pytest.importorskip("twisted", reason="Twisted is not installed")

HEAD = """
from __future__ import print_function, unicode_literals
import sys, time, threading
from twisted.internet import reactor, defer, task
from asgi_ipc import IPCChannelLayer
layer = IPCChannelLayer(sys.argv[1], block_timeout=float(sys.argv[2]))
"""


def run(prefix, code, block_timeout="3"):
    """Run code with a reactor of its own; return what it printed."""
    script = textwrap.dedent(HEAD) + textwrap.dedent(code)
    child = subprocess.Popen(
        [sys.executable, "-c", script, prefix, block_timeout],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ, PYTHONIOENCODING="utf-8"),
    )
    out, err = child.communicate()
    assert child.returncode == 0, err.decode("utf-8")
    return out.decode("utf-8").split()


def test_offered(prefix):
    assert reactor.available()
    with IPCChannelLayer(prefix) as layer:
        assert "twisted" in layer.extensions


def test_woken_through_the_reactor(prefix):
    out = run(
        prefix,
        """
        started = []
        def go():
            started.append(time.time())
            d = layer.receive_twisted(["a", "b"])
            assert not d.called
            d.addCallback(got)
            threading.Timer(0.2, layer.send, ("b", {"x": 1})).start()
        def got(result):
            # The wait lasts 3 s and looks every second: it was rung.
            print(result[0], result[1]["x"], time.time() - started[0] < 0.9)
            print(threading.active_count())
            reactor.stop()
        reactor.callWhenRunning(go)
        reactor.run()
        print(layer.check() == [])
        """,
    )
    assert out[:3] == ["b", "1", "True"]
    assert out[-1] == "True"


def test_a_segment_that_was_removed(prefix):
    """Found out by the first look; the wait is at the one in its place."""
    out = run(
        prefix,
        """
        import warnings
        from asgi_ipc.core import unlink
        warnings.simplefilter("ignore")
        layer.send("a", {})
        layer.receive(["a"])
        unlink(sys.argv[1])
        time.sleep(0.02)
        def go():
            began = time.time()
            d = layer.receive_twisted(["a"])
            assert not d.called
            def got(result):
                print(result[0], result[1]["x"], time.time() - began < 0.9)
                reactor.stop()
            d.addCallback(got)
            threading.Timer(0.2, layer.send, ("a", {"x": 1})).start()
        reactor.callWhenRunning(go)
        reactor.callLater(20, reactor.stop)
        reactor.run()
        print(layer.check() == [])
        """,
    )
    assert out == ["a", "1", "True", "True"]


def test_nothing_fires_only_after_the_wait(prefix):
    out = run(
        prefix,
        """
        def go():
            began = time.time()
            d = layer.receive_twisted(["none"])
            assert not d.called
            def none(result):
                assert result == (None, None), result
                print(time.time() - began >= 0.25)
                reactor.stop()
            d.addCallback(none)
        reactor.callWhenRunning(go)
        reactor.run()
        """,
        "0.3",
    )
    assert out == ["True"]


def test_burst_lets_the_reactor_breathe(prefix):
    out = run(
        prefix,
        """
        ticks = []
        @defer.inlineCallbacks
        def go():
            for number in range(90):
                layer.send("burst", {"n": number})
            ticker = task.LoopingCall(lambda: ticks.append(1))
            ticker.start(0)
            for number in range(90):
                channel, message = yield layer.receive_twisted(["burst"])
                assert message == {"n": number}, (message, number)
            print(len(ticks) >= 4)
            ticker.stop()
            reactor.stop()
        reactor.callWhenRunning(go)
        reactor.run()
        """,
    )
    assert out == ["True"]


def test_cancel_and_shutdown_leave_nothing(prefix):
    out = run(
        prefix,
        """
        def go():
            d = layer.receive_twisted(["x"])
            d.addErrback(lambda failure: failure.trap(defer.CancelledError))
            d.cancel()
            layer.send("x", {"n": 1})
            d = layer.receive_twisted(["x"])
            d.addCallback(lambda result: print(result[1]["n"]))
            layer.receive_twisted(["forever"])
            stopped.append(time.time())
            reactor.callLater(0.2, reactor.stop)
        stopped = []
        reactor.callWhenRunning(go)
        reactor.run()
        print(time.time() - stopped[0] < 2)
        print(layer.check() == [])
        """,
        "30",
    )
    assert out == ["1", "True", "True"]
