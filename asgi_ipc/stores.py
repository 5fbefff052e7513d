"""Both stores of a prefix, as one layer uses them: opened, planned with, opened anew.

Shared by both faces. Knows that a group send is a plan over message queues, that a message
which expired unread ends memberships, and that a segment may be removed under us. Does not
know msgpack, nor how either face waits.
"""
import logging
import threading
import warnings

from asgi_ipc import names, routing
from asgi_ipc._shm import clock, forks
from asgi_ipc._shm.segment import LOOK
from asgi_ipc.crossing import OUTBOX
from asgi_ipc.drops import Drops
from asgi_ipc.errors import GroupsFull, LockTimeout, NoBridge
from asgi_ipc.groups import GroupStore
from asgi_ipc.messages import MessageStore
from asgi_ipc.parts import segment_name

logger = logging.getLogger("asgi_ipc")

PLANS_KEPT = 1000
"""Groups whose members one process remembers."""

OVERFLOW = (
    "send to group %s: %d message(s) not sent to other machines, the outbox of the bridge (%s) is "
    "full; see whether it has Redis (asgi-ipc stat), or give it a greater --outbox"
)
ABROAD = (
    "{0!r} belongs to another machine: it can be sent to and be in groups, but it is received from "
    "there alone"
)
NO_BRIDGE = (
    "{0!r} belongs to another machine (or to shared memory that was removed), and no bridge runs "
    "here that would reach it. Start `asgi-ipc bridge`, or send to a channel of this machine."
)


def segment_names(prefix):
    """The names of both segments of a prefix, and of their semaphores."""
    return segment_name(prefix), "/{0}-groups".format(prefix)


class Plan(object):
    """Where a group's messages go, good as long as ``snapshot`` is current.

    ``targets`` are as ``MessageStore.send_each`` wants them; ``everywhere`` are the same with an
    outbox that may hold ``limit`` messages.
    """

    __slots__ = ("everywhere", "limit", "snapshot", "targets")

    def __init__(self, snapshot, targets):
        self.snapshot = snapshot
        self.targets = self.everywhere = targets
        self.limit = 0


