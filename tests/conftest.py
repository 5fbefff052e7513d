"""What the tests of the store share: a prefix of their own, a clock that stands still."""
import binascii
import os
import platform
import signal
import sys

import campaign as campaigns
import pytest
from processkit import open_layer
from stepkit import Tally
from storekit import Child, FakeClock, open_messages

from asgi_ipc._shm import segment

BENCHMARKS = "test_benchmarks.py"
"""Its syntax, like that of the benchmarks, is of Python 3.8 and later."""

collect_ignore = [BENCHMARKS] if sys.version_info < (3, 8) else []


def pytest_addoption(parser):
    campaigns.add_options(parser)


def pytest_configure(config):
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell has what it starts in the background ignore it, and that is handed down.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "slow: takes more than a few seconds")
    campaigns.configure(config)


def pytest_report_header(config):
    return campaigns.header(config)


def pytest_terminal_summary(terminalreporter):
    campaigns.summarize(terminalreporter, terminalreporter.config)
    for name in collect_ignore:
        terminalreporter.write_line(
            "tests/{0} left out: needs Python 3.8, this is {1}".format(
                name, platform.python_version()
            ),
            yellow=True,
        )


@pytest.fixture
def campaign(request):
    """How much of a long run to do, with which seed; see ``campaign.py``."""
    config = request.config
    return campaigns.Campaign(
        request.node.name, config.campaign_seed, config.getoption("--full"), config.campaign_notes
    )


def sweep_prefix(prefix):
    """Remove segments, semaphores and FIFOs of a prefix."""
    for kind in ("messages", "groups"):
        segment.unlink("/{0}-{1}".format(prefix, kind))
    folder = segment.runtime_folder()
    for name in os.listdir(folder):
        if name.startswith(prefix + "-") and name.endswith(".bell"):
            os.unlink(os.path.join(folder, name))


@pytest.fixture
def prefix():
    """A prefix of this test alone; nothing of it is left in shared memory afterwards."""
    name = "t{0}-{1}".format(os.getpid(), binascii.hexlify(os.urandom(4)).decode("ascii"))
    yield name
    sweep_prefix(name)


@pytest.fixture
def no_child_stays():
    """Forked children (``storekit.Child``) end with the test that started them, if it fails."""
    before = len(Child.started)
    yield
    while len(Child.started) > before:
        Child.started.pop().end()


@pytest.fixture
def make_layer(prefix, no_child_stays):
    """A function that makes a layer of the test's prefix; all are closed at the end."""
    layers = []

    def make_one(**options):
        layers.append(open_layer(prefix, **options))
        return layers[-1]

    yield make_one
    for layer in layers:
        layer.close()


@pytest.fixture
def layer(make_layer):
    """A small layer, whose blocking receives wait for long."""
    return make_layer()


@pytest.fixture
def clock():
    """Time that passes only when the test says so; ``clock.advance(seconds)``."""
    return FakeClock()


@pytest.fixture
def open_store(prefix, clock):
    """A function that opens one more MessageStore on the test's prefix and clock."""
    stores = []

    def open_one(size=1024 * 1024, **options):
        options.setdefault("clock", clock)
        stores.append(open_messages(prefix, size, **options))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


@pytest.fixture
def store(open_store):
    """A MessageStore of 1 MiB."""
    return open_store()


@pytest.fixture
def open_stage(prefix):
    """A function that opens the stage of a scene: ``open_stage(kind, scene)``."""
    stages = []

    def open_one(kind, scene):
        stages.append(kind(scene, prefix))
        stages[-1].prepare()
        return stages[-1]

    yield open_one
    for stage in stages:
        stage.end()


@pytest.fixture(scope="module")
def tally(request):
    """Adds up the steps that the tests of a module try, and notes the sum."""
    sums = Tally()
    yield sums
    if sums.scenes:
        campaigns.Campaign(
            request.node.name, 0, full=False, notes=request.config.campaign_notes
        ).note(sums.text())
