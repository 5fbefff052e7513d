from logging import Logger
from typing import Any, List

from prometheus_client.core import Metric

LOCK_TIMEOUT: float
INTERVAL: int
logger: Logger

class IPCCollector:
    prefix: str

    def __init__(self, layer: Any) -> None: ...
    def describe(self) -> List[Metric]: ...
    def collect(self) -> List[Metric]: ...
    def forked(self) -> None: ...
