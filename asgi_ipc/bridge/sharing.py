"""Normal channels that machines share."""
from __future__ import annotations

from typing import Any, Sequence


class Sharing:
    """Not there yet."""

    def __init__(self, station: Any, link: Any, sealer: Any, patterns: Sequence[str], age: int) -> None:
        pass

    async def settle(self) -> None:
        pass

    async def pump(self) -> None:
        pass
