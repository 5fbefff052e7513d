"""A process of the site on one machine: member of a group, sender to it, told what to do.

Its life: it joins the group ``room`` with some process-local channels, and receives on them all
the time. On standard input it gets commands, a JSON list of a name and arguments on each line;
it answers each with a line. Stamps are seconds by the clock of the test's own machine.

    python agent.py NAME PREFIX AHEAD MEMBERS OPTIONS

:param NAME: of the agent, unlike all others.
:param AHEAD: seconds by which this machine's clock is ahead of the test's.
:param OPTIONS: of the layer, as JSON.
"""
import json
import os
import sys
import threading
import time
import traceback

from asgi_ipc import IPCChannelLayer
from asgi_ipc._shm import clock

GROUP = "room"


class Agent:
    """What the commands are methods of."""

    def __init__(self, name, prefix, ahead, members, options):
        self.name = name
        self._ahead = ahead
        self._layer = IPCChannelLayer(prefix=prefix, **options)
        self._queue = name + "!"
        self._heard = []  # [origin, number, member, sent, received] of each message
        self._greeted = set()
        self._sent = []  # the stamp of each number
        self._slowest = 0.0
        self._dawdles = 0
        self._every = None
        self._flow = None
        for member in range(members):
            self._layer.group_add(GROUP, "{0}{1}".format(self._queue, member))
        threading.Thread(target=self._receive, daemon=True).start()

    def now(self):
        return clock.now() / 1e9 - self._ahead

    def _receive(self):
        while True:
            channel, message = self._layer.receive([self._queue], block=True)
            if channel is None:
                continue
            origin, number = message["origin"], message["n"]
            if number is None:
                self._greeted.add(origin)
            else:
                member = int(channel[len(self._queue) :])
                self._heard.append([origin, number, member, message["at"], self.now()])
                if self._dawdles:
                    time.sleep(self._dawdles)

    def _send_group(self, number):
        self._layer.send_group(GROUP, {"origin": self.name, "n": number, "at": self.now()})

    # -- commands --------------------------------------------------------------------------

    def greet(self):
        """Send one message that does not count, and tell from whom such were heard."""
        self._send_group(None)
        return sorted(self._greeted)

    def forget_greetings(self):
        """As if nobody had been heard yet."""
        self._greeted.clear()

    def dawdle(self, seconds):
        """Take so long for each message from now on."""
        self._dawdles = seconds

    def say(self, count):
        """Send the next so many numbers at once; how many there are by now."""
        for _ in range(count):
            began = self.now()
            self._sent.append(began)
            self._send_group(len(self._sent) - 1)
            self._slowest = max(self._slowest, self.now() - began)
        return len(self._sent)

    def flow(self, every, count=1):
        """From now on send the next numbers, so many at a time, every so many seconds."""
        self._every = every

        def run():
            while self._every is not None:
                self.say(count)
                time.sleep(every)

        self._flow = threading.Thread(target=run, daemon=True)
        self._flow.start()

    def still(self):
        """End that; how many numbers there are."""
        if self._flow is not None:
            self._every = None
            self._flow.join()
            self._flow = None
        return len(self._sent)

    def sent(self):
        """The stamp of each number, and the seconds that the slowest send took."""
        return {"stamps": self._sent, "slowest": self._slowest}

    def count(self):
        """How many messages were received."""
        return len(self._heard)

    def heard(self):
        return self._heard

    def new_channel(self):
        return self._layer.new_channel("reply?")

    def send(self, channel, message):
        """To one channel; the error's name and text, if there is one."""
        try:
            self._layer.send(channel, message)
        except Exception as error:
            return [type(error).__name__, str(error)]
        return None

    def receive(self, channel, seconds):
        """From one channel."""
        self._layer.block_timeout = seconds
        return self._layer.receive([channel], block=True)[1]

    def bridge(self):
        return self._layer.statistics().get("bridge")

    def check(self):
        return self._layer.check()

    def clocks(self):
        """Its own time of day and ours of the test's, for those who want to see them differ."""
        return [time.time(), self.now()]


def main():
    name, prefix, ahead, members, options = sys.argv[1:]
    agent = Agent(name, prefix, float(ahead), int(members), json.loads(options))
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        try:
            answer = getattr(agent, command)(*arguments)
        except Exception:
            traceback.print_exc()
            answer = "failed"
        print(json.dumps(answer), flush=True)
    # Some of its threads sleep in receive.
    os._exit(0)


if __name__ == "__main__":
    main()
