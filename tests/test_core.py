"""The synchronous layer: its contract beyond conformance, and how it waits."""
from __future__ import unicode_literals

import collections
import os
import re
import signal
import threading
import time
import warnings

import pytest

import asgi_ipc
from asgi_ipc import IPCChannelLayer
from asgi_ipc.core import unlink
from asgi_ipc.errors import GroupsFull, IPCError, LayerClosed, SegmentError


@pytest.fixture
def layer(prefix):
    with IPCChannelLayer(prefix, block_timeout=2) as layer:
        yield layer
        assert layer.check() == []


def in_child(work):
    """Run ``work`` in a forked child; return its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def status_of(pid):
    return os.waitpid(pid, 0)[1]


class TestContract:
    def test_options_in_published_order(self, prefix):
        with IPCChannelLayer(prefix, 30, 100, 7, {"x": 3}, 1 << 20, 1 << 20) as layer:
            assert (layer.prefix, layer.expiry, layer.group_expiry) == (prefix, 30, 100)
            assert layer.capacity == 7
            assert layer.get_capacity("x") == 3
            assert layer.get_capacity("y") == 7

    def test_defaults(self, layer):
        assert (layer.expiry, layer.group_expiry, layer.capacity) == (60, 86400, 100)
        assert {"flush", "groups", "statistics"} <= set(layer.extensions)
        assert layer.max_message_size == 25 * 1024 * 1024

    def test_public_names(self):
        from asgi_ipc import core

        assert core.IPCChannelLayer is asgi_ipc.IPCChannelLayer
        assert issubclass(IPCChannelLayer.ChannelFull, IPCError)
        assert issubclass(IPCChannelLayer.MessageTooLarge, IPCError)

    @pytest.mark.parametrize(
        "options",
        [
            {"prefix": ""},
            {"prefix": "a/b"},
            {"prefix": None},
            {"prefix": "x" * 300},
            {"expiry": 0},
            {"expiry": -1},
            {"expiry": "60"},
            {"group_expiry": 0},
            {"capacity": 0},
            {"capacity": -5},
            {"capacity": True},
            {"capacity": 1.5},
            {"channel_capacity": {"a": 0}},
            {"message_memory": 0},
            {"group_memory": 0},
            {"mode": 0o400},
            {"mode": 0o777},
            {"max_message_size": 0},
            {"max_message_size": 1 << 40},
            {"block_timeout": -1},
            {"lock_timeout": 0},
        ],
    )
    def test_wrong_options(self, options):
        with pytest.raises(ValueError) as caught:
            IPCChannelLayer(**options)
        (name,) = options
        assert name in str(caught.value) or name == "channel_capacity"

    def test_message_is_copied(self, layer):
        message = {"list": [1], "bytes": b"\x00\xff", "text": "\u20ac", "tuple": (1, 2)}
        layer.send("copy", message)
        message["list"].append(2)
        _, received = layer.receive(["copy"])
        assert received == {
            "list": [1],
            "bytes": b"\x00\xff",
            "text": "\u20ac",
            "tuple": [1, 2],
        }
        assert isinstance(received["bytes"], bytes)

    def test_unpackable_names_the_key(self, layer):
        with pytest.raises(TypeError) as caught:
            layer.send("bad", {"user": {"tags": [1, object()]}})
        assert "user" in str(caught.value)
        assert "tags" in str(caught.value)
        assert layer.receive(["bad"]) == (None, None)

    @pytest.mark.parametrize("pattern", ["test!", "test.foo", "", "a?b", b"x?", 7])
    def test_new_channel_refuses(self, layer, pattern):
        with pytest.raises(TypeError):
            layer.new_channel(pattern)

    def test_new_channel(self, layer):
        names = {layer.new_channel("reply.x?") for _ in range(100)}
        assert len(names) == 100
        assert all(re.match(r"^reply\.x\?[0-9a-z]{12,}$", name) for name in names)

    def test_new_channel_without_pattern_names_the_other_layer(self, layer):
        with pytest.raises(TypeError) as caught:
            layer.new_channel()
        assert "asgi_ipc.aio.IPCChannelLayer" in str(caught.value)

    def test_forked_children_invent_different_names(self, layer):
        read, write = os.pipe()
        pids = [
            in_child(lambda: os.write(write, layer.new_channel("n?").encode("ascii") + b"\n"))
            for _ in range(4)
        ]
        assert [status_of(pid) for pid in pids] == [0] * 4
        names = os.read(read, 4096).split()
        os.close(read)
        os.close(write)
        assert len(set(names)) == 4

    def test_channel_capacity(self, prefix):
        capacities = collections.OrderedDict(
            [
                ("http.response!*", 2),
                (re.compile(r"^websocket.send\!.+"), 3),
                ("http.*", 1),
            ]
        )
        with IPCChannelLayer(prefix, channel_capacity=capacities) as layer:
            for channel, capacity in (
                ("http.response!abc", 2),
                ("websocket.send!xyz", 3),
                ("http.request", 1),
            ):
                for _ in range(capacity):
                    layer.send(channel, {})
                with pytest.raises(layer.ChannelFull) as caught:
                    layer.send(channel, {})
                assert "capacity" in str(caught.value)

    def test_too_large(self, prefix):
        with IPCChannelLayer(prefix, max_message_size=1000) as layer:
            with pytest.raises(layer.MessageTooLarge) as caught:
                layer.send("big", {"x": b"y" * 1001})
            assert "max_message_size" in str(caught.value)
            with pytest.raises(layer.MessageTooLarge):
                layer.send_group("g", {"x": b"y" * 1001})
            assert layer.receive(["big"]) == (None, None)

    def test_receive_is_fair(self, layer):
        for _ in range(50):
            layer.send("a", {})
            layer.send("b", {})
        firsts = [layer.receive(["a", "b"])[0] for _ in range(20)]
        assert 5 <= firsts.count("a") <= 15

    def test_receive_many_warns(self, layer):
        layer.send("old", {"x": 1})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert layer.receive_many(["old"]) == ("old", {"x": 1})
        assert [warning.category for warning in caught] == [DeprecationWarning]

    def test_group_send_drops_are_counted_and_logged_once(self, prefix, caplog):
        with IPCChannelLayer(prefix, capacity=1) as layer:
            layer.group_add("g", "full")
            layer.group_add("g", "other!x")
            for _ in range(5):
                layer.send_group("g", {"n": 1})
            text = " ".join(record.getMessage() for record in caplog.records)
            assert text.count("dropped") == 1
            assert "group g" in text
            assert layer._drops.total == 8
            assert layer.channel_statistics("full")["channel_full_count"] == 4

    def test_membership_ends_when_message_expires_unread(self, prefix):
        with IPCChannelLayer(prefix, expiry=0.2) as layer:
            layer.group_add("g", "server!gone")
            layer.group_add("g", "normal")
            layer.send_group("g", {})
            time.sleep(0.3)
            assert layer.receive(["server!", "normal"]) == (None, None)
            assert layer.group_channels("g") == ["normal"]

    def test_membership_change_reaches_a_planned_group(self, prefix):
        with IPCChannelLayer(prefix) as one, IPCChannelLayer(prefix) as two:
            one.group_add("g", "p!a")
            two.send_group("g", {"n": 1})
            one.group_add("g", "p!b")
            one.group_discard("g", "p!a")
            two.send_group("g", {"n": 2})
            got = [two.receive(["p!"]) for _ in range(3)]
            assert got == [("p!a", {"n": 1}), ("p!b", {"n": 2}), (None, None)]

    def test_groups_full_names_the_option(self, prefix):
        with IPCChannelLayer(prefix, group_memory=64 * 1024) as layer:
            with pytest.raises(GroupsFull) as caught:
                for number in range(10000):
                    layer.group_add("g", "c{0}".format(number))
            assert "group_memory" in str(caught.value)

    def test_statistics(self, layer):
        keys = {
            "messages_count",
            "messages_pending",
            "messages_max_age",
            "channel_full_count",
            "messages_count_per_second",
            "channel_full_count_per_second",
        }
        for _ in range(3):
            layer.send("stat", {})
        layer.receive(["stat"])
        whole, channel = layer.global_statistics(), layer.channel_statistics("stat")
        assert set(whole) == set(channel) == keys
        for figures in (whole, channel):
            assert figures["messages_count"] == 3
            assert figures["messages_pending"] == 2
            assert figures["messages_max_age"] > 0
            assert figures["messages_count_per_second"] > 0
        assert layer.channel_statistics("unknown")["messages_count"] == 0

    def test_closed(self, prefix):
        layer = IPCChannelLayer(prefix)
        layer.close()
        layer.close()
        for call in (
            lambda: layer.send("x", {}),
            lambda: layer.receive(["x"]),
            lambda: layer.group_add("g", "x"),
            layer.flush,
        ):
            with pytest.raises(LayerClosed):
                call()

    def test_unlinked_under_us(self, prefix):
        with IPCChannelLayer(prefix) as layer:
            layer.send("x", {"n": 1})
            assert unlink(prefix)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                layer.receive(["nothing"])
                layer.send("x", {"n": 2})
                deadline = time.time() + 10
                with IPCChannelLayer(prefix) as other:
                    while time.time() < deadline:
                        layer.receive(["nothing"])
                        layer.send("x", {"n": 3})
                        if other.receive(["x"])[0]:
                            break
                        time.sleep(0.05)
                    else:
                        pytest.fail("never attached anew")
            assert any("removed while in use" in str(w.message) for w in caught)

    def test_unlinked_under_one_who_only_joins_groups(self, prefix):
        with IPCChannelLayer(prefix) as layer:
            layer.group_add("g", "a")
            assert unlink(prefix)
            with IPCChannelLayer(prefix) as other, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                deadline = time.time() + 10
                while not other.group_channels("g") and time.time() < deadline:
                    layer.group_add("g", "a")
                    time.sleep(0.05)
                assert other.group_channels("g") == ["a"]

    def test_foreign_segment_is_refused(self, prefix):
        posix_ipc = pytest.importorskip("posix_ipc")
        name = "/{0}-messages".format(prefix)
        memory = posix_ipc.SharedMemory(str(name), posix_ipc.O_CREAT, size=8192)
        os.write(memory.fd, b"\x80\x02}q\x00(U\x05hello")
        memory.close_fd()
        with pytest.raises(SegmentError) as caught:
            IPCChannelLayer(prefix)
        assert "rm {0}".format(prefix) in str(caught.value)
        assert unlink(prefix)


class TestBlocking:
    def test_woken_by_another_process(self, layer):
        pid = in_child(lambda: (time.sleep(0.2), layer.send("wake", {"x": 1})))
        started = time.time()
        assert layer.receive(["none", "wake"], block=True) == ("wake", {"x": 1})
        # The wait lasts 2 s, and a look comes every second: it was woken.
        assert time.time() - started < 0.9
        assert status_of(pid) == 0

    def test_bounded(self, prefix):
        with IPCChannelLayer(prefix, block_timeout=0.2) as layer:
            started = time.time()
            assert layer.receive(["none"], block=True) == (None, None)
            assert time.time() - started > 0.15

    def test_each_message_wakes_one_of_many(self, layer):
        got = []
        threads = [
            threading.Thread(target=lambda: got.append(layer.receive(["many"], block=True)))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        for number in range(8):
            layer.send("many", {"n": number})
        for thread in threads:
            thread.join()
        assert sorted(message["n"] for _, message in got) == list(range(8))

    def test_message_is_passed_on_by_a_waiter_that_took_another(self, prefix):
        # Threads wait on both channels; each of the two messages finds its own waiter.
        with IPCChannelLayer(prefix, block_timeout=3) as layer:
            for _ in range(20):
                got = []

                def wait(got=got, layer=layer):
                    got.append(layer.receive(["p", "q"], block=True)[0])

                threads = [threading.Thread(target=wait) for _ in range(2)]
                for thread in threads:
                    thread.start()
                time.sleep(0.02)
                started = time.time()
                layer.send("p", {})
                layer.send("q", {})
                for thread in threads:
                    thread.join()
                assert sorted(got) == ["p", "q"]
                assert time.time() - started < 0.9

    def test_dead_waiter_is_struck_off(self, layer):
        pid = in_child(lambda: layer.receive(["dead"], block=True))
        time.sleep(0.3)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        layer.send("dead", {"x": 1})
        assert layer.receive(["dead"], block=True) == ("dead", {"x": 1})
        bells = [name for name in os.listdir("/dev/shm") if layer.prefix in name and "bell" in name]
        assert len(bells) <= 1

    def test_flag_handler_ends_the_wait_early(self, layer):
        seen = []
        before = signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            started = time.time()
            assert layer.receive(["none"], block=True) == (None, None)
            assert seen
            assert time.time() - started < 0.9
        finally:
            signal.signal(signal.SIGALRM, before)

    def test_raising_handler_goes_through(self, layer):
        def stop(*_):
            raise SystemExit(3)

        before = signal.signal(signal.SIGALRM, stop)
        try:
            for _ in range(5):
                signal.setitimer(signal.ITIMER_REAL, 0.05)
                with pytest.raises(SystemExit):
                    layer.receive(["none"], block=True)
        finally:
            signal.signal(signal.SIGALRM, before)
        layer.send("none", {"x": 1})
        assert layer.receive(["none"], block=True) == ("none", {"x": 1})

    def test_close_ends_the_waits_of_other_threads(self, prefix):
        layer = IPCChannelLayer(prefix, block_timeout=20)
        caught = []

        def wait():
            try:
                layer.receive(["none"], block=True)
            except LayerClosed as error:
                caught.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.3)
        layer.close()
        thread.join(5)
        assert not thread.is_alive()
        assert len(caught) == 1

    def test_child_uses_the_inherited_layer(self, layer):
        layer.receive(["warm.up"])

        def answer():
            channel, message = layer.receive(["ask"], block=True)
            assert channel == "ask"
            layer.send("answer", message)

        pid = in_child(answer)
        layer.send("ask", {"x": 1})
        assert layer.receive(["answer"], block=True) == ("answer", {"x": 1})
        assert status_of(pid) == 0

    def test_idle_blocking_costs_no_cpu(self, prefix):
        with IPCChannelLayer(prefix, block_timeout=3) as layer:
            layer.receive(["idle"], block=False)
            before = os.times()
            layer.receive(["idle"], block=True)
            after = os.times()
            used = after[0] + after[1] - before[0] - before[1]
            assert used <= 0.03


class TestMemory:
    def test_idle_layer_is_small(self, layer):
        layer.send("x", {})
        layer.receive(["x"])
        messages, groups = layer._stores.messages, layer._stores.groups
        real = messages._segment.memory_used() + groups._segment.memory_used()
        assert real < 2 * 1024 * 1024
