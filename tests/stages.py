"""The stages: of a MessageStore, of a GroupStore, of a whole layer."""
from stage import LOCK_TIMEOUT, Stage, but
from storekit import LONG, PLENTY, drain, get, open_messages, put

from asgi_ipc import core
from asgi_ipc.crossing import OUTBOX, OWN
from asgi_ipc.groups import GroupStore
from asgi_ipc.stores import segment_names

LAST = u"(last)"
"""Among contents: the last entry from other machines that was delivered, if there was any."""

FAR = 10 ** 15
"""Nanoseconds of the clock that no test comes to."""

BACKLOG = {
    u"a": [(u"", b"a0"), (u"", b"a1"), (u"", b"a2")],
    u"b": [(u"", b"b0"), (u"", b"b1")],
    u"p!": [(u"x", b"p0"), (u"x", b"fan"), (u"y", b"fan"), (u"z", b"fan")],
}
MEMBERS = {u"g0": [u"c0", u"c1", u"c2"], u"g1": [u"c0"]}
LAYER = {
    u"a": [(u"a", {u"n": 0})],
    u"p!": [(u"p!x", {u"n": 1})],
    u"group g": [u"p!x", u"p!y", u"q!z", u"a"],
}
MANY = [u"n{0}".format(number) for number in range(70)]
"""More channels than there are entries."""


class MessageStage(Stage):
    """Of a MessageStore; contents are {queue: [(local part, payload)]}."""

    common = [OUTBOX, u"a", u"b", u"p!", u"q!", u"old", u"old!", u"new", u"w", u"v", u"big"] + MANY
    usual = BACKLOG

    @staticmethod
    def furnish(store):
        """Seven records."""
        for queue, local, payload in (
            (u"a", u"", b"a0"),
            (u"p!", u"x", b"p0"),
            (u"b", u"", b"b0"),
            (u"a", u"", b"a1"),
        ):
            put(store, queue, payload, local=local)
        store.send_each([(u"p!", b"x\ny\nz", PLENTY)], b"fan", LONG)
        put(store, u"b", b"b1")
        put(store, u"a", b"a2")

    def segments(self):
        return ["/{0}-messages".format(self.prefix)]

    def make(self):
        return open_messages(
            self.prefix, self.scene.size, clock=self.clock, lock_timeout=LOCK_TIMEOUT
        )

    def acquaint(self, store):
        for queue in self.names:
            store.channel_statistics(queue)

    def first_calls(self):
        calls = [self._first_check, self._first_receive, self._first_look, self._first_send]
        return calls[:3] if self.scene.full else calls

    def work_beside(self, turn):
        store = self.victim
        if self.scene.delicate:
            assert get(store, u"t") is None
            return
        put(store, u"t", b"%d" % turn)
        found = get(store, u"t")
        assert found == (u"t", u"", b"%d" % turn) or (found is None and {} in self.outcomes)

    @staticmethod
    def _first_check(store):
        assert store.check() == []
        return []

    @staticmethod
    def _first_receive(store):
        message = store.receive([u"a"])
        return [message] if message else []

    @staticmethod
    def _first_look(store):
        store.channel_statistics(u"a")
        return []

    @staticmethod
    def _first_send(store):
        put(store, u"first", b"first")
        assert get(store, u"first") == (u"first", u"", b"first")
        return []

    @staticmethod
    def contents(store, queues, taken):
        """Receive all; ``taken`` was received before."""
        found = {}
        for queue, local, payload in taken:
            found.setdefault(queue, []).append((local, payload))
        for queue in queues:
            message = store.receive([queue])
            while message is not None:
                assert message[0] == queue
                found.setdefault(queue, []).append(message[1:])
                message = store.receive([queue])
        last = store.last_id(OWN)
        if last != (0, 0):
            found[LAST] = [(u"", b"%d-%d" % last)]
        return found

    @staticmethod
    def go_on(store):
        """Send and receive; all memory is free then."""
        for number in range(3):
            put(store, u"after", b"%d" % number)
        assert drain(store, u"after") == [b"0", b"1", b"2"]
        assert store.memory()["messages"] == 0


