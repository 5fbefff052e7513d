"""The Django app: it has no models, and brings the system checks of ``checks``."""
from django.apps import AppConfig
from django.core import checks as django_checks


class IPCConfig(AppConfig):
    """For ``INSTALLED_APPS``, as ``"asgi_ipc"``."""

    name = "asgi_ipc"
    verbose_name = "Channel layer in shared memory"

    def ready(self):
        """Register the checks."""
        from asgi_ipc import checks

        django_checks.register(checks.check_channel_layers, "channels")
