"""What every peer of the benchmark offers to the tasks that time it.

Knows nothing of clocks, rounds or processes. An adapter shows one product in the use that its
own documentation shows. It hands out plain callables, the product's own bound methods where
they fit, so that what is timed is the product and not the adapter.

Runs on Python 3.7 as well, in which the published releases are measured.
"""
from functools import partial

MESSAGE = {"type": "chat.message", "text": "hello world", "user": "alice"}
"""The small chat message: 54 bytes when packed."""

CAPACITY = 10 ** 6
"""Messages a channel may hold, for every peer that counts them: no sender is ever refused."""

EXPIRY = 3600
"""Seconds that a message lives, for every peer that has it: nothing expires in a run."""

MEBIBYTE = 1024 * 1024


def message_of(size):
    """A message that takes about ``size`` bytes when packed; 0 for the small chat message."""
    if not size:
        return dict(MESSAGE)
    return {"type": "chat.message", "text": "x" * max(1, size - 26)}


class Adapter(object):
    """One peer, in one session: at most one of its methods runs at a time.

    ``settings``: ``prefix`` (of this session alone), ``folder`` (a temporary one), ``redis``
    (URL), ``size`` (of messages, see ``message_of``).
    """

    asynchronous = False

    def __init__(self, settings):
        self.settings = settings
        self.prefix = settings["prefix"]

    def version(self):
        """Text that says what is measured."""
        raise NotImplementedError

    # -- in the process from which the actors are forked -----------------------------

    def share(self):
        """Make what the actors are to inherit."""

    def destroy(self):
        """Remove what was made, when all actors are gone."""

    # -- in an actor -----------------------------------------------------------------

    def open(self):
        """Attach, connect or whatever makes it ready."""

    def close(self):
        """Undo ``open``; only ``attach`` asks for it."""

    def inbox(self, name):
        """The channel by which this actor is reached."""
        return name

    def sender(self, channel):
        """A callable that sends the message it is given."""
        raise NotImplementedError

    def receiver(self, channel):
        """A callable that returns what was received; there is something."""
        raise NotImplementedError

    def waiter(self, channel):
        """A callable that blocks until it returns what was received."""
        return self.receiver(channel)

    def stream(self, channel):
        """As ``waiter``, where many messages come one after the other."""
        return self.waiter(channel)

    def settle(self, channel):
        """Return when all that was sent is where receivers find it; untimed."""

    def received(self, channel, message):
        """What ``receiver`` returns for a message."""
        return message

    def content(self, received):
        """The message in what was received."""
        return received

    # -- groups ----------------------------------------------------------------------

    def member(self, number):
        """The name of this process's channel ``number``."""
        raise NotImplementedError

    def group_adder(self):
        """A callable (group, channel)."""
        raise NotImplementedError

    def group_discarder(self):
        """A callable (group, channel)."""
        raise NotImplementedError

    def group_sender(self):
        """A callable (group, message)."""
        raise NotImplementedError

    def collector(self):
        """A callable that returns the next message for any of this process's members.

        Only for synchronous peers: an asynchronous one has a receiver for each member.
        """
        raise NotImplementedError

    # -- what is special -------------------------------------------------------------

    def fill(self, channels, message, number):
        """Send ``number`` messages to each of the channels."""
        for channel in channels:
            send = self.sender(channel)
            for _ in range(number):
                send(message)

    def die_inside(self):
        """End this process by SIGKILL in the middle of an operation."""
        raise NotImplementedError


class ASGI1(Adapter):
    """A layer of the ASGI 1 specification: synchronous, ``self.layer``."""

    layer = None

    def sender(self, channel):
        return partial(self.layer.send, channel)

    def receiver(self, channel):
        return partial(self.layer.receive, [channel])

    def waiter(self, channel):
        return partial(self.layer.receive, [channel], True)

    def received(self, channel, message):
        return channel, message

    def content(self, received):
        return received[1]

    def member(self, number):
        return "bench.{0}!{1}".format(self.settings["actor"], number)

    def group_adder(self):
        return self.layer.group_add

    def group_discarder(self):
        return self.layer.group_discard

    def group_sender(self):
        return self.layer.send_group

    def collector(self):
        return self.waiter("bench.{0}!".format(self.settings["actor"]))


class Channels(Adapter):
    """A layer of Channels 2 to 4: asynchronous, ``self.layer``."""

    asynchronous = True
    layer = None

    def sender(self, channel):
        return partial(self.layer.send, channel)

    def receiver(self, channel):
        return partial(self.layer.receive, channel)

    def group_adder(self):
        return self.layer.group_add

    def group_discarder(self):
        return self.layer.group_discard

    def group_sender(self):
        return self.layer.group_send

    async def member(self, number):
        return await self.layer.new_channel()

    async def inbox(self, name):
        return name

    async def aclose(self):
        """Undo ``open`` in a running loop."""

    async def fill(self, channels, message, number):
        for channel in channels:
            send = self.sender(channel)
            for _ in range(number):
                await send(message)