class Stores(object):
    """The message store and the group store of one prefix.

    :param options: an ``options.Options``.
    """

    def __init__(self, options):
        self._options = options
        self._renewing = threading.Lock()
        self._closed = False
        self._next_look = 0
        self._overflow = Drops(OVERFLOW)
        self._open()
        self._tell()
        forks.watch(self)

    def _open(self, node=0):
        options = self._options
        messages = MessageStore(
            options.prefix,
            options.message_memory,
            options.mode,
            options.lock_timeout,
            node=node,
        )
        try:
            self.groups = GroupStore(
                options.prefix, options.group_memory, options.mode, options.lock_timeout
            )
        except BaseException:
            messages.close()
            raise
        messages.succeed = self._succeed
        self.messages = messages
        self.node = u"{0:012x}".format(messages.node)
        self._plans = {}

    def _tell(self):
        logger.debug(
            "attached to prefix %r: %d bytes for messages, %d for groups",
            self._options.prefix,
            self.messages.size,
            self.groups.size,
        )

    def group_add(self, group, channel, expires):
        """Begin or renew a membership.

        If there is no memory for it, messages give back what they do not use any more.

        :param channel: or what ``route_abroad`` has made of it.
        :raises GroupsFull: and there is none even so.
        """
        if channel.startswith(OUTBOX):
            lifetime = routing.lifetime_payload(expires - clock.now())
            self._change_abroad(routing.ADD, group, channel, lifetime)
            return
        try:
            self.groups.add(group, channel, expires)
        except GroupsFull:
            if not self.messages.trim():
                raise
            self.groups.add(group, channel, expires)

    def group_discard(self, group, channel):
        """End a membership; ``channel`` as for ``group_add``."""
        if channel.startswith(OUTBOX):
            self._change_abroad(routing.DISCARD, group, channel, b"")
        else:
            self.groups.discard(group, channel)

    def _change_abroad(self, kind, group, channel, payload):
        """Have a membership changed where the channel is at home."""
        name = channel[len(OUTBOX) + len(routing.CHANNEL) :]
        messages = self.messages
        messages.send(
            OUTBOX,
            routing.routing(kind, name, group),
            payload,
            self._options.lifetime,
            messages.outbox_limit,
        )

    def abroad(self, channel):
        """Whether a channel is another machine's, by its name. Cost: 1 us."""
        node = names.node_of(channel)
        return bool(node) and node != self.node

    def at_home(self, channel):
        """The channel, if it is one of this machine.

        :raises TypeError: it is another machine's.
        """
        if self.abroad(channel):
            raise TypeError(ABROAD.format(channel))
        return channel

    def route_abroad(self, channel):
        """(queue, local, capacity) by which messages go to a channel of another machine.

        :raises NoBridge: there is no bridge.
        """
        limit = self.messages.bridged(clock.now())
        if not limit:
            raise NoBridge(NO_BRIDGE.format(channel))
        return OUTBOX, routing.routing(routing.CHANNEL, channel), limit

    def send_group(self, group, payload):
        """Send to all members; return the queues that were full.

        Cost: the members when the membership has changed since the last call, else the
        receiving processes.
        """
        targets = self.targets(group)
        full = self.messages.send_each(targets, payload, self._options.lifetime) if targets else ()
        return self.told_of(group, [queue for queue, _ in full]) if full else []

    def told_of(self, group, full):
        """The full queues but the outbox; what that misses is logged and counted apart."""
        if OUTBOX in full:
            self._overflow.add(group, [OUTBOX])
            full.remove(OUTBOX)
        return full

    def targets(self, group):
        """Where a message to a group goes: its members, and the outbox if a bridge runs."""
        now = clock.now()
        plan = self._current_plan(group, now)
        limit = self.messages.bridged(now)
        if plan is not None and plan.limit == limit:
            return plan.everywhere
        everywhere = plan.targets if plan is not None else []
        if limit:
            route = routing.routing(routing.GROUP, group).encode("ascii")
            everywhere = everywhere + [(OUTBOX, route, limit)]
        if plan is not None:
            plan.everywhere, plan.limit = everywhere, limit
        return everywhere

    def targets_here(self, group, now):
        """Where a message to a group goes on this machine, as ``send_each`` wants it."""
        plan = self._current_plan(group, now)
        return plan.targets if plan is not None else []

    def _current_plan(self, group, now):
        self.attend(now)
        plan = self._plans.get(group)
        if (
            plan is None
            or plan.snapshot.until <= now
            or not self.groups.current(plan.snapshot)
        ):
            plan = self._plan(group)
        return plan

    def _plan(self, group):
        snapshot = self.groups.snapshot(group)
        if snapshot is None:
            self._plans.pop(group, None)
            return None
        locals_of, capacities, order = {}, {}, []
        for name in snapshot.names:
            queue, local = names.split_local(name)
            if queue not in locals_of:
                locals_of[queue] = []
                capacities[queue] = self.capacity_of(name)
                order.append(queue)
            locals_of[queue].append(local)
        targets = [
            (queue, "\n".join(locals_of[queue]).encode("ascii"), capacities[queue])
            for queue in order
        ]
        if len(self._plans) >= PLANS_KEPT:
            self._plans.clear()
        plan = self._plans[group] = Plan(snapshot, targets)
        return plan

    def capacity_of(self, channel):
        """The capacity that the options give a channel, in messages."""
        return names.get_capacity(self._options.patterns, self._options.capacity, channel)

    def tidy(self):
        """End the memberships of channels whose messages expired unread, or try it later.

        Called when ``messages.lapsed`` has some. The caller's message is sent, or taken.
        """
        try:
            self.leave_lapsed()
        except LockTimeout:
            pass

    def leave_lapsed(self):
        """The same, with what hinders it raised."""
        messages = self.messages
        lapsed = set()
        while messages.lapsed:
            try:
                lapsed.add(messages.lapsed.popleft())
            except IndexError:
                break
        if lapsed:
            try:
                self.groups.leave_all(sorted(lapsed))
            except LockTimeout:
                messages.lapsed.extend(lapsed)
                raise

    def attend(self, now):
        """Now and then, look whether the segments are still those of the name.

        For operations on groups; those on messages look for themselves.
        """
        if now >= self._next_look:
            self._renew()
            self._next_look = now + LOOK

    def _renew(self):
        """Attach anew if a segment was removed under us."""
        if not (self.messages.replaced() or self.groups.replaced()):
            return
        if forks.NEEDS_CHECK:
            forks.check()
        with self._renewing:
            if self._closed or not (self.messages.replaced() or self.groups.replaced()):
                return
            warnings.warn(
                "the shared memory of prefix {0!r} was removed while in use; attaching to a new "
                "one, what was in the old one is lost".format(self._options.prefix),
                RuntimeWarning,
                stacklevel=3,
            )
            messages, groups = self.messages, self.groups
            # The name of the machine stays, as do those of its channels, if it is made here.
            self._open(messages.node)
            messages.close()
            groups.close()
        self._tell()

    def _succeed(self):
        """The message store in place of one that was removed."""
        self._renew()
        return self.messages

    def forked(self):
        """In a child: the thread that held the lock is not there."""
        self._renewing = threading.Lock()

    def close(self):
        """Detach from both."""
        self._closed = True
        self.messages.close()
        self.groups.close()
