"""The synchronous channel layer: every call of the ASGI 1.x contract.

For Channels 1 settings, Daphne 1.x, scripts and cron jobs. Knows the contract, names and
msgpack; what is in shared memory is the stores' affair. A process that uses this face talks
to one that uses the asynchronous face under the same prefix.
"""
import binascii
import os
import warnings

from asgi_ipc import errors, names, reactor
from asgi_ipc._shm import clock, doorbell, segment
from asgi_ipc.codec import pack, unpack
from asgi_ipc.crossing import BRIDGE_LOCK
from asgi_ipc.drops import Drops
from asgi_ipc.options import MEBIBYTE, Options
from asgi_ipc.overview import statistics_of
from asgi_ipc.routes import Readable, Routes
from asgi_ipc.stores import Stores, segment_names


def unlink(prefix):
    """Remove the shared memory of a prefix, and all that is in it.

    Processes that use it notice within a second, warn, and go on with new segments.

    :returns: True if there was any.
    """
    messages, groups = segment_names(prefix)
    # In this order: who only receives looks at the messages alone, and when they are gone makes
    # both anew. Rung before the groups are gone, it would keep those, and lose them.
    found = segment.unlink(groups) + segment.unlink(messages)
    found += doorbell.sweep(messages) + doorbell.sweep(groups)
    # One that a bridge was killed with; whoever has it looks whether it is still the one.
    doorbell.unlink(os.path.join(segment.runtime_folder(), prefix + BRIDGE_LOCK))
    return found > 0


