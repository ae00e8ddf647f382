"""The worker: claims runs, calls the handler, commits the outcomes, and takes over the runs of workers that died.

One coroutine, the main loop, commits outcomes and claims runs by one request, in one commit; the handlers that finish
meanwhile go into the next. A thread renews the lease.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from runstate.run import validators
from runstate.store import DEFAULT_MAX_ATTEMPTS, Change
from runstate.store.availability import can_be_retried
from runstate.store.errors import StoreError, StoreUnavailable
from runstate.worker._arguments import outside_of_loops, possible
from runstate.worker._handlers import Handler
from runstate.worker._main_loop import OPEN, MainLoop
from runstate.worker._phase import PhaseEvent, WorkerLife, WorkerPhase
from runstate.worker._session import WorkerSession
from runstate.worker._settings import WorkerSettings
from runstate.worker._shutdown import ShutdownTimeout
from runstate.worker._signals import StopSignals

if TYPE_CHECKING:
    from runstate.store import Store

__all__ = ["Worker"]

_log: Final = logging.getLogger("runstate.worker")


class Worker:
    """Drives the runs of a store.

    `handler` is called for every run, plain functions in threads, async ones as tasks, `concurrency` at a time.
    `queues` are served in this order. The lease is `lease_s` seconds: so long after a worker's death its runs wait to
    be taken over; they are begun `max_attempts` times in all. `drain_s` is how long a worker that is stopped waits for
    its handlers. An event loop that has not moved for `stall_timeout_s` (four leases if not given), because a handler
    blocks it, loses the lease, so that other workers take over its runs.

    Raises `TypeError` for a store or a handler that cannot work, `ValueError` for a setting out of its range.

    `run()` works until SIGTERM or SIGINT; `async with worker:` works beside a program's own loop. A worker that was
    stopped is over: to work again, make another.
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
        )
        possible(validators.number(0, validators.YEAR_10000)("drain_s", drain_s))
        self.name: Final = settings.name
        """Its name in the histories of runs."""
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
        """How many outcomes were committed."""
        return self._session.settled

    # --- for programs ---------------------------------------------------------------------------------------------

    def run(self, *, until_idle: bool = False) -> None:
        """Work until SIGTERM or SIGINT, or until there is nothing to do. Blocks.

        A second signal ends the process within seconds, whatever its threads are doing: `SystemExit` once the runs are
        given back, and by force where a handler blocks the event loop. Outside the main thread there are no signals.
        Raises `RuntimeError` inside an event loop, and for a worker that is at work or was stopped.
        """
        outside_of_loops("async with worker")
        self._begin()
        try:
            with StopSignals(self.stop, lambda: self._session.worker_lease.ticks.moved_at):
                asyncio.run(self._open_and_work(until_idle))
        finally:
            self._end()

    async def work(self, *, until_idle: bool = False) -> None:
        """Work until `stop`, or until there is nothing to do. Raises `RuntimeError` if it is at work or was stopped."""
        self._begin()
        await self._open_and_work(until_idle)

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
        if not self._life.is_stopping:  # a second time means: at once
            self.stop()
        if self._task is not None:
            await self._task

    def stop(self) -> None:
        """Claim no more, let the handlers finish for `drain_s` seconds, then release their runs. Again: at once."""
        self._life.stop()
        self._session.ends_at_once = self._life.phase is WorkerPhase.STOPPING
        loop = self._session.loop
        if loop is not None:
            with suppress(RuntimeError):  # it is closed
                loop.call_soon_threadsafe(self._on_stop)

    def _on_stop(self) -> None:
        self._session.wake.set()
        self._store.availability.wake()
        self._timeout.shorten(self._life.time_left + self._session.last_s)

    # --- its life -------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Be at work from now on. Raises `RuntimeError` if it is at work or was stopped."""
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
        """Open the session as soon as the database answers; return False if the worker was stopped before."""
        try:
            is_open = await self._try_to_open()
        except BaseException:
            self._end()
            raise
        if not is_open:
            self._end()
        return is_open

    async def _try_to_open(self) -> bool:
        """Open the session; the database may have gone away since the store was opened."""
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
        maintenance = asyncio.create_task(self._session.maintain())
        maintenance.add_done_callback(self._on_crash)
        try:
            with self._store.subscribe(self._on_change):
                await self._with_timeout(MainLoop(self._session, self._life).run(until_idle))
            if maintenance.done():
                maintenance.result()  # which raises
        except StoreUnavailable as error:
            if not self._timeout.has_expired:
                raise
            _log.warning("worker %s ends while a request is under way: %s", self.name, error)
        finally:
            maintenance.cancel()
            await asyncio.wait([maintenance])
            try:
                await self._session.close()
            finally:
                self._session.shut_down()
                self._end()

    async def _with_timeout(self, request: Awaitable[None]) -> None:
        """Await what waits for the store; once the worker is stopped, only until its time is over, and a moment more.

        Raises `StoreUnavailable` then.
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
        """Log a bug of this library at once, and not when the worker is stopped; stop."""
        if not task.cancelled() and task.exception() is not None:
            _log.critical("worker %s crashed (bug in runstate); stopping", self.name, exc_info=task.exception())
            if not self._life.is_stopping:
                self.stop()

    def _on_change(self, change: Change) -> None:
        """Hear of a change in the store, in any thread."""
        # Each request of its own is heard of, too: as an entry alone.
        if change is not Change.ENTRY and change & (Change.QUEUED | Change.CANCELLING):
            loop = self._session.loop
            if loop is not None:
                with suppress(RuntimeError):  # it is closed
                    loop.call_soon_threadsafe(self._apply_change, change)

    def _apply_change(self, change: Change) -> None:
        session = self._session
        if change & Change.QUEUED:
            session.work_available = True
            session.wake.set()
        if change & Change.CANCELLING and (session.executions or session.retries):
            session.cancels.look()
