"""The worker: claims runs, calls the handler, commits what came of it, and takes over what others left.

One coroutine goes round: what is done is settled and what is free is claimed in one turn, one commit. While that is
under way other handlers finish, and go into the next. The lease is renewed by a thread (`pulse.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from runstate.clock import monotonic
from runstate.run import validators
from runstate.store import DEFAULT_MAX_ATTEMPTS, Change, Claim
from runstate.store.availability import can_be_retried
from runstate.store.errors import StoreError, StoreUnavailable
from runstate.worker._arguments import outside_of_loops, possible
from runstate.worker._handlers import Handler
from runstate.worker._last_attempts import last_attempts
from runstate.worker._session import WorkerSession, log
from runstate.worker._signals import StopSignals
from runstate.worker._waiting import TAKE_OVER

if TYPE_CHECKING:
    from runstate.store import Store

__all__ = ["Worker"]

_IDLE_S: Final = (0.02, 0.05, 0.1, 0.2, 0.5)  # between two looks for runs when no hint comes
_BEGIN: Final = "begin"
_MOST: Final = 500  # runs a turn: past it a commit gains little, and the loop stands still while they are begun


class Worker(WorkerSession):
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
        super().__init__(
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
        self._drain_s = drain_s
        self._stop_at = float("inf")
        self._at_work = self._ended = False
        self._going: asyncio.Task[None] | None = None
        self.settled: int = 0
        """How many outcomes were committed."""

    # --- for programs ---------------------------------------------------------------------------------------------

    def run(self, *, until_idle: bool = False) -> None:
        """Work until SIGTERM or SIGINT, or until there is nothing to do. Blocks.

        A second signal ends the process within seconds, whatever its threads are doing: `SystemExit` once the runs are
        given back, and by force where a handler blocks the event loop. Outside the main thread there are no signals.
        Raises `RuntimeError` inside an event loop, and for a worker that is at work or was stopped.
        """
        outside_of_loops("async with worker")
        self._take_work()
        try:
            with StopSignals(self.stop, lambda: self.turned_at):
                asyncio.run(self._begin_and_work(until_idle))
        finally:
            self._leave_work()

    async def __aenter__(self) -> Self:
        self._take_work()
        if not await self._begin():
            raise self._was_stopped()
        self._going = asyncio.create_task(self._work(until_idle=False))
        self._going.add_done_callback(self._on_crash)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._stopping:  # a second time means: at once
            self.stop()
        if self._going is not None:
            await self._going

    def stop(self) -> None:
        """Claim no more, let the handlers finish for `drain_s` seconds, then release their runs. Again: at once."""
        now = monotonic()
        self._stop_at = now if self._stopping else now + self._drain_s
        self._ends_at_once, self._stopping = self._stopping, True
        self._ended = not self._at_work
        with suppress(AttributeError, RuntimeError):  # it has no loop yet, or none any more
            self._loop.call_soon_threadsafe(self._on_stop)

    def _on_stop(self) -> None:
        self._wake.set()
        self._store.availability.wake()
        with suppress(AttributeError, RuntimeError):  # it asks nothing of the store now
            self._arm_shutdown_timeout()

    def _arm_shutdown_timeout(self) -> None:
        left = max(0.0, self._stop_at - monotonic())
        at, until = asyncio.get_running_loop().time() + left + self._last_s, self._patience.when()
        self._patience.reschedule(at if until is None else min(at, until))

    @property
    def _time_left(self) -> float:
        return max(0.0, self._stop_at - monotonic())

    async def work(self, *, until_idle: bool = False) -> None:
        """Work until `stop`, or until there is nothing to do. Raises `RuntimeError` if it is at work or was stopped."""
        self._take_work()
        await self._begin_and_work(until_idle)

    def _take_work(self) -> None:
        """Raise `RuntimeError` unless this worker may work; from now on it is at work."""
        if self._ended:
            raise self._was_stopped()
        if self._at_work:
            raise RuntimeError(f"worker {self.name} is at work already: make another Worker to work beside it")
        self._at_work = True

    def _leave_work(self) -> None:
        self._at_work, self._ended = False, self._stopping
        self._end_requests()
        self._ticks.stop()

    def _was_stopped(self) -> RuntimeError:
        return RuntimeError(f"worker {self.name} was stopped and works no more: make another Worker")

    async def _begin_and_work(self, until_idle: bool) -> None:
        if await self._begin():
            await self._work(until_idle=until_idle)

    async def _begin(self) -> bool:
        """Set up as soon as the database answers; return whether it did: False if the worker was stopped before."""
        try:
            has_begun = await self._set_up_patiently()
        except BaseException:
            self._leave_work()
            raise
        if not has_begun:
            self._leave_work()
        return has_begun

    async def _set_up_patiently(self) -> bool:
        """Set up; the database may have gone away since the store was opened."""
        while not self._stopping:
            try:
                await self._patiently(self._set_up())
            except StoreError as error:
                if not can_be_retried(error):
                    raise
                if not self._stopping:
                    await self._wait_for_store(_BEGIN, error)
                if self._stopping:
                    log.warning("worker %s was stopped before it could begin: %s", self.name, error)
            else:
                self._succeeded(_BEGIN)
                return True
        return False

    async def _work(self, *, until_idle: bool) -> None:
        chores = self._start_maintenance()
        try:
            with self._store.subscribe(self._on_change):
                await self._patiently(self._go_round(until_idle))
            if chores.done():
                chores.result()  # which raises
        except StoreUnavailable as error:
            if not self._patience.expired():
                raise
            log.warning("worker %s ends in the middle of a turn: %s", self.name, error)
        finally:
            chores.cancel()
            await asyncio.wait([chores])
            try:
                await self._give_back()
            finally:
                self._thread_pool.shutdown()
                self._leave_work()

    async def _patiently(self, asking: Awaitable[None]) -> None:
        """Await what asks the store; once the worker is stopped, only until its time is over, and a moment more."""
        try:
            async with asyncio.timeout(None) as self._patience:
                if self._stopping:
                    self._arm_shutdown_timeout()
                await asking
        except TimeoutError as error:
            if not self._patience.expired():
                raise
            raise StoreUnavailable(f"{self._store.display_url} does not answer") from error

    # --- going round ----------------------------------------------------------------------------------------------

    def _on_change(self, hint: Change) -> None:
        """Listen to the bell, from any thread."""
        if hint is not Change.ENTRY and hint & (
            Change.QUEUED | Change.CANCELLING
        ):  # each own turn rings for entries alone
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._apply_change, hint)

    def _apply_change(self, hint: Change) -> None:
        if hint & Change.QUEUED:
            self._work_available = True
            self._wake.set()
        if hint & Change.CANCELLING and (self._executions or self._retries):
            self._look_for_cancels()

    async def _go_round(self, until_idle: bool) -> None:
        looks = 0
        swept = False
        while True:
            if self._lease_lost and not self._stopping:
                await self._begin_again()
                continue
            if self._stopping and self._reconcile_needed and monotonic() >= self._stop_at:
                return  # the database is away, and nobody waits for it any more
            if self._declined:
                await self._hand_back()
                continue
            # All at once: half a hand while the handlers of the other half run was slower on both databases, with
            # 100 slots and with 400, for what a commit costs is mostly its own.
            free = min(self._free(), _MOST)
            if (
                free and self._orphans_waiting and not self._reconcile_needed and self._is_due(TAKE_OVER)
            ):  # or what it holds would find no room
                self._orphans_waiting = False
                await self._take_over(free)
                continue
            if self._done or (free and self._work_available):
                self._work_available = False
                claimed = await self._take_turn(free)
                if claimed:
                    looks, swept = 0, False
                # A full hand is a sign of more; an empty one is not asked again until a hint, or a while.
                self._work_available = self._work_available or 0 < claimed == free
                continue
            if self._is_over(until_idle):
                if swept or self._stopping:
                    return
                if self._may_sweep:
                    self._work_available = True  # there may be something to take over
                    try:
                        await self._sweep()
                    except StoreError:
                        continue  # it was put off, and the others go on meanwhile
                    swept = True
                    continue
            await self._rest(_IDLE_S[min(looks, len(_IDLE_S) - 1)])
            looks += 1

    def _free(self) -> int:
        return 0 if self._stopping else self._free_slots

    async def _begin_again(self) -> None:
        try:
            await self._take_new_lease()
        except StoreError as error:
            await self._wait_for_store(_BEGIN, error)
        else:
            self._succeeded(_BEGIN)

    async def _take_over(self, free: int) -> None:
        """Go on with what others left, as far as there is room: of runs on their last attempt, with one at a time."""
        self._reservation = last_attempts().reserve()
        try:
            claims = await self._store.aio.take_over(
                self._lease,
                free,
                queues=self._queues,
                max_attempts=self._max_attempts,
                last_attempts=0 if self._reservation is None else 1,
            )
            self._go_on(claims)
        except StoreError as error:
            self._orphans_waiting = self._reconcile_needed = self._work_available = True
            self._put_off(TAKE_OVER, error)  # the turn that follows finds out whether the store is away
        else:
            self._succeeded(TAKE_OVER)
            self._orphans_waiting = self._orphans_waiting or len(claims) == free  # a full hand is a sign of more
        finally:
            if self._reservation is not None:  # there was no such run
                self._reservation.end()
                self._reservation = None

    def _go_on(self, claims: Sequence[Claim]) -> None:
        """Call the handlers of runs that were taken over."""
        for claim in claims if self._holds() else ():
            log.info("run %s is taken over, attempt %d", claim.run.id, claim.run.attempt)
            self._start(claim, monotonic())

    async def _hand_back(self) -> None:
        """Release runs that cannot be begun here now, so that their attempt does not count."""
        try:
            while self._declined:
                await self._store.aio.release(self._lease, self._declined[-1])
                self._declined.pop()
        except StoreError as error:
            self._reconcile_needed = True
            await self._wait_for_store("release", error)
        else:
            self._succeeded("release")

    def _is_over(self, until_idle: bool) -> bool:
        if self._stopping:
            return not self._executions or monotonic() >= self._stop_at
        return until_idle and not (self._executions or self._retries or (self._orphans_waiting and self._free_slots))

    async def _rest(self, seconds: float) -> None:
        """Wait for a handler to finish, for a hint, or for a while."""
        self._wake.clear()
        left = max(0.0, self._stop_at - monotonic())
        again = self._loop.call_later(min(seconds, left), self._look_again)
        try:
            await self._wake.wait()
        finally:
            again.cancel()

    def _look_again(self) -> None:
        self._work_available = True
        self._wake.set()

    async def _take_turn(self, free: int) -> int:
        """Settle what is done and claim what is free, in one commit; return how many were claimed."""
        settles, self._done = self._done, []
        reconcile, self._reconcile_needed = self._reconcile_needed, False
        try:
            result = await self._store.aio.settle_and_claim(
                self._lease,
                settles,
                free,
                queues=self._queues,
                held=self._held,
                reconcile=reconcile,
                on_claimed=self._take_claims,
            )
        except StoreError as error:
            # As long as the lease holds nobody else ends these runs: keep the outcomes, and ask again.
            self._reconcile_needed = self._work_available = True
            self._done = [] if self._lease_lost else [*settles, *self._done]
            await self._wait_for_store("turn", error)
            return 0
        if self._failed_requests:
            self._succeeded("turn")
        self.settled += len(settles) - len(result.refused)
        if result.refused:
            self._take_refusals(settles, result.refused)
        return len(result.claims)

    def _take_claims(self, claims: Sequence[Claim]) -> None:
        """Call the handlers, as soon as the answer is in the loop: those that do not wait are done when it is read."""
        now = monotonic()
        for claim in claims if self._holds() else ():
            self._start(claim, now)
