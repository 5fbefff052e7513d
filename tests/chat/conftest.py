"""What the tests of ``examples/chat`` share, and why they are left out where they cannot run.

They need Python 3.9 and Channels 4, which only the tox environment ``chat`` installs. Elsewhere
their files are not even imported, and the reason is printed at the end of the run.
"""
import importlib
import os
import platform
import sys

import pytest

STACK = ("channels", "daphne", "django", "gunicorn", "hypercorn", "selenium", "uvicorn",
         "uvicorn_worker", "websockets")


def _why_not():
    """The reason to leave the tests out, or None."""
    if sys.version_info < (3, 9):
        return "the chat needs Python 3.9 or later, this is {0}".format(platform.python_version())
    for name in STACK:
        try:
            importlib.import_module(name)
        except ImportError as error:
            return "{0} cannot be imported: {1}".format(name, error)
    return None


WHY_NOT = _why_not()

if WHY_NOT:
    collect_ignore_glob = ["test_*.py"]


def pytest_terminal_summary(terminalreporter):
    if WHY_NOT:
        terminalreporter.write_line("tests/chat left out: {0}".format(WHY_NOT), yellow=True)


@pytest.fixture
def site(prefix, tmp_path):
    """The processes of one chat, none of them started; all are gone afterwards."""
    from chatkit import Site

    with Site(prefix, tmp_path) as site:
        yield site


@pytest.fixture
def outputs(request, tmp_path_factory):
    """A folder for what a person may want to look at after the run."""
    folder = os.environ.get("CHAT_OUTPUTS") or str(tmp_path_factory.mktemp("outputs"))
    os.makedirs(folder, exist_ok=True)
    return folder
