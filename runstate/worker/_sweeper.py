"""The sweeps of a worker: what time has made due is done by whichever worker looks first."""

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

if TYPE_CHECKING:
    from runstate.store import Store

__all__ = ["Sweeper"]

_log: Final = logging.getLogger("runstate.worker")

_LOOK: Final = "look for what is due"
_SWEEP: Final = "sweep"
_SWEEP_S: Final = 0.5  # between two looks whether something is due, give or take
_SWEEP_ANYWAY_S: Final = 15.0


class Sweeper:
    """Sweeps a store now and then."""

    def __init__(
        self, store: Store, requests: StoreRequests, max_attempts: int, on_swept: Callable[[SweepResult], None]
    ) -> None:
        """Call `on_swept` after each sweep."""
        self._store: Final = store
        self._requests: Final = requests
        self._max_attempts: Final = max_attempts
        self._on_swept: Final = on_swept

    async def run(self) -> None:
        """Sweep for ever, at moments that differ from the other workers'."""
        anyway_at = monotonic() + _SWEEP_ANYWAY_S * random.random()  # noqa: S311
        while True:
            now = monotonic()
            if self.is_due:
                with suppress(StoreError):  # put off
                    if await self.sweep(anyway=now >= anyway_at):
                        anyway_at = now + _SWEEP_ANYWAY_S
            await asyncio.sleep(_SWEEP_S * (0.8 + 0.4 * random.random()))  # noqa: S311

    @property
    def is_due(self) -> bool:
        """Whether a sweep may be requested now: the last one did not fail just before."""
        return self._requests.is_due(_LOOK) and self._requests.is_due(_SWEEP)

    async def sweep(self, *, anyway: bool = False) -> bool:
        """Sweep if there is something to do; return whether it swept.

        Raises the `StoreError` of an outage, and puts the next sweep off. A bug of this library, and what the store
        refuses for good, is logged: it must not end the sweeps.
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
