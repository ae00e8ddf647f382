"""How a worker learns that its runs shall be cancelled: it looks in the store when a notification says so."""

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
    """Looks which of a worker's runs shall be cancelled, one look at a time."""

    def __init__(
        self,
        statuses: Callable[[], Awaitable[Mapping[int, RunStatus]]],
        compare: Callable[[float, Mapping[int, RunStatus]], None],
    ) -> None:
        """Read by `statuses`, and let `compare` have what was found, and when the look began."""
        self._statuses: Final = statuses
        self._compare: Final = compare
        self._looking: asyncio.Task[None] | None = None
        self._is_requested = False
        """Whether a notification came since the look that is under way read the store."""

    def look(self) -> None:
        """Look now, or once more after the look that is under way. Called in the event loop."""
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
                _log.debug("could not look for cancels, the next heartbeat will: %s", error)
