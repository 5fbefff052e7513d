"""Name rules and capacity patterns of ASGI, the same for the synchronous and asynchronous face.

Knows what a channel or group name may look like, how a name divides into the queue that
holds its messages and the part behind it, and which capacity a pattern gives a channel.
Must not know of segments, messages, groups, or which face is asking.

A name is text of fewer than ``MAX_NAME_LENGTH`` characters: ASCII letters, digits, ``-``,
``_`` and ``.``; a channel may go on with one ``?`` (single-reader) or ``!``
(process-local) and a local part of the same characters::

    http.request            normal         queue "http.request"   local ""
    reply?Xa1               single-reader  queue "reply?Xa1"      local ""
    http.response!Xa1       process-local  queue "http.response!" local "Xa1"

The character sets are written out, not ``\\d`` and ``\\w``, which match the digits and
letters of every script, and the patterns end in ``\\Z``, not ``$``, which lets a newline pass.

Wrong names are ``TypeError`` (the ASGI contract), wrong capacities ``ValueError``.

Source: ASGI draft specification 1.1, "Channels" and "Capacity".
"""
import fnmatch
import re

import six

MAX_NAME_LENGTH = 100  # characters; a name must be shorter

_CHANNEL = re.compile(r"[a-zA-Z0-9\-_.]+(?:\?[a-zA-Z0-9\-_.]+|![a-zA-Z0-9\-_.]*)?\Z")
_GROUP = re.compile(r"[a-zA-Z0-9\-_.]+\Z")

_NODE = re.compile(
    r"(?:\.([0-9a-f]{12})[0-9a-f]{16}![0-9a-f]{24}|\?([0-9a-f]{12})[0-9a-f]{16})\Z"
)
"""The end of a name that ``new_channel`` of either face has made: node, process, random part."""

_LENGTH_RULE = "text of 1 to %d characters" % (MAX_NAME_LENGTH - 1)
_LETTERS_RULE = "ASCII letters, digits, hyphens, underscores and periods"
_CHANNEL_RULE = (
    "A channel name is %s: %s, then optionally one '?' or '!' and a local part of the same "
    "characters (after '?' it must not be empty)." % (_LENGTH_RULE, _LETTERS_RULE)
)
_GROUP_RULE = "A group name is %s: %s." % (_LENGTH_RULE, _LETTERS_RULE)
_RECEIVE_RULE = "The name of a process-local channel must end at its '!' to be received from."
_CAPACITY_RULE = (
    "channel_capacity takes a dict of pattern to capacity: a glob (text) or a compiled regular "
    "expression to a whole number of messages, 1 or more"
)

_SHOWN = 120  # characters of a wrong name that an error quotes
_WHOLE = slice(None)


def channel_name(name, receive=False):
    """``name`` as plain text if it is a valid channel name.

    :param receive: the name is to be received from: a process-local one must end at its ``!``.
    :raises TypeError: it is not valid; the text shows it and says what is allowed.
    """
    if not _fits(_CHANNEL, name):
        raise TypeError("%s is not a channel name. %s" % (_shown(name), _CHANNEL_RULE))
    if receive and "!" in name and not name.endswith("!"):
        raise TypeError("%s cannot be received from. %s" % (_shown(name), _RECEIVE_RULE))
    return _plain_text(name)


def group_name(name):
    """``name`` as plain text if it is a valid group name.

    :raises TypeError: it is not valid; the text shows it and says what is allowed.
    """
    if not _fits(_GROUP, name):
        raise TypeError("%s is not a group name. %s" % (_shown(name), _GROUP_RULE))
    return _plain_text(name)


def channel_names(names):
    """The names of ``names`` as a new list, each fit to be received from.

    See ``ReadableNames.all``.
    """
    return _readable.all(names)


def non_local_name(name):
    """``name`` up to and including its ``!``; all of it where there is none."""
    return name[: name.find("!") + 1] or name


def split_local(name):
    """(queue, local) of a valid channel name: ("a!", "b") for "a!b", (name, "") otherwise."""
    end = name.find("!") + 1
    return (name[:end], name[end:]) if end else (name, name[:0])


def node_of(name):
    """The node (12 hexadecimal digits) of a valid channel name; "" if it carries none.

    Only names that ``new_channel`` makes say to which machine they belong. Cost: 1 us.
    """
    found = _NODE.search(name)
    return (found.group(1) or found.group(2)) if found else name[:0]


def compile_capacities(channel_capacity):
    """The list of (compiled pattern, capacity) that ``get_capacity`` goes through, in order.

    :param channel_capacity: None, a dict of glob or compiled regular expression to capacity
        in messages, or a list of such pairs (so a compiled list passes through). The order is
        kept: an OrderedDict, or a dict from Python 3.7 on, decides which match is the first.
    :raises ValueError: a pattern or a capacity is not usable; the text names the pattern.
    """
    if channel_capacity is None:
        return []
    pairs = channel_capacity.items() if hasattr(channel_capacity, "items") else channel_capacity
    if isinstance(pairs, (six.text_type, bytes)):
        raise ValueError(  # noqa: TRY004 (every wrong option is a ValueError)
            "%s, not %s." % (_CAPACITY_RULE, _shown(channel_capacity))
        )
    try:
        pairs = [(pattern, capacity) for pattern, capacity in pairs]
    except (TypeError, ValueError):
        raise ValueError("%s, not %s." % (_CAPACITY_RULE, _shown(channel_capacity)))
    return [(_compiled(pattern), _checked(pattern, capacity)) for pattern, capacity in pairs]


