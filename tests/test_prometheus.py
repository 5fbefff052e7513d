"""The collector for Prometheus: what it yields, what it costs the site, what it does in trouble."""
from __future__ import unicode_literals

import gc
import io
import json
import logging
import os
import re
import signal
import threading

import posix_ipc
import pytest
from storekit import Child

from asgi_ipc import core
from asgi_ipc._shm.segment import LAYOUT
from asgi_ipc.existing import find

prometheus_client = pytest.importorskip("prometheus_client")

from asgi_ipc import prometheus  # noqa: E402 (where there is a prometheus_client)
from asgi_ipc.prometheus import IPCCollector  # noqa: E402

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SHARED = {
    "asgi_ipc_up",
    "asgi_ipc_messages_sent_total",
    "asgi_ipc_messages_refused_total",
    "asgi_ipc_messages_waiting",
    "asgi_ipc_oldest_message_age_seconds",
    "asgi_ipc_stored_bytes",
    "asgi_ipc_channels",
    "asgi_ipc_receivers",
    "asgi_ipc_damaged_records_total",
    "asgi_ipc_groups",
    "asgi_ipc_group_members",
    "asgi_ipc_memory_bytes",
    "asgi_ipc_memory_limit_bytes",
    "asgi_ipc_rebuilds_total",
    "asgi_ipc_lock_waits_total",
    "asgi_ipc_lock_wait_seconds_total",
    "asgi_ipc_bridge_connected",
    "asgi_ipc_bridge_sent_total",
    "asgi_ipc_bridge_received_total",
    "asgi_ipc_bridge_outbox_messages",
    "asgi_ipc_bridge_overflowed_total",
    "asgi_ipc_bridge_expired_total",
    "asgi_ipc_bridge_refused_total",
    "asgi_ipc_bridge_unsure_total",
    "asgi_ipc_bridge_reconnects_total",
    "asgi_ipc_bridge_lag_seconds",
}
OWN = {"asgi_ipc_group_drops_total"}
PER_SEGMENT = {
    "asgi_ipc_memory_bytes",
    "asgi_ipc_memory_limit_bytes",
    "asgi_ipc_rebuilds_total",
    "asgi_ipc_lock_waits_total",
    "asgi_ipc_lock_wait_seconds_total",
}


def samples(layer):
    """All samples of one scrape: {(name, segment or None): value}, and their prefixes."""
    found = {}
    prefixes = set()
    for family in IPCCollector(layer).collect():
        for sample in family.samples:
            labels = dict(sample[1])
            prefixes.add(labels.pop("prefix"))
            key = (sample[0], labels.pop("segment", None))
            assert key not in found
            assert not labels
            found[key] = sample[2]
    return found, prefixes


def values(layer):
    return samples(layer)[0]


def test_all_metrics_and_their_labels(layer, prefix):
    found, prefixes = samples(layer)
    assert {name for name, _ in found} == SHARED | OWN
    assert {name for name, segment in found if segment} == PER_SEGMENT
    assert {segment for _, segment in found} == {None, "messages", "groups"}
    assert prefixes == {prefix}
    assert {name for name, _ in values(prefix)} == SHARED


def test_the_figures_are_those_of_statistics(make_layer):
    layer = make_layer(capacity=2)
    for number in range(2):
        layer.send("jobs", {"number": number})
    with pytest.raises(layer.ChannelFull):
        layer.send("jobs", {"number": 2})
    layer.group_add("room", "jobs")
    layer.group_add("room", "other")
    layer.send_group("room", {"number": 3})
    statistics = layer.statistics()
    messages, groups = statistics["messages"], statistics["groups"]
    found = values(layer)
    later = layer.statistics()["messages"]["oldest"]
    assert found["asgi_ipc_up", None] == 1
    assert found["asgi_ipc_messages_sent_total", None] == messages["sent"] == 3
    assert found["asgi_ipc_messages_refused_total", None] == messages["refused"] == 2
    assert found["asgi_ipc_messages_waiting", None] == 3
    assert found["asgi_ipc_stored_bytes", None] == messages["stored"] > 0
    assert 0 < messages["oldest"] <= found["asgi_ipc_oldest_message_age_seconds", None] <= later
    assert found["asgi_ipc_channels", None] == messages["channels"] == 2
    assert found["asgi_ipc_groups", None] == 1
    assert found["asgi_ipc_group_members", None] == 2
    assert found["asgi_ipc_group_drops_total", None] == statistics["drops"] == 1
    for segment, figures in (("messages", messages), ("groups", groups)):
        assert found["asgi_ipc_memory_limit_bytes", segment] == figures["size"]
        assert found["asgi_ipc_memory_bytes", segment] == figures["memory"] > 0
        assert found["asgi_ipc_rebuilds_total", segment] == figures["rebuilds"] == 0


