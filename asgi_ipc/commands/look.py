"""``ls`` and ``stat``: which prefixes there are, and what is going on in one.

``ls`` reads no more than files' status and the headers of segments. ``stat`` attaches, and takes
the lock for microseconds at a time, a piece of a table under each hold.
"""
import operator

from asgi_ipc import access, attached, machine
from asgi_ipc._shm.opening import SHM_FOLDER
from asgi_ipc.commands import output
from asgi_ipc.overview import TOP, Overview

ABOUT_LS = """\
Lists every prefix on this machine: the memory that it may take and really holds, its owner, how
many processes are attached, and the version of its layout. Other users' processes cannot all be
looked at: then it says "at least". As root, all can.

It reads no more than the headers of the segments, without a lock: a running site does not notice.
On macOS the system shows no list of shared memory; commands with a PREFIX work there.

    asgi-ipc ls
    asgi-ipc ls --json

Exit status: 0, also if there is none; 1 where the system has no list.
"""
ABOUT_STAT = """\
Shows what is going on in a prefix: totals, rates of the last seconds, the fullest and the oldest
channels, the largest groups, drops (sends that met a full channel), who waits, who holds the
lock, how often it was waited for, and which processes are attached.

It holds the lock for some 10 microseconds at a time, whatever is stored.

    asgi-ipc stat mysite
    asgi-ipc stat mysite --top 3
    asgi-ipc stat mysite --json

Exit status: 0; 1 if there is no such prefix, or it cannot be read.
"""
STATES = {
    machine.OURS: "",
    machine.OTHER_LAYOUT: "another version's layout",
    machine.OLD_RELEASE: "left by asgi_ipc 1.x",
    machine.FOREIGN: "not asgi_ipc's",
    machine.UNMADE: "being made, or left in the making",
    machine.CLOSED: "not yours",
    machine.ABSENT: "absent",
}


def register(commands):
    """Add the commands to the command line."""
    commands.add("ls", list_prefixes, "list the prefixes of this machine", ABOUT_LS, json=True)
    stat = commands.add(
        "stat", show, "what is going on in a prefix", ABOUT_STAT, prefix=True, json=True
    )
    stat.add_argument(
        "--top", type=commands.whole_number, default=TOP, metavar="N",
        help="name so many channels and groups of each kind (default {0})".format(TOP),
    )  # fmt: skip


# -- ls ----------------------------------------------------------------------------------------


def list_prefixes(arguments):
    """Run ``ls``."""
    names = machine.prefixes()
    if names is None:
        raise ValueError(
            "this system does not list shared memory; give the prefix to a command that takes "
            "one, such as `asgi-ipc stat PREFIX`"
        )
    places = [machine.Place(name) for name in names]
    found = [_place_figures(place) for place in places if place.there]
    if arguments.json:
        output.emit(found)
    elif not found:
        output.say("no shared memory of asgi_ipc is in {0}".format(SHM_FOLDER))
    else:
        headings = ("PREFIX", ">SIZE", ">MEMORY", "OWNER", "MODE", "PROCESSES", "LAYOUT", "")
        output.table(headings, [_row(figures) for figures in found])
    return 0


def _place_figures(place):
    figures = {
        "prefix": place.prefix,
        "size": place.size,
        "memory": place.memory,
        "state": {half.kind: half.state for half in place.halves},
    }
    figures.update(identity(place))
    return figures


def identity(place):
    """Whose a prefix is, and who uses it: what ``ls`` and ``stat`` have in common."""
    users = attached.attached(place)
    return {
        "uid": place.uid,
        "gid": place.gid,
        "user": machine.user_name(place.uid),
        "group": machine.group_name(place.gid),
        "mode": output.octal(place.mode),
        "layout": {half.kind: machine.layout_of(half) for half in place.halves},
        "processes": [dict(one._asdict()) for one in users.processes],
        "processes_unseen": users.unseen,
        "listeners": users.listeners,
        "processes_known": users.known,
    }


def _row(figures):
    states = figures["state"]
    notes = {STATES[state] for state in states.values()} - {""}
    if machine.ABSENT in states.values():
        notes = {"no {0}".format(kind) for kind in sorted(states) if states[kind] == machine.ABSENT}
    layouts = figures["layout"]
    known = sorted({str(version) for version in layouts.values() if version is not None})
    return (
        figures["prefix"],
        output.size(figures["size"]),
        output.size(figures["memory"]),
        figures["user"],
        figures["mode"],
        _how_many(figures),
        "/".join(known) or "-",
        ", ".join(sorted(notes)),
    )


def _how_many(figures):
    """How many processes are attached, as far as it can be known."""
    number = len(figures["processes"])
    listeners = figures["listeners"]
    if not figures["processes_known"]:
        return "at least 1" if listeners else "?"
    if listeners:
        return "at least {0}".format(number + 1)
    return "at least {0}".format(number) if figures["processes_unseen"] else str(number)


# -- stat --------------------------------------------------------------------------------------


def show(arguments):
    """Run ``stat``."""
    figures = figures_of(arguments.prefix, arguments.top)
    if arguments.json:
        output.emit(figures)
    else:
        _print_stat(figures)
    return 0


