"""Uses ``settings.py`` of the present folder as a site does, and says what came of it.

Every layer in it is made and carries a message; its shared memory is removed. One of another
package is only named. A logging configuration is put in force and gets a warning.
"""
import importlib
import logging
import logging.config
import sys

sys.path.insert(0, "")

import settings
from asgiref.sync import async_to_sync

from asgi_ipc import core


def use_asynchronous(alias):
    from channels.layers import get_channel_layer

    layer = get_channel_layer(alias)

    async def carry():
        await layer.send("settings", {"type": "test"})
        received = await layer.receive("settings")
        await layer.close()
        return received

    return async_to_sync(carry)() == {"type": "test"}


def use_synchronous(setting):
    module, name = setting["BACKEND"].rsplit(".", 1)
    with getattr(importlib.import_module(module), name)(**setting["CONFIG"]) as layer:
        layer.send("settings", {"type": "test"})
        return layer.receive(["settings"])[1] == {"type": "test"}


def use(alias, setting):
    backend = setting["BACKEND"]
    if not backend.startswith("asgi_ipc."):
        return f"{backend} is another package's"
    try:
        is_ours = backend.startswith("asgi_ipc.aio.")
        works = use_asynchronous(alias) if is_ours else use_synchronous(setting)
    finally:
        core.unlink(setting["CONFIG"]["prefix"])
    return f"{backend} carries messages" if works else f"{backend} does not work"


for alias, setting in getattr(settings, "CHANNEL_LAYERS", {}).items():
    print(f"{alias}: {use(alias, setting)}")

if hasattr(settings, "LOGGING"):
    logging.config.dictConfig(settings.LOGGING)
    logging.getLogger("asgi_ipc").warning("a warning of the layer")
    print("logging: configured")
