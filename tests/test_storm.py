"""Storms: everything at once, killed at any moment; what must hold then is counted.

The machinery is in ``stormkit`` (processes), ``stormparts`` (what they do), ``ledger`` (what
their journals come to) and ``detector`` (who is inside a lock).
"""
import os
import signal
import sys
import threading
import time

import pytest
import stormkit
from detector import Detector, is_alive, stamp_of, thread_stamp
from ledger import Got, Ledger
from processkit import eventually
from storekit import Child
from stormparts import (
    GROUPS,
    LANES,
    ROLL,
    STANDING,
    STANDING_COUNT,
    Auditor,
    BatchReceiver,
    Churner,
    Flusher,
    GroupSender,
    Member,
    Receiver,
    Sender,
    Visitor,
    on,
    queues_of,
)

from asgi_ipc._shm import lock as lock_module
from asgi_ipc._shm.segment import PAGE, Segment

needs_proc = pytest.mark.skipif(
    not os.path.exists("/proc/thread-self"), reason="the system has no /proc/thread-self"
)
pytestmark = needs_proc

ACCOUNTED = [
    [on("plain", Sender), on("local", Sender), on("bulk", Sender)],
    [on("plain", Sender), on("fan", GroupSender), Member],
    [on("plain", Receiver), on("local", Receiver), on("bulk", BatchReceiver)],
    [on("plain", Receiver), on("fan", Receiver), on("churn", Receiver)],
    [on("churn", GroupSender), Churner, Auditor],
    [Visitor, on("fan", BatchReceiver), Member],
]

FLUSHED = [
    [on("plain", Sender), on("local", Sender), on("churn", GroupSender)],
    [on("plain", Receiver), on("local", Receiver), on("churn", BatchReceiver)],
    [on("bulk", Sender), on("bulk", Receiver), Churner],
    [Flusher, Auditor, on("churn", Receiver)],
]


def options_of(prefix, **more):
    return dict(
        {
            "prefix": prefix,
            "expiry": 3600,
            # Small enough that the messages of all channels together fit well.
            "capacity": 30,
            "channel_capacity": {"fan*": 10 ** 6, "churn*": 10 ** 6, STANDING: 10 ** 6},
            "message_memory": 1024 * 1024,
            "group_memory": 4 * 1024 * 1024,
            "block_timeout": 0.3,
            "lock_timeout": 20,
        },
        **more
    )


def drain(ledger, layer):
    """Receive all that is left, as one more thread would; nothing can have so much left."""
    for lane in LANES:
        heard = []
        while len(heard) < 10000:
            channel, message = layer.receive(queues_of(lane))
            if channel is None:
                break
            heard.append(Got((message[u"id"], channel), sys.maxsize))
        ledger.heard.append(heard)


def assert_sound(storm, ledger):
    """Nobody hung, failed, or was inside together with another one."""
    assert (storm.failures, ledger.troubles[:3]) == ([], [])
    assert storm.detector.seen("overlap") == 0


