"""``channels``, ``groups``, ``peek`` and ``check``: what is in a prefix.

All of them look and change nothing. ``check`` alone holds the lock for long, and says so.
"""
import binascii
from operator import attrgetter

from asgi_ipc import access, names
from asgi_ipc._shm.clock import SECOND
from asgi_ipc.census import GroupCensus, MessageCensus
from asgi_ipc.codec import unpack
from asgi_ipc.commands import jsonform, look, output
from asgi_ipc.figures import START

ABOUT_CHANNELS = """\
Lists the channels of a prefix that have messages or receivers, or had them lately. All
process-local channels of one process are one line, named up to the "!".

It holds the lock for some 10 microseconds at a time, whatever is stored.

    asgi-ipc channels mysite
    asgi-ipc channels mysite --sort waiting
    asgi-ipc channels mysite --json

Exit status: 0; 1 if there is no such prefix, or it cannot be read.
"""
ABOUT_GROUPS = """\
Lists the groups of a prefix with the number of their members; or, of one group, the members, in
the order in which they joined, and when each membership ends unless it is renewed.

It holds the lock for some 3 microseconds at a time, whatever is stored.

    asgi-ipc groups mysite
    asgi-ipc groups mysite chat.lobby
    asgi-ipc groups mysite chat.lobby --json

Exit status: 0; 1 if there is no such prefix, or it cannot be read. A group that nobody is in is
an empty one.
"""
ABOUT_PEEK = """\
Shows the messages that wait in a channel, the oldest first, and leaves them there. Of a
process-local channel, give its whole name, or the part up to the "!" for all of its process.

Messages are shown as JSON, in the form that `send` takes: bytes are {"__bytes__": "BASE64"}, a
dict whose keys are not text is {"__items__": [[KEY, VALUE], ...]}, and numbers that JSON lacks are
{"__float__": "nan"}. What cannot be decoded is shown by its first bytes.

It holds the lock for some 3 microseconds and for the time that it takes to copy one message, for
each of them.

    asgi-ipc peek mysite http.request
    asgi-ipc peek mysite http.request -n 1 --json

Exit status: 0, also if nothing waits; 1 if there is no such prefix, or it cannot be read.
"""
ABOUT_CHECK = """\
Verifies every link, count and check sum of both segments of a prefix, and says what is wrong.

THIS STOPS THE SITE while it lasts, for it holds the lock all the time: about a second for 100,000
messages. Use it when something looks wrong, not every minute.

    asgi-ipc check mysite
    asgi-ipc check mysite --json

Exit status: 0 if all is sound; 1 if there is a fault, or it could not be looked at.
"""
SORTS = {
    "name": (attrgetter("channel"), False),
    "waiting": (attrgetter("waiting"), True),
    "oldest": (attrgetter("oldest"), True),
    "rate": (attrgetter("sent_per_second"), True),
    "refused": (attrgetter("refused"), True),
}
"""By what channels can be sorted, and whether the largest comes first."""

_BEGINNING = 32


def register(commands):
    """Add the commands to the command line."""
    channels = commands.add(
        "channels", list_channels, "list the channels", ABOUT_CHANNELS, prefix=True, json=True
    )
    channels.add_argument(
        "--sort", choices=sorted(SORTS), default="name", help="what to sort by (default: name)"
    )
    groups = commands.add(
        "groups", list_groups, "list the groups, or a group's members", ABOUT_GROUPS,
        prefix=True, json=True,
    )  # fmt: skip
    groups.add_argument("group", metavar="GROUP", nargs="?", help="show the members of this group")
    peek = commands.add(
        "peek", look_at_messages, "look at messages without taking them", ABOUT_PEEK,
        prefix=True, json=True,
    )  # fmt: skip
    peek.add_argument("channel", metavar="CHANNEL", help="the channel's name")
    peek.add_argument(
        "-n", dest="number", type=commands.whole_number, default=10, metavar="N",
        help="show so many at most (default 10)",
    )  # fmt: skip
    commands.add(
        "check", check, "verify the integrity of the shared memory", ABOUT_CHECK,
        prefix=True, json=True,
    )  # fmt: skip


def text_of(argument):
    """An argument of the command line as text: on Python 2.7 it is bytes."""
    return argument.decode("utf-8") if isinstance(argument, bytes) else argument


