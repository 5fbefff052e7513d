"""Messages to bytes and back: the only module that knows msgpack.

Must not know of channels, layers or shared memory. Works with every msgpack from 0.5.6 on,
compiled or pure Python; sender and receiver may differ in version.

What travels: None, bool, int of 64 bits, float, text, bytes, and lists and dicts of these.
A tuple arrives as a list; bytearray and memoryview arrive as bytes; a subclass (SafeText,
IntEnum, OrderedDict, namedtuple) arrives as what it derives from. msgpack's ExtType and
Timestamp arrive as they are, where the receiver's msgpack has them too.

1. What ``pack`` accepts, ``unpack`` accepts. Anything else is a ``TypeError`` at the sender
   that names the place: ``message['user']['tags'][2]: a set cannot be sent``.
2. Nothing of the message is kept, and nothing in it is changed.
3. No interruption of ``pack``, at whichever point, harms a later one.

How it is quick: an ordinary message takes one call of a Packer that is strict about types.
That one gives up at the first value that is not exactly of a base type; then a lenient one
packs the message, and what it made is unpacked for proof, since a tuple may have been a key,
which would arrive as a list and be none. Where a message fails is looked for only after it
has. Packers are kept, for their buffer of up to 1 MiB costs more than a small message. They
are not re-entrant, and a finalizer or signal handler that sends may run inside of one: so
whoever packs takes a pair of Packers off the shelf, and puts it back after success only.
Taking and putting are one step each for any thread, and what is interrupted between them is
simply not reused.

Measured (Python 3.11, msgpack 1.2, {"type": "chat.message", "text": "hello world",
"user": "alice"}): pack 0.22 us, of which the Packer 0.11; msgpack.packb with the same options
0.45. unpack 0.28 us.
"""
import re

import msgpack
import six

MAX_DEPTH = 250
"""Levels of dicts and lists, the message itself being the first.

The least of all packers: pure Python ones count a dict twice towards their 511. C ones go to
512 or, from 1.2 on, 1025, and unpackers to 1024; those in pure Python stop where the
interpreter's recursion limit says, less what its caller has used.
"""

RESERVED_KEY = "__asgi_channel__"
"""Refused as a key of the message: older layers keep the name of a ``!`` channel there."""

_KEPT_SIZE = 1 << 18  # bytes; no Packer's first buffer is smaller, and one that grew stays large
_SCANNED_SIZE = 1 << 16  # bytes; see _too_deep
_CONTAINERS = frozenset((dict, list))

# Every byte that does not begin a non-empty list or dict in msgpack.
_NOT_HEADERS = bytes(
    bytearray(
        byte for byte in range(256) if not (0x81 <= byte <= 0x9F or 0xDC <= byte <= 0xDF)
    )
)
# A surrogate in UTF-8. Python 2 encodes and decodes it in silence, Python 3 refuses both.
_SURROGATE = re.compile(b"\xed[\xa0-\xbf]")

# Packed messages above this size are looked at once more. On Python 2 all, for surrogates.
_UNSUSPICIOUS_SIZE = -1 if six.PY2 else MAX_DEPTH

# Pairs of Packers that nobody uses at present.
_shelf = []
_take = _shelf.pop
_put_back = _shelf.append


def pack(message):
    """The bytes that ``unpack`` turns into ``message`` again.

    Cost: that of msgpack and 0.1 us, for an ordinary message. One with tuples or subclasses
    is also unpacked here; one of more than MAX_DEPTH lists and dicts takes about double.

    :param message: a dict. Its keys may be of any type that travels, but lists, dicts, tuples.
    :raises TypeError: it is no dict, has the reserved key, or something in it cannot travel:
        the text names the path to it.
    """
    if type(message) is not dict and not isinstance(message, dict):
        raise TypeError("a message is a dict, not %s." % _a_type(message))
    if RESERVED_KEY in message:
        raise TypeError(
            "message[%r]: this key is reserved for channel layers; choose another." % RESERVED_KEY
        )
    try:
        packers = _take()
    except IndexError:
        packers = _new_packers()
    arrives = message
    try:
        try:
            data = packers[0](message)
        except _NotExact:
            data = packers[1](message)
            arrives = unpack(data)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 (of many kinds, by version and implementation)
        refusal = _refusal(message, error)
    else:
        size = len(data)
        if size <= _UNSUSPICIOUS_SIZE:
            _put_back(packers)
            return data
        if not _suspicious(arrives, data):
            if size <= _KEPT_SIZE:
                _put_back(packers)
            return data
        refusal = _find_fault(arrives)
        if refusal is None:
            return data
    raise TypeError(refusal)


def _unpack_with(unpackb, version):
    """The ``unpack`` for one version of msgpack, whose defaults differ.

    Written out, for a dict of options costs 0.1 us a call more.
    """
    if version >= (1, 0, 0):

        def unpack(data):
            return unpackb(data, raw=False, strict_map_key=False)

    elif (0, 6, 0) <= version < (0, 6, 2):
        # Versions that refuse text above 1 MiB and dicts of more than 32,768 keys.
        most = 2**31 - 1

        def unpack(data):
            return unpackb(
                data,
                raw=False,
                max_str_len=most,
                max_bin_len=most,
                max_array_len=most,
                max_map_len=most,
                max_ext_len=most,
            )

    else:

        def unpack(data):
            return unpackb(data, raw=False)

    unpack.__doc__ = """The message that ``pack`` made ``data`` of.

    :param data: bytes, or another buffer of bytes.
    :raises ValueError: ``data`` is not what ``pack`` returned. Depending on what it is, and on
        the version of msgpack, also TypeError.
    """
    return unpack


