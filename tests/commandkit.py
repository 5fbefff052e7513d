"""For tests of the command line: calling it, and processes of a site that it looks at."""
import contextlib
import json
import os
import signal
import subprocess
import sys

from processkit import ends, eventually, open_layer, run_python

from asgi_ipc import cli

ENVIRONMENT = dict(os.environ, PYTHONPATH=os.pathsep.join(path for path in sys.path if path))


def start(*arguments, **options):
    """Start the command in a process of its own, whose output is read as text."""
    options.setdefault("stdout", subprocess.PIPE)
    options.setdefault("stderr", subprocess.PIPE)
    options.setdefault("preexec_fn", _heed_signals)
    return subprocess.Popen(
        [sys.executable, "-m", "asgi_ipc"] + list(arguments),
        universal_newlines=True,
        env=options.pop("env", ENVIRONMENT),
        **options
    )


def _heed_signals():
    # As nohup has it ignored.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def call(*arguments, **options):
    """Run the command in a process of its own; return (status, output, errors)."""
    text = options.pop("input", None)
    process = start(*arguments, stdin=subprocess.PIPE, **options)
    output, errors = process.communicate(text)
    return process.returncode, output, errors


class Shell(object):
    """Calls the command in this process."""

    def __init__(self, capsys):
        self._capsys = capsys

    def __call__(self, *arguments):
        """Return (status, output, errors)."""
        self._capsys.readouterr()
        status = cli.main(list(arguments))
        output, errors = self._capsys.readouterr()
        return status, output, errors

    def fine(self, *arguments):
        """Return the output of a call that has to do well."""
        status, output, errors = self(*arguments)
        assert (status, errors) == (0, "")
        return output

    def json(self, *arguments):
        """Return what such a call prints as JSON."""
        return json.loads(self.fine(*(arguments + ("--json",))))

    def refused(self, *arguments):
        """Return the sentence of a call that has to fail."""
        status, _, errors = self(*arguments)
        assert status == 1
        assert errors.startswith("asgi-ipc {0}: ".format(arguments[0]))
        assert errors.count("\n") == 1
        return errors


def stay(prefix):
    """Be attached until the standard input ends."""
    with open_layer(prefix):
        sys.stdout.write("attached\n")
        sys.stdout.flush()
        sys.stdin.read()


def listen(prefix, *channels):
    """Wait for one message, for long."""
    with open_layer(prefix) as layer:
        layer.receive([channel.encode("ascii").decode("ascii") for channel in channels], block=True)


@contextlib.contextmanager
def attached_process(prefix):
    """A process that has a prefix attached."""
    process = run_python(stay, prefix, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"attached\n"
        yield process
    finally:
        process.stdin.close()
        assert ends(process) == 0
        process.stdout.close()


@contextlib.contextmanager
def started(process):
    """A process, which is killed in the end if it is still there."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@contextlib.contextmanager
def stopped(pid):
    """Stop a process for a while."""
    os.kill(pid, signal.SIGSTOP)
    try:
        eventually(lambda: _state(pid) == "T", "the stop")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _state(pid):
    with open("/proc/{0}/stat".format(pid)) as source:
        return source.read().rpartition(")")[2].split()[0]
