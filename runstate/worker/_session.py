"""A worker's session: its lease, the runs it works on, and the outcomes that wait to be committed.

Whatever ends a run besides its handler is noticed here: its deadline, a cancel, another worker, a lapsed lease.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from contextvars import Context as ContextVars
from contextvars import copy_context
from typing import TYPE_CHECKING, Final

from runstate.clock import monotonic
from runstate.lifecycle import RUN_LIFECYCLE, RunEvent, RunStatus
from runstate.lifecycle.errors import IllegalTransition, RunstateError
from runstate.run import validators
from runstate.store import Claim, HeartbeatResult, Lease, Settle, SettleAndClaimResult, StoredRun, SweepResult
from runstate.store.errors import StoreError
from runstate.worker._arguments import is_async_function
from runstate.worker._cancels import CancelWatcher
from runstate.worker._context import Context
from runstate.worker._execution import NOT_CALLED, RunExecution
from runstate.worker._handlers import TaskFactory, call, discard, task_factory
from runstate.worker._last_attempts import Reservation, is_last, last_attempts
from runstate.worker._lease import WorkerLease
from runstate.worker._requests import StoreRequests
from runstate.worker._retries import Retries
from runstate.worker._settings import WorkerSettings
from runstate.worker._shutdown import ShutdownTimeout
from runstate.worker._sweeper import Sweeper
from runstate.worker._thread_pool import DaemonThreadPool

if TYPE_CHECKING:
    from runstate.store import Store

__all__ = ["WorkerSession"]

_log: Final = logging.getLogger("runstate.worker")

_CANCELLING: Final = RUN_LIFECYCLE.target_of(RunEvent.REQUEST_CANCEL)
_TICK_S: Final = 0.1  # between two looks at deadlines and the lease
_LEAVE_S: Final = 1.0  # for handlers that are stopped, before their runs are given to other workers
LAST_S: Final = 5.0  # for the store to answer a worker that ends
AT_ONCE_S: Final = 1.0  # and one that ends at once: with `_LEAVE_S` and a second such time, before the process is ended


class WorkerSession:
    """A lease, and the runs that are worked on under it.

    All methods are called in the event loop, but for `_call`. Whatever changes sets `wake`.
    """

    def __init__(self, settings: WorkerSettings, timeout: ShutdownTimeout) -> None:
        """Get ready; `open` takes the lease. `timeout` is around whatever waits for the store."""
        self.settings: Final = settings
        self.store: Final[Store] = settings.store
        self._timeout: Final = timeout
        self._is_async: Final = is_async_function(settings.handler)
        self.executions: Final[dict[int, RunExecution]] = {}
        """The runs whose handlers are called, by seq."""
        self._zombies: Final[set[RunExecution]] = set()
        """Handlers that were stopped and have not ended yet: their runs are lost, their slots are not free."""
        self.done: list[Settle] = []
        """Outcomes to be committed."""
        self.settled: int = 0
        """How many outcomes were committed."""
        self.declined: Final[list[StoredRun]] = []
        """Runs that were claimed and cannot be begun here now; they are released."""
        self.work_available: bool = True
        """Whether there may be runs to claim."""
        self.orphans_waiting: bool = False
        """Whether there may be runs to take over."""
        self.reconcile_needed: bool = False
        """Whether this worker may hold runs that it does not know of, because a reply was lost."""
        self.reservation: Reservation | None = None
        """The place for a run on its last attempt, while one is requested."""
        self.ends_at_once: bool = False
        """Whether the worker was stopped a second time."""
        self.worker_lease: Final = WorkerLease(settings, self._on_heartbeat, self._on_lease_lost)
        self.retries: Final = Retries(self._on_retry_due)
        self.requests: Final = StoreRequests(self.store.availability)
        self.sweeper: Final = Sweeper(self.store, self.requests, settings.max_attempts, self._on_swept)
        self.cancels: Final = CancelWatcher(lambda: self.store.aio.owned(self.lease), self._compare)
        self.wake: asyncio.Event
        """Set when the main loop has something to do."""
        self.loop: asyncio.AbstractEventLoop | None = None
        self._thread_pool: DaemonThreadPool[RunExecution]
        self._task_factory: TaskFactory
        self._context: ContextVars
        """What each handler begins with a copy of, whichever reply made it begin."""

    @property
    def last_s(self) -> float:
        """How many seconds the store has to answer a worker that ends."""
        return min(LAST_S, AT_ONCE_S) if self.ends_at_once else LAST_S

    @property
    def free_slots(self) -> int:
        """How many more handlers may be called."""
        return max(0, self.settings.concurrency - len(self.executions) - len(self._zombies) - len(self.retries))

    def _held(self) -> AbstractSet[int]:
        """Return the seqs of the runs that this worker knows to be its own."""
        return self.executions.keys() | self.retries.seqs if self.retries else self.executions.keys()

    # --- the lease ------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Take a lease, in the event loop in which handlers are called. Raises `StoreError`."""
        self.wake = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        self.worker_lease.ticks.start()
        self._context = copy_context()
        self._thread_pool = DaemonThreadPool(self._call, RunExecution.take)
        self._task_factory = task_factory(self.loop)
        await self.worker_lease.take()

    async def open_again(self) -> None:
        """Take another lease after this one was lost. Raises `StoreError`."""
        await self.worker_lease.take_anew()
        self.work_available = True

    @property
    def lease(self) -> Lease:
        """The lease under which runs are claimed now."""
        return self.worker_lease.lease

    def _on_heartbeat(self, sent_at: float, beat: HeartbeatResult) -> None:
        self._compare(sent_at, beat.runs)
        # Runs it holds and does not work on are done, or just claimed, or were lost: the next request finds out.
        self.reconcile_needed = self.reconcile_needed or not beat.runs.keys() <= self._held()

    def _on_lease_lost(self, why: str) -> None:
        """Stop all handlers: other workers may have their runs by now."""
        left = self._take_executions()
        self.done.clear()
        self.retries.clear()
        for execution in left:
            self._stop(execution)
        self.declined.clear()
        name, runs = self.settings.name, validators.pluralize(len(left), "run")
        _log.warning("worker %s lets go of %s: %s", name, runs, why)
        self.wake.set()

    def _take_executions(self) -> list[RunExecution]:
        left = list(self.executions.values())
        self.executions.clear()
        return left

    async def close(self) -> None:
        """Release what is left at once, rather than let it lapse; handlers have a moment to end before."""
        left = self._take_executions()
        runs = [execution.ctx.run for execution in left] + [settle.run for settle in self.done] + self.declined
        runs += self.retries.clear()
        self.done.clear()
        self.declined.clear()
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
            self.worker_lease.stop(0.1 if self.ends_at_once else 1.0)
            self.worker_lease.ticks.stop()

    async def _await_handlers(self, left: Sequence[RunExecution]) -> None:
        """Wait a moment for handlers that were stopped."""
        until = monotonic() + _LEAVE_S
        while not self._zombies.isdisjoint(left) and (seconds := until - monotonic()) > 0:
            self.wake.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.wake.wait(), seconds)

    def shut_down(self) -> None:
        """Let the threads of plain handlers end, and forget what failed. Called when nothing is awaited any more."""
        self._thread_pool.shutdown()

    # --- its runs -------------------------------------------------------------------------------------------------

    def start(self, claim: Claim, now: float) -> None:
        """Call the handler for a claimed run."""
        if self.worker_lease.is_lost:
            return  # noticed at the call of a handler before it, by a task that begins at once
        run = claim.run
        if run.status is _CANCELLING:  # the cancel was requested before its claim was known of
            self.done.append(Settle(run, RunEvent.CONFIRM_CANCEL))
            self.retries.forget(run.seq)
            self.wake.set()
            return
        is_last_attempt = is_last(run.attempt, self.settings.max_attempts)
        take = self._finish_last if is_last_attempt else self._finish
        if self.retries.known:
            claim = self.retries.with_usage(claim)
        execution = RunExecution(Context(self.store, self.lease, claim, now, self._is_async), now, take)
        self.executions[execution.seq] = execution  # before its place is held, which is free for a run not in here
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
        """Return whether no other run on its last attempt is at work in this process; if so, hold its place."""
        place, self.reservation = self.reservation or last_attempts().reserve(), None
        if place is not None:  # it is free again once the run leaves `executions`, and once its lease is lost
            place.hold_while(lambda: self._is_mine(execution) and self.worker_lease.is_safe)
        return place is not None

    def _is_mine(self, execution: RunExecution) -> bool:
        return self.executions.get(execution.seq) is execution

    def _is_held(self, execution: RunExecution) -> bool:
        """Return whether a run is still this worker's when its handler is about to be called.

        Its process may have stood still since it was claimed.
        """
        return self._is_mine(execution) and self.worker_lease.ensure()

    def _call(self, execution: RunExecution) -> object:
        """Call a plain handler, in a thread, where no lease can be given up."""
        if not self._is_mine(execution) or not self.worker_lease.is_safe:
            return NOT_CALLED
        returned = call(self.settings.handler, execution.ctx)
        if not self._is_mine(execution):
            discard(returned)  # perhaps there is no loop any more to do it
        return returned

    def _finish_last(self, execution: RunExecution, returned: object) -> None:
        """Take what a run on its last attempt returned, and look for the next one: it waits for this."""
        self._finish(execution, returned)
        self.orphans_waiting = True

    def _finish(self, execution: RunExecution, returned: object) -> None:
        """Take what a handler returned, if its run is still this worker's."""
        if returned is NOT_CALLED and self._is_held(execution):
            self._thread_pool.submit(execution)  # a heartbeat came just in time
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
        settle = execution.conclude(returned, self.store.availability)
        if settle is None:
            self.retries.add(execution.ctx, execution.error)
            return
        self.done.append(settle)
        if self.retries.known:
            self.retries.forget(execution.seq)

    def _stop(self, execution: RunExecution) -> None:
        """Stop a handler, as far as it can be; nothing it returns counts any more."""
        execution.stop()
        self.retries.forget(execution.seq)
        if execution.future is None or not execution.future.done():
            self._zombies.add(execution)

    async def settle_and_claim(
        self, free: int = 0, on_claimed: Callable[[Sequence[Claim]], None] | None = None
    ) -> SettleAndClaimResult:
        """Commit the outcomes that wait, and claim up to `free` runs in the same commit.

        Raises `StoreError`; then the outcomes wait on, and the next request finds out which of them were committed.
        """
        settles, self.done = self.done, []
        reconcile, self.reconcile_needed = self.reconcile_needed, False
        try:
            result = await self.store.aio.settle_and_claim(
                self.lease,
                settles,
                free,
                queues=self.settings.queues,
                held=self._held(),
                reconcile=reconcile,
                on_claimed=on_claimed,
            )
        except StoreError:
            # As long as the lease is valid no other worker ends these runs.
            self.reconcile_needed = self.work_available = True
            self.done = [] if self.worker_lease.is_lost else [*settles, *self.done]
            raise
        if result.refused:
            self._take_refusals(settles, result.refused)
        self.settled += len(settles) - len(result.refused)
        return result

    def start_all(self, claims: Sequence[Claim]) -> None:
        """Call the handlers of runs that were just claimed; those that do not wait are done when this returns."""
        now = monotonic()
        for claim in claims if self.worker_lease.ensure() else ():
            self.start(claim, now)

    def _take_refusals(self, settles: Sequence[Settle], refused: Mapping[int, RunstateError]) -> None:
        """Note the outcomes that the store refused, by seq."""
        for settle in settles:
            error = refused.get(settle.run.seq)
            if error is None:
                continue
            if isinstance(error, IllegalTransition) and error.status is _CANCELLING:
                # A cancel was requested in the meantime, and from there no tools can be called.
                self.done.append(Settle(settle.run, RunEvent.CONFIRM_CANCEL))
                continue
            _log.warning("outcome of run %s was rejected: %s", settle.run.id, error)

    def _compare(self, looked_at: float, statuses: Mapping[int, RunStatus]) -> None:
        """Stop what is no longer this worker's, and let handlers know of cancels."""
        for ctx in self.retries.compare(looked_at, statuses) if self.retries.known else ():
            self.done.append(ctx.settle_event(RunEvent.CONFIRM_CANCEL))
            self.wake.set()
        for seq, execution in list(self.executions.items()):
            status = statuses.get(seq)
            if status is _CANCELLING:
                execution.cancel()
            elif status is None and execution.begun_at < looked_at:
                del self.executions[seq]
                self._stop(execution)
                self.wake.set()
                run_id = execution.ctx.run_id
                _log.warning("run %s was ended or taken over by another; its handler is stopped", run_id)

    def _on_retry_due(self) -> None:
        """Let the next request find the runs that this worker holds and does not work on."""
        self.reconcile_needed = self.work_available = True
        self.wake.set()

    # --- maintenance ----------------------------------------------------------------------------------------------

    async def maintain(self) -> None:
        """Watch deadlines and the lease, also while the store does not answer; sweep beside it. For ever."""
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
        if swept.orphaned or swept.promoted:
            self.orphans_waiting = self.orphans_waiting or swept.orphaned > 0
            self.work_available = True
            self.wake.set()

    def _expire_overdue(self) -> None:
        """End the runs whose deadline has come, whatever their handlers do."""
        now = monotonic()
        for execution in list(self.executions.values()):
            if execution.future is not None and execution.future.done():
                execution.end(execution.future)  # the task was cancelled before it could begin
                continue
            if execution.ctx.ends_at > now:
                continue
            del self.executions[execution.seq]
            self.done.append(execution.ctx.settle_event(RunEvent.EXPIRE))
            self._stop(execution)
            self.wake.set()
