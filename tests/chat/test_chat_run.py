"""``run.py``: what it says before it starts, and how it ends."""
import os
import re
import signal
import socket
import subprocess
import sys

import pytest
from chatkit import (
    EXAMPLE,
    HOST,
    PATIENCE,
    PROJECT,
    environment,
    get,
    shared_memory,
    wait_until,
)

pytestmark = [pytest.mark.chat, pytest.mark.slow]

STARTED = "To end everything"
PIP = r"-m pip install (.*)"


def processes(log):
    """The processes that are running by now, as the log has it: the servers and the painter."""
    return [int(pid) for pid in re.findall(r"(?:/|painter) +process (\d+)$", log, re.MULTILINE)]


def run_it(*arguments, options=()):
    """Run it to its end; return its status and output."""
    result = subprocess.run(
        [sys.executable, *options, os.path.join(EXAMPLE, "run.py"), *arguments],
        env=environment("unused"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return result.returncode, result.stdout


def assert_nothing_is_left(site, pids):
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert shared_memory(site.prefix) == []


def test_it_names_what_is_missing_and_the_command_for_it():
    # Without the packages that were installed, only Python's own are there.
    status, output = run_it(options=["-I", "-S"])
    assert status == 1
    assert "Not installed: asgi_ipc, Django, channels, daphne." in output
    assert re.search(PIP, output).group(1) == f"'{PROJECT}[example]'"
    status, output = run_it("--server", "uvicorn", options=["-I", "-S"])
    assert status == 1
    assert re.search(PIP, output).group(1) == f"'{PROJECT}[example]' uvicorn websockets"


def test_a_port_that_was_asked_for_and_is_taken_is_an_error():
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        status, output = run_it("--ports", str(port), str(port + 1))
    assert (status, output) == (1, f"Port {port} is taken. Without --ports, free ones are found.\n")


def test_usual_ports_that_are_taken_are_replaced(site):
    taken = []
    for port in (8001, 8002):
        try:
            taken.append(socket.create_server((HOST, port)))
        except OSError:
            # Somebody else has it, which is as good.
            pass
    try:
        site.start("run", "run.py", "--server", "uvicorn")
        site.wait_for_log("run", STARTED)
        ports = [int(port) for port in re.findall(rf"http://{HOST}:(\d+)/", site.log("run"))]
        assert len(set(ports)) == 2
        assert not {8001, 8002} & set(ports)
        assert all(get(port)[0] == 200 for port in ports)
        # As a service manager ends it.
        assert site.end("run", signal.SIGTERM) == (0, [])
    finally:
        for listener in taken:
            listener.close()
    assert_nothing_is_left(site, processes(site.log("run")))


def test_a_process_that_does_not_stay_up_ends_the_run(site):
    process = site.start("run", "run.py")
    site.wait_for_log("run", STARTED)
    pids = processes(site.log("run"))
    painter = pids[-1]
    for restarts in (1, 2, 3):
        os.kill(painter, signal.SIGKILL)
        wait_until(
            lambda count=restarts: site.log("run").count("started again") >= count
            or process.poll() is not None
        )
        found = re.findall(r"started again, as process (\d+)", site.log("run"))
        painter = int(found[-1]) if found else painter
        pids.append(painter)
    assert wait_until(lambda: process.poll() is not None)
    log = site.log("run")
    assert site.end("run")[0] == 1, log
    assert "painter ended 3 times, each time after a few seconds" in log
    assert_nothing_is_left(site, pids)
