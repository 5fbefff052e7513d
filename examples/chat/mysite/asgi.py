"""What a server is pointed at: ``daphne mysite.asgi:application``.

Three kinds of traffic come in here: pages, websockets, and the messages of the channels that
a ``runworker`` was told to read.
"""
import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
# This sets Django up, which must precede the imports of what uses it.
pages = get_asgi_application()

from channels.routing import ChannelNameRouter, ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from chat.routing import channels, websocket_urlpatterns  # noqa: E402
from django.conf import settings  # noqa: E402
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": ASGIStaticFilesHandler(pages) if settings.DEBUG else pages,
        # Other sites' pages must not open websockets here in their visitors' names.
        "websocket": AllowedHostsOriginValidator(URLRouter(websocket_urlpatterns)),
        "channel": ChannelNameRouter(channels),
    }
)
