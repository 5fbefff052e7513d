"""Says what is wrong with a groups segment, for tests and post-mortems.

Knows the layout and invariants of ``group_cells``; changes nothing, and does not trust what
it reads. The caller holds the segment's lock, after a rebuild if one was due.
"""
from asgi_ipc._shm.slots import LINK
from asgi_ipc._shm.words import unsealed
from asgi_ipc.group_cells import (
    BACK,
    COUNT,
    EARLIEST,
    EXPIRY,
    FLUSHED,
    GROUP,
    GROUP_STATE,
    GROUPS,
    HAND,
    HASH,
    MEMBERSHIPS,
    NEXT,
    PEER,
    PREV,
    ROUND,
    SEQUENCE,
)


def faults(cells):
    """Return what is wrong, as sentences; [] if nothing is. Cost: all cells ever used."""
    found = cells.slots.faults()
    if found:
        # Nothing below could be read safely.
        return found
    words = cells.words
    groups, members = [], []
    for cell in cells.slots.all():
        if words[cell]:
            (groups if words[cell] == GROUP_STATE else members).append(cell)
            if not cells.sound(cell):
                found.append("cell {0} is not what its CHECK word says".format(cell))
    found += _header_faults(cells, groups, members)
    found += _bucket_faults(cells, cells.first, LINK, _first_bucket, groups + members)
    found += _bucket_faults(cells, cells.second, PEER, _second_bucket, members)
    found += _back_faults(cells, members)
    found += _twin_faults(cells, groups + members)
    found += _list_faults(cells, groups, members)
    return found


def _header_faults(cells, groups, members):
    words = cells.words
    found = []
    flushed = unsealed(words[FLUSHED])
    if flushed is None:
        return ["FLUSHED is damaged"]
    numbers = [words[cell] for cell in members]
    if numbers and min(numbers) <= flushed:
        found.append("a membership that was flushed is there")
    if max(numbers + [flushed]) > words[SEQUENCE]:
        found.append("SEQUENCE is {0}, a membership is newer".format(words[SEQUENCE]))
    for name, word, counted in (
        ("GROUPS", GROUPS, len(groups)),
        ("MEMBERSHIPS", MEMBERSHIPS, len(members)),
    ):
        if words[word] != counted:
            found.append("{0} is {1}, and there are {2}".format(name, words[word], counted))
    if words[HAND] > cells.slots.high:
        found.append("HAND is at cell {0} of {1}".format(words[HAND], cells.slots.high))
    # What the hand has passed in this round, and with ROUND at the end all, is not earlier.
    passed = cells.start + words[HAND] * (cells.slots.width)
    for cell in members:
        expiry = words[cell + EXPIRY]
        if expiry < words[EARLIEST] or (cell < passed and expiry < words[ROUND]):
            found.append("cell {0} expires before EARLIEST or ROUND".format(cell))
    return found


def _first_bucket(cells, cell):
    words = cells.words
    return cells.first + (words[cell + HASH] + (words[cell + GROUP] >> 3) & cells.mask)


def _second_bucket(cells, cell):
    return cells.second + (cells.words[cell + HASH] & cells.mask)


def _bucket_faults(cells, array, link, bucket_of, expected):
    """Walk all chains of an array: each of the expected cells once, and nothing else."""
    words, slots = cells.words, cells.slots
    found = []
    missing = set(expected)
    for bucket in range(array, array + cells.mask + 1):
        cell = words[bucket]
        while cell:
            if cell not in missing:
                what = "met twice or not in use" if slots.contains(cell) else "no cell"
                found.append("bucket {0}: {1} is {2}".format(bucket, cell, what))
                break
            missing.remove(cell)
            if bucket_of(cells, cell) != bucket:
                found.append("cell {0} is in bucket {1}, not its own".format(cell, bucket))
            cell = words[cell + link]
    if missing:
        found.append("{0} cells are in no chain from {1}".format(len(missing), array))
    return found


def _back_faults(cells, members):
    words = cells.words
    end = cells.start + cells.slots.high * cells.slots.width
    return [
        "cell {0}: BACK does not lead to what points at it".format(cell)
        for cell in members
        if not 0 < words[cell + BACK] < end or words[words[cell + BACK]] != cell
    ]


def _twin_faults(cells, in_use):
    bodies = {cells.body(cell) for cell in in_use}
    if len(bodies) != len(in_use):
        return ["{0} cells say what another says".format(len(in_use) - len(bodies))]
    return []


def _list_faults(cells, groups, members):
    """Walk each group's ring: its members and nobody else, in order, and COUNT of them."""
    words = cells.words
    found = []
    unseen = set(members)
    for group in groups:
        count = 0
        newest = GROUP_STATE
        before, cell = group, words[group + NEXT]
        while cell in unseen and words[cell + GROUP] == group:
            unseen.remove(cell)
            if words[cell + PREV] != before:
                found.append("cell {0}: PREV is not the one before it".format(cell))
            if words[cell] <= newest:
                found.append("cell {0} is out of order in its group".format(cell))
            newest = words[cell]
            count += 1
            before, cell = cell, words[cell + NEXT]
        if cell != group or words[group + PREV] != before:
            found.append("group {0}: its list is broken at {1}".format(group, cell))
        if not count or count != words[group + COUNT]:
            found.append(
                "group {0}: COUNT is {1} and {2} are listed".format(
                    group, words[group + COUNT], count
                )
            )
    if unseen:
        found.append("{0} memberships are in no group's list".format(len(unseen)))
    return found
