"""The asynchronous channel layer: what Channels 3 and 4 call.

Knows Channels' contract, names and msgpack; what lies below is ``process``'s affair. It is the
only module that knows Channels, and the only one with asynchronous syntax. A process that
uses this face talks to one that uses the synchronous face under the same prefix.

An operation takes microseconds, so it is done inside its coroutine: no thread, no connection,
no affinity to a loop. The one thing that may take longer is a lock that a live process holds (a
stopped one): each try of it is short, and between tries the coroutine sleeps. So its loop goes
on, and to cancel it at any point leaves the operation done or not done. An executor in place of
the naps could do neither: what is tried in a thread goes on when its caller is cancelled.
"""
from __future__ import annotations

import asyncio
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    List,
    Mapping,
    Optional,
    Pattern,
    Set,
    Tuple,
    Union,
)

from channels import exceptions
from channels.layers import BaseChannelLayer

from asgi_ipc import errors, names
from asgi_ipc._shm import clock
from asgi_ipc.codec import pack, unpack
from asgi_ipc.copies import Copies
from asgi_ipc.gate import CROWD, PAUSE, given_up
from asgi_ipc.options import MEBIBYTE, Options, refuse
from asgi_ipc.overview import Overview
from asgi_ipc.process import Process
from asgi_ipc.routes import Routes

BREATH = 45
"""Messages that may be had at once before the event loop gets its turn."""

Message = Dict[str, Any]
Capacities = Union[
    Mapping[str, int],
    Mapping[Pattern[str], int],
    Mapping[Union[str, Pattern[str]], int],
    Iterable[Tuple[Union[str, Pattern[str]], int]],
]


class ChannelFull(errors.ChannelFull, exceptions.ChannelFull):  # type: ignore[misc]
    """The message was not stored: the channel is at capacity, or memory is used up."""


class MessageTooLarge(errors.MessageTooLarge, exceptions.MessageTooLarge):  # type: ignore[misc]
    """The packed message is above ``max_message_size`` (bytes); nothing was stored."""


