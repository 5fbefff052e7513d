"""Who and what is in both stores: each channel, receiver, message, group and membership.

For people who look and for ``statistics()``; nothing that works needs it. Knows what the rows of
the tables mean; does not know the lock, which is held for one piece of a table at a time
(``Guarded.rows``), nor who is shown what it finds.

A census is taken in steps, so that an event loop can go on between them. A step that could not
get the lock has done nothing, and may be taken again. What is found was so at some moment while
it was taken: a channel that is read meanwhile may be counted before or after.
"""
import struct
from collections import Counter, namedtuple

from asgi_ipc import statistics
from asgi_ipc._shm.clock import SECOND
from asgi_ipc._shm.slots import STATE
from asgi_ipc.group_cells import CHECK, EXPIRY, GROUP, GROUP_STATE, NAME_BYTES
from asgi_ipc.group_cells import NAME as CELL_NAME
from asgi_ipc.layout import COUNT, FIRST, FULL, NAME, NAME_LENGTH, RATES, SENT
from asgi_ipc.waiters import BELL, ENTRY, HUNG, LOOKED, NUMBER, PID, STALE

Channel = namedtuple(
    "Channel",
    "channel waiting oldest sent sent_per_second refused refused_per_second receivers",
)
"""``oldest``: seconds since the oldest message was sent, 0.0 if there is none."""

Receiver = namedtuple("Receiver", "pid idle alive channels")
"""``idle``: seconds since it last looked. Not ``alive``: stopped, or dead without notice."""

Group = namedtuple("Group", "group members")

Member = namedtuple("Member", "channel expires")
"""``expires``: in so many seconds."""


class MessageCensus(object):
    """The channels and receivers of a message store."""

    def __init__(self, store):
        self._store = store
        self._tables = [
            (store.entries_from, self._see_entries),
            (store.bells_from, self._see_bells),
            (store.nodes_from, self._see_nodes),
        ]
        self._first = 0
        self._nodes = Counter()
        self._hung = {}
        self._bells = {}
        self._entries = []

    def step(self):
        """Take the next piece; False when there is none left. Cost: the lock for 10 us."""
        first = self._first
        read, see = self._tables[-1]
        rows, following = read(first)
        see(rows, first)
        if following is None:
            self._tables.pop()
        self._first = following or 0
        return bool(self._tables)

    def channels(self):
        """All channels that have messages or receivers, or had them lately."""
        now = self._store.now()
        return [self._channel(number, row, sent_at, now) for number, row, sent_at in self._entries]

    def receivers(self):
        """All receivers that wait, or did so last."""
        now = self._store.now()
        names = {number: _entry_name(row) for number, row, _ in self._entries}
        found = []
        for bell, (pid, looked) in sorted(self._bells.items()):
            waits_at = sorted(names[entry] for entry in self._hung.get(bell, ()) if entry in names)
            idle = max(now - looked, 0)
            found.append(Receiver(pid, idle / float(SECOND), idle < STALE, waits_at))
        return found

    def _see_nodes(self, rows, _):
        store = self._store
        for row in rows:
            if row[STATE] == HUNG:
                entry, bell = _number(store.entries, row[ENTRY]), _number(store.bells, row[BELL])
                self._nodes[entry] += 1
                self._hung.setdefault(bell, []).append(entry)

    def _see_bells(self, rows, first):
        for number, row in enumerate(rows, first):
            if row[STATE] and row[NUMBER]:
                self._bells[number] = row[PID], row[LOOKED]

    def _see_entries(self, rows, first):
        for number, (row, sent_at) in enumerate(rows, first):
            if row[STATE]:
                self._entries.append((number, row, sent_at))

    def _channel(self, number, row, sent_at, now):
        sent_per_second, refused_per_second = statistics.rates(row, RATES, now)
        return Channel(
            _entry_name(row),
            row[COUNT],
            max(now - sent_at, 0) / float(SECOND) if row[FIRST] else 0.0,
            row[RATES + SENT],
            sent_per_second,
            row[RATES + FULL],
            refused_per_second,
            self._nodes[number],
        )


class GroupCensus(object):
    """The groups and members of a group store; expired ones are left out."""

    def __init__(self, store):
        self._store = store
        self._first = 0
        self._names = {}
        self._members = {}

    def step(self):
        """Take the next piece; False when there is none left. Cost: the lock for 10 us."""
        first = self._first
        now = self._store.now()
        cells = self._store.cells
        rows, self._first = self._store.rows(cells, first)
        for number, row in enumerate(rows, first):
            if row[STATE] == GROUP_STATE:
                self._names[number] = _cell_name(row)
            elif row[STATE] > GROUP_STATE and row[EXPIRY] > now:
                members = self._members.setdefault(_number(cells, row[GROUP]), [])
                members.append((row[STATE], _cell_name(row), row[EXPIRY]))
        return self._first is not None

    def groups(self):
        """All groups, in the order of their names."""
        return sorted(
            Group(self._names[cell], len(members))
            for cell, members in self._members.items()
            if cell in self._names
        )

    def members(self, group):
        """The members of one group, in order of joining."""
        now = self._store.now()
        return [
            Member(channel, max(expiry - now, 0) / float(SECOND))
            for cell, members in self._members.items()
            if self._names.get(cell) == group
            for _, channel, expiry in sorted(members)
        ]


def _number(slots, place):
    """The number of the slot at a word index."""
    return (place - slots.start) // slots.width


def _entry_name(row):
    return _text(row, NAME, row[NAME_LENGTH])


def _cell_name(row):
    return _text(row, CELL_NAME, min(row[CHECK] >> 32, NAME_BYTES))


def _text(row, first, length):
    words = row[first:]
    return struct.pack("={0}Q".format(len(words)), *words)[:length].decode("utf-8", "replace")
