"""``manage.py announce ROOM TEXT``: says something to everybody in a room.

A plain program, with no event loop and no websocket: it uses the synchronous class, which talks
to the asynchronous one of the server processes because both have the same prefix. A cron job
or a signal handler of Django can do the same.
"""
import re

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from asgi_ipc import IPCChannelLayer
from chat.rooms import ROOM_PATTERN, announcement_message, group_name


class Command(BaseCommand):
    help = "Says something to everybody who is in a room at this moment."

    def add_arguments(self, parser):
        parser.add_argument("room")
        parser.add_argument("text")

    def handle(self, *, room, text, verbosity, **_):
        if not re.fullmatch(ROOM_PATTERN, room):
            raise CommandError(f"{room!r} is no room: it has to be 1 to 40 of a-z, 0-9 and -")
        # Both classes take the same options.
        with IPCChannelLayer(**settings.CHANNEL_LAYERS["default"]["CONFIG"]) as layer:
            layer.send_group(group_name(room), announcement_message(text))
        if verbosity > 0:
            self.stdout.write(f"told everybody in {room}")
