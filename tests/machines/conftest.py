"""What the tests of the bridge share, and why they are left out where they cannot run.

Where machines have to be prefixes, that is said in the header and at the end of the run.
"""
import importlib
import os
import platform
import sys

import pytest
from rediskit import HAS_SERVER

STACK = ("redis", "cryptography")


def _why_not():
    """The reason to leave the tests out, or None."""
    if sys.version_info < (3, 8):
        return "the bridge needs Python 3.8 or later, this is " + platform.python_version()
    for name in STACK:
        try:
            importlib.import_module(name)
        except ImportError as error:
            return "{0} cannot be imported: {1}".format(name, error)
    if not HAS_SERVER:
        return "needs redis-server (Debian: apt-get install redis-server)"
    return None


WHY_NOT = _why_not()
WHY_PREFIXES = None

if WHY_NOT:
    collect_ignore_glob = ["test_*.py"]
else:
    from fleetkit import Fleet, why_no_namespaces

    WHY_PREFIXES = why_no_namespaces()


def pytest_terminal_summary(terminalreporter):
    if WHY_NOT:
        terminalreporter.write_line("tests/machines left out: " + WHY_NOT, yellow=True)
    elif WHY_PREFIXES:
        text = "tests/machines: NO NAMESPACES, machines were prefixes on this one: " + WHY_PREFIXES
        terminalreporter.write_line(text, yellow=True)


@pytest.fixture
def make_fleet(tmp_path):
    """A function that makes machines (``fleetkit.Fleet``); all is gone afterwards."""
    fleets = []

    def make(**options):
        name = "t{0}-{1}".format(os.getpid(), len(fleets))
        folder = tmp_path / name
        folder.mkdir()
        fleets.append(Fleet(folder, name, **options))
        return fleets[-1]

    yield make
    for fleet in fleets:
        fleet.close()
