"""Driving one run by its id, inside somebody else's engine: a Celery task, a Procrastinate job, a workflow's step.

Such an engine brings an id to a process, late, twice or never. Here the run is claimed in the store, so a second
delivery gets nothing; `Dispatcher` sends again what was never claimed.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from runstate.clock import monotonic
from runstate.store import DEFAULT_MAX_ATTEMPTS, Change, Claim, StoredRun, SweepResult
from runstate.store.errors import StoreError
from runstate.worker._arguments import outside_of_loops
from runstate.worker._handlers import Handler
from runstate.worker._last_attempts import is_last, last_attempts
from runstate.worker._session import WorkerSession
from runstate.worker._signals import interrupts_end_process

if TYPE_CHECKING:
    from runstate.store import Store

__all__ = ["drive", "drive_async"]

_LOOK_S = 0.1  # between two looks whether a run on its last attempt may be begun


class _Hand(WorkerSession):
    """A worker of one run."""

    async def drive(self, run_id: str) -> StoredRun | None:
        """Drive the run if it can be claimed or taken over; return it as it stands afterwards."""
        try:
            await self._set_up()
        except BaseException:
            self._ticks.stop()
            raise
        chores: asyncio.Task[None] | None = None
        try:
            claim = await self._claim(run_id)
            if claim is None:
                return None
            self._stopping = True  # its chores take over no other run
            chores = self._start_maintenance()
            with self._store.subscribe(self._hear):
                await self._see_through(claim)
            return await self._store.aio.get(run_id)
        finally:
            if chores is not None:
                chores.cancel()
                await asyncio.wait([chores])
            if self._reservation is not None:
                self._reservation.end()
            await self._give_back()
            self._thread_pool.shutdown()

    async def _claim(self, run_id: str) -> Claim | None:
        aio = self._store.aio
        claim = await aio.claim_id(self._lease, run_id)
        if claim is not None:
            return claim
        run = await aio.get(run_id)  # raises RunNotFound
        if run.is_terminal:
            return None
        swept = await aio.sweep(max_attempts=self._max_attempts)
        if is_last(run.attempt + 1, self._max_attempts):
            await self._reserve_place(swept)
        queues = (run.queue,)
        taken = await aio.take_over(
            self._lease,
            1,
            queues=queues,
            max_attempts=self._max_attempts,
            run_id=run_id,
            last_attempts=0 if self._reservation is None else 1,
        )
        return taken[0] if taken else None

    async def _reserve_place(self, swept: SweepResult) -> None:
        """Wait until no other run on its last attempt is at work in this process, but for no longer than a lease.

        Then this delivery gets nothing, as one that comes while another works on the run, and the next one may.
        """
        until = monotonic() + self._lease_s
        self._reservation = last_attempts().reserve()
        while self._reservation is None and swept.orphaned and monotonic() < until:
            await asyncio.sleep(_LOOK_S)
            swept = await self._store.aio.sweep(max_attempts=self._max_attempts)
            self._reservation = last_attempts().reserve()

    async def _see_through(self, claim: Claim) -> None:
        if self._holds():
            self._start(claim, monotonic())
        while self._executions and not self._lease_lost:
            self._wake.clear()
            if not self._done:
                await self._wake.wait()
        if self._retries.error is not None:
            raise self._retries.error
        while self._done and not self._lease_lost:
            await self._settle()

    async def _settle(self) -> None:
        settles, self._done = self._done, []
        try:
            result = await self._store.aio.settle_and_claim(self._lease, settles, reconcile=self._reconcile_needed)
        except StoreError as error:
            self._done, self._reconcile_needed = settles, True
            await self._wait_for_store("turn", error)
            return
        self._succeeded("turn")
        self._take_refusals(settles, result.refused)

    def _hear(self, hint: Change) -> None:
        if hint & Change.CANCELLING:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._look_for_cancels)


def _hand(
    store: Store, handler: Handler, name: str | None, lease_s: float, max_attempts: int, stall_timeout_s: float | None
) -> _Hand:
    return _Hand(
        store,
        handler,
        concurrency=1,
        name=name,
        lease_s=lease_s,
        max_attempts=max_attempts,
        stall_timeout_s=stall_timeout_s,
    )


def drive(
    store: Store,
    run_id: str,
    handler: Handler,
    *,
    name: str | None = None,
    lease_s: float = 30.0,
    max_attempts: int = DEFAULT_MAX_ATTEMPTS,
    stall_timeout_s: float | None = None,
) -> StoredRun | None:
    """Drive one run through one call of the handler; return it as it stands then.

    None if there is nothing to do: it has ended, waits for its tools or its time, or another works on it, which is
    how a delivery that comes late or twice ends. A run whose worker died is taken over. Blocks; inside an event loop
    there is `drive_async`. Raises `RunNotFound`; `TypeError` for a store or a handler that is none, and `ValueError`
    for a setting out of its range, before the run is claimed; `StoreUnavailable` or `OutcomeUnknown` where the store is
    away when the run is to be claimed, or where the handler met that: then the run is given back, and another delivery
    goes on with it.
    """
    hand = _hand(store, handler, name, lease_s, max_attempts, stall_timeout_s)
    outside_of_loops("drive_async")
    with interrupts_end_process(lambda: hand.turned_at):
        return asyncio.run(hand.drive(run_id))


async def drive_async(
    store: Store,
    run_id: str,
    handler: Handler,
    *,
    name: str | None = None,
    lease_s: float = 30.0,
    max_attempts: int = DEFAULT_MAX_ATTEMPTS,
    stall_timeout_s: float | None = None,
) -> StoredRun | None:
    """Drive one run as `drive` does, inside an event loop."""
    hand = _hand(store, handler, name, lease_s, max_attempts, stall_timeout_s)
    return await hand.drive(run_id)
