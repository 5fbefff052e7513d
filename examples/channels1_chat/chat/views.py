"""The HTTP side: the page of a room."""
from __future__ import unicode_literals

from django.shortcuts import render
from django.views.decorators.http import require_safe

from chat.consumers import MAX_NAME, MAX_TEXT
from chat.rooms import LOBBY


@require_safe
def room(request, room=LOBBY):
    """The page, the same for everybody; its script opens the websocket."""
    context = {"room": room, "max_name": MAX_NAME, "max_text": MAX_TEXT}
    return render(request, "chat/room.html", context)
