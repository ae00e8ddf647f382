"""The worker: claims runs, calls the handler, commits the outcomes, and takes over the runs of dead workers.

One coroutine, the main loop, commits outcomes and claims runs by one request, in one commit. Outcomes of handlers that
finish meanwhile go into the next request. A thread renews the lease.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, NoReturn, Self

from runstate.run import validators
from runstate.store import DEFAULT_MAX_ATTEMPTS, Change
from runstate.store.availability import can_be_retried
from runstate.store.errors import StoreError, StoreUnavailable
from runstate.worker._arguments import outside_of_loops, possible
from runstate.worker._handlers import Handler
from runstate.worker._main_loop import OPEN, MainLoop
from runstate.worker._middleware import Middleware
from runstate.worker._phase import PhaseEvent, WorkerLife, WorkerPhase
from runstate.worker._retry_policy import RetryPolicy
from runstate.worker._session import WorkerSession
from runstate.worker._settings import DEFAULT_EVENTS_KEPT_S, WorkerSettings
from runstate.worker._shutdown import ShutdownTimeout
from runstate.worker._signals import StopSignals

if TYPE_CHECKING:
    from runstate.store import Store

__all__ = ["Worker"]

_log: Final = logging.getLogger("runstate.worker")


class Worker:
    """Claims the runs of a store, calls `handler` for each, and commits the outcomes.

    `run()` works until SIGTERM or SIGINT. `async with worker:` works inside a program's own event loop. A worker that
    was stopped cannot be used again: make another one.

        with open_store("sqlite:///runs.db") as store:
            Worker(store, answer, concurrency=20).run()

    `handler` is a function of a `Context`. Plain functions are called in threads, async ones as tasks.
    `concurrency` is how many runs are executed at a time, 1 to 10,000.
    `queues` are the queues that the worker serves; it empties the first before the next.
    `name` is the name of the worker in histories (the host and process by default). It need not be unique.
    `lease_s` is the length of the lease, in seconds: how long the runs of a dead worker wait for another one.
    `max_attempts` is how many workers may die of a run before it fails.
    `drain_s` is how many seconds a stopped worker waits for its handlers.
    `stall_timeout_s` is for how many seconds a handler may block the event loop (four leases by default). After that
    the worker stops renewing its lease, and other workers take over its runs.

    `retry` is when a handler that raised is called again (see `RetryPolicy`); without one an exception ends the run.
    `middleware` are functions around the handler, the first one outermost. Each is called with the context and the
    rest of the call: `async def timed(ctx, call): ...; return await call(ctx)`; plain for a plain handler.
    `redact` is called with each text of an exception before it is stored, and returns what may be stored.
    `steps_reset_losses` is whether a new step of a run counts the workers that died of it anew.
    `events_kept_s` is for how many seconds after the end of a run its events are kept at least.

    Raises `TypeError` for a wrong store or handler, and `ValueError` for a setting out of its range.
    """

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
        drain_s: float = 30.0,
        stall_timeout_s: float | None = None,
        steps_reset_losses: bool = True,
        events_kept_s: float = DEFAULT_EVENTS_KEPT_S,
        retry: RetryPolicy | None = None,
        middleware: Sequence[Middleware] = (),
        redact: Callable[[str], str] | None = None,
    ) -> None:
        settings = WorkerSettings.checked(
            store,
            handler,
            concurrency=concurrency,
            queues=queues,
            name=name,
            lease_s=lease_s,
            max_attempts=max_attempts,
            stall_timeout_s=stall_timeout_s,
            steps_reset_losses=steps_reset_losses,
            events_kept_s=events_kept_s,
            retry=retry,
            middleware=middleware,
            redact=redact,
        )
        possible(validators.number(0, validators.YEAR_10000)("drain_s", drain_s))
        self.name: Final = settings.name
        """The name of the worker in histories."""
        self._settings: Final = settings
        self._store: Final = store
        self._timeout: Final = ShutdownTimeout()
        self._session: Final = WorkerSession(settings, self._timeout)
        self._life: Final = WorkerLife(drain_s)
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Worker {self.name}: {len(self._session.executions)} of {self._settings.concurrency} at work>"

    @property
    def settled(self) -> int:
        """How many outcomes this worker has committed."""
        return self._session.batches.settled

    # --- start and stop -------------------------------------------------------------------------------------------

    def run(self, *, until_idle: bool = False) -> None:
        """Work until SIGTERM, SIGINT or `stop()`. Blocks. With `until_idle`, end also when no run can be executed.

        The first signal drains the worker, like `stop()`. A second signal ends the process within seconds, whatever its
        threads are doing: by `SystemExit` after the runs are released, and by force if a handler blocks the event loop.
        Signals are handled only in the main thread.

        Raises `RuntimeError` inside an event loop, and for a worker that is working or was stopped.
        """
        outside_of_loops("async with worker")
        self._begin()
        try:
            with StopSignals(self.stop, lambda: self._session.worker_lease.ticks.moved_at):
                asyncio.run(self._open_and_work(until_idle))
        finally:
            self._end()

    async def work(self, *, until_idle: bool = False) -> None:
        """Work until `stop()`, inside an event loop. With `until_idle`, end also when no run can be executed.

        This handles no signals. Raises `RuntimeError` for a worker that is working or was stopped.
        """
        self._begin()
        await self._open_and_work(until_idle)

    if not TYPE_CHECKING:  # a type checker says so by itself

        def __enter__(self) -> NoReturn:
            raise TypeError(
                "a worker is used with `async with worker:`, inside an event loop; elsewhere call worker.run()"
            )

        def __exit__(self, *args: object) -> None: ...

    async def __aenter__(self) -> Self:
        self._begin()
        if not await self._open():
            raise self._was_stopped()
        self._task = asyncio.create_task(self._work(until_idle=False))
        self._task.add_done_callback(self._on_crash)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._life.is_stopping:  # a second stop would not wait for the handlers
            self.stop()
        if self._task is not None:
            await self._task

    def stop(self) -> None:
        """Stop the worker. May be called in any thread, and does not wait.

        The worker claims no more runs, gives its handlers `drain_s` seconds to finish, and then stops them and releases
        their runs. A second call ends the drain time at once.
        """
        was_stopping = self._life.is_stopping
        self._life.stop()
        if not was_stopping and self._session.executions:
            running = validators.pluralize(len(self._session.executions), "handler")
            _log.info("worker %s drains: %s may go on for %.3g s", self.name, running, self._life.time_left)
        self._session.ends_at_once = self._life.phase is WorkerPhase.STOPPING
        self._session.call_soon(self._on_stop)

    def _on_stop(self) -> None:
        self._session.wake.set()
        self._store.availability.wake()
        self._timeout.shorten(self._life.time_left + self._session.last_s)

    # --- phases ---------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Enter the phase `WORKING`. Raises `RuntimeError` for a worker that is working or was stopped."""
        if self._life.move(PhaseEvent.BEGIN):
            return
        if self._life.phase is WorkerPhase.STOPPED:
            raise self._was_stopped()
        raise RuntimeError(f"worker {self.name} is at work already: make another Worker to work beside it")

    def _end(self) -> None:
        self._life.move(PhaseEvent.END)
        self._session.requests.end()
        self._session.worker_lease.ticks.stop()

    def _was_stopped(self) -> RuntimeError:
        return RuntimeError(f"worker {self.name} was stopped and works no more: make another Worker")

    async def _open_and_work(self, until_idle: bool) -> None:
        if await self._open():
            await self._work(until_idle=until_idle)

    async def _open(self) -> bool:
        """Open the session as soon as the database is available. Return False if the worker was stopped before."""
        try:
            is_open = await self._try_to_open()
        except BaseException:
            self._end()
            raise
        if not is_open:
            self._end()
        return is_open

    async def _try_to_open(self) -> bool:
        """Open the session. Retry during an outage: the database may have become unavailable after `open_store`."""
        requests = self._session.requests
        while not self._life.is_stopping:
            try:
                await self._with_timeout(self._session.open())
            except StoreError as error:
                if not can_be_retried(error):
                    raise
                if not self._life.is_stopping:
                    await requests.wait(OPEN, error, self._life.time_left)
                if self._life.is_stopping:
                    _log.warning("worker %s was stopped before it could begin: %s", self.name, error)
            else:
                requests.succeeded(OPEN)
                return True
        return False

    async def _work(self, *, until_idle: bool) -> None:
        settings = self._settings
        queues = ", ".join(settings.queues)
        shown = (self.name, self._store.display_url, queues, settings.concurrency)
        _log.info("worker %s has started on %s: queue %s, concurrency %d", *shown)
        try:
            async with self._session.maintained(self._on_crash) as maintenance:
                with self._store.subscribe(self._on_change, Change.QUEUED | Change.CANCELLING):
                    await self._with_timeout(MainLoop(self._session, self._life).run(until_idle))
                if maintenance.done():
                    maintenance.result()  # this raises its exception
        except StoreUnavailable as error:
            if not self._timeout.has_expired:
                raise
            _log.warning("worker %s ends while a request is under way: %s", self.name, error)
        finally:
            try:
                await self._session.close()
            finally:
                self._end()
                committed = validators.pluralize(self.settled, "outcome")
                _log.info("worker %s has ended; %s committed", self.name, committed)

    async def _with_timeout(self, request: Awaitable[None]) -> None:
        """Await a request to the store. When the worker is stopped, wait for the drain time and a few seconds more.

        Raises `StoreUnavailable` if the store has not replied by then.
        """
        try:
            limit_s = self._life.time_left + self._session.last_s if self._life.is_stopping else None
            async with self._timeout.limit(limit_s):
                await request
        except TimeoutError as error:
            if not self._timeout.has_expired:
                raise
            raise StoreUnavailable(f"{self._store.display_url} does not answer") from error

    def _on_crash(self, task: asyncio.Task[None]) -> None:
        """Log a bug of this library at once, not only when the worker ends. Then stop."""
        if not task.cancelled() and task.exception() is not None:
            _log.critical("worker %s crashed (bug in runstate); stopping", self.name, exc_info=task.exception())
            if not self._life.is_stopping:
                self.stop()

    def _on_change(self, change: Change) -> None:
        """Receive a notification of the store. Called in any thread."""
        # The worker's own requests also cause notifications, with `ENTRY` alone.
        if change is not Change.ENTRY and change & (Change.QUEUED | Change.CANCELLING):
            self._session.call_soon(self._apply_change, change)

    def _apply_change(self, change: Change) -> None:
        session = self._session
        if change & Change.QUEUED:
            session.work_available = True
            session.wake.set()
        if change & Change.CANCELLING and (session.executions or session.retries):
            session.cancels.look()
