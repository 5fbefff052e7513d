"""channels_redis: the core layer and the pub/sub layer, each with one event loop a process."""
import channels_redis
import redis
from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer

from benchmarks.peers.base import CAPACITY, EXPIRY, Channels


class _Redis(Channels):
    def version(self):
        return "channels_redis {0}, redis-py {1}".format(
            channels_redis.__version__, redis.__version__
        )

    def hosts(self):
        """The one server, as the layers want it."""
        return [{"address": self.settings["redis"]}]


class Core(_Redis):
    """``channels_redis.core.RedisChannelLayer``."""

    def open(self):
        self.layer = RedisChannelLayer(
            hosts=self.hosts(), prefix=self.prefix, expiry=EXPIRY, capacity=CAPACITY
        )

    async def aclose(self):
        await self.layer.close_pools()


class PubSub(_Redis):
    """``channels_redis.pubsub.RedisPubSubChannelLayer``.

    It delivers to subscribers only, so an inbox is a channel that it has named and
    subscribed, as a consumer's is.
    """

    def open(self):
        self.layer = RedisPubSubChannelLayer(hosts=self.hosts(), prefix=self.prefix)

    async def inbox(self, name):
        return await self.layer.new_channel()

    async def aclose(self):
        await self.layer.flush()
