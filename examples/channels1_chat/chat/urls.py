"""Two addresses: the lobby at ``/`` and any other room at ``/<room>/``."""
from __future__ import unicode_literals

from django.conf.urls import url

from chat.rooms import ROOM_PATTERN
from chat.views import room

urlpatterns = [
    url(r"^$", room, name="lobby"),
    url(r"^%s/$" % ROOM_PATTERN, room, name="room"),
]
