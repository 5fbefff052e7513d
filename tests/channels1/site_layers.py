"""A layer for Daphne to poll, as it does every layer without the ``twisted`` extension."""
from asgi_ipc import IPCChannelLayer


class PollingLayer(IPCChannelLayer):
    """Ours in everything, but does not say that it can wait through the reactor."""

    def __init__(self, *args, **options):
        super(PollingLayer, self).__init__(*args, **options)
        self.extensions = [name for name in self.extensions if name != "twisted"]
