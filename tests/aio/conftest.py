"""What the tests of the asynchronous face share, and why they are skipped where they cannot run.

A test that is a coroutine function runs in an event loop of its own: asyncio's, and once more
uvloop's where that is installed. It fails if it leaves a task behind, or if anything was
reported to the loop's exception handler.

This file has to load on every Python; those beside it are for 3.8 and later.
"""
from __future__ import unicode_literals

import inspect
import os
import platform
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))


def _why_not():
    """The reason to skip, or None when Channels 3 or 4 can be had here."""
    if sys.version_info < (3, 8):
        return "they need Python 3.8, this is {0}".format(platform.python_version())
    try:
        import channels
    except ImportError:
        return "Channels is not installed; tox -e py311-channels4 does that"
    if int(channels.__version__.split(".")[0]) < 3:
        return "they need Channels 3 or 4, found {0}".format(channels.__version__)
    return None


WHY_NOT = _why_not()
LOOPS = ["asyncio"]

if WHY_NOT:
    collect_ignore_glob = ["*.py"]
else:
    import django
    from aiokit import factory, has_uvloop, run
    from django.conf import settings
    from far import FarProcess

    if not settings.configured:
        settings.configure(DATABASES={}, INSTALLED_APPS=["channels"], SECRET_KEY="of no use")
        django.setup()
    if has_uvloop():
        LOOPS.append("uvloop")


def pytest_terminal_summary(terminalreporter):
    if WHY_NOT:
        terminalreporter.write_line("tests/aio skipped: {0}".format(WHY_NOT), yellow=True)
    elif len(LOOPS) < 2:
        terminalreporter.write_line("tests/aio without uvloop: it is not installed", yellow=True)


def pytest_generate_tests(metafunc):
    if getattr(inspect, "iscoroutinefunction", bool)(metafunc.function):
        metafunc.fixturenames.append("loop_kind")
        metafunc.parametrize("loop_kind", LOOPS)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    if not getattr(inspect, "iscoroutinefunction", bool)(pyfuncitem.obj):
        return None
    wanted = inspect.signature(pyfuncitem.obj).parameters
    values = {name: pyfuncitem.funcargs[name] for name in wanted}
    run(pyfuncitem.obj(**values), factory(pyfuncitem.callspec.params["loop_kind"]))
    return True


@pytest.fixture(scope="session")
def far_process():
    """Another process, with a loop of its own, in which layers can be opened."""
    process = FarProcess()
    yield process
    process.close()


@pytest.fixture
def no_looks(monkeypatch, far_process):
    """Nobody looks by himself, as all do every second: what comes, was rung for."""
    from asgi_ipc import watch

    usual = watch.LOOK_AGAIN
    monkeypatch.setattr(watch, "LOOK_AGAIN", 1000.0)
    far_process.do("look_again_after", 1000.0)
    yield
    far_process.do("look_again_after", usual)


@pytest.fixture
def open_layer(prefix):
    """A function that opens one more layer on the test's prefix, in this process."""
    from asgi_ipc.aio import IPCChannelLayer
    from asgi_ipc.errors import LayerClosed

    layers = []

    def open_one(**options):
        layers.append(IPCChannelLayer(prefix=prefix, **options))
        return layers[-1]

    yield open_one
    for layer in layers:
        try:
            faults = layer._stores.messages.check() + layer._stores.groups.check()
        except LayerClosed:
            continue
        layer._stores.close()
        assert faults == []


@pytest.fixture
def layer(open_layer):
    """A layer in this process."""
    return open_layer()


@pytest.fixture
def open_far(prefix, far_process):
    """A function that opens one more layer on the test's prefix, in the other process."""
    layers = []

    def open_one(**options):
        layers.append(far_process.open(prefix=prefix, **options))
        return layers[-1]

    yield open_one
    for layer in layers:
        layer.close()


@pytest.fixture(params=["here", "from afar", "to afar"])
def open_ends(request, open_layer, open_far):
    """A function that opens a sender and a receiver: in one process, or in two."""

    def open_both(**options):
        if request.param == "here":
            layer = open_layer(**options)
            return layer, layer
        if request.param == "from afar":
            return open_far(**options), open_layer(**options)
        return open_layer(**options), open_far(**options)

    return open_both


@pytest.fixture
def ends(open_ends):
    """A sender and a receiver, with a capacity of three."""
    return open_ends(capacity=3)
