"""Verify a message segment: every link, count, chain and check sum.

Knows the parts of the store and their invariants; changes nothing. For tests, post-mortems
and ``asgi-ipc check``. The caller holds the lock.
"""
from asgi_ipc import crossing
from asgi_ipc._shm.words import M32, Damage
from asgi_ipc.layout import (
    COUNT,
    FIRST,
    HASH,
    NEXT,
    PREV,
    R_STATE,
    SEQ,
    SEQUENCE,
    seed,
)


def faults(words, directory, log, waiters):
    """Return what is wrong, as sentences; an empty list if all is sound."""
    found = directory.faults()
    if found:
        # What is below cannot be read safely.
        return found
    found += crossing.faults(words)
    entries = directory.all()
    found += waiters.faults(entries)
    try:
        records = list(log.walk())
    except Damage as damage:
        return found + ["log: {0}".format(damage)]
    live = {record for record in records if words[record + R_STATE]}
    found += _log_faults(words, directory, log, live)
    queued = set()
    for entry in entries:
        found += _queue_faults(words, log, entry, live, queued)
    if queued != live:
        found.append("log: {0} live records are in no queue".format(len(live - queued)))
    return found


def _log_faults(words, directory, log, live):
    found = []
    size = sum(words[record] & M32 for record in live)
    if size != log.live:
        found.append("log: {0} words are live, {1} counted".format(size, log.live))
    for record in live:
        entry = directory.entry_of((words[record] >> 32) & 0xFFFFFF)
        if not entry:
            found.append("record {0}: belongs to no channel".format(record))
        elif not log.alive(record, seed(words[entry + HASH])):
            found.append("record {0}: its check or its state does not hold".format(record))
        if words[record + SEQ] > words[SEQUENCE]:
            found.append("record {0}: its number is not given out yet".format(record))
    return found


def _queue_faults(words, log, entry, live, queued):
    found = []
    record, before, count, seq = words[entry + FIRST], 0, 0, 0
    while record:
        if record not in live or record in queued:
            found.append("entry {0}: its queue leads to {1}".format(entry, record))
            break
        queued.add(record)
        if before and words[record + PREV] != before:
            found.append("record {0}: its PREV is wrong".format(record))
        if words[record + SEQ] <= seq:
            found.append("record {0}: out of order".format(record))
        seq = words[record + SEQ]
        before, record, count = record, words[record + NEXT], count + 1
    if count != words[entry + COUNT] or before != log.last_of(entry):
        found.append(
            "entry {0}: {1} messages queued, {2} counted".format(
                entry, count, words[entry + COUNT]
            )
        )
    return found
