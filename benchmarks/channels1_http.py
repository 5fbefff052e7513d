"""How long an HTTP request takes through Daphne 1 and a Channels 1 worker: ours and 1.4.2.

Run it with a Python that has the Channels 1 stack (2.7, 3.6 or 3.7)::

    python benchmarks/channels1_http.py

Two copies of ``examples/channels1_chat`` run at the same time, one on this asgi_ipc and one
on the published 1.4.2, which pip installs into a folder of its own that only its processes
see; all else is the same for both. Requests go to the two in turn, so that whatever else
the machine does meets both alike, and medians are compared.

Exit status: 0 when ours takes at most ``--ratio`` of what 1.4.2 takes, 1 when it takes more,
2 when nothing could be measured.
"""
from __future__ import print_function, unicode_literals

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PROJECT = os.path.dirname(HERE)
sys.path[:0] = [PROJECT, os.path.join(PROJECT, "tests", "channels1")]

from chatsite import EXAMPLE, Site, child_environment, make_prefix  # noqa: E402
from six import ensure_str  # noqa: E402

PUBLISHED = ("asgi_ipc==1.4.2", "msgpack-python==0.5.6")
OURS = (PROJECT,)  # this checkout, whether or not it is installed
OURS_LABEL, PUBLISHED_LABEL = "this asgi_ipc", "published 1.4.2"
WARM_UP = 10  # requests to each that are not counted
PATH = "/"


class CannotMeasure(Exception):
    """Something that the measurement needs is not to be had; the text says what."""


def install_published(folder):
    """Have pip put the published release into ``folder``, without what it depends on."""
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", folder]
    # The inherited path may lead to this project, which must not count as installed.
    environment = dict(os.environ)
    environment.pop("PYTHONPATH", None)
    process = subprocess.Popen(
        command + list(PUBLISHED),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
    )
    output, _ = process.communicate()
    if process.returncode:
        raise CannotMeasure(
            "pip could not install %s:\n%s"
            % (" ".join(PUBLISHED), output.decode("utf-8", "replace")[-2000:])
        )


def version_in_use(paths):
    """``(version, folder)`` of the asgi_ipc that a site with these ``paths`` imports."""
    code = "import asgi_ipc; print(asgi_ipc.__version__); print(asgi_ipc.__file__)"
    environment = child_environment("unused", "chat.settings", paths)
    try:
        output = subprocess.check_output(
            [sys.executable, "-W", "ignore", "-c", code],
            cwd=EXAMPLE,
            env=environment,
            stderr=subprocess.STDOUT,
        )
    except subprocess.CalledProcessError as error:
        raise CannotMeasure(error.output.decode("utf-8", "replace")[-2000:])
    version, path = output.decode("utf-8").split("\n")[:2]
    return version, os.path.dirname(path)


def timed_request(connection):
    """Seconds from the request to the last byte of its answer."""
    started = time.time()
    connection.request("GET", PATH)
    response = connection.getresponse()
    body = response.read()
    elapsed = time.time() - started
    if response.status != 200 or b"</html>" not in body:
        raise CannotMeasure("GET %s was answered with status %d" % (PATH, response.status))
    return elapsed


def measure(ours, published, requests):
    """``{label: [seconds, ...]}``, one request to each in turn."""
    connections = ((OURS_LABEL, ours.http()), (PUBLISHED_LABEL, published.http()))
    times = {label: [] for label, _ in connections}
    try:
        for number in range(WARM_UP + requests):
            for label, connection in connections:
                elapsed = timed_request(connection)
                if number >= WARM_UP:
                    times[label].append(elapsed)
    finally:
        for _, connection in connections:
            connection.close()
    return times


def quantile(values, share):
    """The value that ``share`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def report(times, limit):
    """Print the table; whether the medians keep to the limit."""
    print("%-16s %9s %9s %9s %9s   milliseconds" % ("", "median", "p90", "p99", "max"))
    for label in (OURS_LABEL, PUBLISHED_LABEL):
        shares = [1000 * quantile(times[label], share) for share in (0.5, 0.9, 0.99, 1)]
        print("%-16s %9.2f %9.2f %9.2f %9.2f" % tuple([label] + shares))
    ratio = quantile(times[OURS_LABEL], 0.5) / quantile(times[PUBLISHED_LABEL], 0.5)
    kept = ratio <= limit
    verdict = "ok" if kept else "FAILED"
    print("ratio of medians %.3f, at most %.3f wanted: %s" % (ratio, limit, verdict))
    return kept


def run(options, folder):
    """Measure in ``folder`` (logs, and the published release unless one is given)."""
    published_folder = options.published
    if published_folder is None:
        published_folder = os.path.join(folder, "published")
        print("installing %s ..." % " ".join(PUBLISHED))
        install_published(published_folder)
    paths = (os.path.abspath(published_folder),)
    version, place = version_in_use(paths)
    if version != "1.4.2":
        raise CannotMeasure("wanted asgi_ipc 1.4.2, found %s in %s" % (version, place))
    version, place = version_in_use(OURS)
    if version == "1.4.2":
        raise CannotMeasure("what should be this asgi_ipc is the published one, in %s" % place)

    print(
        "Python %s, asgi_ipc %s, %d worker(s), %d requests to each"
        % (sys.version.split()[0], version, options.workers, options.requests)
    )
    with Site(make_prefix(), folder, options.workers, paths=OURS) as ours:
        with Site(make_prefix(), folder, options.workers, paths=paths) as published:
            times = measure(ours, published, options.requests)
    return report(times, options.ratio)


def main(arguments=None):
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=200, help="to each site (%(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="of each site (%(default)s)")
    parser.add_argument(
        "--ratio", type=float, default=0.2, help="of the medians, at most (%(default)s)"
    )
    parser.add_argument(
        "--published", metavar="DIR", help="folder that holds asgi_ipc 1.4.2 (else pip fetches it)"
    )
    options = parser.parse_args(arguments)
    if options.requests < 1 or options.workers < 1:
        parser.error("--requests and --workers are 1 or more")
    folder = tempfile.mkdtemp(prefix="channels1-http-")
    try:
        return 0 if run(options, folder) else 1
    except (CannotMeasure, EnvironmentError, RuntimeError, ImportError) as error:
        print(ensure_str("cannot measure: %s" % error), file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
