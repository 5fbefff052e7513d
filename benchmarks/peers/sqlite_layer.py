"""channels-lite, by its faster way: ``AIOSQLiteChannelLayer``, with its own settings."""
import os
from importlib import metadata

import channels_lite.layers  # noqa: F401 (what is imported here, no actor has to)
import django
from django.conf import settings

from benchmarks.peers.base import CAPACITY, EXPIRY, Channels


class Lite(Channels):
    """Its database is in the run's folder, in memory where there is /dev/shm."""

    def version(self):
        return "channels-lite {0}, SQLite {1}".format(
            metadata.version("channels-lite"), __import__("sqlite3").sqlite_version
        )

    def _path(self):
        return os.path.join(self.settings["folder"], self.prefix + ".sqlite3")

    def _configure(self):
        database = {"ENGINE": "django.db.backends.sqlite3", "NAME": self._path()}
        settings.configure(
            DATABASES={"default": database},
            INSTALLED_APPS=["channels_lite"],
            DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
            USE_TZ=False,
        )
        django.setup()

    def share(self):
        # Django can be configured once in a process: a child lays out the tables.
        child = os.fork()
        if not child:
            code = 1
            try:
                from django.core.management import call_command

                self._configure()
                call_command("migrate", verbosity=0)
                code = 0
            finally:
                os._exit(code)
        if os.waitpid(child, 0)[1]:
            raise RuntimeError("channels-lite could not lay out its database")

    def open(self):
        if not settings.configured:
            self._configure()
        from channels_lite.layers.aio import AIOSQLiteChannelLayer

        self.layer = AIOSQLiteChannelLayer(database="default", expiry=EXPIRY, capacity=CAPACITY)

    async def aclose(self):
        await self.layer.close()