class IPCChannelLayer(BaseChannelLayer):  # type: ignore[misc]
    """Channel layer over POSIX shared memory, for all processes of one machine.

    Attaches when made. It may be used from any number of event loops and threads, and by
    children that a process forks. Every call takes effect wholly or not at all, also if its task
    is cancelled or its process killed.

    The options are those of the synchronous layer, in its order.

    :param prefix: layers of one prefix share channels and groups.
    :param expiry: seconds after which an unread message is dropped.
    :param group_expiry: seconds after which a membership ends that is not renewed.
    :param capacity: messages that a channel holds; further ones raise ``ChannelFull``.
    :param channel_capacity: dict of name pattern to capacity; a pattern is a glob or a
        compiled regular expression, the first that matches counts.
    :param message_memory: bytes of shared memory for messages.
    :param group_memory: bytes of shared memory for groups.
    :param mode: permission bits of all that is made; 0o600 admits one user.
    :param max_message_size: bytes of a packed message; default a quarter of message_memory.
    :param block_timeout: checked, and of no effect: here a receive waits until it is cancelled.
        It is taken so that both layers can be given the same options.
    :param lock_timeout: seconds to wait for a live process that holds the lock.
    :raises ValueError: a wrong option, or one of channels_redis that has no meaning here.
    :raises TypeError: an option that nobody knows.
    :raises SegmentError: the shared memory is not ours, or there is none left.

    Source: Channels' documentation, "Channel Layer Specification"; ``channels.layers``.
    """

    ChannelFull = exceptions.ChannelFull
    MessageTooLarge = exceptions.MessageTooLarge
    MAX_NAME_LENGTH = names.MAX_NAME_LENGTH

    extensions = ["groups", "flush"]

    def __init__(
        self,
        prefix: Union[str, bytes] = "asgi",
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: Optional[Capacities] = None,
        message_memory: int = 100 * MEBIBYTE,
        group_memory: int = 20 * MEBIBYTE,
        mode: int = 0o600,
        max_message_size: Optional[int] = None,
        block_timeout: float = 5,
        lock_timeout: float = 10,
        **unknown: Any,
    ) -> None:
        refuse(unknown, "asgi_ipc.aio.IPCChannelLayer")
        options = Options(
            prefix,
            expiry,
            group_expiry,
            capacity,
            channel_capacity,
            message_memory,
            group_memory,
            mode,
            max_message_size,
            block_timeout,
            lock_timeout,
        )
        super().__init__(expiry=expiry, capacity=capacity)
        self.channel_capacity: List[Tuple[Pattern[str], int]] = options.patterns
        self.prefix: str = options.prefix
        self.group_expiry = group_expiry
        self.max_message_size: int = options.max_message_size
        self.block_timeout = block_timeout
        self.lock_timeout = lock_timeout
        self._breath = 0
        self._trying: Set[object] = set()
        self._process = Process(options)
        self._stores = self._process.stores
        self._copies = Copies()
        self._routes = Routes(self.get_capacity, self._stores)
        self._groups = names.GroupNames()

    # -- channels --------------------------------------------------------------------

    async def send(self, channel: str, message: Message) -> None:
        """Send a dict to a channel.

        Cost: constant. A crash inside leaves it sent or not sent.

        :raises ChannelFull: at capacity, or no memory; the message was not sent.
        :raises MessageTooLarge: above ``max_message_size``.
        :raises NoBridge: it is a channel of another machine, to which no bridge runs.
        :raises TypeError: a wrong name, or a value that msgpack cannot carry.
        """
        try:
            queue, local, capacity = self._routes.known[channel]
        except (KeyError, TypeError):
            queue, local, capacity = self._routes.out(channel)
        payload = pack(message)
        if len(payload) > self.max_message_size:
            raise self._too_large(channel, payload)
        process = self._process
        messages = process.stores.messages
        try:
            if local or process.gate.shut_until:
                process.send(queue, local, payload, capacity)
            else:
                # It would do just this. Two calls less are 0.2 us.
                messages.send(queue, local, payload, process.lifetime, capacity)
        except errors.LockTimeout as error:
            process.gate.shut(error)
            await self._persist(self._send_again, queue, local, payload, capacity)
        except errors.ChannelFull as error:
            raise ChannelFull(str(error)) from None
        if messages.lapsed:
            process.tidy()

    async def receive(self, channel: str) -> Message:
        """Wait for the oldest message of a channel.

        A receive that is cancelled takes no message with it. Of several that wait on one
        channel, each message goes to one. Cost: constant; while waiting, one look a second for
        all that wait in the event loop.

        :param channel: a normal channel, or one that ``new_channel`` of this layer named in this
            process.
        :raises TypeError: a wrong name.
        """
        try:
            queue, local, _ = self._routes.known[channel]
        except (KeyError, TypeError):
            queue, local, _ = self._routes.here(channel)
        process = self._process
        decode: Callable[[bytes], Message] = unpack
        if self._breath >= BREATH:
            # Where there is always something, nothing else here lets the loop go on.
            self._breath = 0
            await asyncio.sleep(0)
        self._breath += 1
        own = queue[-1] == "!"
        try:
            if own:
                if not process.owns(queue):
                    raise TypeError(self._not_ours(channel))
                decode = self._copies.unpack
                payload = process.take(channel, queue, local)
            elif process.gate.shut_until:
                payload = process.take(channel, queue, local)
            else:
                # As in ``send``.
                messages = process.stores.messages
                found = messages.receive([queue])
                if found is not None and not messages.lapsed:
                    return decode(found[2])
                payload = found and found[2]
        except errors.LockTimeout as error:
            process.gate.shut(error)
            payload = await self._persist(process.take, channel, queue, local)
        if payload is None:
            self._breath = 0
            # All of the wait is in here: in a coroutine of its own, a member costs 5 % more.
            inbox = process.inbox
            take = inbox.take if own else process.take
            watch = process.watch(asyncio.get_running_loop())
            sleeper = watch.enter(channel, queue)
            try:
                while payload is None:
                    if inbox.holds(channel, queue):
                        # Another thread has put something there since we looked.
                        payload = await self._do(take, channel, queue, local)
                    if payload is None:
                        watch.attend(queue)
                        await sleeper
                        try:
                            payload = take(channel, queue, local)
                        except errors.LockTimeout:
                            payload = await self._persist(take, channel, queue, local)
                        if payload is None:
                            sleeper = watch.enter(channel, queue, again=True)
            except BaseException:
                watch.leave(channel, queue, sleeper, payload is not None)
                raise
            # From here on it is returned without another await.
            if own and sleeper.awake:
                # All that ``leave`` would do: 2 %.
                watch.awake -= 1
            else:
                watch.leave(channel, queue, sleeper, True)
        if process.stores.messages.lapsed:
            process.tidy()
        return decode(payload)

    async def new_channel(self, prefix: str = "specific") -> str:
        """Return a new name for a channel from which this process alone receives.

        It is ``prefix``, a part for layer and process, ``!`` and a random part.

        :raises TypeError: ``prefix`` cannot begin a name, or makes it too long.
        """
        if not isinstance(prefix, str):
            raise TypeError("a channel's name begins with text, not {0!r}".format(prefix))
        return names.channel_name(self._process.new_name(prefix))

    # -- groups ----------------------------------------------------------------------

    async def group_add(self, group: str, channel: str) -> None:
        """Make a channel a member of a group, or renew its membership. Cost: constant.

        :raises GroupsFull: ``group_memory`` is used up.
        :raises TypeError: a wrong name.
        """
        group, channel = self._member(group, channel)
        await self._do(self._process.group_add, group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        """End a membership, if there is one. Cost: constant.

        :raises TypeError: a wrong name.
        """
        group, channel = self._member(group, channel)
        await self._do(self._process.group_discard, group, channel)

    async def group_send(self, group: str, message: Message) -> None:
        """Send a dict to every member of a group; each gets a copy of its own.

        What a full channel drops is counted and logged, never raised. Cost: the receiving
        processes while the membership stays, else the members. A crash inside leaves it
        sent to all or to none.

        :raises MessageTooLarge: above ``max_message_size``.
        :raises TypeError: a wrong name, or a value that msgpack cannot carry.
        """
        group = self._group(group)
        payload = pack(message)
        if len(payload) > self.max_message_size:
            raise self._too_large(group, payload)
        await self._do(self._process.send_group, group, payload)
        if self._stores.messages.lapsed:
            self._process.tidy()

    # -- the whole -------------------------------------------------------------------

    async def flush(self) -> None:
        """Drop all messages and all groups of the prefix.

        Messages that another process has taken over for its own channels are that process's.
        """
        await self._do(self._process.flush)

    async def statistics(self, top: int = 10) -> Dict[str, Any]:
        """Return what is in shared memory at this moment: see the synchronous layer's.

        ``drops`` are the messages that this layer dropped in this process: those that group sends
        found no room for, and those that its receivers left unread. The event loop goes on
        meanwhile.

        :raises ValueError: ``top`` is no whole number from 0 up.
        """
        process = self._process
        self._stores.attend(clock.now())
        overview = Overview(self._stores, top)
        more = True
        while more:
            more = await self._do(overview.step)
            await asyncio.sleep(0)
        found: Dict[str, Any] = await self._do(overview.result, self.prefix, process.drops)
        return found

    async def check(self) -> List[str]:
        """Verify both segments; return what is wrong, as sentences. For tests.

        Cost: all that is stored, with the lock held and the event loop waiting.
        """
        return [
            *(await self._do(self._stores.messages.check)),
            *(await self._do(self._stores.groups.check)),
        ]

    async def close(self) -> None:
        """Detach, and end every receive that waits with ``LayerClosed``.

        Messages and groups stay for others. There is no need to call it before a loop or a
        process ends: nothing is left behind without.
        """
        self._process.end_waits()
        await self._do(self._stores.close)

    def __repr__(self) -> str:
        return "<{0} prefix={1!r}>".format(type(self).__name__, self.prefix)

    # -- helpers of Channels' base class, the same for all its versions --------------

    def get_capacity(self, channel: str) -> int:
        """The capacity of a channel, in messages."""
        return names.get_capacity(self.channel_capacity, self.capacity, channel)

    def compile_capacities(
        self, channel_capacity: Optional[Capacities]
    ) -> List[Tuple[Pattern[str], int]]:
        """Return a list of (compiled pattern, capacity)."""
        return names.compile_capacities(channel_capacity)

    def require_valid_channel_name(self, name: str, receive: bool = False) -> bool:
        """True, or TypeError."""
        return bool(names.channel_name(name, receive))

    def require_valid_group_name(self, name: str) -> bool:
        """True, or TypeError."""
        return bool(names.group_name(name))

    # As Channels calls them before 4.2.1, and calls them deprecated since 4.2.2.
    valid_channel_name = require_valid_channel_name
    valid_group_name = require_valid_group_name

    def non_local_name(self, name: str) -> str:
        """The part up to and including ``!``, or the whole."""
        return names.non_local_name(name)

    # -- inside ----------------------------------------------------------------------

    def _group(self, group: str) -> str:
        """A group's name as plain text."""
        try:
            plain: str = self._groups[group]
        except TypeError:
            names.group_name(group)
            raise
        return plain

    def _member(self, group: str, channel: str) -> Tuple[str, str]:
        """Both names as plain text."""
        queue, local, _ = self._routes.out(channel)
        return self._group(group), queue + local

    def _too_large(self, name: str, payload: bytes) -> errors.MessageTooLarge:
        return MessageTooLarge(
            "the message to {0} packs to {1} bytes, above max_message_size={2}; raise that (and "
            "message_memory), or send a reference to the data".format(
                name, len(payload), self.max_message_size
            )
        )

    def _send_again(self, queue: str, local: str, payload: bytes, capacity: int) -> None:
        try:
            self._process.send(queue, local, payload, capacity)
        except errors.ChannelFull as error:
            raise ChannelFull(str(error)) from None

    async def _do(self, work: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return work(*arguments)
        except errors.LockTimeout:
            return await self._persist(work, *arguments)

    async def _persist(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Try again what could not get the lock, until ``lock_timeout`` is over."""
        deadline = clock.now() + int(self.lock_timeout * clock.SECOND)
        trying, ticket = self._trying, object()
        trying.add(ticket)
        try:
            while True:
                await asyncio.sleep(PAUSE * (1 + len(trying) // CROWD))
                try:
                    return work(*arguments)
                except errors.LockTimeout as error:
                    if clock.now() >= deadline:
                        raise given_up(self.lock_timeout, error) from None
        finally:
            trying.discard(ticket)

    def _not_ours(self, channel: str) -> str:
        return (
            "{0!r} cannot be received from here. A channel with a '!' belongs to the layer and the "
            "process that named it by new_channel(); those of this one end in {1!r} and a random "
            "part. To read a channel in several processes, give it a name without '!'.".format(
                channel, self._process.own
            )
        )
