"""How a worker waits for a store that is away, and for the runs that are to be begun again."""

from __future__ import annotations

import asyncio
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from runstate.errors import StoreError
from runstate.worker.retries import Retries
from runstate.worker.work import Work

if TYPE_CHECKING:
    from runstate.store import Store, Swept

__all__ = ["Waiting"]

_AWAY_S = 5.0  # between two looks of a sweep at a store that is away


class Waiting:
    """What waits for a store."""

    _store: Store
    _stopping: bool
    _max_attempts: int
    _working: dict[int, Work]
    _retries: Retries
    _unsure: bool
    _hinted: bool
    _woken: asyncio.Event

    @property
    def _time_left(self) -> float:
        """For how many seconds it waits at most for a store that is away."""
        return float("inf")

    async def _wait_for_store(self, error: StoreError) -> None:
        """Wait until it is time to ask the store again, which did not take something."""
        self._store.availability.failed(error)
        await self._store.availability.wait_later(self._time_left)

    async def _sweep_when_possible(self, *, anyway: bool) -> Swept | None:
        """Sweep if there is something to do; None if there is not, or the worker was stopped while it waited."""
        while True:
            try:
                if not anyway and not await self._store.aio.is_anything_due():
                    return None
                return await self._store.aio.sweep(max_attempts=self._max_attempts)
            except StoreError as error:
                self._store.availability.failed(error)
                await self._store.availability.wait_until_back(min(_AWAY_S, self._time_left))
                if self._stopping:
                    return None

    def _begin_retries(self) -> None:
        """Have the next turn find the runs that this worker holds and does not work on."""
        self._unsure = self._hinted = True
        self._woken.set()

    @property
    def _held(self) -> AbstractSet[int]:
        """The runs that this worker knows to be its own."""
        return self._working.keys() | self._retries.seqs if self._retries else self._working.keys()
