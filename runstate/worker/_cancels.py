"""How a worker learns that its runs shall be cancelled: it looks in the store when a notification says so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from runstate.clock import monotonic
from runstate.lifecycle import RunStatus
from runstate.store import Lease
from runstate.store.errors import StoreError
from runstate.worker._waiting import Waiting

__all__ = ["CancelWatch"]

log: Final = logging.getLogger("runstate.worker")


class CancelWatch(Waiting):
    """What looks for cancels."""

    _lease: Lease
    _loop: asyncio.AbstractEventLoop
    _looking: asyncio.Task[None] | None
    _look_requested: bool

    def _look_for_cancels(self) -> None:
        """See which of its runs somebody asked to cancel; one look at a time."""
        self._look_requested = True  # a look that is under way may have asked the store before
        if self._looking is None or self._looking.done():
            self._looking = self._loop.create_task(self._look())

    async def _look(self) -> None:
        while self._look_requested:
            self._look_requested = False
            looked_at = monotonic()
            try:
                self._compare(looked_at, await self._store.aio.owned(self._lease))
            except StoreError as error:
                log.debug("could not look for cancels, the next heartbeat will: %s", error)

    def _compare(self, looked_at: float, standing: Mapping[int, RunStatus]) -> None:
        """Stop what is no longer this worker's, and let handlers know of cancels."""
        raise NotImplementedError
