"""``top``: what is going on in a prefix, again and again.

Looks, waits and listens to keys; how it is shown is ``screen``'s affair where rich is installed and
there is a terminal, else plain tables.
"""
import os
import select
import sys
import termios
import time
import tty

from asgi_ipc import access, attached
from asgi_ipc._shm import clock
from asgi_ipc._shm.clock import SECOND
from asgi_ipc.commands import output
from asgi_ipc.commands.contents import in_order
from asgi_ipc.errors import LockTimeout
from asgi_ipc.overview import Overview

ABOUT = """\
Shows what is going on in a prefix, refreshed every second: totals, rates, who holds the lock, and
the channels, sorted. Keys: w waiting, o oldest, s sent, r refused, n name, q quit.

With rich installed (pip install "asgi_ipc[cli]") it is a screen, else plain tables. Where the
output is no terminal, a table follows the other; with --json each is one line of JSON.

It holds the lock for some 10 microseconds at a time, whatever is stored.

    asgi-ipc top mysite
    asgi-ipc top mysite --sort rate --interval 0.5
    asgi-ipc top mysite --count 1 --json

Exit status: 0, also after q and Ctrl-C; 1 if there is no such prefix, or it cannot be read.
"""
KEYS = {"w": "waiting", "o": "oldest", "s": "rate", "r": "refused", "n": "name"}
"""What to sort by, for a key."""

SORTS = ("waiting", "oldest", "rate", "refused", "name")
ADVICE = 'plain tables, since rich is not installed: pip install "asgi_ipc[cli]" for a screen'
ROWS = 20
SHORTEST = 0.05
"""Seconds between two looks, at least."""

_CLEAR = u"\x1b[H\x1b[2J"


def register(commands):
    """Add the command to the command line."""
    top = commands.add("top", run, "watch a prefix", ABOUT, prefix=True, json=True)
    top.add_argument(
        "--sort", choices=SORTS, default="waiting", help="what to sort by (default: waiting)"
    )
    top.add_argument(
        "--interval", type=commands.seconds, default=1.0, metavar="SECONDS",
        help="time between two looks (default 1)",
    )  # fmt: skip
    top.add_argument(
        "--count", type=commands.positive_number, metavar="N", help="end after so many looks"
    )
    top.add_argument(
        "--rows", type=commands.positive_number, metavar="N",
        help="show so many channels (default: as fit on the screen, or {0})".format(ROWS),
    )  # fmt: skip
    top.add_argument("--plain", action="store_true", help="plain tables, also if rich is installed")


def run(arguments):
    """Run ``top``."""
    # Before the screen is taken: an error is to stay readable.
    access.usable(arguments.prefix)
    with access.Stop() as stop, _Keys() as keys, _shown(arguments) as show:
        _watch(arguments, stop, keys, show)
    return 0


def _watch(arguments, stop, keys, show):
    """Look until it is enough. A segment that was made anew is followed."""
    looks, sort = 0, arguments.sort
    while True:
        with access.stores(arguments.prefix) as (place, stores):
            while not _replaced(stores):
                view = _look(place, stores, sort, show.rows, stop)
                if view is None:
                    return
                show(view)
                looks += 1
                if looks == arguments.count:
                    return
                key = keys.wait(max(arguments.interval, SHORTEST), stop)
                if key == "q" or stop.asked:
                    return
                sort = KEYS.get(key, sort)


def _replaced(stores):
    return stores.messages.replaced() or stores.groups.replaced()


def _look(place, stores, sort, rows, stop):
    """What is shown of one moment; None if we were told to stop meanwhile."""
    holders = [attached.holder_of(half) for half in place.halves]
    view = {"prefix": place.prefix, "sort": sort, "trouble": "", "channels": []}
    try:
        overview = access.complete(Overview(stores, 0), stop)
        figures = overview.result(place.prefix, 0)
        view.update(messages=figures["messages"], groups=figures["groups"])
        channels = in_order(overview.messages.channels(), sort)
        view["channels"] = [dict(one._asdict()) for one in channels[:rows]]
    except LockTimeout as error:
        view["trouble"] = str(error)
    except KeyboardInterrupt:
        return None
    view["holders"] = dict(zip(("messages", "groups"), holders))
    return view


# -- what is shown -----------------------------------------------------------------------------


