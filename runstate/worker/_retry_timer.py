"""One timer for the retries that a worker has committed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final

__all__ = ["RetryTimer"]


class RetryTimer:
    """Calls a function when a retry is due, in the event loop. It has one timer, however many runs wait."""

    def __init__(self, on_due: Callable[[], None]) -> None:
        self._on_due: Final = on_due
        self._due: Final[list[float]] = []
        """When retries are due, by the clock of the event loop; the earliest first."""
        self._timer: asyncio.TimerHandle | None = None

    def add(self, after_s: float) -> None:
        """Wait for a retry, too. Called in the event loop."""
        heappush(self._due, asyncio.get_running_loop().time() + after_s)
        self._set()

    def clear(self) -> None:
        """Wait no more."""
        self._due.clear()
        self._set()

    def _set(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._due:
            self._timer = asyncio.get_running_loop().call_at(self._due[0], self._call)

    def _call(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._due and self._due[0] <= now:
            heappop(self._due)
        self._set()
        self._on_due()
