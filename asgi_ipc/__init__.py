"""Django Channels layer over POSIX shared memory: no server to install, start or watch.

``IPCChannelLayer`` is the synchronous layer (ASGI 1.x).
"""
from asgi_ipc.core import IPCChannelLayer

__version__ = "2.0.0"
__all__ = ["IPCChannelLayer", "__version__"]