def summary(view):
    """Lines of what comes above the channels; [] if the lock could not be had."""
    if "messages" not in view:
        return []
    messages, groups = view["messages"], view["groups"]
    waits = messages["lock_waits"] + groups["lock_waits"]
    waited = messages["lock_waited"] + groups["lock_waited"]
    return [
        "waiting {0}, the oldest for {1}; {2}, {3}".format(
            messages["waiting"],
            output.seconds(messages["oldest"]),
            output.count(messages["channels"], "channel"),
            output.count(messages["receivers"], "receiver"),
        ),
        "sent {0}, refused {1} ({2} and {3} in all)".format(
            output.rate(messages["sent_per_second"]),
            output.rate(messages["refused_per_second"]),
            messages["sent"],
            messages["refused"],
        ),
        "{0} with {1}; memory {2} of {3} and {4} of {5}".format(
            output.count(groups["groups"], "group"),
            output.count(groups["members"], "member"),
            output.size(messages["memory"]),
            output.size(messages["size"]),
            output.size(groups["memory"]),
            output.size(groups["size"]),
        ),
        "lock {0}; waited for {1}, {2} in all; {3}".format(
            _held(view["holders"]),
            output.count(waits, "time"),
            output.seconds(waited),
            output.count(messages["rebuilds"] + groups["rebuilds"], "rebuild"),
        ),
    ]


def _held(holders):
    held = ["{0} by {1}".format(kind, pid) for kind, pid in sorted(holders.items()) if pid]
    return "held: " + ", ".join(held) if held else "free"


HEADINGS = ("CHANNEL", ">WAITING", ">OLDEST", ">SENT", ">REFUSED", ">IN ALL", ">RECEIVERS")
SORTED_BY = {"waiting": 1, "oldest": 2, "rate": 3, "refused": 5, "name": 0}
"""The column that a sort goes by."""


def cells(channel):
    """A channel's row."""
    return (
        channel["channel"],
        channel["waiting"],
        output.seconds(channel["oldest"]),
        output.rate(channel["sent_per_second"]),
        output.rate(channel["refused_per_second"]),
        channel["refused"],
        channel["receivers"],
    )


def _shown(arguments):
    """What shows a view: a screen, plain tables, or JSON."""
    terminal = sys.stdout.isatty()
    if arguments.json:
        return _Json(arguments.rows or ROWS)
    advice = ""
    if not arguments.plain:
        try:
            from asgi_ipc.commands import screen
        except ImportError:
            advice = ADVICE
        else:
            if terminal:
                return screen.Screen(arguments.rows)
    return _Plain(arguments.rows or ROWS, terminal, advice)


class _Shown(object):
    """What shows views has as many ``rows`` for channels."""

    def __init__(self, rows):
        self.rows = rows

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class _Json(_Shown):
    """One line each."""

    def __call__(self, view):
        output.emit(view, indent=None)


class _Plain(_Shown):
    """Tables, one in place of the other on a terminal."""

    def __init__(self, rows, terminal, advice):
        _Shown.__init__(self, rows)
        self._terminal = terminal
        self._advice = advice
        self._again = False

    def __enter__(self):
        if self._advice and not self._terminal:
            output.complain("top", self._advice)
        return self

    def __call__(self, view):
        if self._terminal:
            output.say(_CLEAR + self._advice)
        elif self._again:
            output.say()
        self._again = True
        output.say(
            "{0}  {1}  sorted by {2}".format(
                view["prefix"], time.strftime("%H:%M:%S"), view["sort"]
            )
        )
        for line in summary(view):
            output.say(line)
        if view["trouble"]:
            output.say(output.safe(view["trouble"]))
        else:
            output.table(HEADINGS, [cells(channel) for channel in view["channels"]])


# -- keys --------------------------------------------------------------------------------------


class _Keys(object):
    """Keys, as they are pressed, where the standard input is a terminal."""

    def __init__(self):
        self._descriptor = self._before = None

    def __enter__(self):
        try:
            descriptor = sys.stdin.fileno()
            if os.isatty(descriptor) and sys.stdout.isatty():
                self._before = termios.tcgetattr(descriptor)
                tty.setcbreak(descriptor)
                self._descriptor = descriptor
        except (AttributeError, ValueError, EnvironmentError, termios.error):
            # There is no standard input, or it has gone.
            pass
        return self

    def __exit__(self, *_):
        if self._descriptor is not None:
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)

    def wait(self, seconds, stop):
        """Wait for a key that means something; "" if none came in time."""
        deadline = clock.now() + int(seconds * SECOND)
        while not stop.asked:
            left = (deadline - clock.now()) / float(SECOND)
            if left <= 0:
                break
            # In pieces: a signal that comes just before one does not end it.
            key = self._key(min(left, 0.25))
            if key == "q" or key in KEYS:
                return key
        return ""

    def _key(self, seconds):
        if self._descriptor is None:
            time.sleep(seconds)
            return ""
        try:
            if select.select([self._descriptor], [], [], seconds)[0]:
                key = os.read(self._descriptor, 1)
                # The terminal has gone.
                return key.decode("ascii", "replace").lower() if key else "q"
        except (select.error, EnvironmentError):
            # A signal, on Python 2.7.
            pass
        return ""