def test_a_receiver_that_waits_is_counted(make_layer, prefix):
    layer, other = make_layer(), make_layer(block_timeout=60)
    thread = threading.Thread(target=other.receive, args=(["jobs"],), kwargs={"block": True})
    thread.start()
    try:
        while not values(prefix)["asgi_ipc_receivers", None]:
            assert thread.is_alive()
    finally:
        layer.send("jobs", {})
        thread.join()
    # One that may come back at once counts for a moment more; this one does not.
    other.close()
    assert values(prefix)["asgi_ipc_receivers", None] == 0


def test_a_rebuild_is_counted(layer, prefix):
    def die_inside():
        from asgi_ipc.messages import MessageStore

        store = MessageStore(prefix, find(prefix)[0].size)
        store._run(os.kill, os.getpid(), signal.SIGKILL)

    child = Child(die_inside)
    child.close()
    assert child.wait() == signal.SIGKILL
    layer.send("jobs", {})
    assert values(prefix)["asgi_ipc_rebuilds_total", "messages"] == 1
    assert values(prefix)["asgi_ipc_rebuilds_total", "groups"] == 0


def test_the_text_that_prometheus_gets(layer, prefix):
    registry = prometheus_client.CollectorRegistry()
    registry.register(IPCCollector(layer))
    layer.send("jobs", {})
    text = prometheus_client.generate_latest(registry).decode("utf-8")
    assert 'asgi_ipc_messages_sent_total{prefix="%s"} 1.0\n' % prefix in text
    assert "# TYPE asgi_ipc_messages_waiting gauge" in text


def test_registering_looks_at_nothing_and_refuses_a_second_one(prefix, caplog):
    registry = prometheus_client.CollectorRegistry()
    registry.register(IPCCollector(prefix))
    assert caplog.records == []
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(IPCCollector(prefix))


def test_nothing_is_kept_between_scrapes(layer, prefix):
    collector = IPCCollector(prefix)
    collector.collect()
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    # What other tests have left is not to go meanwhile.
    gc.collect()
    before = len(os.listdir(folder))
    for _ in range(20):
        thread = threading.Thread(target=collector.collect)
        thread.start()
        thread.join()
    assert len(os.listdir(folder)) == before


def test_a_scrape_warns_of_nothing(make_layer, recwarn):
    """It attaches what there is, with the size that it has."""
    layer = make_layer(message_memory=128 * 1024, group_memory=512 * 1024)
    del recwarn.list[:]
    assert values(layer)["asgi_ipc_up", None] == 1
    assert [str(warning.message) for warning in recwarn.list] == []


def test_what_has_no_size_yet_is_not_made_by_a_scrape(prefix, caplog):
    """Whoever makes the segment is about to size it."""
    memories = [posix_ipc.SharedMemory(str(name), posix_ipc.O_CREX) for name in names_of(prefix)]
    assert values(prefix) == {("asgi_ipc_up", None): 0}
    assert [os.fstat(memory.fd).st_size for memory in memories] == [0, 0]
    assert "there is no shared memory" in caplog.text
    for memory in memories:
        memory.close_fd()


