"""How a worker waits for a store that is away, for the runs that are to be begun again, and for what is due."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from runstate.clock import monotonic
from runstate.store.availability import Retry, is_outage
from runstate.store.backoff import Backoff
from runstate.store.errors import StoreError
from runstate.worker._execution import RunExecution
from runstate.worker._retries import Retries

if TYPE_CHECKING:
    from runstate.store import Store

__all__ = ["TAKE_OVER", "Waiting", "log"]

log: Final = logging.getLogger("runstate.worker")

TAKE_OVER: Final = "take over runs"
_LOOK: Final = "look for what is due"
_SWEEP: Final = "sweep"

_SWEEP_S: Final = 0.5  # between two looks whether something is due, give or take
_SWEEP_ANYWAY_S: Final = 15.0
_MOST_S: Final = 5.0  # between two tries of what was put off
_REPORTED: Final = 3  # so often a request failed when the log says so; an outage is noticed before


class Waiting:
    """What waits for a store."""

    _store: Store
    _stopping: bool
    _max_attempts: int
    _executions: dict[int, RunExecution]
    _retries: Retries
    _reconcile_needed: bool
    _work_available: bool
    _orphans_waiting: bool
    _failed_requests: dict[str, Retry]
    """When each kind of request that failed is made again."""
    _wake: asyncio.Event

    @property
    def _time_left(self) -> float:
        """For how many seconds it waits at most for a store that is away."""
        return float("inf")

    async def _wait_for_store(self, request: str, error: StoreError) -> None:
        """Wait until it is time to make a request again, which the store did not take."""
        retry = self._failed_requests.get(request)
        if retry is None:
            retry = self._failed_requests[request] = Retry(self._store.availability)
        retry.failed(error)
        await retry.wait_later(self._time_left)

    def _put_off(self, request: str, error: StoreError) -> None:
        """Have a request made again later, beside the others: it may be refused where they are not."""
        retry = self._failed_requests.get(request)
        if retry is None:
            backoff = Backoff(most_s=_MOST_S)
            retry = self._failed_requests[request] = Retry(self._store.availability, backoff, takes_turns=False)
        retry.failed(error)
        if retry.failures == _REPORTED and not self._store.availability.is_away:
            log.warning("cannot %s: %s; asking again", request, error)

    def _is_due(self, request: str) -> bool:
        """Tell whether a request that was put off is to be made now."""
        retry = self._failed_requests.get(request)
        return retry is None or retry.due_in() <= 0

    def _succeeded(self, request: str) -> None:
        """Note that a request went well, if it failed before."""
        retry = self._failed_requests.pop(request, None)
        if retry is not None:
            retry.succeeded()

    def _end_requests(self) -> None:
        """Note that nothing is asked again."""
        for retry in self._failed_requests.values():
            retry.end()
        self._failed_requests.clear()

    async def _do_sweeps(self) -> None:
        """Sweep, at moments that differ from the other workers'."""
        anyway_at = monotonic() + _SWEEP_ANYWAY_S * random.random()  # noqa: S311
        while True:
            now = monotonic()
            if self._may_sweep:
                with suppress(StoreError):  # put off
                    if await self._sweep(anyway=now >= anyway_at):
                        anyway_at = now + _SWEEP_ANYWAY_S
            await asyncio.sleep(_SWEEP_S * (0.8 + 0.4 * random.random()))  # noqa: S311

    @property
    def _may_sweep(self) -> bool:
        return self._is_due(_LOOK) and self._is_due(_SWEEP)

    async def _sweep(self, *, anyway: bool = False) -> bool:
        """Sweep if there is something to do; return whether it swept. Raises what may pass by itself, and puts it off.

        A fault of this library, and what the store refuses for good, must not end the sweeps.
        """
        request = _SWEEP
        try:
            if not anyway:
                request = _LOOK
                is_due = await self._store.aio.is_anything_due()
                self._succeeded(_LOOK)
                if not is_due:
                    return False
                request = _SWEEP
            swept = await self._store.aio.sweep(max_attempts=self._max_attempts)
        except Exception as error:
            if isinstance(error, StoreError) and is_outage(error):
                self._put_off(request, error)
                raise
            log.exception("could not sweep")
            return False
        self._succeeded(_SWEEP)
        if swept.orphaned or swept.promoted:
            self._orphans_waiting = self._orphans_waiting or swept.orphaned > 0
            self._work_available = True
            self._wake.set()
        return True

    def _begin_retries(self) -> None:
        """Have the next turn find the runs that this worker holds and does not work on."""
        self._reconcile_needed = self._work_available = True
        self._wake.set()

    @property
    def _held(self) -> AbstractSet[int]:
        """The runs that this worker knows to be its own."""
        return self._executions.keys() | self._retries.seqs if self._retries else self._executions.keys()
