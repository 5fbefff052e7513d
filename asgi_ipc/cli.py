"""The command ``asgi-ipc``: what an administrator does with a prefix from a shell.

Knows arguments, exit statuses and where text goes; what the commands do is done elsewhere
(``core.unlink``, ``demo``). Errors are one sentence on the standard error stream and exit
status 1; a wrong command line is status 2.
"""
from __future__ import print_function

import argparse
import sys

import posix_ipc

import asgi_ipc
from asgi_ipc import core
from asgi_ipc.errors import IPCError

_ABOUT = "A channel layer for Django Channels in shared memory, with no server to run."
_ABOUT_DEMO = """\
Starts a few processes that talk to each other through shared memory, kills two of them on
the way, and says what happened and how fast. It takes less than 10 seconds, uses a prefix
of its own and removes all that it made. Exit status 1 if a message was lost.
"""
_ABOUT_RM = """\
Removes the shared memory of a prefix: its messages, its groups, and what dead processes
left beside them. Nothing that is in it can be had back. Processes that use it go on within
about a second, with new and empty shared memory; to change its size or its owner, stop
them first. Exit status 1 if there was nothing to remove.
"""


def main(argv=None):
    """Run the command; return the exit status.

    :param argv: arguments, those of the process if None.
    """
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except (IPCError, ValueError, posix_ipc.Error, EnvironmentError) as error:
        print("asgi-ipc {0}: {1}".format(arguments.command, error), file=sys.stderr)
        return 1


def _run_demo(_):
    # Here, and not above: the other commands do without what it needs.
    from asgi_ipc import demo

    return demo.run()


def _run_rm(arguments):
    prefix = arguments.prefix
    if not prefix or "/" in prefix:
        raise ValueError("{0!r} is no prefix: that has no slash and is not empty".format(prefix))
    try:
        found = core.unlink(prefix)
    except posix_ipc.PermissionsError:
        raise ValueError(
            "the shared memory of prefix {0} belongs to another user; run this as that user or "
            "as root".format(prefix)
        )
    if not found:
        raise ValueError("there is no shared memory of prefix {0}".format(prefix))
    print("removed the shared memory of prefix {0}".format(prefix))
    return 0


def _parser():
    parser = argparse.ArgumentParser(
        prog="asgi-ipc",
        description=_ABOUT,
        epilog="`asgi-ipc COMMAND --help` says more of a command.",
    )
    parser.add_argument(
        "--version", action="version", version="asgi_ipc {0}".format(asgi_ipc.__version__)
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    # Python 3 takes a missing command for none wanted, and add_subparsers has no argument
    # to say otherwise before 3.7.
    commands.required = True
    _command(commands, "demo", _run_demo, "show several processes at work", _ABOUT_DEMO)
    rm = _command(commands, "rm", _run_rm, "remove the shared memory of a prefix", _ABOUT_RM)
    rm.add_argument("prefix", metavar="PREFIX", help="the layer's option prefix, such as asgi")
    return parser


def _command(commands, name, run, summary, about):
    command = commands.add_parser(
        name,
        help=summary,
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command