def note(campaign, storm, ledger, seconds):
    received = ledger.received()
    campaign.note(
        "{0} s, {1} processes killed ({2} of them in the lock), {3} ended by themselves, "
        "{4} calls, {5} sent, {6} received, longest stall {7:.2f} s, no overlap".format(
            seconds,
            storm.killed,
            storm.detector.seen("recovered"),
            storm.gone,
            storm.board.total(),
            len(ledger.sent),
            len(received),
            storm.board.longest(),
        )
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_storm_loses_doubles_and_reorders_nothing(prefix, tmpdir, campaign):
    """All that was sent arrives once, in order, but for what killed receivers had in hand."""
    seconds = campaign.amount(12, 300)
    storm = stormkit.Storm(str(tmpdir), options_of(prefix), ACCOUNTED, campaign.random)
    layer = storm.open_layer()
    for channel in LANES["fan"]:
        layer.group_add(GROUPS["fan"], channel)
    for number in range(STANDING_COUNT):
        layer.send(STANDING, {u"number": number, u"fill": b"-" * 100 * number})
    layer.close()

    storm.rage(seconds, kill_mean=0.15)

    ledger = Ledger(str(tmpdir))
    assert_sound(storm, ledger)
    layer = storm.open_layer()
    assert layer.check() == []
    drain(ledger, layer)
    note(campaign, storm, ledger, seconds)
    assert ledger.doubled() == []
    assert ledger.invented() == []
    assert ledger.out_of_order() == []
    lost = {lane: len(ledger.lost(lane)) for lane in LANES if lane != "churn"}
    lost["fan"] += len(ledger.torn("fan"))
    in_hand = {lane: ledger.held[lane] for lane in lost}
    campaign.note("lost with killed receivers: {0}, of at most {1}".format(lost, in_hand))
    assert all(lost[lane] <= in_hand[lane] for lane in lost)
    assert ledger.wrong_on_the_roll(layer.group_channels(ROLL)) == []
    standing = [layer.receive([STANDING])[1] for _ in range(STANDING_COUNT)]
    assert [message[u"number"] for message in standing] == list(range(STANDING_COUNT))
    assert [len(message[u"fill"]) for message in standing] == [
        100 * number for number in range(STANDING_COUNT)
    ]
    assert layer.check() == []
    assert layer._stores.messages.memory()["messages"] == 0
    layer.close()
    # Else nothing was shown: each kind of death has to have happened, and work been done.
    assert storm.killed > seconds
    assert storm.detector.seen("recovered") > seconds / 4
    assert len(ledger.received()) > 50 * seconds


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_storm_with_flushes_and_expiry(prefix, tmpdir, campaign):
    """Nothing that was flushed comes back; nothing comes twice, out of order, or from nowhere."""
    seconds = campaign.amount(6, 120)
    storm = stormkit.Storm(
        str(tmpdir), options_of(prefix, expiry=0.05), FLUSHED, campaign.random, doom_mean=2.0
    )
    storm.rage(seconds, kill_mean=0.15)
    ledger = Ledger(str(tmpdir))
    assert_sound(storm, ledger)
    layer = storm.open_layer()
    assert layer.check() == []
    note(campaign, storm, ledger, seconds)
    campaign.note("{0} flushes".format(len(ledger.flushes)))
    assert ledger.doubled() == []
    assert ledger.invented() == []
    assert ledger.out_of_order() == []
    assert ledger.resurrected() == []
    layer.flush()
    for lane in LANES:
        assert layer.receive(queues_of(lane)) == (None, None)
    assert layer.check() == []
    layer.close()
    assert storm.killed > seconds
    assert storm.detector.seen("recovered") > seconds / 4
    assert len(ledger.flushes) > seconds
    assert len(ledger.received()) > 5 * seconds


# -- the storm's own tools -----------------------------------------------------------------


class Hanger(stormkit.Part):
    """Makes a call that does not return."""

    def step(self):
        self.call(time.sleep, 3600)


def test_the_watchdog_names_who_hangs_and_where(prefix, tmpdir, campaign, monkeypatch):
    monkeypatch.setattr(stormkit, "PATIENCE", 0.5)
    storm = stormkit.Storm(str(tmpdir), options_of(prefix), [[Churner, Hanger]], campaign.random)
    storm.rage(30, kill_mean=1e6)
    assert len(storm.failures) == 1
    assert "Hanger in thread 1" in storm.failures[0]
    if stormkit.faulthandler is not None:
        assert "in step" in storm.failures[0]


def write_journals(folder, **journals):
    """Journals given as name=lines, with _ for . in the names and | between lines."""
    for name, lines in journals.items():
        path = folder.join("{0}.journal".format(name.replace("_", ".")))
        path.write(lines.replace("|", "\n") + "\n")
    return Ledger(str(folder))


def test_the_ledger_is_content_with_a_sound_journal(tmpdir):
    ledger = write_journals(
        tmpdir,
        Sender_plain_0_1_0="B 1 plain.a 5|E 6|B 2 plain.a 7|F|B 3 plain.a 8|E 9|B 4 plain.b 10",
        Receiver_plain_2_1_0="R 1 6|G plain.a 0.1.0:1|R 1 8|G|R 1 9|G plain.a 0.1.0:3|R 1 11",
        GroupSender_fan_3_1_0="GB 1 fan 5",
    )
    assert len(ledger.sent) == 3 + 5
    assert ledger.doubled() == ledger.invented() == ledger.out_of_order() == []
    assert ledger.lost("plain") == ledger.torn("fan") == ledger.resurrected() == []
    assert ledger.held == {"plain": 1}


def test_the_ledger_notices_each_kind_of_wrong(tmpdir):
    ledger = write_journals(
        tmpdir,
        Sender_plain_0_1_0="B 1 plain.a 5|E 6|B 2 plain.a 7|E 8|B 3 plain.a 9|E 10|B 4 plain.a 9|F",
        GroupSender_fan_3_1_0="GB 1 fan 5",
        Receiver_plain_2_1_0="R 1 30|G plain.a 0.1.0:2|R 1 31|G plain.a 0.1.0:1|X oh",
        Receiver_plain_2_1_1="R 1 30|G plain.a 0.1.0:2|R 1 31|G plain.a 0.1.0:4",
        Receiver_fan_2_1_2="R 1 6|G fan!a 3.1.0:1",
        Flusher_4_1_0="FB 7|FE 8|FB 20|FE 40",
        Member_5_1_0="A roll0!x|M|A roll0!y|M|D roll0!y|M|D roll0!z|M|A roll0!v",
    )
    two = (u"0.1.0:2", u"plain.a")
    assert ledger.doubled() == [two]
    assert ledger.out_of_order() == [((u"0.1.0:1", u"plain.a"), 2)]
    assert ledger.invented() == [(u"0.1.0:4", u"plain.a")]
    assert ledger.lost("plain") == [(u"0.1.0:3", u"plain.a")]
    assert len(ledger.torn("fan")) == 4
    # Sent when the first flush began; the second one was still under way.
    assert ledger.resurrected() == [(u"0.1.0:1", u"plain.a")]
    assert ledger.troubles == ["X oh"]
    assert ledger.wrong_on_the_roll([u"roll0!x"]) == []
    assert ledger.wrong_on_the_roll([u"roll0!x", u"roll0!v"]) == []
    assert ledger.wrong_on_the_roll([u"roll0!z"]) == [u"roll0!z", u"roll0!x"]
    assert len(ledger.wrong_on_the_roll([u"roll0!x", u"roll0!x"])) == 1


def test_a_line_that_was_cut_does_not_count(tmpdir):
    tmpdir.join("Sender.plain.0.1.0.journal").write("B 1 plain.a 5\nE 6\nB 2 pla")
    tmpdir.join("Receiver.plain.2.1.0.journal").write("R 1 5\nG plain.a 0.1")
    ledger = Ledger(str(tmpdir))
    assert list(ledger.sent) == [(u"0.1.0:1", u"plain.a")]
    assert ledger.heard == [[]]
    assert ledger.held == {"plain": 1}


# -- the detector --------------------------------------------------------------------------


def a_page(size):
    return PAGE


def formatted(words, size):
    """Nothing to lay out."""


def attach(prefix):
    return Segment("/{0}-messages".format(prefix), 9, 1, PAGE, a_page, formatted, 0o600, 20.0)


@pytest.fixture
def detector(tmpdir):
    detector = Detector(str(tmpdir), patience=0.5)
    yield detector
    detector.close()


def use_for_long(prefix, detector):
    """Three threads go in and out of one lock."""
    detector.install()
    segment = attach(prefix)

    def use():
        lock = segment.lock
        while True:
            lock.acquire()
            # Long enough for another one to come in, if the lock lets it.
            time.sleep(0.0005)
            lock.release()

    for _ in range(2):
        threading.Thread(target=use).start()
    use()


def kill_until(enough, prefix, detector):
    """Have processes use one lock, killing some of them, for half a second at least."""
    attach(prefix).close()
    began = stormkit.now()
    children = []
    while stormkit.now() < began + 0.5 or not enough():
        assert stormkit.now() < began + 60
        while len(children) < 3:
            children.append(Child(use_for_long, prefix, detector))
        time.sleep(0.1)
        children.pop(0).kill()
    for child in children:
        child.kill()


def test_the_detector_sees_no_overlap_where_there_is_none(prefix, detector, no_child_stays):
    kill_until(lambda: detector.seen("recovered") > 2, prefix, detector)
    assert detector.seen("overlap") == 0


def test_the_detector_notices_a_lock_that_does_not_lock(
    prefix, detector, monkeypatch, no_child_stays
):
    """Without the flock, and with more than one token, several are inside at once."""
    monkeypatch.setattr(lock_module, "_flock", lambda *_: None)
    monkeypatch.setattr(
        lock_module.SegmentLock, "_post", lambda self, holder: self._semaphore.release()
    )
    segment = attach(prefix)
    segment.lock._semaphore.release()
    segment.close()
    kill_until(lambda: detector.seen("overlap") > 10, prefix, detector)


def test_a_thread_has_a_stamp_of_its_own():
    stamps = [thread_stamp()]
    thread = threading.Thread(target=lambda: stamps.append(thread_stamp()))
    thread.start()
    thread.join()
    assert len(set(stamps)) == 2
    assert is_alive(stamps[0])
    assert stamp_of(os.getpid()) == stamps[0]
    # The kernel may take a moment longer.
    eventually(lambda: not is_alive(stamps[1]), "the end of a thread")


def test_a_stamp_of_a_living_owner_is_an_overlap(detector):
    child = Child(time.sleep, 60)
    detector.words[0] = stamp_of(child.pid)
    detector.enter(0)
    child.kill()
    assert detector.seen("overlap") == 1


def test_a_stamp_that_changes_under_us_is_an_overlap(detector):
    child = Child(time.sleep, 60)
    detector.words[0] = stamp_of(child.pid)
    changer = threading.Timer(0.1, detector.words.__setitem__, (0, 0))
    changer.start()
    detector.enter(0)
    changer.join()
    child.kill()
    assert detector.seen("overlap") == 1


def test_a_stamp_lost_while_inside_is_an_overlap(detector):
    detector.enter(0)
    detector.words[0] = 5
    detector.leave(0)
    assert detector.seen("overlap") == 1


def test_a_zombie_and_a_number_used_again_do_not_fool_the_detector(detector):
    child = Child(time.sleep, 60)
    stamp = stamp_of(child.pid)
    detector.words[0] = stamp + (1 << 22)
    detector.enter(0)
    detector.leave(0)
    os.kill(child.pid, signal.SIGKILL)
    eventually(lambda: not is_alive(stamp), "its death")
    assert os.path.exists("/proc/{0}".format(child.pid))
    detector.words[0] = stamp
    detector.enter(0)
    detector.leave(0)
    child.close()
    assert detector.seen("overlap") == 0


def test_one_who_is_dying_is_waited_for(detector):
    """It counts as alive still when its lock is had, and is gone a moment later."""
    child = Child(time.sleep, 60)
    detector.words[0] = stamp_of(child.pid)
    killer = threading.Timer(0.1, os.kill, (child.pid, signal.SIGKILL))
    killer.start()
    detector.enter(0)
    killer.join()
    child.close()
    assert detector.seen("overlap") == 0