unpack = _unpack_with(msgpack.unpackb, tuple(msgpack.version))


class _NotExact(Exception):
    """The strict Packer met a value that is not exactly of a base type."""


def _give_up(_):
    raise _NotExact


def _new_packers():
    """The pack methods of a strict and a lenient Packer."""
    strict = msgpack.Packer(use_bin_type=True, strict_types=True, default=_give_up)
    return strict.pack, msgpack.Packer(use_bin_type=True).pack


# -- what is packed, and yet may not travel --------------------------------------------------


def _suspicious(message, data):
    """False if ``data``, packed from ``message``, arrives everywhere. True: look closely."""
    if six.PY2 and b"\xed" in data and _SURROGATE.search(data):
        return True
    return len(data) > MAX_DEPTH and _too_deep(message, data)


def _too_deep(message, data):
    """Whether ``message``, of exact base types, has more than MAX_DEPTH levels.

    Cheap proofs that it has not come first: flat (0.1 us), or not that many bytes in ``data``
    that could begin a dict or list (0.4 us a KiB, not worth it for a large file).
    """
    if _CONTAINERS.isdisjoint(map(type, message.values())):
        return False
    if len(data) <= _SCANNED_SIZE and len(data.translate(None, _NOT_HEADERS)) <= MAX_DEPTH:
        return False
    level = [message]
    for _ in range(MAX_DEPTH):
        below = []
        for container in level:
            below += container.values() if type(container) is dict else container
        if _CONTAINERS.isdisjoint(map(type, below)):
            return False
        level = [value for value in below if type(value) in _CONTAINERS]
    return True


# -- saying where it failed ------------------------------------------------------------------


def _refusal(message, error):
    """Why ``message`` cannot be packed, given the exception of the attempt."""
    try:
        fault = _find_fault(message)
    except Exception as second:  # noqa: BLE001 (foreign code: items() of a dict subclass, for one)
        fault, error = None, second
    return fault or "message: it could not be packed (%s: %s)." % (type(error).__name__, error)


def _find_fault(message):
    """The first thing in ``message`` that cannot travel, with its path; None if all can.

    In the packer's order. No recursion: it is called where that has just gone too far.
    """
    stack = [(message, _entries(message))]
    path = []
    while stack:
        container, entries = stack[-1]
        step, value = next(entries, (None, stack))
        if value is stack:  # no further entry
            stack.pop()
            del path[-1:]
            continue
        if isinstance(container, dict):
            problem = _key_problem(step)
            if problem:
                return "%s: %s" % (_place(path), problem)
        problem = None
        if _is_container(value):
            if any(outer is value for outer, _ in stack):
                problem = "%s cannot be sent that contains itself." % _a_type(value)
            elif len(stack) >= MAX_DEPTH:
                problem = "nested too deeply; a message has at most %d levels." % MAX_DEPTH
            else:
                stack.append((value, _entries(value)))
                path.append(step)
        else:
            problem = _leaf_problem(value)
        if problem:
            return "%s: %s" % (_place(path + [step]), problem)
    return None


def _is_container(value):
    return isinstance(value, (dict, list, tuple)) and not isinstance(value, msgpack.ExtType)


def _entries(container):
    if isinstance(container, dict):
        return iter(list(container.items()))
    return enumerate(list(container))


def _key_problem(key):
    if _is_container(key):
        return (
            "the key %s is %s, which arrives as %s, and that cannot be a key; use text."
            % (_shown(key), _a_type(key), "a dict" if isinstance(key, dict) else "a list")
        )
    problem = _leaf_problem(key)
    return problem and "the key %s: %s" % (_shown(key), problem)


def _leaf_problem(value):
    """Why ``value``, which is no container, cannot travel; None if it can."""
    text = isinstance(value, six.text_type)
    try:
        unpack(_new_packers()[1](value))
        if not (six.PY2 and text and _SURROGATE.search(value.encode("utf-8"))):
            return None
    except Exception:  # noqa: BLE001, S110 (what it was, is said below)
        pass
    if text:
        return "text with a lone surrogate cannot be sent; UTF-8 has no form for it."
    if isinstance(value, six.integer_types):
        return "an int cannot be sent that does not fit 64 bits (-2**63 to 2**64 - 1)."
    if isinstance(value, memoryview):
        return "a memoryview cannot be sent that is not contiguous; use its tobytes()."
    return (
        "%s cannot be sent; what can is None, bool, int, float, text, bytes, and lists, tuples "
        "and dicts of these." % _a_type(value)
    )


def _place(path):
    """The path as Python would write it: ``message['user']['tags'][2]``."""
    steps = ["[%s]" % _shown(step) for step in path]
    if len(steps) > 12:
        steps[6:-4] = ["[...]"]
    return "message" + "".join(steps)


def _shown(key):
    try:
        text = repr(key)
    except Exception:  # noqa: BLE001 (whatever a foreign __repr__ raises, the refusal must get through)
        text = "<%s>" % type(key).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def _a_type(value):
    name = type(value).__name__
    return ("an " if name[0] in "aeiouAEIOU" else "a ") + name
