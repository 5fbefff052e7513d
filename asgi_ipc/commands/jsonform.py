"""Messages as JSON and back, for shells: what ``peek`` and ``receive`` show, ``send`` accepts.

Text, numbers, booleans, None, lists, and dicts with text for keys are what JSON has for them. The
rest of what a message may carry is a dict with one key:

- bytes: ``{"__bytes__": "aGVsbG8="}``, in base64;
- a dict with other keys than text, or that reads like one of these: ``{"__items__": [[key,
  value], ...]}``;
- a number that JSON lacks: ``{"__float__": "nan"}``, or ``inf`` or ``-inf``;
- an extension type of msgpack: ``{"__ext__": [code, base64]}``; shown, and refused by ``send``.
"""
import base64
import json
import math

import six

BYTES, ITEMS, FLOAT, EXTENSION = u"__bytes__", u"__items__", u"__float__", u"__ext__"
_MARKS = frozenset((BYTES, ITEMS, FLOAT, EXTENSION))


def shown(value):
    """What stands for a message, or a part of one, in JSON."""
    if isinstance(value, dict):
        return _dict_shown(value)
    if isinstance(value, (list, tuple)) and not hasattr(value, "code"):
        return [shown(part) for part in value]
    if isinstance(value, bytes):
        return {BYTES: _base64(value)}
    if isinstance(value, float) and (math.isinf(value) or math.isnan(value)):
        return {FLOAT: str(value)}
    if value is None or isinstance(value, (bool, float, six.text_type) + six.integer_types):
        return value
    return _extension_shown(value)


def _dict_shown(value):
    keys = list(value)
    plain = all(isinstance(key, six.text_type) for key in keys)
    if plain and not (len(keys) == 1 and keys[0] in _MARKS):
        return {key: shown(part) for key, part in value.items()}
    return {ITEMS: [[shown(key), shown(part)] for key, part in value.items()]}


def _extension_shown(value):
    data = getattr(value, "data", None)
    if data is None:
        # A Timestamp: an extension type that msgpack itself knows.
        return {EXTENSION: [-1, _base64(value.to_bytes())]}
    return {EXTENSION: [value.code, _base64(data)]}


def parsed(text):
    """The message that JSON text stands for.

    :raises ValueError: it is no JSON, no object, or a mark has something else in it.
    """
    try:
        value = json.loads(text)
    except RuntimeError:
        # Its class is newer than Python 2.7: RecursionError.
        raise ValueError("the message is nested too deeply")
    except ValueError as error:
        raise ValueError(
            "the message is not JSON ({0}); an example: '{{\"text\": \"hello\"}}'".format(error)
        )
    message = _meant(value)
    if not isinstance(message, dict):
        raise ValueError(  # noqa: TRY004 (a wrong argument of a command)
            "a message is a JSON object, such as '{\"text\": \"hello\"}'"
        )
    return message


def _meant(value):
    if isinstance(value, list):
        return [_meant(part) for part in value]
    if not isinstance(value, dict):
        return value
    mark = next(iter(value)) if len(value) == 1 else None
    if mark not in _MARKS:
        return {key: _meant(part) for key, part in value.items()}
    if mark == EXTENSION:
        raise ValueError("{0} is shown, and cannot be sent from here".format(EXTENSION))
    try:
        return _MEANT[mark](value[mark])
    except (TypeError, ValueError) as error:
        raise ValueError("{0} has something else in it than it should: {1}".format(mark, error))


def _bytes_meant(text):
    if not isinstance(text, six.text_type):
        raise TypeError("it is no text")
    data = base64.b64decode(text.encode("ascii"))
    if base64.b64encode(data).decode("ascii") != text:
        raise ValueError("it is not base64")
    return data


def _items_meant(pairs):
    return {_meant(key): _meant(part) for key, part in pairs}


_MEANT = {BYTES: _bytes_meant, ITEMS: _items_meant, FLOAT: float}


def _base64(data):
    return base64.b64encode(data).decode("ascii")
