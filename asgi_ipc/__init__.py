"""Django Channels layer over POSIX shared memory: no server to install, start or watch.

``IPCChannelLayer`` is the synchronous layer (ASGI 1.x).
"""
import sys

from asgi_ipc.core import IPCChannelLayer

__version__ = "2.0.0"
__all__ = ["IPCChannelLayer", "__version__"]

if sys.version_info < (3, 8):
    # Django 1.11, which Channels 1 has on these Pythons, does not look into ``apps`` by itself.
    default_app_config = "asgi_ipc.apps.IPCConfig"
