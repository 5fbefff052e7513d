"""What the Channels 1 tests share, and why they are skipped where they cannot run.

Channels 1 and its Daphne exist for Python 2.7, 3.6 and 3.7 only, so a skip elsewhere is
right; it is never silent, for a stack that fails to import where it should be there would
otherwise look like success. The reason is printed at the end of the run.
"""
from __future__ import unicode_literals

import importlib
import os
import platform
import sys

import pytest
from chatsite import Site, leftovers, make_prefix, unlink

SUPPORTED = ((2, 7), (3, 6), (3, 7))
STACK = ("channels", "daphne", "django", "twisted", "websocket")


def _why_not():
    """The reason to skip, or ``None`` when the Channels 1 stack can run here."""
    if sys.version_info[:2] not in SUPPORTED:
        return "Channels 1 runs on Python 2.7, 3.6 and 3.7, this is %s" % platform.python_version()
    for name in STACK:
        try:
            importlib.import_module(name)
        except ImportError as error:
            return "%s cannot be imported: %s" % (name, error)
    import channels

    if not channels.__version__.startswith("1."):
        return "needs Channels 1, found %s" % channels.__version__
    return None


WHY_NOT = _why_not()


def pytest_runtest_setup(item):
    if WHY_NOT and item.get_closest_marker("channels1"):
        pytest.skip(WHY_NOT)


def pytest_terminal_summary(terminalreporter):
    if WHY_NOT:
        terminalreporter.write_line("tests/channels1 skipped: %s" % WHY_NOT, yellow=True)


@pytest.fixture
def prefix():
    """A prefix of this test alone; nothing of it is left in shared memory afterwards."""
    prefix = make_prefix()
    yield prefix
    unlink(prefix)
    assert leftovers(prefix) == []


@pytest.fixture
def site_environment(tmpdir):
    """Keyword arguments that put the example on the tests' settings."""
    return {
        "settings": "site_settings",
        "paths": (os.path.dirname(os.path.abspath(__file__)),),
        "extra": {"CHAT_TEST_DIR": str(tmpdir), "CHAT_TEST_TWISTED": "1"},
    }


@pytest.fixture
def site(prefix, tmpdir, site_environment):
    """The chat with two workers, Daphne waiting through its reactor."""
    with Site(prefix, tmpdir, **site_environment) as site:
        yield site


@pytest.fixture
def polled_site(prefix, tmpdir, site_environment):
    """The chat with two workers, Daphne polling a layer that names no ``twisted``."""
    site_environment["extra"]["CHAT_TEST_TWISTED"] = "0"
    with Site(prefix, tmpdir, **site_environment) as site:
        yield site