def names_of(prefix):
    return ["/{0}-{1}".format(prefix, kind) for kind in ("messages", "groups")]


def test_where_there_is_nothing_none_is_made(prefix, caplog):
    assert values(prefix) == {("asgi_ipc_up", None): 0}
    assert find(prefix) == []
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("asgi_ipc", logging.WARNING)
    assert prefix in record.getMessage()
    assert "no shared memory" in record.getMessage()


def test_a_removed_prefix_stays_removed(layer, prefix):
    collector = IPCCollector(layer)
    assert len(collector.collect()) > 1
    core.unlink(prefix)
    assert len(collector.collect()) == 1
    assert find(prefix) == []


def test_trouble_is_logged_once_an_interval(prefix, caplog, clock, monkeypatch):
    monkeypatch.setattr(prometheus.clock, "now", clock)
    collector = IPCCollector(prefix)
    for _ in range(3):
        collector.collect()
    assert len(caplog.records) == 1
    clock.advance(prometheus.INTERVAL / 1e9)
    collector.collect()
    assert len(caplog.records) == 2


def test_a_held_lock_costs_the_figures_and_no_more(layer, prefix, caplog, monkeypatch):
    monkeypatch.setattr(prometheus, "LOCK_TIMEOUT", 0.05)
    lock = layer._stores.messages._lock
    held, done = threading.Event(), threading.Event()

    def hold():
        lock.acquire()
        held.set()
        done.wait(60)
        lock.release()

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(60)
        assert values(layer) == {("asgi_ipc_up", None): 0}
    finally:
        done.set()
        thread.join()
    assert "LockTimeout" in caplog.text
    assert values(layer)["asgi_ipc_up", None] == 1


def test_foreign_contents_are_told_of(prefix, caplog):
    path = os.path.join("/dev/shm", prefix + "-messages")
    if not os.path.isdir("/dev/shm"):
        pytest.skip("shared memory is not shown as files here")
    for name in (path, path.replace("-messages", "-groups")):
        with open(name, "wb") as stream:
            stream.write(b"pickled" * 2000)
    assert values(prefix) == {("asgi_ipc_up", None): 0}
    assert "asgi-ipc rm" in caplog.text


def test_trouble_with_one_segment_closes_the_other(layer, prefix, caplog):
    collector = IPCCollector(prefix)
    assert len(collector.collect()) > 1
    words = layer._stores.groups._segment.words
    words[LAYOUT] += 1
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    before = len(os.listdir(folder))
    assert values(prefix) == {("asgi_ipc_up", None): 0}
    assert len(os.listdir(folder)) == before
    assert "layout" in caplog.text
    words[LAYOUT] -= 1


def test_in_a_forked_child(layer):
    collector = IPCCollector(layer)
    collector.collect()
    layer.send("jobs", {})

    def scrape():
        return {
            sample[0]: sample[2] for family in collector.collect() for sample in family.samples
        }

    assert Child(scrape).result()["asgi_ipc_messages_waiting"] == 1


@pytest.mark.parametrize("wrong", [None, 7, object()])
def test_what_is_neither_layer_nor_prefix(wrong):
    with pytest.raises(TypeError, match="takes a layer of asgi_ipc or a prefix"):
        IPCCollector(wrong)


def test_what_can_be_no_prefix():
    with pytest.raises(ValueError, match="without slash"):
        IPCCollector("a/b")


def metrics_in(text):
    return set(re.findall(r"\basgi_ipc_[a-z_]+", text))


def test_the_dashboard_asks_for_what_there_is():
    with io.open(
        os.path.join(PROJECT, "examples", "grafana", "asgi_ipc.json"), encoding="utf-8"
    ) as stream:
        dashboard = json.load(stream)
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [variable["query"] for variable in dashboard["templating"]["list"]]
    assert metrics_in(" ".join(queries)) == SHARED | OWN
    for query in queries:
        assert query.count("(") == query.count(")")
        assert query.count("{") == query.count("}")
    places = [tuple(sorted(panel["gridPos"].items())) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(places)
