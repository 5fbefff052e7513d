"""Verify a message segment: every link, count, chain and check sum.

Knows the parts of the store and their invariants; changes nothing. For tests, post-mortems
and ``asgi-ipc check``. The caller holds the lock.
"""
from asgi_ipc import crossing
from asgi_ipc._shm.words import M32, TWIN, Damage
from asgi_ipc.layout import (
    COUNT,
    FIRST,
    HASH,
    HEAD,
    LAST,
    LIVE,
    NEXT,
    PREV,
    R_STATE,
    SEQ,
    SEQUENCE,
    TAIL,
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
        found += _queue_faults(words, entry, live, queued)
    if queued != live:
        found.append("log: {0} live records are in no queue".format(len(live - queued)))
    return found


def _log_faults(words, directory, log, live):
    found = []
    size = sum(words[record] & M32 for record in live)
    if size * TWIN != words[LIVE]:
        found.append("log: {0} words are live, {1:#x} counted".format(size, words[LIVE]))
    if not live and words[HEAD] != words[TAIL]:
        found.append("log: nothing is live, but HEAD is not TAIL")
    for record in live:
        entry = directory.entry_of((words[record] >> 32) & 0xFFFFFF)
        if not entry:
            found.append("record {0}: belongs to no channel".format(record))
        elif not log.alive(record, words[entry + HASH] & M32):
            found.append("record {0}: its check or its state does not hold".format(record))
        if words[record + SEQ] > words[SEQUENCE]:
            found.append("record {0}: its number is not given out yet".format(record))
    return found


def _queue_faults(words, entry, live, queued):
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
    if count != words[entry + COUNT] or before != words[entry + LAST]:
        found.append(
            "entry {0}: {1} messages queued, {2} counted".format(
                entry, count, words[entry + COUNT]
            )
        )
    return found
