# PYTHON_ARGCOMPLETE_OK
"""The command ``asgi-ipc``: looking at a prefix, and acting on it, from a shell.

Knows arguments, exit statuses and where text goes; what the commands do is done in ``commands``.
Errors are one sentence on the standard error stream and exit status 1; a wrong command line is
status 2. Nothing that a user can cause ends in a traceback.
"""
import argparse
import contextlib
import errno
import logging
import os
import sys
import warnings

import posix_ipc

import asgi_ipc
from asgi_ipc import machine
from asgi_ipc.commands import act, bench, bridge, contents, doctor, look, output, top
from asgi_ipc.errors import IPCError

_ABOUT = """\
A channel layer for Django Channels in shared memory, with no server to run. This command looks
at what is in the shared memory of this machine, and acts on it. PREFIX is the option `prefix` of
the layer, such as asgi; `asgi-ipc ls` lists those that exist.
"""
_EPILOG = """\
`asgi-ipc COMMAND --help` says more of a command: what it does, what it costs a running site, an
example.

No command makes shared memory unless it is told to (--create). Root acts as the owner of the
prefix.

exit status:
  0    fine
  1    an error, or a fault was found; one sentence on the standard error stream says what
  2    a wrong command line
  3    receive: fewer messages came in time than were asked for
  130  interrupted (Ctrl-C); top and receive take that for their end, and it is 0
"""
_ABOUT_DEMO = """\
Starts a few processes that talk to each other through shared memory, kills two of them on
the way, and says what happened and how fast. It takes less than 10 seconds, uses a prefix
of its own and removes all that it made.

    asgi-ipc demo

Exit status: 0; 1 if a message was lost.
"""
INTERRUPTED = 130

CLOSED_OUTPUT = "nobody reads the output any more"


def main(argv=None):
    """Run the command; return the exit status.

    :param argv: arguments, those of the process if None.
    """
    parser = _parser()
    _complete_words(parser)
    arguments = parser.parse_args(argv)
    with _told(arguments.command):
        try:
            status = arguments.run(arguments)
            sys.stdout.flush()
        except KeyboardInterrupt:
            return INTERRUPTED
        except (IPCError, ValueError, TypeError, posix_ipc.Error, EnvironmentError) as error:
            if getattr(error, "errno", None) == errno.EPIPE:
                _forget_output()
                error = CLOSED_OUTPUT
            output.complain(arguments.command, error)
            return 1
    return status


def _complete_words(parser):
    """Where a shell asks how a word may go on, tell it, and end: argcomplete does all of it."""
    if "_ARGCOMPLETE" in os.environ:
        try:
            import argcomplete
        except ImportError:
            return
        argcomplete.autocomplete(parser)


def _forget_output():
    """Let what is left in the buffer go nowhere, or the interpreter complains at its end."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (AttributeError, ValueError, EnvironmentError):
        # It is no file: whoever put it in place of the standard output looks after it.
        pass


@contextlib.contextmanager
def _told(command):
    """Have warnings, and what the layer logs, told as this command's own sentences."""

    def show(message, *_, **__):
        output.complain(command, message)

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("asgi-ipc {0}: %(message)s".format(command)))
    logger = logging.getLogger("asgi_ipc")
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", RuntimeWarning)
            warnings.showwarning = show
            yield
    finally:
        logger.removeHandler(handler)


def _run_demo(_):
    # Here, and not above: the other commands do without what it needs.
    from asgi_ipc import demo

    return demo.run()


# -- the command line --------------------------------------------------------------------------


class _Help(argparse.RawDescriptionHelpFormatter):
    """Text as it stands, and room for the longest command's name."""

    def __init__(self, prog, **options):
        options.setdefault("max_help_position", 28)
        argparse.RawDescriptionHelpFormatter.__init__(self, prog, **options)


class _Commands(object):
    """What the modules of ``commands`` add theirs to."""

    def __init__(self, subparsers):
        self._subparsers = subparsers

    def add(self, name, run, summary, about, prefix=False, json=False):
        """Add a command; return its parser.

        :param run: called with the arguments, returns the exit status.
        :param prefix: whether its first argument is a prefix.
        :param json: whether it takes ``--json``.
        """
        command = self._subparsers.add_parser(
            name,
            help=summary,
            description=about,
            formatter_class=_Help,
        )
        command.set_defaults(run=run)
        if prefix:
            argument = command.add_argument(
                "prefix", metavar="PREFIX", help="the layer's option prefix, such as asgi"
            )
            argument.completer = _known_prefixes
        if json:
            command.add_argument("--json", action="store_true", help="print JSON, for programs")
        return command

    @staticmethod
    def whole_number(text):
        """Of an argument: a number from 0 up."""
        return _number(int, text, 0, "a whole number, at least 0")

    @staticmethod
    def positive_number(text):
        """Of an argument: a number from 1 up."""
        return _number(int, text, 1, "a whole number, at least 1")

    @staticmethod
    def pattern_capacity(text):
        """Of an argument: PATTERN=N, as a pair."""
        pattern, _, capacity = text.rpartition("=")
        if not pattern:
            raise argparse.ArgumentTypeError("{0!r} is not PATTERN=N".format(text))
        return pattern, _Commands.positive_number(capacity)

    @staticmethod
    def seconds(text):
        """Of an argument: seconds from 0 up."""
        return _number(float, text, 0, "a number of seconds, from 0 up")


def _known_prefixes(**_):
    return machine.prefixes() or []


def _number(kind, text, least, what):
    try:
        value = kind(text)
    except ValueError:
        value = -1
    if not least <= value < 1e9:
        raise argparse.ArgumentTypeError("{0!r} is not {1}".format(text, what))
    return value


def _parser():
    parser = argparse.ArgumentParser(
        prog="asgi-ipc",
        description=_ABOUT,
        epilog=_EPILOG,
        formatter_class=_Help,
    )
    parser.add_argument(
        "--version", action="version", version="asgi_ipc {0}".format(asgi_ipc.__version__)
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    # Python 3 takes a missing command for none wanted, and add_subparsers has no argument
    # to say otherwise before 3.7.
    subparsers.required = True
    commands = _Commands(subparsers)
    for module in (look, top, contents, act, doctor, bridge, bench):
        module.register(commands)
    commands.add("demo", _run_demo, "show several processes at work", _ABOUT_DEMO)
    return parser
