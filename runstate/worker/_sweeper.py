"""The sweeps of a worker. The first worker that finds work that is due does it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from runstate.clock import monotonic
from runstate.store import SweepResult
from runstate.store.availability import is_outage
from runstate.store.errors import StoreError
from runstate.worker._requests import StoreRequests
from runstate.worker._settings import WorkerSettings

if TYPE_CHECKING:
    from runstate.store import Store

__all__ = ["Sweeper"]

_log: Final = logging.getLogger("runstate.worker")

_LOOK: Final = "look for what is due"
_SWEEP: Final = "sweep"
_SWEEP_S: Final = 0.5  # between two checks for due work, with a jitter of 20 %
_SWEEP_ANYWAY_S: Final = 15.0
_PRUNE_S: Final = 600.0  # between two deletions of old events
_PRUNE_MOST: Final = 20  # runs of one request


class Sweeper:
    """Sweeps a store when work is due, and at least every 15 seconds."""

    def __init__(
        self, settings: WorkerSettings, requests: StoreRequests, on_swept: Callable[[SweepResult], None]
    ) -> None:
        """Call `on_swept` with the result after each sweep."""
        self._store: Final[Store] = settings.store
        self._requests: Final = requests
        self._max_attempts: Final = settings.max_attempts
        self._events_kept_s: Final = settings.events_kept_s
        self._on_swept: Final = on_swept

    async def run(self) -> None:
        """Sweep repeatedly, with jitter, so that workers do not sweep at the same times. Does not return."""
        anyway_at = monotonic() + _SWEEP_ANYWAY_S * random.random()  # noqa: S311
        prune_at = monotonic() + _PRUNE_S * random.random()  # noqa: S311
        while True:
            now = monotonic()
            if self.is_due:
                with suppress(StoreError):  # postponed
                    if await self.sweep(anyway=now >= anyway_at):
                        anyway_at = now + _SWEEP_ANYWAY_S
                    if now >= prune_at:
                        more = await self._prune_events()
                        prune_at = now if more else now + _PRUNE_S
            await asyncio.sleep(_SWEEP_S * (0.8 + 0.4 * random.random()))  # noqa: S311

    async def _prune_events(self) -> bool:
        """Delete old events of a few runs: a large request would delay others. Return whether there may be more."""
        try:
            return await self._store.aio.prune_events(self._events_kept_s, limit=_PRUNE_MOST) == _PRUNE_MOST
        except StoreError:
            raise
        except Exception:  # a bug of this library must not end the sweeps
            _log.exception("could not delete old events")
            return False

    @property
    def is_due(self) -> bool:
        """Whether a sweep may be requested now. False for a while after one has failed."""
        return self._requests.is_due(_LOOK) and self._requests.is_due(_SWEEP)

    async def sweep(self, *, anyway: bool = False) -> bool:
        """Sweep if work is due, or in any case with `anyway`. Return whether it swept.

        Raises the `StoreError` of an outage, after postponing the next sweep. All other errors are logged: a bug of
        this library, or a permanent refusal of the store, must not end the sweeps.
        """
        request = _SWEEP
        try:
            if not anyway:
                request = _LOOK
                is_due = await self._store.aio.is_anything_due()
                self._requests.succeeded(_LOOK)
                if not is_due:
                    return False
                request = _SWEEP
            swept = await self._store.aio.sweep(max_attempts=self._max_attempts)
        except Exception as error:
            if isinstance(error, StoreError) and is_outage(error):
                self._requests.put_off(request, error)
                raise
            _log.exception("could not sweep")
            return False
        self._requests.succeeded(_SWEEP)
        self._on_swept(swept)
        return True