class GroupStage(Stage):
    """Of a GroupStore; contents are {group: [members in order]}."""

    common = [u"g0", u"g1", u"g2", u"g3"]
    usual = MEMBERS
    taken = {}

    @staticmethod
    def furnish(store):
        for group, channel in ((u"g0", u"c0"), (u"g0", u"c1"), (u"g1", u"c0"), (u"g0", u"c2")):
            store.add(group, channel, FAR)

    def segments(self):
        return ["/{0}-groups".format(self.prefix)]

    def make(self):
        return GroupStore(
            self.prefix, self.scene.size, clock=self.clock, lock_timeout=LOCK_TIMEOUT
        )

    def acquaint(self, store):
        taken = {group: store.snapshot(group) for group in self.names}
        if store is self.judge:
            self.taken = taken

    def close(self):
        Stage.close(self)
        self.taken = {}

    def first_calls(self):
        calls = [self._first_check, self._first_look, self._first_add]
        return calls[:2] if self.scene.full else calls

    def work_beside(self, turn):
        store, channel = self.victim, u"t{0}".format(turn % 3)
        if self.scene.delicate:
            assert store.members(u"t") == []
            return
        store.add(u"t", channel, FAR)
        found = store.members(u"t")
        assert found == [channel] or (found == [] and {} in self.outcomes)
        store.discard(u"t", channel)

    @staticmethod
    def _first_check(store):
        assert store.check() == []
        return []

    @staticmethod
    def _first_look(store):
        store.members(u"g0")
        return []

    @staticmethod
    def _first_add(store):
        store.add(u"first", u"c0", FAR)
        assert store.members(u"first") == [u"c0"]
        return []

    def contents(self, store, groups, _):
        """All members; no snapshot from before passes for current if it is not."""
        current = {
            group: taken.names
            for group, taken in self.taken.items()
            if taken is not None and store.current(taken) and self.clock.time < taken.until
        }
        found = {group: store.members(group) for group in groups}
        for group in current:
            assert found[group] == current[group]
        return {group: found[group] for group in groups if found[group]}

    @staticmethod
    def go_on(store):
        """Add, list and discard, in a group that takes no room if there is none."""
        store.flush()
        for channel in (u"c0", u"c1"):
            store.add(u"after", channel, FAR)
        store.discard(u"after", u"c0")
        assert store.members(u"after") == [u"c1"]


class LayerStage(Stage):
    """Of a whole layer; contents are those of its queues and of its groups together."""

    common = [u"a", u"p!", u"q!", u"group g"]
    usual = LAYER

    @staticmethod
    def furnish(store):
        store.send(u"a", {u"n": 0})
        store.send(u"p!x", {u"n": 1})
        for channel in LAYER[u"group g"]:
            store.group_add(u"g", channel)

    def segments(self):
        return list(segment_names(self.prefix))

    def make(self):
        return core.IPCChannelLayer(
            self.prefix,
            expiry=10 ** 6,
            group_expiry=10 ** 6,
            message_memory=self.scene.size,
            group_memory=self.scene.size,
            lock_timeout=LOCK_TIMEOUT,
        )

    def acquaint(self, store):
        store.group_channels(u"g")

    def first_calls(self):
        return [self._first_check, self._first_add]

    def work_beside(self, turn):
        self.victim.send(u"t", {u"turn": turn})
        found = self.victim.receive([u"t"])
        assert found == (u"t", {u"turn": turn}) or (found[0] is None and {} in self.outcomes)

    @staticmethod
    def _first_check(store):
        assert store.check() == []
        return []

    @staticmethod
    def _first_add(store):
        store.group_add(u"first", u"a")
        assert store.group_channels(u"first") == [u"a"]
        return []

    @staticmethod
    def contents(store, names, _):
        found = {}
        for name in names:
            if name.startswith(u"group "):
                found[name] = store.group_channels(name[6:])
                continue
            found[name] = []
            channel, message = store.receive([name])
            while channel is not None:
                found[name].append((channel, message))
                channel, message = store.receive([name])
        return but(found, {})

    @staticmethod
    def go_on(store):
        store.send(u"after", {u"n": 1})
        assert store.receive([u"after"]) == (u"after", {u"n": 1})
