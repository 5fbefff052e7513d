"""Which consumer takes which websocket, and which takes the messages of which channel."""
from django.urls import re_path

from chat.consumers import RoomConsumer
from chat.painting import PICTURES, PaintingConsumer
from chat.rooms import ROOM_PATTERN

websocket_urlpatterns = [
    re_path(rf"^ws/{ROOM_PATTERN}/$", RoomConsumer.as_asgi()),
]

# Read by `manage.py runworker pictures`.
channels = {PICTURES: PaintingConsumer.as_asgi()}