class IPCChannelLayer(object):
    """Channel layer over POSIX shared memory, for all processes of one machine.

    Attaches when made; making one where the segments exist costs 100 us. It may be used by
    any number of threads, and by children that a process forks. Every call takes effect
    wholly or not at all, also if the process is killed in it.

    :param prefix: layers of one prefix share channels and groups.
    :param expiry: seconds after which an unread message is dropped.
    :param group_expiry: seconds after which a membership ends that is not renewed.
    :param capacity: messages that a channel holds; further ones raise ``ChannelFull``.
    :param channel_capacity: dict of name pattern to capacity; a pattern is a glob or a
        compiled regular expression, the first that matches counts.
    :param message_memory: bytes of shared memory for messages.
    :param group_memory: bytes of shared memory for groups.
    :param mode: permission bits of all that is made; 0o600 admits one user.
    :param max_message_size: bytes of a packed message; default a quarter of message_memory.
    :param block_timeout: seconds that ``receive(block=True)`` waits at most.
    :param lock_timeout: seconds to wait for a live process that holds the lock.
    :raises ValueError: a wrong option; says what is allowed.
    :raises SegmentError: the shared memory is not ours, or there is none left.

    Source: ASGI 1.0 draft specification, "Channel layers"; option names and order as the
    asgi_ipc 1.x releases have them.
    """

    ChannelFull = errors.ChannelFull
    MessageTooLarge = errors.MessageTooLarge

    def __init__(
        self,
        prefix="asgi",
        expiry=60,
        group_expiry=86400,
        capacity=100,
        channel_capacity=None,
        message_memory=100 * MEBIBYTE,
        group_memory=20 * MEBIBYTE,
        mode=0o600,
        max_message_size=None,
        block_timeout=5,
        lock_timeout=10,
    ):
        self._options = options = Options(
            prefix,
            expiry,
            group_expiry,
            capacity,
            channel_capacity,
            message_memory,
            group_memory,
            mode,
            max_message_size,
            block_timeout,
            lock_timeout,
        )
        self.prefix = options.prefix
        self.expiry = expiry
        self.group_expiry = group_expiry
        self.capacity = capacity
        self.channel_capacity = options.patterns
        self.max_message_size = options.max_message_size
        self.block_timeout = block_timeout
        self.lock_timeout = lock_timeout
        self.extensions = ["groups", "flush", "statistics"]
        if reactor.available():
            self.extensions.append("twisted")
        self._drops = Drops()
        self._lifetime = options.lifetime
        self._turn = 0
        self.breath = 0
        self._stores = Stores(options)
        self._routes = Routes(self._stores.capacity_of, self._stores)
        self._readable = Readable(self._stores)

    # -- channels --------------------------------------------------------------------

    def send(self, channel, message):
        """Send a dict to a channel.

        Cost: constant. A crash inside leaves it sent or not sent.

        :raises ChannelFull: at capacity, or no memory; the message was not sent.
        :raises MessageTooLarge: above ``max_message_size``.
        :raises NoBridge: it is a channel of another machine, to which no bridge runs.
        :raises TypeError: a wrong name, or a value that msgpack cannot carry.
        """
        try:
            queue, local, capacity = self._routes.known[channel]
        except (KeyError, TypeError):
            queue, local, capacity = self._routes.out(channel)
        payload = pack(message)
        if len(payload) > self.max_message_size:
            raise errors.MessageTooLarge(self._too_large(channel, payload))
        messages = self._stores.messages
        messages.send(queue, local, payload, self._lifetime, capacity)
        if messages.lapsed:
            self._stores.tidy()

    def receive(self, channels, block=False):
        """Take the oldest message of one of the channels, each of them getting its turn.

        Cost: constant for each channel. A crash inside leaves the message taken or not taken.

        :param channels: list of names; process-specific ones end at their ``!``.
        :param block: wait for a message, up to ``block_timeout`` seconds. A signal whose
            handler returns ends the wait, one whose handler raises goes through.
        :returns: (channel, message), or (None, None).
        :raises TypeError: a wrong name, or one that is another machine's.
        """
        if type(channels) is list and len(channels) == 1:
            # As most callers do: a fifth of what the general way takes.
            try:
                queues = self._readable.known[channels[0]]
            except (KeyError, TypeError):
                queues = self._readable.all(channels)
        else:
            queues = self._in_turn(self._readable.all(channels))
        messages = self._stores.messages
        if block:
            found = messages.receive_blocking(queues, self.block_timeout)
        else:
            found = messages.receive(queues)
        if messages.lapsed:
            self._stores.tidy()
        if found is None:
            return None, None
        queue, local, payload = found
        return queue + local if local else queue, unpack(payload)

    def receive_many(self, channels, block=False):
        """Deprecated name of ``receive``."""
        warnings.warn(
            "receive_many is deprecated; use receive", DeprecationWarning, stacklevel=2
        )
        return self.receive(channels, block)

    def receive_twisted(self, channels):
        """Return a Deferred of (channel, message), woken through the reactor.

        The extension "twisted". It waits without a thread and without polling; cancel it to
        stop waiting. Cost and errors as ``receive``. It fires with (None, None) after
        ``block_timeout`` seconds, never at once.
        """
        return reactor.receive(self, self._stores, self._in_turn(self._readable.all(channels)))

    def new_channel(self, pattern=None):
        """Return a new name for a single-reader channel.

        It is ``pattern``, 12 characters for this machine's shared memory, and 16 random ones.

        :param pattern: text that ends in ``?``.
        :raises TypeError: any other pattern.
        """
        if pattern is None:
            raise TypeError(
                "new_channel() needs a pattern here, such as 'reply?': this is the synchronous "
                "layer of ASGI 1. Channels 2 and later want asgi_ipc.aio.IPCChannelLayer as "
                "the BACKEND in CHANNEL_LAYERS."
            )
        is_text = isinstance(pattern, type(u""))
        if not is_text or not pattern.endswith(u"?"):
            raise TypeError("new_channel needs a name that ends in '?', not {0!r}".format(pattern))
        name = pattern + self._stores.node + binascii.hexlify(os.urandom(8)).decode("ascii")
        return names.channel_name(name)

    # -- groups ----------------------------------------------------------------------

    def group_add(self, group, channel):
        """Make a channel a member of a group, or renew its membership. Cost: constant.

        :raises GroupsFull: ``group_memory`` is used up.
        :raises TypeError: a wrong name.
        """
        group = names.group_name(group)
        queue, local, _ = self._routes.out(channel)
        now = clock.now()
        self._stores.attend(now)
        self._stores.group_add(group, queue + local, now + self._options.group_lifetime)

    def group_discard(self, group, channel):
        """End a membership, if there is one. Cost: constant."""
        group = names.group_name(group)
        queue, local, _ = self._routes.out(channel)
        self._stores.attend(clock.now())
        self._stores.group_discard(group, queue + local)

    def group_channels(self, group):
        """Return the names of a group's members on this machine. Cost: the members."""
        group = names.group_name(group)
        self._stores.attend(clock.now())
        return self._stores.groups.members(group)

    def send_group(self, group, message):
        """Send a dict to every member of a group.

        What a full channel drops is counted and logged, never raised. Cost: the receiving
        processes while the membership stays, else the members. A crash inside leaves it
        sent to all or to none.

        :raises MessageTooLarge: above ``max_message_size``.
        :raises TypeError: a wrong name, or a value that msgpack cannot carry.
        """
        group = names.group_name(group)
        payload = pack(message)
        if len(payload) > self.max_message_size:
            raise errors.MessageTooLarge(self._too_large(group, payload))
        full = self._stores.send_group(group, payload)
        if full:
            self._drops.add(group, full)
        messages = self._stores.messages
        if messages.lapsed:
            self._stores.tidy()

    # -- the whole -------------------------------------------------------------------

    def flush(self):
        """Drop all messages and all groups of the prefix."""
        self._stores.attend(clock.now())
        self._stores.messages.flush()
        self._stores.groups.flush()

    def global_statistics(self):
        """Return figures of all channels; the extension "statistics".

        ``messages_count`` (sent since the segment began), ``messages_pending``,
        ``messages_max_age`` (seconds), ``channel_full_count``, and
        ``messages_count_per_second``, ``channel_full_count_per_second`` over the last seconds.
        """
        return self._stores.messages.global_statistics()

    def channel_statistics(self, channel):
        """Return the same figures of one channel (of its process, for a ``!`` channel)."""
        return self._stores.messages.channel_statistics(self._routes.here(channel)[0])

    def statistics(self, top=10):
        """Return what is in shared memory at this moment, as ``asgi-ipc stat`` shows it.

        A dict of ``prefix``; of ``messages``, ``groups`` and ``bridge``, each a dict of the figures
        below; of lists of at most ``top`` each, ``fullest_channels``, ``oldest_channels`` and
        ``largest_groups``; and of ``drops``, the messages that group sends of this very layer
        found no room for.

        Of both segments: ``size`` and ``memory``, bytes at most and really held; ``rebuilds``;
        ``lock_waits`` and ``lock_waited``, how often somebody had to wait for the lock, for longer
        than the microseconds that others mostly are inside, and the seconds of all of them. Of
        messages: ``sent`` and ``refused`` since the segment began, ``sent_per_second`` and
        ``refused_per_second`` over the last seconds, ``waiting``, ``oldest`` (seconds), ``stored``
        (bytes), ``channels``, ``receivers`` (that wait or just did), ``moved`` and ``damaged``
        records. Of groups: ``groups`` and ``members``.

        Of the bridge to other machines: ``attached``, whether one runs or did within ``expiry``,
        ``connected``, whether it has Redis, its ``pid``, this machine's ``node``; ``sent`` and
        ``received``, messages to and from other machines; ``waiting`` and ``limit``, messages in
        the outbox and at most; what was not sent or not delivered: ``overflowed`` (the outbox was
        full), ``expired``, ``refused`` (what Redis had was no message, or not for us), ``unsure``
        (Redis lost its data); ``reconnects``, and ``lag``, seconds that the last one took from
        Redis to here.

        A channel is a dict of ``channel``, ``waiting``, ``oldest``, ``sent``,
        ``sent_per_second``, ``refused``, ``refused_per_second`` and ``receivers``; a group one of
        ``group`` and ``members``. All channels of a process, with a ``!``, are one.

        Cost: 2 us for each channel and membership, in pieces: the lock is held for microseconds
        at a time. A crash inside leaves nothing.

        :raises ValueError: ``top`` is no whole number from 0 up.
        """
        self._stores.attend(clock.now())
        return statistics_of(self._stores, self.prefix, self._drops.total, top)

    def check(self):
        """Verify both segments; return what is wrong, as sentences. For tests."""
        return self._stores.messages.check() + self._stores.groups.check()

    def close(self):
        """Detach. Messages and groups stay for others; ``asgi_ipc.core.unlink`` removes them."""
        self._stores.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __repr__(self):
        return "<{0} prefix={1!r}>".format(type(self).__name__, self.prefix)

    # -- helpers that callers of ASGI 1.x layers use ---------------------------------

    def get_capacity(self, channel):
        """The capacity of a channel, in messages."""
        return self._stores.capacity_of(channel)

    def compile_capacities(self, channel_capacity):
        """Return a list of (compiled pattern, capacity)."""
        return names.compile_capacities(channel_capacity)

    def valid_channel_name(self, name, receive=False):
        """True, or TypeError."""
        return bool(names.channel_name(name, receive))

    def valid_group_name(self, name):
        """True, or TypeError."""
        return bool(names.group_name(name))

    def non_local_name(self, name):
        """The part up to and including ``!``, or the whole."""
        return names.non_local_name(name)

    # -- inside ----------------------------------------------------------------------

    def _in_turn(self, queues):
        """The queues to receive from, beginning with another each time."""
        if len(queues) == 1:
            return queues
        self._turn = turn = (self._turn + 1) % len(queues)
        return queues[turn:] + queues[:turn]

    def _too_large(self, name, payload):
        return (
            "the message to {0} packs to {1} bytes, above max_message_size={2}; raise that (and "
            "message_memory), or send a reference to the data".format(
                name, len(payload), self.max_message_size
            )
        )
