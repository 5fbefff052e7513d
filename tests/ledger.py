"""What the journals of a storm come to: was anything lost, doubled, resurrected, out of order?

Reads what ``stormparts`` describes. A last line without its end was cut by the kill, and does
not count. A *key* is (identity of a message, channel): what one receiver is to get once.
"""
import bisect
import collections
import glob
import os

from stormparts import LANES, ROLL

Sent = collections.namedtuple("Sent", "began ended")
"""When a message was about to be sent, and was; ``ended`` None if that is not known."""

Got = collections.namedtuple("Got", "key began")


def lines_of(path):
    """The whole lines of a journal, split."""
    with open(path, "rb") as source:
        text = source.read().decode("ascii")
    return [line.split(u" ") for line in text[: text.rfind(u"\n") + 1].splitlines()]


class Ledger(object):
    """All journals in a folder, added up.

    ``sent``: key -> Sent. ``heard``: for each receiving thread, what it got, in order.
    ``held``: lane -> how many keys its killed receivers may have had in their hands.
    ``flushes``: (began, ended). ``roll``: channel -> True, False, or None for either.
    """

    def __init__(self, folder):
        self.sent = {}
        self.heard = []
        self.held = collections.Counter()
        self.flushes = []
        self.roll = {}
        self.troubles = []
        for path in sorted(glob.glob(os.path.join(folder, "*.journal"))):
            part, _, rest = os.path.basename(path).partition(".")
            lane = rest.partition(".")[0]
            lines = lines_of(path)
            self.troubles += [" ".join(line) for line in lines if line[0] == "X"]
            if part.endswith("Receiver"):
                self._read_receiver(lane, lines)
            elif part == "Member":
                self._read_member(lines)
            elif part == "Flusher":
                self._read_flusher(lines)
            elif part.endswith("Sender") or part == "Visitor":
                self._read_sender(rest[: -len(".journal")], lane, lines)

    def _read_sender(self, name, lane, lines):
        # "Sender.plain.1.2.3.journal": a lane, if any, comes first.
        name = name[len(lane) + 1 :] if lane in LANES else name
        about = None
        for line in lines:
            kind = line[0]
            if kind in ("B", "GB"):
                identity = u"{0}:{1}".format(name, line[1])
                channels = LANES[line[2]] if kind == "GB" else (line[2],)
                about = [(identity, channel) for channel in channels]
                for key in about:
                    self.sent[key] = Sent(int(line[3]), None)
            elif kind == "E":
                for key in about:
                    self.sent[key] = Sent(self.sent[key].began, int(line[1]))
            elif kind == "F":
                for key in about:
                    del self.sent[key]

    def _read_receiver(self, lane, lines):
        heard, open_call = [], None
        for line in lines:
            if line[0] == "R":
                open_call = line
            elif line[0] == "G":
                began = int(open_call[2])
                open_call = None
                heard += [Got((line[at + 1], line[at]), began) for at in range(1, len(line), 2)]
        self.heard.append(heard)
        if open_call is not None:
            self.held[lane] += int(open_call[1])

    def _read_member(self, lines):
        channel = kind = None
        for line in lines:
            if line[0] in ("A", "D"):
                kind, channel = line
                self.roll[channel] = None
            elif line[0] == "M":
                self.roll[channel] = kind == "A"

    def _read_flusher(self, lines):
        began = None
        for line in lines:
            if line[0] == "FB":
                began = int(line[1])
            elif line[0] == "FE":
                self.flushes.append((began, int(line[1])))

    # -- verdicts --------------------------------------------------------------------

    def received(self):
        """How often each key was received."""
        return collections.Counter(got.key for heard in self.heard for got in heard)

    def doubled(self):
        return [key for key, count in self.received().items() if count > 1]

    def invented(self):
        """Received, though nobody sent it (or its send was refused)."""
        return [key for key in self.received() if key not in self.sent]

    def out_of_order(self):
        """Pairs that one receiving thread got in another order than they were sent."""
        found = []
        for heard in self.heard:
            last = {}
            for got in heard:
                identity, channel = got.key
                thread, _, number = identity.partition(u":")
                before = last.get((thread, channel), -1)
                if int(number) <= before:
                    found.append((got.key, before))
                last[thread, channel] = int(number)
        return found

    def lost(self, lane):
        """Keys of a lane that were sent for sure, and not received."""
        channels, received = set(LANES[lane]), self.received()
        return [
            key
            for key, sent in self.sent.items()
            if key[1] in channels and sent.ended is not None and key not in received
        ]

    def torn(self, lane):
        """Keys of group sends cut short by a kill, of which others arrived and these did not."""
        received = self.received()
        open_sends = collections.defaultdict(list)
        for key, sent in self.sent.items():
            if key[1] in LANES[lane] and sent.ended is None:
                open_sends[key[0]].append(key)
        return [
            key
            for keys in open_sends.values()
            if any(key in received for key in keys)
            for key in keys
            if key not in received
        ]

    def resurrected(self):
        """Keys received after a flush that began when they had been sent."""
        flushes = sorted(self.flushes)
        begins = [began for began, _ in flushes]
        # The earliest end among a flush and all that began later.
        ends = [ended for _, ended in flushes]
        for index in range(len(ends) - 2, -1, -1):
            ends[index] = min(ends[index], ends[index + 1])
        found = []
        for heard in self.heard:
            for got in heard:
                sent = self.sent.get(got.key)
                if sent is None or sent.ended is None:
                    continue
                index = bisect.bisect_right(begins, sent.ended)
                if index < len(ends) and ends[index] < got.began:
                    found.append(got.key)
        return found

    def wrong_on_the_roll(self, listed):
        """Channels that are on the roll and should not be, or the other way round."""
        listed = list(listed)
        wrong = [name for name in listed if self.roll.get(name, False) is False]
        wrong += [name for name, is_in in self.roll.items() if is_in and name not in listed]
        if len(set(listed)) != len(listed):
            wrong.append("{0} lists one twice".format(ROLL))
        return wrong