def figures_of(prefix, top):
    """All that ``stat`` shows of a prefix, as plain values."""
    users = identity(access.usable(prefix))
    with access.stores(prefix) as (place, stores):
        # Before we go in ourselves.
        holders = [attached.holder_of(half) for half in place.halves]
        overview = access.complete(Overview(stores, top))
        figures = overview.result(prefix, 0)
        receivers = overview.messages.receivers()
    # Drops that one layer object counts: there is none here.
    del figures["drops"]
    figures.update(users)
    figures["receivers"] = [dict(one._asdict()) for one in receivers]
    for half, holder in zip(place.halves, holders):
        figures[half.kind]["holder"] = holder
    return figures


def _print_stat(figures):
    _print_identity(figures)
    _print_messages(figures["messages"])
    _print_groups(figures["groups"])
    _print_bridge(figures["bridge"])
    _print_channels("Fullest channels", figures["fullest_channels"])
    _print_channels("Oldest channels", figures["oldest_channels"])
    if figures["largest_groups"]:
        output.say("\nLargest groups")
        output.table(
            ("  GROUP", ">MEMBERS"),
            [("  " + one["group"], one["members"]) for one in figures["largest_groups"]],
        )
    _print_receivers(figures["receivers"])


def _print_identity(figures):
    owner = "{user}:{group}, mode {mode}".format(**figures)
    output.pairs(
        [
            ("prefix", figures["prefix"]),
            ("owner", owner),
            ("layout", "messages {messages}, groups {groups}".format(**figures["layout"])),
            ("processes", _how_many(figures) + " attached"),
        ]
    )
    for process in figures["processes"]:
        line = u"  {0:>7}  {1}".format(process["pid"], output.safe(process["command"]))
        output.say(line + (" (stopped)" if process["stopped"] else ""))


def _print_messages(messages):
    waiting = "{0} in {1}, the oldest for {2}".format(
        messages["waiting"],
        output.count(messages["channels"], "channel"),
        output.seconds(messages["oldest"]),
    )
    memory = "{0} held of {1}, {2} in messages".format(
        output.size(messages["memory"]),
        output.size(messages["size"]),
        output.size(messages["stored"]),
    )
    log = "{0} records moved, {1} damaged".format(messages["moved"], messages["damaged"])
    output.say("\nMessages")
    output.pairs(
        [
            ("  waiting", waiting),
            ("  sent", _counted(messages, "sent")),
            ("  refused", _counted(messages, "refused") + " (channels were full)"),
            ("  receivers", "{0} waiting".format(messages["receivers"])),
            ("  memory", memory),
        ]
        + _lock_rows(messages)
        + [("  log", log)]
    )


def _print_groups(groups):
    members = "{0} with {1}".format(groups["groups"], output.count(groups["members"], "member"))
    memory = "{0} held of {1}".format(output.size(groups["memory"]), output.size(groups["size"]))
    output.say("\nGroups")
    output.pairs([("  groups", members), ("  memory", memory)] + _lock_rows(groups))


def _print_bridge(bridge):
    if not bridge["pid"]:
        # There never was one.
        return
    state = "none runs"
    if bridge["attached"]:
        state = "process {0}, {1}".format(
            bridge["pid"], "has Redis" if bridge["connected"] else "NO REDIS"
        )
    passed = "{sent} out, {received} in, {reconnects} reconnects".format(**bridge)
    lost = "{overflowed} for want of room, {expired} expired, {unsure} unsure, {refused} refused"
    output.say("\nBridge")
    output.pairs(
        [
            ("  bridge", "{0}; this is node {1}".format(state, bridge["node"])),
            ("  messages", passed),
            ("  outbox", "{waiting} of at most {limit}".format(**bridge)),
            ("  lost", lost.format(**bridge)),
            ("  lag", "{0} from Redis to here".format(output.seconds(bridge["lag"]))),
        ]
    )


def _counted(messages, name):
    return "{0}, {1} now".format(messages[name], output.rate(messages[name + "_per_second"]))


def _lock_rows(part):
    holder = part["holder"]
    if holder is None:
        held = "it cannot be seen who holds it"
    elif not holder:
        held = "free"
    else:
        held = "held by process {0}".format(holder)
    waits = "waited for {0}, {1} in all".format(
        output.count(part["lock_waits"], "time"), output.seconds(part["lock_waited"])
    )
    return [
        ("  lock", "{0}; {1}".format(held, waits)),
        ("  rebuilds", "{0} (holders that did not leave properly)".format(part["rebuilds"])),
    ]


def _print_channels(title, channels):
    if not channels:
        return
    output.say("\n" + title)
    output.table(
        ("  CHANNEL", ">WAITING", ">OLDEST", ">SENT", ">REFUSED", ">RECEIVERS"),
        [channel_row(one, "  ") for one in channels],
    )


def channel_row(one, indent=""):
    """The cells of a channel: its name, then numbers."""
    return (
        indent + one["channel"],
        one["waiting"],
        output.seconds(one["oldest"]),
        output.rate(one["sent_per_second"]),
        one["refused"],
        one["receivers"],
    )


def _print_receivers(receivers):
    if not receivers:
        return
    output.say("\nReceivers")
    output.table(
        ("  PID", ">LOOKED", "", "CHANNELS"),
        [
            (
                "  {0}".format(one["pid"]),
                output.seconds(one["idle"]) + " ago",
                _state_of(one),
                ", ".join(one["channels"]) or "-",
            )
            for one in sorted(receivers, key=operator.itemgetter("pid"))
        ],
    )


def _state_of(receiver):
    if not receiver["channels"]:
        # It has what it waited for, and is at work.
        return "not waiting"
    return "" if receiver["alive"] else "stopped or gone"
