"""The main loop of a worker: the things it does, in the order of their priority."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from runstate.clock import monotonic
from runstate.store.errors import StoreError
from runstate.worker._batches import Batch
from runstate.worker._last_attempts import last_attempts
from runstate.worker._phase import WorkerLife
from runstate.worker._session import WorkerSession

if TYPE_CHECKING:
    from runstate.store import Store

__all__ = ["MainLoop"]

_log: Final = logging.getLogger("runstate.worker")

_IDLE_S: Final = (0.02, 0.05, 0.1, 0.2, 0.5)  # between two claims without a notification
# The kinds of requests that are retried independently.
OPEN: Final = "open a lease"
_TAKE_OVER: Final = "take over runs"
_RELEASE: Final = "release runs"
_CLAIM: Final = "settle and claim runs"


class MainLoop:
    """Claims runs, commits outcomes and takes runs over, until the worker is stopped or has nothing to do."""

    def __init__(self, session: WorkerSession, life: WorkerLife) -> None:
        self._session: Final = session
        self._store: Final[Store] = session.store
        self._settings: Final = session.settings
        self._life: Final = life
        self._idle_rounds = 0
        """How many times in a row there was nothing to claim."""
        self._has_swept = False
        """Whether the worker has swept since it last claimed a run."""
        self._requests: Final[set[asyncio.Task[None]]] = set()
        """The requests under way."""
        self._failure: StoreError | None = None
        """The error of the last request, if it failed and was not retried yet."""
        self._crash: BaseException | None = None
        """What a request raised because of a bug of this library."""

    async def run(self, until_idle: bool) -> None:
        """Do the first thing that can be done, repeatedly, until the worker has ended."""
        try:
            await self._run(until_idle)
        finally:
            for request in self._requests:  # the store does not reply, and the worker does not wait any longer
                request.cancel()

    async def _run(self, until_idle: bool) -> None:
        session = self._session
        batches = session.batches
        while True:
            if self._crash is not None:
                raise self._crash
            free = 0 if self._life.is_stopping else session.free_slots
            alone = self._action_alone(free)
            if batches.reconcile_needed and self._life.is_time_over and not self._requests:
                return  # the database is away, and the worker does not wait for it any longer
            if alone is not None:
                await (self._rest() if self._requests else alone())
            elif batches.may_begin(free, session.work_available):
                self._settle_and_claim(free)
            elif self._is_over(until_idle):
                return
            elif until_idle and self._is_idle and session.sweeper.is_due:
                await self._sweep()
            else:
                await self._rest()

    def _action_alone(self, free: int) -> Callable[[], Awaitable[None]] | None:
        """Return the next action that waits until no request is under way; None if there is none.

        A request names the runs that the worker had when it began. If one is repeated after a lost reply, it returns
        all others of the lease as claimed: also those of another lease or of a take-over that is under way.
        """
        session = self._session
        if session.worker_lease.is_lost and not self._life.is_stopping:
            return self._open_again
        if session.declined:
            return self._release_declined
        if self._failure is not None:
            return partial(self._wait_after_failure, self._failure)
        if free and self._may_take_over:
            return partial(self._take_over, free)
        return None

    @property
    def _may_take_over(self) -> bool:
        """Whether there may be runs to take over. False until it is known which runs this worker holds."""
        session = self._session
        return session.orphans_waiting and not session.batches.reconcile_needed and session.requests.is_due(_TAKE_OVER)

    @property
    def _is_idle(self) -> bool:
        session = self._session
        can_take_over = session.orphans_waiting and session.free_slots
        return not (session.executions or session.retries or self._requests or can_take_over)

    def _is_over(self, until_idle: bool) -> bool:
        if self._life.is_stopping:
            return not self._requests and (not self._session.executions or self._life.is_time_over)
        return until_idle and self._has_swept and self._is_idle

    async def _open_again(self) -> None:
        requests = self._session.requests
        try:
            await self._session.open_again()
        except StoreError as error:
            await requests.wait(OPEN, error, self._life.time_left)
        else:
            requests.succeeded(OPEN)

    async def _release_declined(self) -> None:
        """Release runs that this worker cannot begin now, so that other workers can begin them."""
        session = self._session
        try:
            while session.declined:
                await self._store.aio.release(session.lease, session.declined[-1])
                session.declined.pop()
        except StoreError as error:
            session.batches.reconcile_needed = True
            await session.requests.wait(_RELEASE, error, self._life.time_left)
        else:
            session.requests.succeeded(_RELEASE)

    async def _take_over(self, free: int) -> None:
        """Claim up to `free` due retries and runs of dead workers; at most one of these on its last attempt."""
        session = self._session
        session.orphans_waiting = False
        session.reservation = last_attempts().reserve()
        try:
            claims = await self._store.aio.take_over(
                session.lease,
                free,
                queues=self._settings.queues,
                max_attempts=self._settings.max_attempts,
                last_attempts=0 if session.reservation is None else 1,
            )
            for claim in claims if session.worker_lease.ensure() else ():
                _log.info("run %s is claimed again, attempt %d", claim.run.id, claim.run.attempt)
                session.start(claim, monotonic())
        except StoreError as error:
            session.orphans_waiting = session.batches.reconcile_needed = session.work_available = True
            session.requests.put_off(_TAKE_OVER, error)  # the next claim shows whether the store is away
        else:
            session.requests.succeeded(_TAKE_OVER)
            # If all requested runs came, there may be more.
            session.orphans_waiting = session.orphans_waiting or len(claims) == free
        finally:
            if session.reservation is not None:  # no run on its last attempt was taken over
                session.reservation.end()
                session.reservation = None

    def _settle_and_claim(self, free: int) -> None:
        """Begin a request, and do not wait for its reply."""
        batch = self._session.batches.begin(free)
        if batch.limit:
            self._session.work_available = False
        request = asyncio.create_task(self._await_reply(batch))
        self._requests.add(request)
        request.add_done_callback(self._on_reply)

    async def _await_reply(self, batch: Batch) -> None:
        session = self._session
        try:
            result = await session.batches.commit(batch, session.start_all)
        except StoreError as error:
            session.work_available = True
            self._failure = error
            return
        if session.requests:
            session.requests.succeeded(_CLAIM)
        if result.claims:
            self._idle_rounds, self._has_swept = 0, False

    def _on_reply(self, request: asyncio.Task[None]) -> None:
        self._requests.discard(request)
        self._session.wake.set()
        if not request.cancelled():
            self._crash = self._crash or request.exception()

    async def _wait_after_failure(self, error: StoreError) -> None:
        self._failure = None
        await self._session.requests.wait(_CLAIM, error, self._life.time_left)

    async def _sweep(self) -> None:
        """Sweep before a worker with `until_idle` ends: there may be runs to take over."""
        session = self._session
        session.work_available = True
        with suppress(StoreError):  # postponed
            await session.sweeper.sweep()
            self._has_swept = True

    async def _rest(self) -> None:
        """Wait for a handler to finish, for a notification, or for the next poll."""
        session = self._session
        session.wake.clear()
        if self._requests:
            await session.wake.wait()
            return
        idle_s = _IDLE_S[min(self._idle_rounds, len(_IDLE_S) - 1)]
        self._idle_rounds += 1
        again = asyncio.get_running_loop().call_later(min(idle_s, self._life.time_left), self._look_again)
        try:
            await session.wake.wait()
        finally:
            again.cancel()

    def _look_again(self) -> None:
        self._session.work_available = True
        self._session.wake.set()
