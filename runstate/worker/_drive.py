"""`drive`: execute one run by its id, inside another engine (a Celery task, a Procrastinate job, a workflow step).

Such an engine delivers an id late, twice or never. `drive` claims the run in the store, so a second delivery finds
nothing to do. `Dispatcher` sends the runs again that were never claimed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from runstate.clock import monotonic
from runstate.store import DEFAULT_MAX_ATTEMPTS, DEFAULT_QUEUE, Change, Claim, StoredRun, SweepResult
from runstate.store.errors import StoreError
from runstate.worker._arguments import outside_of_loops
from runstate.worker._handlers import Handler
from runstate.worker._last_attempts import is_last, last_attempts
from runstate.worker._middleware import Middleware
from runstate.worker._retry_policy import RetryPolicy
from runstate.worker._session import WorkerSession
from runstate.worker._settings import WorkerSettings
from runstate.worker._shutdown import ShutdownTimeout
from runstate.worker._signals import interrupts_end_process

if TYPE_CHECKING:
    from runstate.store import Store

__all__ = ["drive", "drive_async"]

_log: Final = logging.getLogger("runstate.worker")

_LOOK_S: Final = 0.1  # between two checks whether a run on its last attempt may be begun
_SETTLE: Final = "settle the run"


class _SingleRun:
    """Drives one run under its own lease."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings: Final = settings
        self._store: Final[Store] = settings.store
        self._timeout: Final = ShutdownTimeout()
        self.session: Final = WorkerSession(settings, self._timeout)

    async def drive(self, run_id: str) -> StoredRun | None:
        """Drive the run if it can be claimed or taken over. Return the run afterwards, or None if it cannot."""
        session = self.session
        try:
            await session.open()
        except BaseException:
            session.worker_lease.ticks.stop()
            raise
        try:
            claim = await self._claim(run_id)
            if claim is None:
                return None
            async with session.maintained(self._on_crash):
                with self._store.subscribe(self._on_change, Change.CANCELLING):
                    await self._work(claim)
                return await self._store.aio.get(run_id)
        finally:
            if session.reservation is not None:
                session.reservation.end()
            await session.close()

    async def _claim(self, run_id: str) -> Claim | None:
        """Claim the run, or take it over. Raises `RunNotFound`."""
        session, aio, max_attempts = self.session, self._store.aio, self._settings.max_attempts
        claim = await aio.claim_id(session.lease, run_id)
        if claim is not None:
            return claim
        run = await aio.get(run_id)
        if run.is_terminal:
            return None
        swept = await aio.sweep(max_attempts=max_attempts)
        if is_last(run.lost + 2, max_attempts):
            await self._reserve_place(swept)
        claims = await aio.take_over(
            session.lease,
            1,
            queues=(run.queue,),
            max_attempts=max_attempts,
            run_id=run_id,
            last_attempts=0 if session.reservation is None else 1,
        )
        for claim in claims:
            if session.reservation is not None and not is_last(claim.run.lost + 1, max_attempts):
                session.reservation.end()  # the worker before had released the run
                session.reservation = None
            return claim
        return None

    async def _reserve_place(self, swept: SweepResult) -> None:
        """Wait until no other run on its last attempt is at work in this process, but no longer than a lease.

        After that time this delivery finds nothing to do, and the run is left for the next one.
        """
        session = self.session
        until = monotonic() + self._settings.lease_s
        session.reservation = last_attempts().reserve()
        while session.reservation is None and swept.orphaned and monotonic() < until:
            await asyncio.sleep(_LOOK_S)
            swept = await self._store.aio.sweep(max_attempts=self._settings.max_attempts)
            session.reservation = last_attempts().reserve()

    async def _work(self, claim: Claim) -> None:
        """Call the handler and commit the outcome. Raises the handler's exception if it was an outage of the store."""
        session = self.session
        if session.worker_lease.ensure():
            session.start(claim, monotonic())
        while session.executions and not session.worker_lease.is_lost:
            session.wake.clear()
            if not session.batches.done:
                await session.wake.wait()
        if session.retries.error is not None:
            raise session.retries.error
        while session.batches.done and not session.worker_lease.is_lost:
            try:
                await session.batches.commit(session.batches.begin())
            except StoreError as error:
                await session.requests.wait(_SETTLE, error, float("inf"))
            else:
                session.requests.succeeded(_SETTLE)

    def _on_change(self, change: Change) -> None:
        """Receive a notification of the store. Called in any thread."""
        if change & Change.CANCELLING:
            self.session.call_soon(self.session.cancels.look)

    def _on_crash(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            name = self._settings.name
            _log.critical("driver %s crashed (bug in runstate)", name, exc_info=task.exception())


def _single_run(
    store: Store,
    handler: Handler,
    name: str | None,
    lease_s: float,
    max_attempts: int,
    stall_timeout_s: float | None,
    steps_reset_losses: bool,
    retry: RetryPolicy | None,
    middleware: Sequence[Middleware],
    redact: Callable[[str], str] | None,
) -> _SingleRun:
    return _SingleRun(
        WorkerSettings.checked(
            store,
            handler,
            concurrency=1,
            queues=(DEFAULT_QUEUE,),
            name=name,
            lease_s=lease_s,
            max_attempts=max_attempts,
            stall_timeout_s=stall_timeout_s,
            steps_reset_losses=steps_reset_losses,
            retry=retry,
            middleware=middleware,
            redact=redact,
        )
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
    steps_reset_losses: bool = True,
    retry: RetryPolicy | None = None,
    middleware: Sequence[Middleware] = (),
    redact: Callable[[str], str] | None = None,
) -> StoredRun | None:
    """Claim one run by its id, call the handler once, commit the outcome, and return the run.

    Return None if there is nothing to do: the run has ended, waits for tools or for its `not_before`, or another worker
    has it. So a late or second delivery is harmless. A run whose worker died is taken over. This function blocks; use
    `drive_async` inside an event loop.

    `name` is the actor in the history (the host and process by default). `lease_s` is the length of the lease, in
    seconds. A run of which `max_attempts` workers have died fails. `stall_timeout_s` is for how many
    seconds the event loop may stand still before the lease is no longer renewed (four leases by default).
    `steps_reset_losses` is whether a new step of the run counts the workers that died of it anew. `retry`, `middleware`
    and `redact` are those of `Worker`. A run that waits for a retry is returned in progress: deliver its id again when
    the retry is due, or let `Dispatcher` do it.

        @app.task
        def answer_run(run_id: str) -> None:  # a Celery task
            drive(store, run_id, answer)

    Raises `RunNotFound` for an unknown id, `RuntimeError` inside an event loop, `TypeError` for a wrong store or
    handler, and `ValueError` for a setting out of its range, all before the run is claimed. Raises `StoreUnavailable`
    or `OutcomeUnknown` if the store is away when the run is claimed, or if the handler raised one of them. In the
    latter case the run is released, and another delivery continues it.
    """
    driver = _single_run(
        *(store, handler, name, lease_s, max_attempts, stall_timeout_s, steps_reset_losses, retry, middleware, redact)
    )
    outside_of_loops("drive_async")
    with interrupts_end_process(lambda: driver.session.worker_lease.ticks.moved_at):
        return asyncio.run(driver.drive(run_id))


async def drive_async(
    store: Store,
    run_id: str,
    handler: Handler,
    *,
    name: str | None = None,
    lease_s: float = 30.0,
    max_attempts: int = DEFAULT_MAX_ATTEMPTS,
    stall_timeout_s: float | None = None,
    steps_reset_losses: bool = True,
    retry: RetryPolicy | None = None,
    middleware: Sequence[Middleware] = (),
    redact: Callable[[str], str] | None = None,
) -> StoredRun | None:
    """Do the same as `drive`, inside an event loop."""
    driver = _single_run(
        *(store, handler, name, lease_s, max_attempts, stall_timeout_s, steps_reset_losses, retry, middleware, redact)
    )
    return await driver.drive(run_id)
