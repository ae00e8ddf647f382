"""A worker's session: its lease, the runs it executes, and the outcomes that wait to be committed.

The session also detects everything else that ends a run: its deadline, a cancel, another worker, a lapsed lease.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, suppress
from contextvars import Context as ContextVars
from contextvars import copy_context
from typing import TYPE_CHECKING, Final

from runstate.clock import monotonic
from runstate.lifecycle import RUN_LIFECYCLE, RunEvent, RunStatus
from runstate.run import validators
from runstate.store import Claim, HeartbeatResult, Lease, Settle, StoredRun, SweepResult
from runstate.store.errors import StoreError
from runstate.worker._arguments import is_async_function
from runstate.worker._batches import Batches
from runstate.worker._cancels import CancelWatcher
from runstate.worker._context import Context, unchanged
from runstate.worker._execution import NOT_CALLED, RunExecution
from runstate.worker._handlers import TaskFactory, call, discard, task_factory
from runstate.worker._last_attempts import Reservation, is_last, last_attempts
from runstate.worker._lease import WorkerLease
from runstate.worker._requests import StoreRequests
from runstate.worker._retries import Retries
from runstate.worker._retry_timer import RetryTimer
from runstate.worker._run_log import log_call
from runstate.worker._settings import WorkerSettings
from runstate.worker._shutdown import ShutdownTimeout
from runstate.worker._sweeper import Sweeper
from runstate.worker._thread_pool import DaemonThreadPool

if TYPE_CHECKING:
    from runstate.store import Store

__all__ = ["WorkerSession"]

_log: Final = logging.getLogger("runstate.worker")

_CANCELLING: Final = RUN_LIFECYCLE.target_of(RunEvent.REQUEST_CANCEL)
_TICK_S: Final = 0.1  # between two checks of deadlines and the lease
_LEAVE_S: Final = 1.0  # for stopped handlers to end, before their runs are released
LAST_S: Final = 5.0  # for the store to reply to a worker that ends
AT_ONCE_S: Final = 1.0  # the same after a second stop: with `_LEAVE_S` and once more, before the process is ended


class WorkerSession:
    """A lease, and the runs that the worker executes under it.

    All methods are called in the event loop, except for `_call`. Every change sets `wake`.
    """

    def __init__(self, settings: WorkerSettings, timeout: ShutdownTimeout) -> None:
        """Prepare; `open` opens the lease. `timeout` limits the requests to the store when the worker ends."""
        self.settings: Final = settings
        self.store: Final[Store] = settings.store
        self._timeout: Final = timeout
        self._is_async: Final = is_async_function(settings.handler)
        self._redact: Final = settings.redact or unchanged
        self.executions: Final[dict[int, RunExecution]] = {}
        """The runs whose handlers are called, by seq."""
        self._zombies: Final[set[RunExecution]] = set()
        """Stopped handlers that have not ended yet. Their results are dropped, but their slots are not free."""
        self.declined: Final[list[StoredRun]] = []
        """Runs that were claimed, but that this worker cannot begin now. They are released."""
        self.work_available: bool = True
        """Whether there may be runs to claim."""
        self.orphans_waiting: bool = False
        """Whether there may be runs to take over."""
        self.reservation: Reservation | None = None
        """The place for a run on its last attempt, during a request to take runs over."""
        self.ends_at_once: bool = False
        """Whether the worker was stopped a second time."""
        self.worker_lease: Final = WorkerLease(settings, self._on_heartbeat, self._on_lease_lost)
        self.retries: Final = Retries(self._on_retry_due)
        self._retry_timer: Final = RetryTimer(self._look_for_orphans)
        self.batches: Final = Batches(settings, self.worker_lease, self.retries, self._held, self._retry_timer.add)
        self.requests: Final = StoreRequests(self.store.availability)
        self.sweeper: Final = Sweeper(settings, self.requests, self._on_swept)
        self.cancels: Final = CancelWatcher(lambda: self.store.aio.owned(self.lease), self._compare)
        self.wake: asyncio.Event
        """Set when the main loop has something to do."""
        self.loop: asyncio.AbstractEventLoop | None = None
        self._thread_pool: DaemonThreadPool[RunExecution]
        self._task_factory: TaskFactory
        self._context: ContextVars
        """The context variables with which each handler begins, as a copy."""

    @property
    def last_s(self) -> float:
        """How many seconds a worker that ends waits for a reply of the store."""
        return min(LAST_S, AT_ONCE_S) if self.ends_at_once else LAST_S

    @property
    def free_slots(self) -> int:
        """How many more handlers may be called."""
        taken = len(self.executions) + len(self._zombies) + len(self.retries) + self.batches.claiming
        return max(0, self.settings.concurrency - taken)

    def _held(self) -> AbstractSet[int]:
        """Return the seqs of the runs that this worker knows to hold."""
        return self.executions.keys() | self.retries.seqs if self.retries.seqs else self.executions.keys()

    def call_soon(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function in the event loop, from any thread. Without a loop, or after its end, do nothing."""
        if self.loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self.loop.call_soon_threadsafe(function, *arguments)

    # --- the lease ------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open a lease, in the event loop in which handlers are called. Raises `StoreError`."""
        self.wake = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        self.worker_lease.ticks.start()
        self._context = copy_context()
        self._thread_pool = DaemonThreadPool(self._call, RunExecution.take)
        self._task_factory = task_factory(self.loop)
        await self.worker_lease.take()

    async def open_again(self) -> None:
        """Open another lease after this one was lost. Raises `StoreError`."""
        await self.worker_lease.take_anew()
        self.work_available = True

    @property
    def lease(self) -> Lease:
        """The current lease."""
        return self.worker_lease.lease

    def _on_heartbeat(self, sent_at: float, beat: HeartbeatResult) -> None:
        self._compare(sent_at, beat.runs)
        # Other runs of the heartbeat were just claimed or settled, or the reply with them was lost: the next request
        # finds out.
        self.batches.reconcile_needed = self.batches.reconcile_needed or not self.batches.knows(beat.runs.keys())

    def _on_lease_lost(self, why: str) -> None:
        """Stop all handlers: other workers may have their runs by now."""
        left = self._take_executions()
        waiting = self.retries.clear()  # runs whose handler met an outage
        for execution in left:
            self._stop(execution)
        name, runs = self.settings.name, validators.pluralize(len(left) + len(waiting), "run")
        _log.warning("worker %s gives up %s: %s", name, runs, why)
        self.wake.set()

    def _take_executions(self) -> list[RunExecution]:
        """Return the executions under way, and keep none; nor outcomes, nor runs to be released."""
        left = list(self.executions.values())
        self.executions.clear()
        self.batches.done.clear()
        self.declined.clear()
        return left

    async def close(self) -> None:
        """Release the remaining runs and close the lease. Stopped handlers have one second to end before that."""
        runs = [execution.ctx.run for execution in self.executions.values()]
        runs += [*(settle.run for settle in self.batches.done), *self.declined, *self.retries.clear()]
        left = self._take_executions()
        try:
            for execution in left:
                self._stop(execution)
                execution.ctx.note_usage()
            await self._await_handlers(left)
            async with self._timeout.limit(self.last_s):
                for run in runs:
                    await self.store.aio.release(self.lease, run)
                    self._timeout.restart(self.last_s)
                await self.worker_lease.close()
        except (StoreError, TimeoutError) as error:
            reason = str(error) or "the store does not answer"
            _log.warning("could not release the lease of %s, it will lapse: %s", self.settings.name, reason)
        finally:
            self._retry_timer.clear()
            self.worker_lease.stop(0.1 if self.ends_at_once else 1.0)
            self.worker_lease.ticks.stop()
            self._thread_pool.shutdown()

    async def _await_handlers(self, left: Sequence[RunExecution]) -> None:
        """Wait for stopped handlers to end, for up to one second."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_S):
                while not self._zombies.isdisjoint(left):
                    self.wake.clear()
                    await self.wake.wait()

    # --- runs -----------------------------------------------------------------------------------------------------

    def start(self, claim: Claim, now: float) -> None:
        """Call the handler for a claimed run."""
        if self.worker_lease.is_lost:
            return  # a handler before this one, whose task began at once, found that the lease was lost
        run = claim.run
        if run.status is _CANCELLING:  # the cancel was requested before the claim's reply came
            self.batches.done.append(Settle(run, RunEvent.CONFIRM_CANCEL))
            self.retries.forget(run.seq)
            self.wake.set()
            return
        is_last_attempt = is_last(run.lost + 1, self.settings.max_attempts)
        if self.retries.known:
            claim = self.retries.with_usage(claim)
        resets = self.settings.steps_reset_losses
        held = self.worker_lease.is_held
        ctx = Context(self.store, self.lease, claim, now, self._is_async, resets, held, self._redact)
        execution = RunExecution(ctx, now, self._finish_last if is_last_attempt else self._finish)
        self.executions[execution.seq] = execution  # before the place is held: it is free for a run that is not in here
        if is_last_attempt and not self._may_begin_last(execution):
            del self.executions[execution.seq]
            self.retries.forget(execution.seq)
            self.declined.append(run)
            self.wake.set()
            return
        if self._is_async:
            self._context.run(execution.begin, self.settings.handler, self._task_factory, self._is_held)
        else:
            self._thread_pool.submit(execution)

    def _may_begin_last(self, execution: RunExecution) -> bool:
        """Return whether no other run on its last attempt is at work in this process. If so, hold the place for it."""
        place, self.reservation = self.reservation or last_attempts().reserve(), None
        if place is not None:  # the place is free again when the run leaves `executions`, or when the lease is lost
            place.hold_while(lambda: self._is_mine(execution) and self.worker_lease.is_safe)
        return place is not None

    def _is_mine(self, execution: RunExecution) -> bool:
        return self.executions.get(execution.seq) is execution

    def _is_held(self, execution: RunExecution) -> bool:
        """Return whether this worker still has a run when it is about to call its handler.

        The process may have stood still since the claim.
        """
        return self._is_mine(execution) and self.worker_lease.ensure()

    def _call(self, execution: RunExecution) -> object:
        """Call a plain handler. Called in a thread, which cannot give up the lease."""
        if not self._is_mine(execution) or not self.worker_lease.is_safe:
            return NOT_CALLED
        returned = call(self.settings.handler, execution.ctx)
        if not self._is_mine(execution):
            discard(returned)  # the loop may be closed, and cannot do it
        return returned

    def _finish_last(self, execution: RunExecution, returned: object) -> None:
        """Take the return value for a run on its last attempt. Then look for the next such run, which may wait."""
        self._finish(execution, returned)
        self.orphans_waiting = True

    def _finish(self, execution: RunExecution, returned: object) -> None:
        """Take a handler's return value, if this worker still has the run."""
        if returned is NOT_CALLED and self._is_held(execution):
            self._thread_pool.submit(execution)  # a heartbeat has renewed the lease in time
            return
        if not self._is_mine(execution):
            discard(returned)
            if execution in self._zombies:
                self._zombies.discard(execution)
                self.work_available = True
                self.wake.set()
            return
        if execution.is_awaitable(returned):
            self._context.run(execution.go_on, returned, self._task_factory)
            return
        del self.executions[execution.seq]
        self.wake.set()
        settle = execution.conclude(returned, self.store.availability, self.settings.retry)
        if settle is None:
            self.retries.add(execution.ctx, execution.error)
            return
        log_call(execution.ctx.run, settle, execution.begun_at)
        self.batches.done.append(settle)
        if self.retries.known:
            self.retries.forget(execution.seq)

    def _stop(self, execution: RunExecution) -> None:
        """Stop a handler. Its return value is dropped."""
        execution.stop()
        self.retries.forget(execution.seq)
        if execution.future is None or not execution.future.done():
            self._zombies.add(execution)

    def start_all(self, claims: Sequence[Claim]) -> None:
        """Call the handlers of runs that were just claimed. Async handlers that never wait may be done after this."""
        now = monotonic()
        for claim in claims if self.worker_lease.ensure() else ():
            self.start(claim, now)

    def _compare(self, looked_at: float, statuses: Mapping[int, RunStatus]) -> None:
        """Stop the handlers of runs that this worker no longer has, and pass cancel requests on to handlers.

        `statuses` are those of the worker's runs in the store, by seq, read at `looked_at` or later.
        """
        for ctx in self.retries.compare(looked_at, statuses) if self.retries.known else ():
            self.batches.done.append(ctx.settle_event(RunEvent.CONFIRM_CANCEL))
            self.wake.set()
        for seq, execution in list(self.executions.items()):
            status = statuses.get(seq)
            if status is _CANCELLING:
                execution.cancel()
            elif status is None and execution.begun_at < looked_at:
                del self.executions[seq]
                self._stop(execution)
                self.wake.set()
                _log.warning("run %s was ended or taken over by another; its handler is stopped", execution.ctx.run_id)

    def _look_for_orphans(self) -> None:
        """Look for runs to take over: a retry is due that this worker has committed. Other workers poll."""
        self.orphans_waiting = True
        self.wake.set()

    def _on_retry_due(self) -> None:
        """Let the next request return the runs that this worker holds and does not execute."""
        self.batches.reconcile_needed = self.work_available = True
        self.wake.set()

    # --- maintenance ----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def maintained(
        self, on_done: Callable[[asyncio.Task[None]], None]
    ) -> AsyncGenerator[asyncio.Task[None], None]:
        """Run the maintenance beside the block, and cancel it afterwards. `on_done` is called when it has ended."""
        maintenance = asyncio.create_task(self._maintain())
        maintenance.add_done_callback(on_done)
        try:
            yield maintenance
        finally:
            maintenance.cancel()
            await asyncio.wait([maintenance])

    async def _maintain(self) -> None:
        """Check deadlines and the lease, also while the store does not reply, and sweep. Does not return."""
        sweeping = asyncio.create_task(self.sweeper.run())
        try:
            while True:
                self.worker_lease.ensure()
                self._expire_overdue()
                await asyncio.sleep(_TICK_S)
        finally:
            sweeping.cancel()
            with suppress(asyncio.CancelledError):
                await sweeping

    def _on_swept(self, swept: SweepResult) -> None:
        waiting = swept.orphaned or swept.retries
        if waiting or swept.promoted:
            self.orphans_waiting = self.orphans_waiting or waiting > 0
            self.work_available = True
            self.wake.set()

    def _expire_overdue(self) -> None:
        """Expire the runs whose deadline has passed, and stop their handlers."""
        now = monotonic()
        for execution in list(self.executions.values()):
            if execution.future is not None and execution.future.done():
                execution.end(execution.future)  # the task was cancelled before it could begin
                continue
            if execution.ctx.ends_at > now:
                continue
            del self.executions[execution.seq]
            execution.ctx.is_over = True  # its handler goes on for a moment
            settle = execution.ctx.settle_event(RunEvent.EXPIRE)
            log_call(execution.ctx.run, settle, execution.begun_at)
            self.batches.done.append(settle)
            self._stop(execution)
            self.wake.set()
