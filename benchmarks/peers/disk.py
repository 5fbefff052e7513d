"""diskcache: SQLite as a queue."""
import os
import shutil
from functools import partial

import diskcache

from benchmarks.peers.base import Adapter


class Disk(Adapter):
    """``Cache.push`` and ``Cache.pull``; the folder is in memory where there is /dev/shm."""

    def version(self):
        return "diskcache " + diskcache.__version__

    def _path(self):
        return os.path.join(self.settings["folder"], self.prefix)

    def open(self):
        self.cache = diskcache.Cache(self._path())

    def close(self):
        self.cache.close()

    def destroy(self):
        shutil.rmtree(self._path(), ignore_errors=True)

    def sender(self, channel):
        return partial(self.cache.push, prefix=channel)

    def receiver(self, channel):
        return partial(self.cache.pull, channel)