def get_capacity(patterns, default, channel):
    """The capacity of ``channel`` in messages: that of the first pattern that matches it.

    A process-local channel is matched as sent and by its non-local part. Both are in use:
    ``http.response!*`` and ``^websocket.send\\!.+`` were written for the name as sent,
    ``http.response!`` for the queue, which is what the capacity is a capacity of.

    :param patterns: what ``compile_capacities`` returned.
    :param default: the capacity where nothing matches.
    """
    queue = non_local_name(channel)
    for pattern, capacity in patterns:
        if pattern.match(channel) or pattern.match(queue):
            return capacity
    return default


class _Known(dict):
    """For Python 2, where b"a" == u"a", with one hash: a byte string is no name, and finds none."""

    def __getitem__(self, name):
        if not isinstance(name, six.text_type):
            raise KeyError(name)
        return dict.__getitem__(self, name)


class NameCache(object):
    """Channel names found valid before, so that ``cache[name]`` costs one dict lookup.

    ``cache[name]`` validates a name that is new and raises ``TypeError`` as the functions
    above do; what is refused is never stored. Holds at most ``limit`` names and starts anew
    when full: names come from users without end, and to sort out which are still in use
    would cost more than it saves. Threads may share one: each step is a single dict operation
    and no step relies on the one before it.

    ``known`` is what it has, for who looks there first: a plain dict is quicker than anything.

    An unhashable name fails in the lookup itself, before any code here runs, with a
    ``TypeError`` that says no more than "unhashable type"; a caller who wants the full text
    catches it and calls ``channel_name`` (or ``group_name``).

    A subclass says in ``entry`` what is kept for a name.
    """

    limit = 10000

    def __init__(self):
        self.known = _Known() if six.PY2 else {}

    def __getitem__(self, name):
        try:
            return self.known[name]
        except KeyError:
            pass
        value = self.entry(name)
        if len(self.known) >= self.limit:
            self.known.clear()
        self.known[_plain_text(name)] = value
        return value

    def entry(self, name):
        """What the cache gives for ``name``, or TypeError if it is not valid."""
        return channel_name(name)


class ChannelNames(NameCache):
    """Maps a channel name to (queue, local), see ``split_local``.

    A channel that may be received from is one whose ``local`` is empty.
    """

    def entry(self, name):
        """(queue, local), or TypeError."""
        return split_local(channel_name(name))


class GroupNames(NameCache):
    """Maps a group name to itself, as plain text."""

    def entry(self, name):
        """The name, or TypeError."""
        return group_name(name)


class ReadableNames(NameCache):
    """Maps the name of a channel that may be received from to a tuple of it, as plain text."""

    def all(self, names):
        """The names of ``names`` as a new list.

        Cost: a dict lookup for each name seen before.

        :param names: any iterable of channel names but text itself, whose letters would each
            pass for a name.
        :raises TypeError: it is text, not iterable or empty, or a name in it is not valid.
        """
        if isinstance(names, (six.text_type, bytes)):
            raise TypeError(
                "receive takes a list of channel names; %s is a single string: put it in a list."
                % _shown(names)
            )
        try:
            names = list(names)
        except TypeError:
            raise TypeError("receive takes a list of channel names, not %s." % _shown(names))
        if not names:
            raise TypeError("receive takes a list of at least one channel name; this one is empty.")
        try:
            return [self[name][0] for name in names]
        except TypeError:
            # Once more, for the full text: an unhashable name fails without one.
            return [self.entry(name)[0] for name in names]

    def entry(self, name):
        """(name,), or TypeError."""
        return (channel_name(name, receive=True),)


_readable = ReadableNames()


def _fits(pattern, name):
    return (
        isinstance(name, six.text_type)
        and len(name) < MAX_NAME_LENGTH
        and pattern.match(name) is not None
    )


def _plain_text(name):
    # A subclass (Django's SafeText) may carry attributes and methods of its own, and none of
    # them should live on in a cache or a result.
    return name if type(name) is six.text_type else six.text_type.__getitem__(name, _WHOLE)


def _compiled(pattern):
    if isinstance(pattern, six.string_types):
        return re.compile(fnmatch.translate(pattern))
    try:
        pattern.match(u"")
    except (AttributeError, TypeError):
        # TypeError: a regular expression over bytes, which matches no name.
        raise ValueError("%s; %s is no such pattern." % (_CAPACITY_RULE, _shown(pattern)))
    return pattern


def _checked(pattern, capacity):
    if (
        not isinstance(capacity, six.integer_types)
        or isinstance(capacity, bool)
        or capacity < 1
    ):
        shown = getattr(pattern, "pattern", pattern)
        raise ValueError(
            "the capacity of %s is %s. %s." % (_shown(shown), _shown(capacity), _CAPACITY_RULE)
        )
    return int(capacity)


def _shown(value):
    """``repr(value)`` for an error text: short, and never an error of its own."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 (whatever a foreign __repr__ raises, the refusal must get through)
        text = "<%s>" % type(value).__name__
    return text if len(text) <= _SHOWN else "%s... (%d characters)" % (text[:_SHOWN], len(text))
