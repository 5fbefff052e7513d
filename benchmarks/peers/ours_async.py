"""This asgi_ipc, asynchronous face."""
import asgi_ipc
from asgi_ipc.aio import IPCChannelLayer
from asgi_ipc.core import unlink
from benchmarks.peers.base import CAPACITY, EXPIRY, Channels


class Asynchronous(Channels):
    """``asgi_ipc.aio.IPCChannelLayer``."""

    def version(self):
        return asgi_ipc.__version__

    def open(self):
        self.layer = IPCChannelLayer(self.prefix, expiry=EXPIRY, capacity=CAPACITY)

    async def aclose(self):
        await self.layer.close()

    def destroy(self):
        unlink(self.prefix)
