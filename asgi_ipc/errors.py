"""Every exception that asgi_ipc raises of its own, one small tree.

Knows nothing of segments, locks or channels: the raiser composes the message, and each
message says what is wrong, with the figures, and the option or command that mends it.
Wrong names and wrong messages are not here: the ASGI contract makes those ``TypeError``,
and wrong options are ``ValueError``.
"""


def _of_asgi1(name):
    """The class of a name that asgiref 1 has, if that is installed.

    A layer that stands on ours (RedisLocalChannelLayer of asgi_redis) passes on what ours raises,
    to callers who catch what all layers of asgiref 1 have.
    """
    try:
        from asgiref.base_layer import BaseChannelLayer
    except ImportError:
        return Exception
    return getattr(BaseChannelLayer, name)


class IPCError(Exception):
    """Root of the tree: catch it to catch all that asgi_ipc itself reports."""


class ChannelFull(IPCError, _of_asgi1("ChannelFull")):
    """The message was not stored: the channel is at capacity, or memory is used up.

    Nothing is lost but the message that was refused. Remedy: read the channel faster, send
    again later, or raise ``capacity`` / ``channel_capacity`` / ``message_memory``; the text
    says which of them was reached.
    """


class MessageTooLarge(IPCError, _of_asgi1("MessageTooLarge")):
    """The packed message is above ``max_message_size`` (bytes); nothing was stored."""


class GroupsFull(IPCError):
    """No room for one more membership; raise ``group_memory`` or discard members."""


class NoBridge(IPCError):
    """The channel belongs to another machine, and no bridge to it runs; nothing was done.

    Start ``asgi-ipc bridge`` on this machine, or send to a channel of this machine.
    """


class LockTimeout(IPCError):
    """Another process held the lock for ``lock_timeout`` seconds and is alive.

    The text names its pid. Nothing of the refused operation was done.
    """


class ReentrantCall(IPCError):
    """A signal handler or finalizer called the layer while its thread was inside it."""


class LayerClosed(IPCError):
    """The layer was closed; make a new one."""


class SegmentError(IPCError):
    """The shared-memory segment cannot be used; the text says why and what to do.

    Foreign contents, another layout version, another owner, no space left for it.
    """
