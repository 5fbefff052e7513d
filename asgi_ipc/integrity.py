"""Verify a message segment: every link, count, chain and check sum.

Knows the parts of the store and their invariants; changes nothing. For tests, post-mortems
and ``asgi-ipc check``. The caller holds the lock.
"""
from asgi_ipc.layout import (
    CHECK,
    COUNT,
    FIRST,
    HASH,
    HEAD,
    LAST,
    LIVE,
    M32,
    NEXT,
    PREV,
    R_STATE,
    SEQ,
    SEQUENCE,
    TAIL,
    Damage,
)


def faults(words, directory, log, waiters):
    """Return what is wrong, as sentences; an empty list if all is sound."""
    found = directory.faults()
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
    if size != words[LIVE]:
        found.append("log: {0} words are live, {1} counted".format(size, words[LIVE]))
    if not live and words[HEAD] != words[TAIL]:
        found.append("log: nothing is live, but HEAD is not TAIL")
    for record in live:
        entry = directory.entry_of((words[record] >> 32) & 0xFFFFFF)
        if not entry:
            found.append("record {0}: belongs to no channel".format(record))
        elif not log.intact(record, words[entry + HASH] & M32):
            found.append(
                "record {0}: its check is not {1:#x}".format(record, words[record + CHECK])
            )
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
