"""Two kinds of addresses: the lobby at ``/`` and any other room at ``/<room>/``."""
from django.urls import path, re_path

from chat.rooms import ROOM_PATTERN
from chat.views import room

urlpatterns = [
    path("", room, name="lobby"),
    re_path(rf"^{ROOM_PATTERN}/$", room, name="room"),
]
