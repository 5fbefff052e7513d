"""Processes that end in the middle of things leave a layer that works for the next one."""
from __future__ import unicode_literals

import io
import json
import os
import sys

import pytest
from chatsite import EXAMPLE, HERE, child_environment, run_group

pytestmark = [pytest.mark.channels1, pytest.mark.slow]

STOPS = 100
LIVE_TESTS = 20
BOUND = 240  # seconds; far above what either needs, there so that a deadlock ends


def run(command, prefix, site_environment, tmpdir):
    """``(exit status or None, output)`` of one command on the tests' settings."""
    log = str(tmpdir.join("output.log"))
    site_environment["paths"] += (EXAMPLE,)
    status = run_group(
        [sys.executable] + command,
        BOUND,
        log,
        cwd=EXAMPLE,
        env=child_environment(prefix, **site_environment),
    )
    with io.open(log, encoding="utf-8", errors="replace") as lines:
        return status, lines.read()


def test_live_server_tests_pass_in_a_row(prefix, site_environment, tmpdir):
    command = ["manage.py", "test", "--noinput", "-v", "2", "live_tests"]
    status, output = run(command, prefix, site_environment, tmpdir)
    assert status == 0, output[-5000:]
    assert "Ran %d tests" % LIVE_TESTS in output


def test_every_stop_of_a_busy_worker_leaves_a_working_layer(prefix, site_environment, tmpdir):
    command = [os.path.join(HERE, "stops_driver.py"), str(STOPS)]
    status, output = run(command, prefix, site_environment, tmpdir)
    assert status == 0, output[-5000:]
    report = json.loads(output.splitlines()[-1])
    assert report["failures"] == [], output[-5000:]
    assert report["stops"] == STOPS
    # Some must have met the worker inside the layer, or this shows nothing.
    assert report["quiet"] > 0, report
