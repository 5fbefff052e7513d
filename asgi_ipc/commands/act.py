"""``send``, ``receive``, ``group-send``, ``flush`` and ``rm``: commands that change something.

They do what a process of the site does, in its place and as its user. A message that was taken is
shown, whatever happens: signals only set a flag here, and what cannot be written to the standard
output goes to the standard error stream.
"""
import contextlib
import sys

import posix_ipc

from asgi_ipc import access, attached, core, machine, names
from asgi_ipc._shm import clock
from asgi_ipc._shm.clock import SECOND
from asgi_ipc.codec import pack
from asgi_ipc.commands import jsonform, output
from asgi_ipc.commands.contents import decoded, text_of
from asgi_ipc.errors import MessageTooLarge

ABOUT_SEND = """\
Sends a message to a channel. The message is a JSON object, "-" reads it from the standard input.
What JSON lacks is written as `peek` shows it: bytes are {"__bytes__": "BASE64"}, a dict with other
keys than text is {"__items__": [[KEY, VALUE], ...]}, and not-a-number is {"__float__": "nan"}.

It costs a running site what any message does: the lock for some 5 microseconds.

    asgi-ipc send mysite jobs '{"type": "thumbnail", "id": 7}'
    make-report | asgi-ipc send mysite reports -

Exit status: 0 if it was sent; 1 if not, for instance because the channel is full.
"""
ABOUT_RECEIVE = """\
Takes messages from channels, and prints each as one line of JSON with the keys "channel" and
"message", in the form that `send` takes. THEY ARE TAKEN FROM THE SITE: `peek` leaves them.

Without --follow it ends after -n messages, or when none has come for --wait seconds. With it, it
goes on until it is interrupted (Ctrl-C, SIGTERM), which loses no message. While it waits it
sleeps. A process-local channel is given by the part up to its "!".

    asgi-ipc receive mysite jobs --wait 10
    asgi-ipc receive mysite jobs mail --follow | while read -r line; do handle "$line"; done

Exit status: 0; 3 if fewer messages came in time than were asked for; 1 on an error. If nobody
reads the output any more, the message that was taken last is on the standard error stream, and
the status is 1.
"""
ABOUT_GROUP_SEND = """\
Sends a message to all members of a group, and says how many there were. The message is JSON, as
for `send`. A member whose channel is full misses it, as with every group send.

    asgi-ipc group-send mysite chat.lobby '{"type": "chat.message", "text": "backup in 5 minutes"}'

Exit status: 0; 1 if a member missed it, or on an error. A group without members is no error.
"""
ABOUT_FLUSH = """\
Drops all messages and all groups of a prefix; nothing of them can be had back. The shared memory
stays, and whoever uses it goes on: consumers that are connected are no longer in their groups.

It holds the lock while it does: for some milliseconds, more if there is much.

    asgi-ipc flush mysite

Exit status: 0; 1 on an error.
"""
ABOUT_RM = """\
Removes the shared memory of a prefix: its messages, its groups, and what dead processes
left beside them. Nothing that is in it can be had back.

It refuses while processes are attached, and names them. With --force it removes it under them:
they go on within about a second, with new and empty shared memory. To change its size or its
owner, stop them first.

    asgi-ipc rm mysite

Exit status: 0; 1 if there was nothing to remove, or processes are attached.
"""

NOTHING_CAME = 3
"""Exit status of ``receive``: fewer messages came in time than were asked for."""

PATIENCE = 0.5
"""Seconds of one wait: a signal that comes just before one does not end it."""

TAKEN = u"this message was taken, and could not be written: {0}"


def register(commands):
    """Add the commands to the command line."""
    send = commands.add(
        "send", send_message, "send a message to a channel", ABOUT_SEND, prefix=True
    )
    send.add_argument("channel", metavar="CHANNEL", help="the channel's name")
    _message_arguments(commands, send)
    receive = commands.add(
        "receive", receive_messages, "take messages from channels", ABOUT_RECEIVE, prefix=True
    )
    receive.add_argument("channels", metavar="CHANNEL", nargs="+", help="the channels' names")
    receive.add_argument(
        "-n", dest="number", type=commands.positive_number, metavar="N",
        help="end after so many messages (default 1; with --follow, never)",
    )  # fmt: skip
    how_long = receive.add_mutually_exclusive_group()
    how_long.add_argument("--follow", action="store_true", help="go on until interrupted")
    how_long.add_argument(
        "--wait", type=commands.seconds, default=0, metavar="SECONDS",
        help="wait so long for each message (default 0)",
    )  # fmt: skip
    _create_argument(receive)
    group = commands.add(
        "group-send", send_to_group, "send a message to a group", ABOUT_GROUP_SEND,
        prefix=True, json=True,
    )  # fmt: skip
    group.add_argument("group", metavar="GROUP", help="the group's name")
    _message_arguments(commands, group)
    commands.add("flush", flush, "drop all messages and groups", ABOUT_FLUSH, prefix=True)
    rm = commands.add("rm", remove, "remove the shared memory of a prefix", ABOUT_RM, prefix=True)
    rm.add_argument(
        "--force", action="store_true", help="also while processes are attached to it"
    )


def _message_arguments(commands, command):
    command.add_argument("message", metavar="JSON", help="the message, or - for standard input")
    command.add_argument(
        "--expiry", type=commands.seconds, default=access.EXPIRY, metavar="SECONDS",
        help="drop it when nobody has read it for so long (default 60)",
    )  # fmt: skip
    command.add_argument(
        "--capacity", type=commands.positive_number, default=access.CAPACITY, metavar="N",
        help="a channel with so many messages is full (default 100, as in the layer's options)",
    )  # fmt: skip
    _create_argument(command)


