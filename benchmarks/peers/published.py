"""The published releases of Channels 1's days, in a Python 3.7 of their own."""
import time
from functools import partial

from benchmarks.peers.base import ASGI1, CAPACITY, EXPIRY


class Published(ASGI1):
    """asgi_ipc 1.4.2, with msgpack-python 0.5.6."""

    def version(self):
        import asgi_ipc

        if asgi_ipc.__version__ != "1.4.2":
            raise RuntimeError("asgi_ipc {0} is not 1.4.2".format(asgi_ipc.__version__))
        return "asgi_ipc 1.4.2"

    def open(self):
        from asgi_ipc import IPCChannelLayer

        self.layer = IPCChannelLayer(self.prefix, expiry=EXPIRY, capacity=CAPACITY)

    def waiter(self, channel):
        """It cannot block: only for what is there already."""
        return self.receiver(channel)

    def fill(self, channels, message, number):
        """All at once: one by one, each is as slow as all before it together."""
        import msgpack

        with self.layer.message_store.mutate_value() as stored:
            for channel in channels:
                queue = stored.setdefault(channel, [])
                for _ in range(number):
                    # An object for each, as sends make them: pickle writes the same one once.
                    packed = msgpack.packb(message, use_bin_type=True)
                    queue.append((packed, time.time() + EXPIRY))

    def destroy(self):
        import posix_ipc

        for kind in ("messages", "groups"):
            name = "{0}-{1}".format(self.prefix, kind)
            for unlink in (posix_ipc.unlink_semaphore, posix_ipc.unlink_shared_memory):
                try:
                    unlink(name)
                except posix_ipc.ExistentialError:
                    pass


class AsgiRedis(ASGI1):
    """asgi_redis 1.4.3."""

    def version(self):
        import asgi_redis

        return "asgi_redis " + asgi_redis.__version__

    def open(self):
        from asgi_redis import RedisChannelLayer

        self.layer = RedisChannelLayer(
            expiry=EXPIRY,
            hosts=[self.settings["redis"]],
            prefix=self.prefix + ":",
            capacity=CAPACITY,
        )

    def waiter(self, channel):
        # It gives up after 5 s by itself, and does not say so in another way.
        receive = partial(self.layer.receive, [channel], True)

        def wait():
            received = receive()
            while received[0] is None:
                received = receive()
            return received

        return wait
