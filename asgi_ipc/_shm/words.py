"""Words that show when something wrote over them, and what is raised then.

A segment is open to every process of its user, and what writes into it by mistake asks no
lock. Payloads, names and links are verified by check sums and by each other; numbers that
stand alone and decide much are kept in one of two forms, of which a stray byte makes nothing:

* A *twin* holds its number, below 2**32, in both halves. Twins add and subtract as they are:
  add ``count * TWIN``.
* A *sealed* word holds a number below 2**48, and 16 bits of its check sum under it.

Both change with one aligned store, so either can be a commit word.
"""
import struct
import zlib

import six

M32 = 0xFFFFFFFF
TWIN = 1 + (1 << 32)

LARGEST_COUNT = 1 << 62
"""No counter that starts at 0 gets here: one beyond it was written over."""

_WORD = struct.Struct("=Q")


def _unsigned_crc32(data, start=0):
    """Python 2: of its numbers half are negative."""
    return zlib.crc32(data, start) & M32


def _unsigned_adler32(data, start=1):
    """The same."""
    return zlib.adler32(data, start) & M32


crc32 = zlib.crc32 if six.PY3 else _unsigned_crc32
"""The CRC-32 of bytes, from 0 to M32. Cost: 0.1 us, and 0.24 ns a byte."""

adler32 = zlib.adler32 if six.PY3 else _unsigned_adler32
"""Their Adler-32, from 0 to M32. Cost: 0.04 us, and 0.27 ns a byte: for short ones, a third.

It finds each change of one byte or of two, and of eight that are side by side all but one in a
million. Both halves of a start have to be below 65,521 (``ADLER_START``).
"""

ADLER_START = 0x7FFF7FFF
"""Bits of a number that can be such a start as they are."""


def _equals(part, memory, begin):
    """Whether ``part``, bytes, lies at ``begin`` in memory. Copies nothing."""
    return part.startswith(memoryview(memory)[begin : begin + len(part)])


def _equals_copied(part, memory, begin):
    """The same. A memoryview of Python 2 has no mmap."""
    return part == memory[begin : begin + len(part)]


equals = _equals if six.PY3 else _equals_copied


class Damage(Exception):
    """The segment contradicts itself: what is derived gets rebuilt, and it is tried again.

    Never leaves a store.
    """


DAMAGE = (Damage, IndexError, ValueError, OverflowError, struct.error)
"""What reading and writing words that contradict each other can raise."""


def single(twin):
    """The number in a twin.

    :raises Damage: its halves differ.
    """
    if twin >> 32 != twin & M32:
        raise Damage("a twin word's halves differ ({0:#x})".format(twin))
    return twin & M32


def sealed(number):
    """The word that holds a number below 2**48, sealed."""
    return number << 16 | crc32(_WORD.pack(number)) & 0xFFFF


def unsealed(word):
    """The number in a sealed word, or None if its seal does not hold."""
    return word >> 16 if sealed(word >> 16) == word else None
