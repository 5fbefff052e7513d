"""From a channel's name to where its messages go, for both faces.

Knows that a name may be wrong, or another machine's; does not know what is sent there. Each name is
looked at once: after that it is one look into a dict (``known``), which the faces do themselves.
"""
from asgi_ipc import names

ROUTES_KEPT = 20000


class Routes(names.NameCache):
    """Name of a channel of this machine -> (queue, local part, capacity); bounded.

    :param capacity_of: the capacity that a channel has, in messages.
    :param stores: ``stores.Stores``.
    """

    limit = ROUTES_KEPT

    def __init__(self, capacity_of, stores):
        names.NameCache.__init__(self)
        self._capacity_of = capacity_of
        self._stores = stores

    def entry(self, name):
        """What a name that is not known yet maps to."""
        channel = self._stores.at_home(names.channel_name(name))
        return names.split_local(channel) + (self._capacity_of(channel),)

    def here(self, name):
        """The route of a channel, whatever was passed as its name.

        :raises TypeError: it is none, or another machine's.
        """
        try:
            return self[name]
        except TypeError:
            # A wrong name, or one that cannot be looked up at all (a list).
            names.channel_name(name)
            raise

    def out(self, name):
        """The same for one that may be another machine's.

        :raises TypeError: it is none.
        :raises NoBridge: it is another machine's, and there is no bridge.
        """
        try:
            return self[name]
        except TypeError:
            channel = names.channel_name(name)
            if not self._stores.abroad(channel):
                raise
        return self._stores.route_abroad(channel)


class Readable(names.ReadableNames):
    """The names that may be received from on this machine; bounded."""

    def __init__(self, stores):
        names.ReadableNames.__init__(self)
        self._stores = stores

    def entry(self, name):
        """(name,), or TypeError."""
        return (self._stores.at_home(names.ReadableNames.entry(self, name)[0]),)
