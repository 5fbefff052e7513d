import sys

from asgi_ipc.core import IPCChannelLayer as IPCChannelLayer

__version__: str
__all__ = ["IPCChannelLayer", "__version__"]

if sys.version_info < (3, 8):
    default_app_config: str
