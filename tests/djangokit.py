"""Django for tests that need it: set up once in a process, whoever comes first."""
import pytest


def need_django():
    """Skip where there is no Django, or no Channels; else set it up, as ``tests/aio`` does."""
    django = pytest.importorskip("django")
    pytest.importorskip("channels")
    from django.conf import settings

    if not settings.configured:
        settings.configure(DATABASES={}, INSTALLED_APPS=["channels"], SECRET_KEY="of no use")
        django.setup()


def synchronous():
    """Whether this is Channels 1, which takes the synchronous layer."""
    import channels

    return channels.__version__.startswith("1.")


def backend():
    """The BACKEND for the Channels that is here."""
    return "asgi_ipc.IPCChannelLayer" if synchronous() else "asgi_ipc.aio.IPCChannelLayer"
