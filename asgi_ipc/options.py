"""The options of a channel layer: defaults, what is allowed, and what each limit is called.

Shared by both faces. Knows no segment; a wrong value is a ValueError that says what is
allowed, never a KeyError (Channels would read that as "no layer").
"""
import sys

import six

from asgi_ipc import names
from asgi_ipc._shm.clock import SECOND

MEBIBYTE = 1024 * 1024
MINIMUM_MEMORY = 64 * 1024
"""Bytes of the smallest segment of either kind."""

LARGEST_MESSAGE = 2**31 - 1
"""Bytes; msgpack and the record's lengths end not far beyond."""

LONGEST_PREFIX = 31 - len("/-messages") if sys.platform == "darwin" else 200
"""Bytes; macOS takes names of 31 bytes for shared memory."""


WITHOUT_MEANING = {
    "hosts": "there is no server to connect to; processes of one machine that have the same "
    "prefix share the layer",
    "symmetric_encryption_keys": "messages do not leave the machine's memory, and mode says which "
    "users can read it",
    "random_prefix_length": "messages are told apart without a random part",
    "serializer_format": "messages are always packed with msgpack",
    "on_disconnect": "there is no connection that could be lost",
    "on_reconnect": "there is no connection that could be lost",
}
"""Options of channels_redis, and why there is no such thing here."""


def refuse(unknown, layer):
    """Say of options that a layer does not have why that is so.

    :raises ValueError: one of channels_redis.
    :raises TypeError: any other, as Python itself has it.
    """
    for name in sorted(unknown):
        if name in WITHOUT_MEANING:
            raise ValueError(
                "{0} is an option of channels_redis that has no meaning here: {1}. Remove it "
                "from CONFIG.".format(name, WITHOUT_MEANING[name])
            )
        raise TypeError(
            "{0} is no option of {1}; README.rst tells of those there are".format(name, layer)
        )


class Options(object):
    """Checked options; times in ns, sizes in bytes."""

    def __init__(
        self,
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
    ):
        self.prefix = checked_prefix(prefix)
        self.lifetime = _nanoseconds("expiry", expiry)
        self.group_lifetime = _nanoseconds("group_expiry", group_expiry)
        self.capacity = _count("capacity", capacity, 1, "messages in a channel")
        self.patterns = names.compile_capacities(channel_capacity)
        self.message_memory = _count("message_memory", message_memory, MINIMUM_MEMORY, "bytes")
        self.group_memory = _count("group_memory", group_memory, MINIMUM_MEMORY, "bytes")
        self.mode = _mode(mode)
        self.max_message_size = min(self.message_memory // 4, LARGEST_MESSAGE)
        if max_message_size is not None:
            self.max_message_size = _count("max_message_size", max_message_size, 1, "bytes")
            if self.max_message_size > min(self.message_memory // 2, LARGEST_MESSAGE):
                raise ValueError(
                    "max_message_size={0} is more than half of message_memory={1}; raise "
                    "message_memory".format(max_message_size, message_memory)
                )
        self.block_timeout = _seconds("block_timeout", block_timeout, zero=True)
        self.lock_timeout = _seconds("lock_timeout", lock_timeout)


def checked_prefix(prefix):
    """The prefix, as str.

    :raises ValueError: it cannot be one; says what can.
    """
    allowed = "a non-empty name of at most {0} ASCII characters, without slash".format(
        LONGEST_PREFIX
    )
    try:
        text = prefix if isinstance(prefix, six.text_type) else prefix.decode("ascii")
        text.encode("ascii")
    except (AttributeError, UnicodeError):
        raise ValueError("prefix={0!r}: it has to be {1}".format(prefix, allowed))
    if not text or "/" in text or "\0" in text or len(text) > LONGEST_PREFIX:
        raise ValueError("prefix={0!r}: it has to be {1}".format(prefix, allowed))
    return str(text)


def _count(name, value, least, unit):
    if isinstance(value, bool) or not isinstance(value, six.integer_types) or value < least:
        raise ValueError(
            "{0}={1!r}: it has to be a whole number ({2}), at least {3}".format(
                name, value, unit, least
            )
        )
    return value


def _seconds(name, value, zero=False):
    good = isinstance(value, six.integer_types + (float,)) and not isinstance(value, bool)
    if not good or not (0 <= value < 1e9) or (value == 0 and not zero):
        raise ValueError(
            "{0}={1!r}: it has to be a number of seconds {2}, below 1e9".format(
                name, value, "from 0 up" if zero else "above 0"
            )
        )
    return value


def _nanoseconds(name, value):
    return int(_seconds(name, value) * SECOND)


def _mode(mode):
    if isinstance(mode, bool) or not isinstance(mode, six.integer_types):
        raise ValueError(  # noqa: TRY004 (every wrong option is a ValueError)
            "mode={0!r}: it has to be permission bits, such as 0o600".format(mode)
        )
    if mode & ~0o666 or mode & 0o600 != 0o600:
        raise ValueError(
            "mode={0:#o}: the owner has to read and write (0o600); besides, 0o060 and 0o006 "
            "may admit the group and all others".format(mode)
        )
    return mode
