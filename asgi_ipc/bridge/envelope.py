"""What an entry of a stream is: bytes that say what it is, whose, and for how long.

Knows the form of an envelope, the rules of names, and ciphers; does not know Redis, nor shared
memory. Whatever comes from Redis is somebody else's word: ``Sealer.open`` gives an ``Envelope`` of
which each field was checked, or raises ``Refused``.

An envelope in the clear, in network byte order::

    1 byte  version, 1        8 bytes  node that sent it
    8 bytes lifetime, ms, at the moment when it was written into the stream
    2 bytes length of the stream's name, 2 bytes length of the routing
    the name of the stream, without the prefix; the routing; the payload, as it is

With keys it is a Fernet token of that. The stream's name is in it so that an entry cannot be
copied into another stream; with keys, nothing of it can be read or made without one.
"""
from __future__ import annotations

import struct
from typing import Any, List, NamedTuple, Optional

from asgi_ipc import names, routing

VERSION = 1
GROUPS = "groups"
_HEADER = struct.Struct(">BQQHH")
_TOKEN_GROWTH = 2
"""A token is at most so many times as long as what it holds, and 200 bytes."""


class Refused(Exception):
    """An entry that is none, or not for us; says why."""


REFUSED = "stream %s: %d entry(ies) from Redis refused, the last one: %s"
"""How that is logged."""


class Envelope(NamedTuple):
    """``lifetime``: ms. ``kind``, ``name``, ``group``: as ``routing.unpacked`` gives them."""

    node: int
    lifetime: int
    kind: str
    name: str
    group: str
    payload: bytes


def node_stream(node: str) -> str:
    """The stream of what is for one node."""
    return "node:" + node


def channel_stream(channel: str) -> str:
    """The stream of a channel that machines share."""
    return "channel:" + channel


def stream_of(routed: bytes) -> str:
    """The stream to which what has this routing goes.

    :raises ValueError: it is no routing.
    """
    kind, name, _ = routing.unpacked(routed)
    if kind == routing.GROUP:
        return GROUPS
    if kind == routing.SHARED:
        return channel_stream(name)
    return node_stream(names.node_of(name))


class Sealer:
    """Makes envelopes into entries, and entries into envelopes.

    :param largest: bytes of a payload.
    :param longest: ms that a message may live.
    :param keys: Fernet keys; the first one encrypts, each decrypts. None: in the clear.
    :raises ValueError: a key is none.
    """

    def __init__(self, largest: int, longest: int, keys: Optional[List[bytes]] = None) -> None:
        self._largest = largest
        self._longest = longest
        self._cipher: Any = _cipher(keys) if keys else None

    def seal(self, stream: str, node: int, lifetime: int, routed: bytes, payload: bytes) -> bytes:
        """The bytes of an entry."""
        name = stream.encode("ascii")
        lifetime = max(0, min(lifetime, self._longest))
        header = _HEADER.pack(VERSION, node, lifetime, len(name), len(routed))
        clear = b"".join((header, name, routed, payload))
        token: bytes = self._cipher.encrypt(clear) if self._cipher is not None else clear
        return token

    def open(self, stream: str, entry: Any) -> Envelope:
        """What an entry of a stream says.

        :raises Refused: it says nothing that this version would have written there.
        """
        if not isinstance(entry, bytes) or len(entry) > self._largest * _TOKEN_GROWTH + 1000:
            raise Refused("no envelope, or a message that is too large")
        clear = self._decrypted(entry)
        if len(clear) < _HEADER.size:
            raise Refused("{0} bytes are no envelope".format(len(clear)))
        version, node, lifetime, of_stream, of_routing = _HEADER.unpack_from(clear)
        if version != VERSION:
            raise Refused("version {0} of the envelope is not known here".format(version))
        begin, end = _HEADER.size + of_stream, _HEADER.size + of_stream + of_routing
        if clear[_HEADER.size : begin] != stream.encode("ascii") or end > len(clear):
            raise Refused("the envelope belongs to another stream")
        payload = clear[end:]
        if len(payload) > self._largest:
            raise Refused("a message of {0} bytes is too large here".format(len(payload)))
        kind, name, group = _route(stream, clear[begin:end])
        if kind == routing.ADD:
            try:
                routing.lifetime_of(payload)
            except ValueError as error:
                raise Refused(str(error)) from None
        return Envelope(node, min(lifetime, self._longest), kind, name, group, payload)

    def _decrypted(self, entry: bytes) -> bytes:
        if self._cipher is None:
            return entry
        from cryptography.fernet import InvalidToken

        try:
            clear: bytes = self._cipher.decrypt(entry)
        except InvalidToken:
            raise Refused("it is not encrypted with one of our keys") from None
        return clear


def _route(stream: str, routed: bytes) -> "tuple[str, str, str]":
    """(kind, name, group) of a routing that may stand in a stream.

    :raises Refused: it may not.
    """
    try:
        kind, name, group = routing.unpacked(routed)
        if kind == routing.GROUP:
            names.group_name(name)
            belongs = stream == GROUPS
        else:
            names.channel_name(name)
            if group:
                names.group_name(group)
            belongs = _belongs(stream, kind, name)
    except (TypeError, ValueError) as error:
        raise Refused(str(error)) from None
    if not belongs:
        raise Refused("{0!r} has no business in the stream {1}".format(kind + name, stream))
    return kind, name, group


def _belongs(stream: str, kind: str, name: str) -> bool:
    if kind == routing.SHARED:
        # Of a shared channel, or handed to the node that took it from there.
        return "?" not in name and "!" not in name and (
            stream == channel_stream(name) or stream.startswith("node:")
        )
    return stream == node_stream(names.node_of(name))


def _cipher(keys: List[bytes]) -> Any:
    try:
        from cryptography.fernet import Fernet, MultiFernet
    except ImportError:
        raise ValueError(
            "--key-file needs the package cryptography: pip install 'asgi_ipc[redis]'"
        ) from None
    try:
        return MultiFernet([Fernet(key) for key in keys])
    except (TypeError, ValueError):
        raise ValueError(
            "the key file holds what is no Fernet key: 32 bytes in URL-safe base64 on each line"
        ) from None


def read_keys(path: str) -> List[bytes]:
    """The keys in a file, one on a line; empty lines and those that begin with # do not count.

    :raises ValueError: there are none, or others than its owner can read or write the file.
    :raises OSError: it cannot be read.
    """
    import os
    import stat

    with open(path, "rb") as stream:
        mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
        lines = [line.strip() for line in stream.read().splitlines()]
    if mode & 0o027:
        raise ValueError(
            "{0} can be read by all, or written by others than its owner (mode {1:#o}): "
            "chmod 600 it, and make new keys".format(path, mode)
        )
    keys = [line for line in lines if line and not line.startswith(b"#")]
    if not keys:
        raise ValueError("there is no key in {0}".format(path))
    _cipher(keys)
    return keys