def in_order(channels, sort):
    """Channels by one of ``SORTS``, those that are alike by their names."""
    key, largest_first = SORTS[sort]
    by_name = sorted(channels, key=attrgetter("channel"))
    return sorted(by_name, key=key, reverse=largest_first)


def list_channels(arguments):
    """Run ``channels``."""
    with access.stores(arguments.prefix) as (_, stores):
        channels = access.complete(MessageCensus(stores.messages)).channels()
    found = [dict(one._asdict()) for one in in_order(channels, arguments.sort)]
    if arguments.json:
        output.emit(found)
    else:
        output.table(
            ("CHANNEL", ">WAITING", ">OLDEST", ">SENT", ">REFUSED", ">RECEIVERS"),
            [look.channel_row(one) for one in found],
        )
    return 0


def list_groups(arguments):
    """Run ``groups``."""
    group = arguments.group
    if group is not None:
        group = names.group_name(text_of(group))
    with access.stores(arguments.prefix) as (_, stores):
        census = access.complete(GroupCensus(stores.groups))
        found = census.groups() if group is None else census.members(group)
    if arguments.json:
        output.emit([dict(one._asdict()) for one in found])
    elif group is None:
        output.table(("GROUP", ">MEMBERS"), found)
    else:
        rows = [(one.channel, output.seconds(one.expires)) for one in found]
        output.table(("MEMBER", ">ENDS IN"), rows)
    return 0


# -- peek --------------------------------------------------------------------------------------


def look_at_messages(arguments):
    """Run ``peek``."""
    queue, local = names.split_local(names.channel_name(text_of(arguments.channel), receive=False))
    found = []
    with access.stores(arguments.prefix) as (_, stores):
        now = stores.messages.now()
        for peeked in _peeked(stores.messages, queue):
            if len(found) == arguments.number:
                break
            if not local or local in peeked.locals:
                found.append(_message_figures(queue, peeked, now))
    if arguments.json:
        output.emit(found)
        return 0
    for one in found:
        output.say(_line(one))
    if not found:
        output.say("nothing waits in {0}".format(queue + local))
    return 0


def _peeked(messages, queue):
    last = messages.peek(queue, START)
    while last is not None:
        yield last
        last = messages.peek(queue, last)


def _message_figures(queue, peeked, now):
    figures = {
        "number": peeked.seq,
        "age": max(now - peeked.sent_at, 0) / float(SECOND),
        "expires": max(peeked.expires - now, 0) / float(SECOND),
        "size": len(peeked.payload),
        "intact": peeked.intact,
        "channels": [queue + local for local in peeked.locals] or [queue],
    }
    figures.update(decoded(peeked.payload))
    return figures


def decoded(payload, whole=False):
    """{"message": ...} of what a record holds, or {"undecodable": its beginning in hex}.

    :param whole: not its beginning, but all of it.
    """
    try:
        return {"message": jsonform.shown(unpack(payload))}
    except Exception:  # noqa: BLE001 (of many kinds, by version of msgpack, and what others wrote)
        end = len(payload) if whole else _BEGINNING
        beginning = binascii.hexlify(payload[:end]).decode("ascii")
        return {"undecodable": beginning + ("..." if len(payload) > end else "")}


def _line(one):
    notes = ["{0} old".format(output.seconds(one["age"])), output.size(one["size"])]
    if one["channels"][0].endswith("!") or "!" in one["channels"][0]:
        first = one["channels"][0]
        more = len(one["channels"]) - 1
        notes.append("for {0}{1}".format(first, " and {0} more".format(more) if more else ""))
    if not one["intact"]:
        notes.append("DAMAGED, will be dropped")
    if "message" in one:
        shown = output.as_json(one["message"])
    else:
        shown = u"undecodable, begins with the bytes {0}".format(one["undecodable"])
    return u"#{0} ({1}): {2}".format(one["number"], ", ".join(notes), shown)


# -- check -------------------------------------------------------------------------------------


def check(arguments):
    """Run ``check``."""
    # To be ended inside would cost the site another such time, for a rebuild.
    with access.Stop(), access.stores(arguments.prefix) as (_, stores):
        faults = {"messages": stores.messages.check(), "groups": stores.groups.check()}
    if arguments.json:
        output.emit(faults)
    else:
        for kind in sorted(faults):
            for fault in faults[kind]:
                output.say("{0}: {1}".format(kind, fault))
        if not any(faults.values()):
            output.say("the shared memory of prefix {0} is sound".format(arguments.prefix))
    return 1 if any(faults.values()) else 0
