"""The HTTP side: the page of a room."""
from django.shortcuts import render
from django.views.decorators.http import require_safe

from chat.rooms import LOBBY, MAX_NAME, MAX_TEXT, MAX_WORDS

ROOMS = [LOBBY, "tea-kitchen", "workshop"]

# Nothing from other hosts, no scripts in the markup; pictures come over the websocket.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


@require_safe
def room(request, room=LOBBY):
    """The page, the same for everybody; its script opens the websocket."""
    context = {
        "room": room,
        "rooms": ROOMS if room in ROOMS else [*ROOMS, room],
        "max_name": MAX_NAME,
        "max_text": MAX_TEXT,
        "max_words": MAX_WORDS,
    }
    response = render(request, "chat/room.html", context)
    response["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return response
