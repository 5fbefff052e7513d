"""What commands print: tables, figures with units, JSON.

Knows nothing of layers. What comes from others (messages, command lines) may have anything in it:
characters that control a terminal, or that its encoding lacks, are shown as escapes.
"""
from __future__ import print_function

import json
import re
import sys

import six

_CONTROLS = re.compile(u"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def say(text=u""):
    """Print a line, at once: who reads a pipe is not to wait for more."""
    print(_encodable(text, sys.stdout))
    sys.stdout.flush()


def complain(command, text):
    """Say on the standard error stream what is wrong, in the name of a command."""
    line = u"asgi-ipc {0}: {1}".format(command, safe(six.text_type(text)))
    print(_encodable(line, sys.stderr), file=sys.stderr)


def emit(value, indent=2):
    """Print a value as JSON; on one line if ``indent`` is None."""
    say(as_json(value, indent))


def as_json(value, indent=None):
    """JSON with its characters as they are, unless a terminal would act on them."""
    text = json.dumps(value, ensure_ascii=False, indent=indent, sort_keys=indent is not None)
    if indent is not None:
        # Line ends are the only control characters that JSON itself puts in, and 2.7 leaves
        # a space before them.
        lines = text.split("\n")
        return u"\n".join(safe(line.rstrip(" ")) for line in lines)
    return safe(text)


def safe(text):
    """Text of others, with what a terminal would act on as escapes."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    return _CONTROLS.sub(_escape, text)


def _escape(match):
    return u"\\u{0:04x}".format(ord(match.group()))


def _encodable(text, stream):
    """As the stream can carry it: what it cannot becomes an escape that JSON has as well."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    encoding = getattr(stream, "encoding", None) or "ascii"
    try:
        encoded = text.encode(encoding)
    except (UnicodeError, LookupError):
        text = u"".join(c if ord(c) < 128 else _json_escape(c) for c in text)
        encoded = text.encode("ascii")
    return encoded if six.PY2 else text


def _json_escape(character):
    return json.dumps(character)[1:-1]


def table(headings, rows):
    """Print rows under headings; columns of numbers stand at the right.

    A heading that begins with ``>`` says so.
    """
    right = [heading.startswith(">") for heading in headings]
    lines = [[heading.lstrip(">") for heading in headings]]
    lines += [[safe(six.text_type(cell)) for cell in row] for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    for line in lines:
        cells = [
            cell.rjust(width) if at_right else cell.ljust(width)
            for cell, width, at_right in zip(line, widths, right)
        ]
        say(u"  ".join(cells).rstrip())


def pairs(rows):
    """Print (name, value) lines, the values below each other."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        say(u"{0}  {1}".format(name.ljust(width), safe(six.text_type(value))))


def size(count):
    """Bytes for people: three digits and a unit."""
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    if not unit:
        return "{0} B".format(int(count))
    return "{0:.{1}f} {2}".format(value, 0 if value >= 99.5 else 1, _UNITS[unit])


def seconds(value):
    """A time span for people."""
    if value == 0:
        return "0 s"
    for limit, factor, unit in ((1e-3, 1e6, "us"), (1, 1e3, "ms"), (120, 1, "s")):
        if value < limit:
            return "{0:.{1}f} {2}".format(value * factor, 1 if value * factor < 10 else 0, unit)
    if value < 7200:
        return "{0} min".format(int(value // 60))
    if value < 172800:
        return "{0} h".format(int(value // 3600))
    return "{0} d".format(int(value // 86400))


def rate(value):
    """Events a second for people."""
    return "{0:.{1}f}/s".format(value, 1 if 0 < value < 10 else 0)


def count(number, thing, things=None):
    """``1 process``, ``3 processes``."""
    if number == 1:
        return "1 {0}".format(thing)
    return "{0} {1}".format(number, things or thing + "s")


def octal(mode):
    """Permission bits as ``chmod`` takes them."""
    return "{0:04o}".format(mode & 0o7777)
