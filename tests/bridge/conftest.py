"""Fixtures: a Redis, and machines that belong together."""
import os
import re
import shutil
import subprocess
import sys

import pytest

if sys.version_info < (3, 8):
    collect_ignore_glob = ["*.py"]
else:
    from bridgekit import Machine, Server

SKIPPED = "NO BRIDGE WAS TESTED: {0}"


@pytest.fixture
def server(request):
    """A redis-server; keeps its data if the test is marked so by ``indirect`` parameter."""
    pytest.importorskip("redis", reason=SKIPPED.format("redis-py is not installed"))
    if shutil.which("redis-server") is None:
        pytest.skip(SKIPPED.format("there is no redis-server"))
    text = subprocess.check_output(["redis-server", "--version"]).decode()
    version = re.search(r"v=(\d+)\.(\d+)", text)
    if version is None or tuple(map(int, version.groups())) < (6, 2):
        pytest.skip(SKIPPED.format("this is no Redis 6.2 or later: " + text.strip()))
    found = Server(keeps=getattr(request, "param", False))
    yield found
    found.close()


@pytest.fixture
def machines(server):
    """A function that makes so many machines, with a bridge each unless told not to."""
    made = []
    name = "br{0}".format(os.getpid())

    def make(number, *options, **layer_options):
        # This file has to load on every Python.
        bridges = layer_options.pop("bridges", True)
        for _ in range(number):
            prefix = "{0}-{1}".format(name, len(made))
            made.append(Machine(prefix, name, server.url, **layer_options))
            if bridges:
                made[-1].start(*options)
        if bridges:
            for machine in made:
                machine.connected()
        return made[-number:]

    yield make
    for machine in made:
        machine.close()
