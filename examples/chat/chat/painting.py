"""The slow job: a picture painted from some words, by a worker in the background.

``manage.py runworker pictures`` reads the channel PICTURES and hands each message to
PaintingConsumer, which tells the asker's page how far it is, and shows the picture to the room.
Start more workers to paint more pictures at once: each order goes to one of them.

The picture is a Julia set, in a place and colours that depend on the words.
"""
import asyncio
import base64
import hashlib
import math
import struct
import zlib

from channels.consumer import AsyncConsumer

from chat.rooms import line_message

PICTURES = "pictures"
WIDTH, HEIGHT = 512, 288  # pixels
BAND = 12  # rows painted between two words of progress
DEPTH = 160  # iterations at most

# Points of the plane whose Julia sets are a pleasure to look at.
PLACES = [
    complex(-0.8, 0.156),
    complex(-0.7269, 0.1889),
    complex(-0.835, -0.2321),
    complex(-0.70176, -0.3842),
    complex(-0.75, 0.11),
]
# From the plain around a set to the set itself.
PALETTES = [
    ("#101a3a", "#27518f", "#5fb4c9", "#fdf3d8"),
    ("#2a1136", "#8b2f5f", "#f0785a", "#ffe9b8"),
    ("#0f2a26", "#2b6b5c", "#93bf87", "#fbf6dd"),
    ("#1b1530", "#4d4aa8", "#b79be8", "#fff0f3"),
    ("#2b1514", "#8a3b2a", "#e2a24a", "#fff4d0"),
    ("#0b2233", "#146a80", "#48b89f", "#f2f7c8"),
]


class PaintingConsumer(AsyncConsumer):
    """Takes the messages of PICTURES, one after the other."""

    async def paint(self, order):
        """Paint what was asked for; ``order`` is what RoomConsumer.paint sent."""
        canvas = Canvas(order["words"])
        await self._tell(order, "painting", 0)
        for top in range(0, HEIGHT, BAND):
            # In a thread, so that this process goes on hearing, for instance that it is to stop.
            await asyncio.to_thread(canvas.paint, top, min(top + BAND, HEIGHT))
            await self._tell(order, "painting", 100 * min(top + BAND, HEIGHT) // HEIGHT)
        png = await asyncio.to_thread(canvas.png)
        message = line_message(order["name"], order["words"], order["job"], kind="picture")
        size = {"width": WIDTH, "height": HEIGHT}
        message["content"].update(size, png=base64.b64encode(png).decode("ascii"))
        await self.channel_layer.group_send(order["group"], message)
        await self._tell(order, "done", 100)

    async def _tell(self, order, state, percent):
        """Tell the page that asked. If it has gone, nobody reads this, and it expires."""
        content = {"id": order["job"], "state": state, "percent": percent}
        await self.channel_layer.send(order["asker"], {"type": "job.progress", "content": content})


class Canvas:
    """A picture on its way: 256 colours, one byte for a pixel, painted row by row."""

    def __init__(self, words):
        chance = hashlib.sha256(words.encode("utf-8")).digest()
        self.place = PLACES[chance[0] % len(PLACES)]
        self.place += complex(chance[1] - 128, chance[2] - 128) / 40000
        self.turn = complex(math.cos(chance[3] / 40.7), math.sin(chance[3] / 40.7))
        self.palette = gradient(PALETTES[chance[4] % len(PALETTES)])
        self.rows = []

    def paint(self, top, bottom):
        """Paint the rows from ``top`` up to ``bottom``."""
        scale = self.turn * 2.9 / WIDTH
        for y in range(top, bottom):
            row = bytearray(WIDTH)
            for x in range(WIDTH):
                row[x] = shade(complex(x - WIDTH / 2, y - HEIGHT / 2) * scale, self.place)
            self.rows.append(bytes(row))

    def png(self):
        """The bytes of a PNG file."""
        header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 3, 0, 0, 0)
        pixels = zlib.compress(b"".join(b"\0" + row for row in self.rows), 9)
        chunks = [(b"IHDR", header), (b"PLTE", self.palette), (b"IDAT", pixels), (b"IEND", b"")]
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )


def shade(z, place):
    """The colour's number of one point: how soon it leaves, without visible steps."""
    for count in range(DEPTH):
        z = z * z + place
        size = z.real * z.real + z.imag * z.imag
        if size > 400:
            smooth = count + 1 - math.log2(math.log(size) / 2)
            return 1 + int(254 * min(1, max(0, smooth / DEPTH) ** 0.45))
    return 0


def gradient(stops):
    """256 colours, three bytes each, from the first of some colours by way of all to the last."""
    stops = [bytes.fromhex(stop[1:]) for stop in stops]
    colours = bytearray()
    for number in range(256):
        index, part = divmod(number / 256 * (len(stops) - 1), 1)
        pairs = zip(stops[int(index)], stops[int(index) + 1])
        colours += bytes(round(low + (high - low) * part) for low, high in pairs)
    return bytes(colours)
