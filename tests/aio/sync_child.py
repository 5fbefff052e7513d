"""A process with the synchronous layer, on any Python; spoken to as ``far_child.py`` is."""
from __future__ import unicode_literals

import json
import sys
import traceback

from asgi_ipc import IPCChannelLayer, waiting

KNOWN = ("ChannelFull", "MessageTooLarge", "TypeError", "ValueError")


class Server(object):
    def __init__(self):
        self.layers = {}

    def open(self, options):
        key = str(len(self.layers))
        self.layers[key] = IPCChannelLayer(**{str(name): options[name] for name in options})
        return key

    def do(self, key, method, arguments):
        return getattr(self.layers[key], method)(*arguments)

    def close(self, key):
        self.layers[key].close()

    def echo(self, key, channel, reply, count):
        """Send back what comes, this many times."""
        layer = self.layers[key]
        while count:
            _, message = layer.receive([channel], True)
            if message is not None:
                layer.send(reply, message)
                count -= 1

    def send_many(self, key, channel, count):
        layer = self.layers[key]
        for number in range(count):
            while True:
                try:
                    layer.send(channel, {"n": number})
                    break
                except layer.ChannelFull:
                    continue

    def receive_many(self, key, channel, count):
        got = []
        while len(got) < count:
            _, message = self.layers[key].receive([channel], True)
            if message is not None:
                got.append(message["n"])
        return got

    def look_again_after(self, seconds):
        waiting.LOOK_AGAIN = seconds

    def version(self):
        return list(sys.version_info[:2])


def main():
    server = Server()
    # Not "for line in", which reads ahead on Python 2.
    for line in iter(sys.stdin.readline, ""):
        words = json.loads(line)
        try:
            kind, value = "result", getattr(server, words[1])(*words[2:])
        except Exception as error:
            kind, value = type(error).__name__, str(error)
            if kind not in KNOWN:
                traceback.print_exc()
        sys.stdout.write(json.dumps((words[0], kind, value)) + str("\n"))
        sys.stdout.flush()


main()
