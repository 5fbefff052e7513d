"""What is logged: under one name, at a level that means something, and with the lock free."""
from __future__ import unicode_literals

import logging
import os
import signal

import pytest
from storekit import Child

from asgi_ipc import waiting


class Curious(logging.Handler):
    """Uses the layer for each entry, which it could not while the lock is held."""

    def __init__(self, layer):
        logging.Handler.__init__(self)
        self.layer = layer
        self.seen = []

    def emit(self, record):
        text = record.getMessage()
        self.seen.append((record.levelname, text))
        self.layer.group_add("logged", "jobs")
        self.layer.send("log", {"text": text})


@pytest.fixture
def logger():
    """The logger of asgi_ipc, with all levels on."""
    logger = logging.getLogger("asgi_ipc")
    before, level = list(logger.handlers), logger.level
    logger.setLevel(logging.DEBUG)
    yield logger
    logger.handlers[:] = before
    logger.setLevel(level)


@pytest.fixture
def seen(layer, logger):
    """The entries (level, text), by a handler that uses the layer."""
    handler = Curious(layer)
    logger.addHandler(handler)
    return handler.seen


def die_inside(store):
    child = Child(lambda: store._run(os.kill, os.getpid(), signal.SIGKILL))
    child.close()
    assert child.wait() == signal.SIGKILL


@pytest.mark.parametrize(
    "segment, operation",
    [
        ("messages", lambda layer: layer.send("jobs", {})),
        ("messages", lambda layer: layer.receive(["jobs"])),
        ("messages", lambda layer: layer.send_group("room", {})),
        ("messages", lambda layer: layer.statistics()),
        ("groups", lambda layer: layer.group_add("other", "jobs")),
        ("groups", lambda layer: layer.group_discard("room", "jobs")),
        ("groups", lambda layer: layer.flush()),
    ],
)
def test_a_death_with_the_lock_is_told_once(layer, seen, segment, operation):
    layer.group_add("room", "jobs")
    die_inside(getattr(layer._stores, segment))
    assert seen == []
    operation(layer)
    ((level, text),) = seen
    assert level == "INFO"
    assert text.startswith("/{0}-{1}: ".format(layer.prefix, segment))
    assert "nothing is lost" in text
    operation(layer)
    assert len(seen) == 1
    assert layer.check() == []


def test_so_is_an_interruption(layer, seen):
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        layer._stores.messages._run(interrupt)
    layer.send("jobs", {})
    assert [level for level, _ in seen] == ["INFO"]


def test_damage_is_an_error_and_told_as_that_alone(layer, seen):
    layer.send("jobs", {"text": "x" * 100})
    store = layer._stores.messages
    at = bytes(store._map[:]).index(b"x" * 50)
    store._map[at : at + 8] = b"\0" * 8
    assert layer.receive(["jobs"]) == (None, None)
    assert {level for level, _ in seen} == {"ERROR"}
    assert "damaged" in seen[0][1]


def test_dropped_messages_are_a_warning(make_layer, logger):
    layer = make_layer(capacity=1)
    handler = Curious(make_layer())
    logger.addHandler(handler)
    layer.group_add("room", "jobs")
    for _ in range(3):
        layer.send_group("room", {})
    ((level, text),) = handler.seen
    assert level == "WARNING"
    assert "raise capacity" in text


def test_a_receiver_without_a_place_is_told_of_now_and_then(layer, seen, monkeypatch):
    store = layer._stores.messages
    monkeypatch.setattr(store._waiters, "hang", lambda waiter, entry: False)
    waiter = store.borrow_waiter()
    for _ in range(3):
        assert store.receive(["jobs"], waiter) is None
    assert seen == [("WARNING", "{0}: {1}".format(store.name, waiting.NO_PLACE))]
    store._silent_until = 0
    assert store.receive(["jobs"], waiter) is None
    assert len(seen) == 2
    store.leave(waiter)


def test_attaching_is_for_those_who_debug(make_layer, logger, caplog):
    layer = make_layer()
    (record,) = [record for record in caplog.records if record.name == "asgi_ipc"]
    assert record.levelno == logging.DEBUG
    assert repr(layer.prefix) in record.getMessage()


def test_a_removed_segment_is_attached_anew_with_a_handler_that_uses_it(layer, seen, prefix):
    from asgi_ipc.core import unlink

    layer.send("jobs", {})
    unlink(prefix)
    layer._stores._next_look = layer._stores.messages._next_look = 0
    with pytest.warns(RuntimeWarning, match="removed while in use"):
        layer.group_add("room", "jobs")
    assert [level for level, _ in seen] == ["DEBUG"]
