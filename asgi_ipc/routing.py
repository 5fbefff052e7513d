"""What the outbox's records are, and where they go: a kind, and names, as bytes.

Knows how that is written down, for those who put it there and for the bridge that takes it out.
Does not know stores. A routing is a letter and what it is about::

    g GROUP              a message to a group
    c CHANNEL            a message to a channel of another machine
    a CHANNEL \\n GROUP   begin or renew a membership; the payload is its lifetime, ns, 8 bytes
    d CHANNEL \\n GROUP   end a membership; no payload
    s CHANNEL            a message to a normal channel that machines share
"""
import struct

GROUP, CHANNEL, ADD, DISCARD, SHARED = u"g", u"c", u"a", u"d", u"s"
KINDS = frozenset([GROUP, CHANNEL, ADD, DISCARD, SHARED])

_LIFETIME = struct.Struct(">Q")


def routing(kind, name, group=None):
    """The text of a routing."""
    return kind + name if group is None else u"{0}{1}\n{2}".format(kind, name, group)


def unpacked(encoded):
    """(kind, name, group or "") of a routing's bytes.

    :raises ValueError: it is none. Whether names are names is not asked.
    """
    text = encoded.decode("ascii")
    kind, (name, _, group) = text[:1], text[1:].partition(u"\n")
    if kind not in KINDS or not name or bool(group) != (kind in (ADD, DISCARD)):
        raise ValueError("no routing: {0!r}".format(text[:100]))
    return kind, name, group


def lifetime_payload(lifetime):
    """The payload of ``ADD``; ns."""
    return _LIFETIME.pack(max(int(lifetime), 0))


def lifetime_of(payload):
    """The lifetime, ns, in a payload of ``ADD``.

    :raises ValueError: it is none.
    """
    if len(payload) != _LIFETIME.size:
        raise ValueError("no lifetime: {0} bytes".format(len(payload)))
    return _LIFETIME.unpack(payload)[0]
