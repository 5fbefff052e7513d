"""Processes and threads at once, with detectors that are seen to notice a broken lock."""
import os
import random
import threading
import time

import pytest
from storekit import LONG, Child, drain, get, open_messages, put

from asgi_ipc._shm import lock as lock_module
from asgi_ipc._shm.segment import PAGE, RECOVERIES, Segment
from asgi_ipc.errors import ChannelFull

SIZE = 256 * 1024
OWNER, COUNTER = RECOVERIES + 1, RECOVERIES + 2
WORKERS, ROUNDS = 4, 400


def a_page(size):
    return PAGE


def formatted(words, size):
    """Nothing to lay out."""


def attach(prefix):
    return Segment("/{0}-messages".format(prefix), 9, 1, PAGE, a_page, formatted, 0o600, 10.0)


def work(prefix, rounds, threads=1):
    """Add to a counter so that any overlap shows; return how many overlaps were seen."""
    segment = attach(prefix)
    overlaps = []

    def add():
        me = int(random.getrandbits(60)) | 1
        lock, words = segment.lock, segment.words
        for turn in range(rounds):
            try:
                lock.acquire()
                if words[OWNER]:
                    overlaps.append(1)
                words[OWNER] = me
                seen = words[COUNTER]
                if turn % 8 == 0:
                    time.sleep(0.0001)
                if words[OWNER] != me:
                    overlaps.append(1)
                words[COUNTER] = seen + 1
                words[OWNER] = 0
                lock.release()
            except BaseException:
                lock.abandon()
                raise

    crowd = [threading.Thread(target=add) for _ in range(threads)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    return len(overlaps)


def overlaps_and_total(prefix, rounds=ROUNDS, threads=1, prepare=None):
    """Run the workers; return (overlaps seen, what the counter came to)."""
    segment = attach(prefix)
    try:
        if prepare is not None:
            prepare(segment)
        children = [Child(work, prefix, rounds, threads) for _ in range(WORKERS)]
        overlaps = sum(child.result() for child in children)
        return overlaps, int(segment.words[COUNTER])
    finally:
        segment.close()


def double_the_token(segment):
    segment.lock._semaphore.release()
    segment.lock._semaphore.release()


def lose_the_token(segment):
    segment.lock._semaphore.acquire()


def test_no_overlap(prefix):
    assert overlaps_and_total(prefix) == (0, WORKERS * ROUNDS)


def test_no_overlap_with_threads(prefix):
    assert overlaps_and_total(prefix, 100, threads=3) == (0, WORKERS * 100 * 3)


def test_no_overlap_with_a_doubled_token(prefix):
    assert overlaps_and_total(prefix, prepare=double_the_token) == (0, WORKERS * ROUNDS)


def test_no_overlap_with_a_lost_token(prefix):
    assert overlaps_and_total(prefix, prepare=lose_the_token) == (0, WORKERS * ROUNDS)


def test_the_detector_notices_a_lock_that_does_not_lock(prefix, monkeypatch):
    """Without the flock, and with more than one token, several are inside at once."""
    monkeypatch.setattr(lock_module, "_flock", lambda *_: None)
    monkeypatch.setattr(
        lock_module.SegmentLock, "_post", lambda self, holder: self._semaphore.release()
    )
    # On a machine that has time for one at a time only, they may have to try again.
    overlaps = attempts = 0
    while not overlaps and attempts < 20:
        overlaps, total = overlaps_and_total(prefix, prepare=double_the_token)
        attempts += 1
    assert overlaps > 0
    assert total < attempts * WORKERS * ROUNDS


# -- the store -----------------------------------------------------------------------------


def send_all(prefix, worker, count, threads):
    """Send ``count`` numbered messages on the shared and on own channels; wait where full."""
    store = open_messages(prefix, SIZE)

    def send(number):
        rnd = random.Random(number)
        name = "{0}.{1}".format(worker, number)
        for turn in range(count):
            payload = "{0}:{1}:".format(name, turn).encode("ascii")
            payload += b"x" * rnd.choice((0, 10, 200, 2000))
            while True:
                try:
                    if turn % 5:
                        put(store, u"shared", payload, capacity=50)
                    else:
                        put(store, u"local!", payload, local=u"n{0}".format(turn), capacity=50)
                    break
                except ChannelFull:
                    time.sleep(0.0005)

    crowd = [threading.Thread(target=send, args=(number,)) for number in range(threads)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()


def receive_until(prefix, stop, threads, blocking):
    """Receive until told to stop and nothing is left; return what each thread got, in order."""
    store = open_messages(prefix, SIZE)
    found = [[] for _ in range(threads)]

    def receive(mine):
        while True:
            ended = os.path.exists(stop)
            if blocking:
                message = store.receive_blocking([u"shared", u"local!"], 0.2)
            else:
                message = store.receive([u"local!", u"shared"])
            if message is None:
                if ended:
                    return
                if not blocking:
                    time.sleep(0.0005)
                continue
            mine.append(bytes(message[2]).split(b":")[:2])

    crowd = [threading.Thread(target=receive, args=(mine,)) for mine in found]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    store.close()
    return found


@pytest.mark.parametrize("blocking", [False, True])
def test_many_send_and_many_receive(prefix, tmpdir, blocking):
    """Nothing is lost or comes twice, and each receiver sees each sender's in order."""
    stop = str(tmpdir.join("stop"))
    senders, threads, count = 3, 2, 250
    watcher = open_messages(prefix, SIZE)
    receivers = [Child(receive_until, prefix, stop, 2, blocking) for _ in range(2)]
    busy = [Child(send_all, prefix, worker, count, threads) for worker in range(senders)]
    for child in busy:
        child.result()
    open(stop, "w").close()
    heard = [thread for child in receivers for thread in child.result()]
    everything = sorted((name, int(turn)) for thread in heard for name, turn in thread)
    assert everything == sorted(
        ("{0}.{1}".format(worker, number).encode("ascii"), turn)
        for worker in range(senders)
        for number in range(threads)
        for turn in range(count)
    )
    for thread in heard:
        last = {}
        for name, turn in thread:
            key = (name, int(turn) % 5 == 0)
            assert int(turn) > last.get(key, -1)
            last[key] = int(turn)
    assert watcher.check() == []
    assert watcher.memory()["messages"] == 0
    assert watcher._lock.recoveries == 0
    watcher.close()


def test_fan_out_under_contention(prefix):
    """Group sends, receives, batches and flushes of statistics at once; then all is sound."""
    names = b"a\nb\nc"
    watcher = open_messages(prefix, SIZE)

    def churn(number):
        store = open_messages(prefix, SIZE)
        rnd = random.Random(number)
        sent = received = 0
        for _ in range(600):
            if rnd.random() < 0.5:
                dropped = store.send_each(
                    [(u"p!", names, 40), (u"q!", names, 40), (u"r", b"", 40)], b"m" * 50, LONG
                )
                sent += 3 * (2 - sum(queue != u"r" for queue, _ in dropped))
                sent += all(queue != u"r" for queue, _ in dropped)
            elif rnd.random() < 0.5:
                batch = store.receive_batch(rnd.choice((u"p!", u"q!")), 5)
                received += sum(len(names.split(u"\n")) for names, _, _ in batch)
            else:
                received += get(store, u"q!", u"p!", u"r") is not None
            if rnd.random() < 0.02:
                store.global_statistics()
        return sent, received

    totals = [child.result() for child in [Child(churn, number) for number in range(4)]]
    assert watcher.check() == []
    left = len(drain(watcher, u"p!")) + len(drain(watcher, u"q!")) + len(drain(watcher, u"r"))
    assert sum(sent for sent, _ in totals) == sum(got for _, got in totals) + left
    assert watcher.memory()["messages"] == 0
    watcher.close()
