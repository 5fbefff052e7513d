"""The other process of ``far.py``: lines of JSON in, lines of JSON out."""
import asyncio
import json
import sys
import threading
import traceback


class Server:
    def __init__(self):
        self.loop = asyncio.get_running_loop()
        self.ended = asyncio.Event()
        self.layers = {}
        self.tasks = {}

    def read(self):
        for line in sys.stdin:
            self.loop.call_soon_threadsafe(self.start, *json.loads(line))
        self.loop.call_soon_threadsafe(self.ended.set)

    def start(self, number, *words):
        if words[0] == "cancel":
            task = self.tasks.get(words[1])
            if task is not None:
                # Not before its first step: it would be gone without a word.
                self.loop.call_soon(task.cancel)
            return
        self.tasks[number] = self.loop.create_task(self.answer(number, *words))

    async def answer(self, number, *words):
        try:
            kind, value = "result", await getattr(self, words[0])(*words[1:])
        except asyncio.CancelledError:
            kind, value = "cancelled", None
        except Exception as error:
            kind, value = type(error).__name__, str(error)
            if kind not in ("ChannelFull", "MessageTooLarge", "TypeError", "ValueError"):
                traceback.print_exc()
        del self.tasks[number]
        sys.stdout.write(json.dumps((number, kind, value)) + "\n")
        sys.stdout.flush()

    async def open(self, options):
        from asgi_ipc.aio import IPCChannelLayer

        key = str(len(self.layers))
        self.layers[key] = IPCChannelLayer(**options)
        return key

    async def look_again_after(self, seconds):
        from asgi_ipc import watch

        watch.LOOK_AGAIN = seconds

    async def do(self, key, method, arguments):
        return await getattr(self.layers[key], method)(*arguments)

    async def close(self, key):
        await self.layers[key].close()


async def main():
    server = Server()
    reader = threading.Thread(target=server.read, daemon=True)
    reader.start()
    await server.ended.wait()


asyncio.run(main())
