"""Detection of cancel requests: after a notification, a worker reads the statuses of its runs from the store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from runstate.clock import monotonic
from runstate.lifecycle import RunStatus
from runstate.store.errors import StoreError

__all__ = ["CancelWatcher"]

_log: Final = logging.getLogger("runstate.worker")


class CancelWatcher:
    """Reads the statuses of a worker's runs after a notification, one request at a time."""

    def __init__(
        self,
        statuses: Callable[[], Awaitable[Mapping[int, RunStatus]]],
        compare: Callable[[float, Mapping[int, RunStatus]], None],
    ) -> None:
        """Read with `statuses`. Call `compare` with the time before the request and the statuses, by seq."""
        self._statuses: Final = statuses
        self._compare: Final = compare
        self._looking: asyncio.Task[None] | None = None
        self._is_requested = False
        """Whether a notification came after the current request was made."""

    def look(self) -> None:
        """Read the statuses now, or once more after the request under way. Called in the event loop."""
        self._is_requested = True
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look())

    async def _look(self) -> None:
        while self._is_requested:
            self._is_requested = False
            looked_at = monotonic()
            try:
                self._compare(looked_at, await self._statuses())
            except StoreError as error:
                _log.debug("could not read cancel requests, the next heartbeat will: %s", error)
