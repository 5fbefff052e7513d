"""This asgi_ipc, synchronous face."""
import os
import signal

import asgi_ipc
from asgi_ipc import IPCChannelLayer
from asgi_ipc.core import unlink
from benchmarks.peers.base import ASGI1, CAPACITY, EXPIRY


class Synchronous(ASGI1):
    """``asgi_ipc.IPCChannelLayer``."""

    def version(self):
        return asgi_ipc.__version__

    def open(self):
        self.layer = IPCChannelLayer(
            self.prefix, expiry=EXPIRY, capacity=CAPACITY, block_timeout=EXPIRY
        )

    def close(self):
        self.layer.close()

    def destroy(self):
        unlink(self.prefix)

    def die_inside(self):
        lock = self.layer._stores.messages._lock  # noqa: SLF001 (no caller can be inside)
        lock.acquire()
        os.kill(os.getpid(), signal.SIGKILL)
