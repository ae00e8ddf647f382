"""What a worker holds: its lease, its runs under way, what is done. And the chores around them.

Whatever ends a run besides its handler is noticed here: its deadline, a cancel, another worker, a lapsed lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from contextvars import Context as ContextVars
from contextvars import copy_context
from typing import TYPE_CHECKING, Final

from runstate.clock import monotonic
from runstate.lifecycle import RUN_LIFECYCLE, RunEvent, RunStatus
from runstate.lifecycle.errors import IllegalTransition, RunstateError
from runstate.run import validators
from runstate.store import DEFAULT_MAX_ATTEMPTS, Claim, HeartbeatResult, Lease, Settle, StoredRun, worker_name
from runstate.store.errors import StoreError
from runstate.store.validators import lease_seconds, queue_names
from runstate.worker._arguments import check_handler, check_store, is_async_function, possible
from runstate.worker._cancels import CancelWatch
from runstate.worker._context import Context, Outcome
from runstate.worker._execution import NOT_CALLED, RunExecution
from runstate.worker._handlers import Handler, HandlerError, TaskFactory, call, discard, is_awaitable, task_factory
from runstate.worker._heartbeat import HeartbeatThread, LoopTicks
from runstate.worker._last_attempts import Reservation, is_last, last_attempts
from runstate.worker._retries import Retries
from runstate.worker._thread_pool import DaemonThreadPool
from runstate.worker._waiting import log

if TYPE_CHECKING:
    from runstate.store import Store

__all__ = ["WorkerSession", "log"]

_CANCELLING: Final = RUN_LIFECYCLE.target_of(RunEvent.REQUEST_CANCEL)
_TICK_S: Final = 0.1  # deadlines and the lease are looked at so often
_LEAVE_S: Final = 1.0  # for handlers that are told to stop, before their runs are given to others
LAST_S: Final = 5.0  # for the store to answer a worker that ends
AT_ONCE_S: Final = 1.0  # and one that ends at once: with `_LEAVE_S` and a second such time, before the process is ended
_ATTEMPTS: Final = validators.integer(least=1)
_STALL_S: Final = validators.number(0.2, validators.YEAR_10000)
_STALL_LEASES: Final = 4  # without a turn of the event loop, and its lease is not renewed any more


class WorkerSession(CancelWatch):
    """A worker's lease, and the runs it works on."""

    _patience: asyncio.Timeout
    _ends_at_once = False
    """Whether it was stopped a second time."""

    def __init__(
        self,
        store: Store,
        handler: Handler,
        *,
        concurrency: int = 10,
        queues: Sequence[str] = ("default",),
        name: str | None = None,
        lease_s: float = 30.0,
        max_attempts: int = DEFAULT_MAX_ATTEMPTS,
        stall_timeout_s: float | None = None,
    ) -> None:
        check_store(store, handler)
        check_handler(handler)
        if type(concurrency) is not int or not 1 <= concurrency <= 10_000:
            raise ValueError(f"concurrency: expected 1 to 10,000, got {concurrency!r}")
        if isinstance(queues, str) or not queues:
            raise ValueError(f"queues: expected the names of queues, got {queues!r}")
        self.name: Final = worker_name() if name is None else name
        """Who it is, in histories."""
        named = validators.identifier("name", self.name)
        possible(queue_names(queues) + named + lease_seconds("lease_s", lease_s))
        possible(_ATTEMPTS("max_attempts", max_attempts))
        stall_s = _STALL_LEASES * lease_s if stall_timeout_s is None else stall_timeout_s
        possible(() if stall_timeout_s is None else _STALL_S("stall_timeout_s", stall_timeout_s))
        self._store = store
        self._handler = handler
        self._asynchronous = is_async_function(handler)
        self._concurrency = concurrency
        self._queues = tuple(queues)
        self._lease_s = lease_s
        self._stall_timeout_s = stall_s
        self._max_attempts = max_attempts
        self._executions: dict[int, RunExecution] = {}
        self._zombies: set[RunExecution] = set()
        """Handlers that were told to stop and have not yet: their runs are lost, their slots are not free."""
        self._done: list[Settle] = []
        self._work_available = True
        self._orphans_waiting = False
        self._reconcile_needed = False
        """Whether this worker may hold runs that it does not know of, because an answer was lost."""
        self._reservation: Reservation | None = None
        """The place for a run on its last attempt, while one is asked for."""
        self._declined: list[StoredRun] = []
        """Runs that were claimed and cannot be begun here now; they are given back."""
        self._stopping = False
        self._lease_lost = False
        self._lease: Lease
        self._heartbeat: HeartbeatThread
        self._ticks = LoopTicks()
        self._loop: asyncio.AbstractEventLoop
        self._wake: asyncio.Event
        self._thread_pool: DaemonThreadPool[RunExecution]
        self._task_factory: TaskFactory
        self._context: ContextVars
        """What every handler begins with a copy of, whoever's answer it was that made it begin."""
        self._looking: asyncio.Task[None] | None = None
        self._look_requested = False
        """Whether a hint came since the look that is under way asked the store."""
        self._retries = Retries(self._begin_retries)
        self._failed_requests = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {len(self._executions)} of {self._concurrency} at work>"

    @property
    def turned_at(self) -> float:
        """When the event loop last moved, by the clock that nobody sets; minus infinity before it works."""
        return self._ticks.moved_at

    @property
    def _last_s(self) -> float:
        """How many seconds the store has to answer a worker that ends."""
        return min(LAST_S, AT_ONCE_S) if self._ends_at_once else LAST_S

    @property
    def _free_slots(self) -> int:
        """How many more handlers may be called."""
        return max(0, self._concurrency - len(self._executions) - len(self._zombies) - len(self._retries))

    async def _set_up(self) -> None:
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._ticks.start()
        self._context = copy_context()
        self._thread_pool = DaemonThreadPool(self._call, RunExecution.take)
        self._task_factory = task_factory(self._loop)
        await self._take_lease()

    # --- the lease ------------------------------------------------------------------------------------------------

    async def _take_lease(self) -> None:
        opened_at = monotonic()  # before it is asked for: it may take a while until the answer is here
        self._lease = await self._store.aio.open_lease(self.name, lease_s=self._lease_s)
        self._heartbeat = HeartbeatThread(
            self._store, self._lease, opened_at, self._stall_timeout_s, self._ticks, self._on_heartbeat
        )
        self._heartbeat.start()

    async def _give_back(self) -> None:
        """Release what is left at once, rather than let it lapse; handlers have a moment to leave before."""
        left, self._executions = list(self._executions.values()), {}
        runs = [work.ctx.run for work in left] + [settle.run for settle in self._done] + self._declined
        runs += self._retries.clear()
        self._done.clear()
        self._declined.clear()
        try:
            for work in left:
                self._stop_execution(work)
                work.ctx.note_usage()
            await self._see_off(left)
            async with asyncio.timeout(self._last_s) as self._patience:
                for run in runs:
                    await self._store.aio.release(self._lease, run)
                    self._patience.reschedule(self._loop.time() + self._last_s)
                await self._store.aio.close_lease(self._lease)
        except (StoreError, TimeoutError) as error:
            told = str(error) or "the store does not answer"
            log.warning("could not release the lease of %s, it will lapse: %s", self.name, told)
        finally:
            self._heartbeat.stop(0.1 if self._ends_at_once else 1.0)
            self._ticks.stop()

    async def _see_off(self, left: Sequence[RunExecution]) -> None:
        """Wait a moment for handlers that were told to stop."""
        until = monotonic() + _LEAVE_S
        while not self._zombies.isdisjoint(left) and (seconds := until - monotonic()) > 0:
            self._wake.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), seconds)

    async def _take_new_lease(self) -> None:
        """Begin again after the lease was lost."""
        self._heartbeat.stop()
        await self._take_lease()
        self._lease_lost = False
        self._work_available = True

    def _on_heartbeat(self, sent_at: float, beat: HeartbeatResult) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._apply_heartbeat, sent_at, beat)

    def _apply_heartbeat(self, sent_at: float, beat: HeartbeatResult) -> None:
        if beat.held:
            self._compare(sent_at, beat.runs)
            # What it holds and does not work on is done, or just claimed, or was lost: the next turn finds out.
            self._reconcile_needed = self._reconcile_needed or not beat.runs.keys() <= self._held
        elif not self._lease_lost:
            self._on_lease_lost("its lease lapsed")

    def _holds(self) -> bool:
        """Tell whether nobody can have taken over what this worker claimed; if somebody can, let go of all of it."""
        if not self._lease_lost and not self._heartbeat.lease_is_safe:
            self._on_lease_lost("it could not renew its lease in time")
        return not self._lease_lost

    def _on_lease_lost(self, why: str) -> None:
        """Stop all handlers: others may work on these runs now."""
        left, self._executions = list(self._executions.values()), {}
        self._done.clear()
        self._retries.clear()
        for work in left:
            self._stop_execution(work)
        self._declined.clear()
        log.warning("worker %s lets go of %s: %s", self.name, validators.pluralize(len(left), "run"), why)
        self._lease_lost = True
        self._wake.set()

    # --- its runs -------------------------------------------------------------------------------------------------

    def _start(self, claim: Claim, now: float) -> None:
        """Call the handler for a claimed run."""
        run = claim.run
        if self._lease_lost:
            return  # noticed at the call of a handler before it, by a task that begins at once
        if run.status is _CANCELLING:  # somebody asked before its claim was known of
            self._done.append(Settle(run, RunEvent.CONFIRM_CANCEL))
            self._retries.forget(run.seq)
            self._wake.set()
            return
        is_last_attempt = is_last(run.attempt, self._max_attempts)
        take = self._finish_last if is_last_attempt else self._finish
        if self._retries.known:
            claim = self._retries.with_usage(claim)
        work = RunExecution(Context(self._store, self._lease, claim, now, self._asynchronous), now, take)
        self._executions[work.seq] = work  # before its place is held, which is free for a run that is not in here
        if is_last_attempt and not self._may_begin_last(work):
            del self._executions[work.seq]
            self._retries.forget(work.seq)
            self._declined.append(run)
            self._wake.set()
            return
        if self._asynchronous:
            self._context.run(work.begin, self._handler, self._task_factory, self._is_held)
        else:
            self._thread_pool.submit(work)

    def _may_begin_last(self, work: RunExecution) -> bool:
        """Tell whether no other run on its last attempt is at work in this process, and hold its place if so."""
        place, self._reservation = self._reservation or last_attempts().reserve(), None
        if place is not None:  # it is free again wherever the run leaves `_working`, and where its lease is lost
            place.hold_while(lambda: self._executions.get(work.seq) is work and self._heartbeat.lease_is_safe)
        return place is not None

    def _finish_last(self, work: RunExecution, returned: object) -> None:
        """Take what came of a run on its last attempt, and look for the next one: it waits for this."""
        self._finish(work, returned)
        self._orphans_waiting = True

    def _is_held(self, work: RunExecution) -> bool:
        """Tell whether a run is still this worker's when its handler is about to be called.

        Its process may have stood still since it was claimed.
        """
        return self._executions.get(work.seq) is work and self._holds()

    def _call(self, work: RunExecution) -> object:
        """Call a plain handler, in a thread, where no lease can be let go."""
        if self._executions.get(work.seq) is not work or not self._heartbeat.lease_is_safe:
            return NOT_CALLED
        returned = call(self._handler, work.ctx)
        if self._executions.get(work.seq) is not work:
            discard(returned)  # perhaps there is no loop any more to do it
        return returned

    def _finish(self, work: RunExecution, returned: object) -> None:
        """Take what came of a handler, if its run is still this worker's."""
        if returned is NOT_CALLED and self._is_held(work):
            self._thread_pool.submit(work)  # a heartbeat came just in time
            return
        if self._executions.get(work.seq) is not work:
            discard(returned)
            if work in self._zombies:
                self._zombies.discard(work)
                self._work_available = True
                self._wake.set()
            return
        if returned is not None and type(returned) is not Outcome and is_awaitable(returned):
            self._context.run(work.go_on, returned, self._task_factory)
            return
        del self._executions[work.seq]
        self._wake.set()
        if isinstance(returned, HandlerError) and work.met_outage(returned, self._store.availability):
            log.debug("run %s: its handler met an outage, and is called again", work.ctx.run_id)
            self._retries.add(work.ctx, returned.error)
            return
        try:
            settle = work.settle(returned)
        except Exception as error:  # a fault of this library: the run must end all the same
            log.exception("run %s: what its handler returned cannot be committed", work.ctx.run_id)
            settle = work.ctx.settle_error(error)
        self._done.append(settle)
        if self._retries.known:
            self._retries.forget(work.seq)

    def _stop_execution(self, work: RunExecution) -> None:
        """Stop a handler, as far as it can be; nothing it returns counts any more."""
        work.stop()
        self._retries.forget(work.seq)
        if work.future is None or not work.future.done():
            self._zombies.add(work)

    def _take_refusals(self, settles: Sequence[Settle], refused: Mapping[int, RunstateError]) -> None:
        for settle in settles:
            error = refused.get(settle.run.seq)
            if error is None:
                continue
            if isinstance(error, IllegalTransition) and error.status is _CANCELLING:
                # Somebody asked to cancel in the meantime, and from there no tools can be asked for.
                self._done.append(Settle(settle.run, RunEvent.CONFIRM_CANCEL))
                continue
            log.warning("outcome of run %s was rejected: %s", settle.run.id, error)

    def _compare(self, looked_at: float, standing: Mapping[int, RunStatus]) -> None:
        """Stop what is no longer this worker's, and let handlers know of cancels."""
        for ctx in self._retries.compare(looked_at, standing) if self._retries.known else ():
            self._done.append(ctx.settle_event(RunEvent.CONFIRM_CANCEL))
            self._wake.set()
        for seq, work in list(self._executions.items()):
            status = standing.get(seq)
            if status is _CANCELLING:
                work.cancel()
            elif status is None and work.begun_at < looked_at:
                del self._executions[seq]
                self._stop_execution(work)
                self._wake.set()
                log.warning("run %s was ended or taken over by another; its handler is stopped", work.ctx.run_id)

    # --- chores ---------------------------------------------------------------------------------------------------

    def _start_maintenance(self) -> asyncio.Task[None]:
        chores = asyncio.create_task(self._do_chores())
        chores.add_done_callback(self._on_crash)
        return chores

    def _on_crash(self, ended: asyncio.Task[None]) -> None:
        """Log a fault of this library at once, and not when the worker is stopped."""
        if not ended.cancelled() and ended.exception() is not None:
            log.critical("worker %s crashed (bug in runstate); stopping", self.name, exc_info=ended.exception())
            self._stopping = True
            self._wake.set()

    async def _do_chores(self) -> None:
        """Watch deadlines and the lease, also while the store does not answer; sweep beside it."""
        sweeping = asyncio.create_task(self._do_sweeps())
        try:
            while True:
                self._holds()
                self._pass_deadlines()
                await asyncio.sleep(_TICK_S)
        finally:
            sweeping.cancel()
            with suppress(asyncio.CancelledError):
                await sweeping

    def _pass_deadlines(self) -> None:
        """End the runs whose deadline has come, whatever their handlers do."""
        now = monotonic()
        for work in list(self._executions.values()):
            if work.future is not None and work.future.done():
                work.end(work.future)  # somebody else cancelled the task before it could begin
                continue
            if work.ctx.ends_at > now:
                continue
            del self._executions[work.seq]
            self._done.append(work.ctx.settle_event(RunEvent.EXPIRE))
            self._stop_execution(work)
            self._wake.set()
