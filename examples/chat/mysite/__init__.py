"""The project: settings, addresses and the ASGI application. What it does is in ``chat``."""
