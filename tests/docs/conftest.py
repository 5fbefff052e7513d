"""Why the tests of the documents are left out where they cannot run.

They need what the tox environment ``docs`` installs. Elsewhere their files are not even imported,
and the reason is printed at the end of the run. This file has to load on every Python.
"""
import importlib
import platform
import sys

STACK = ("channels", "daphne", "django", "docutils", "psutil", "sphinx", "websockets", "yaml")


def _why_not():
    """The reason to leave the tests out, or None."""
    if sys.version_info < (3, 11):
        return "they need Python 3.11 or later, this is {0}".format(platform.python_version())
    for name in STACK:
        try:
            importlib.import_module(name)
        except ImportError as error:
            return "{0}; tox -e docs runs them".format(error)
    return None


WHY_NOT = _why_not()

if WHY_NOT:
    collect_ignore_glob = ["test_*.py"]


def pytest_terminal_summary(terminalreporter):
    if WHY_NOT:
        terminalreporter.write_line("tests/docs left out: {0}".format(WHY_NOT), yellow=True)