def _create_argument(command):
    command.add_argument(
        "--create", action="store_true",
        help="make the shared memory if there is none, with the layer's default options",
    )  # fmt: skip


def _message_of(arguments):
    text = sys.stdin.read() if arguments.message == "-" else arguments.message
    return jsonform.parsed(text_of(text))


# -- sending -----------------------------------------------------------------------------------


def send_message(arguments):
    """Run ``send``."""
    payload = pack(_message_of(arguments))
    channel = names.channel_name(text_of(arguments.channel))
    queue, local = names.split_local(channel)
    with _sending(arguments, payload) as (_, stores):
        lifetime = int(arguments.expiry * SECOND)
        stores.messages.send(queue, local, payload, lifetime, arguments.capacity)
        _tidy(stores)
    return 0


def send_to_group(arguments):
    """Run ``group-send``."""
    payload = pack(_message_of(arguments))
    group = names.group_name(text_of(arguments.group))
    with _sending(arguments, payload) as (_, stores):
        sizes = {queue: locals_.count(b"\n") + 1 for queue, locals_, _ in stores.targets(group)}
        full = stores.send_group(group, payload)
        _tidy(stores)
    members, missed = sum(sizes.values()), sum(sizes.get(queue, 1) for queue in full)
    if arguments.json:
        output.emit({"members": members, "queues": len(sizes), "full": full, "missed": missed})
    else:
        output.say(
            "sent to {0} of group {1}, in {2}".format(
                output.count(members - missed, "member"), group, output.count(len(sizes), "queue")
            )
        )
    if full:
        output.complain(
            "group-send",
            "{0} missed it, full: {1}".format(output.count(missed, "member"), ", ".join(full)),
        )
    return 1 if full else 0


@contextlib.contextmanager
def _sending(arguments, payload):
    """The stores to send with, if the message is none that is too large for them."""
    if arguments.create:
        access.create(arguments.prefix)
    with access.stores(
        arguments.prefix, expiry=arguments.expiry, capacity=arguments.capacity
    ) as (place, stores):
        largest = access.options_for(place).max_message_size
        if len(payload) > largest:
            raise MessageTooLarge(
                "the message packs to {0} bytes, and {1} are allowed: a quarter of the memory for "
                "messages. Send a reference to the data.".format(len(payload), largest)
            )
        yield place, stores


def _tidy(stores):
    if stores.messages.lapsed:
        stores.tidy()


# -- receiving ---------------------------------------------------------------------------------


def receive_messages(arguments):
    """Run ``receive``."""
    queues = names.channel_names([text_of(channel) for channel in arguments.channels])
    wanted = arguments.number or (None if arguments.follow else 1)
    wait = None if arguments.follow else arguments.wait
    if arguments.create:
        access.create(arguments.prefix)
    # The signals first: what comes between a message and its line must not end us.
    with access.Stop() as stop, access.stores(arguments.prefix) as (_, stores):
        came = 0
        while came != wanted:
            found = _take(stores, queues, wait, stop)
            if found is None:
                break
            came += 1
            queue, local, payload = found
            figures = {"channel": queue + local}
            figures.update(decoded(payload, whole=True))
            _print_taken(figures)
            queues = queues[1:] + queues[:1]
    return 0 if stop.asked or wanted is None or came == wanted else NOTHING_CAME


def _take(stores, queues, wait, stop):
    """The next message: (queue, local, payload); None if none came, or we are to stop."""
    deadline = None if wait is None else clock.now() + int(wait * SECOND)
    while not stop.asked:
        left = PATIENCE if deadline is None else max(deadline - clock.now(), 0) / float(SECOND)
        found = stores.messages.receive_blocking(queues, min(left, PATIENCE))
        _tidy(stores)
        if found is not None or left <= 0:
            return found
    return None


def _print_taken(figures):
    try:
        output.emit(figures, indent=None)
    except EnvironmentError:
        output.complain("receive", TAKEN.format(output.as_json(figures)))
        raise


# -- the whole ---------------------------------------------------------------------------------


def flush(arguments):
    """Run ``flush``."""
    with access.stores(arguments.prefix) as (_, stores):
        stores.messages.flush()
        stores.groups.flush()
    output.say("dropped all messages and groups of prefix {0}".format(arguments.prefix))
    return 0


def remove(arguments):
    """Run ``rm``."""
    prefix = access.checked(arguments.prefix)
    place = machine.Place(prefix)
    if place.there and not arguments.force:
        _refuse_in_use(place)
    try:
        found = core.unlink(prefix)
    except posix_ipc.PermissionsError:
        raise ValueError(
            "the shared memory of prefix {0} belongs to another user; run this as that user or "
            "as root".format(prefix)
        )
    if not found:
        raise ValueError("there is no shared memory of prefix {0}".format(prefix))
    output.say("removed the shared memory of prefix {0}".format(prefix))
    return 0


def _refuse_in_use(place):
    users = attached.attached(place)
    if not attached.anybody(users):
        return
    who = ", ".join(
        "{0} ({1})".format(one.pid, output.safe(one.command)) for one in users.processes
    )
    if users.listeners:
        others = "{0} that cannot be seen from here".format(
            "a receiver" if users.listeners == 1 else "{0} receivers".format(users.listeners)
        )
        who = who + " and " + others if who else others
    raise ValueError(
        "processes are attached to prefix {0}: {1}. Stop them first, or remove it under them with "
        "`asgi-ipc rm --force {0}`: what is in it is lost, and they go on with empty shared "
        "memory.".format(place.prefix, who)
    )
