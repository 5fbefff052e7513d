from asgi_ipc.core import IPCChannelLayer as IPCChannelLayer

__version__: str
__all__ = ["IPCChannelLayer", "__version__"]
