"""What a worker holds: its lease, its runs under way, what is done. And the chores around them.

Whatever ends a run besides its handler is noticed here: its deadline, a cancel, another worker, a lapsed lease.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from runstate.clock import monotonic
from runstate.errors import StoreError
from runstate.lifecycle import LAW, RunEvent, RunStatus
from runstate.store.commands import Settle
from runstate.store.working import DEFAULT_MAX_ATTEMPTS, Beat, Claim, Lease, worker_name
from runstate.worker.context import Context
from runstate.worker.handling import Handler, is_asynchronous
from runstate.worker.pulse import Pulse
from runstate.worker.work import Work

if TYPE_CHECKING:
    from runstate.store import Store

__all__ = ["CANCELLING", "Hands"]

log: Final = logging.getLogger("runstate.worker")

CANCELLING: Final = LAW.target_of(RunEvent.REQUEST_CANCEL)
_TICK_S: Final = 0.1  # deadlines and the lease are looked at so often
_SWEEP_S: Final = 0.5  # between two looks whether something is due, give or take
_SWEEP_ANYWAY_S: Final = 15.0


class Hands:
    """A worker's lease, and the runs it works on."""

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
    ) -> None:
        if type(concurrency) is not int or not 1 <= concurrency <= 10_000:
            raise ValueError(f"concurrency: expected 1 to 10,000, got {concurrency!r}")
        if isinstance(queues, str) or not queues:
            raise ValueError(f"queues: expected the names of queues, got {queues!r}")
        self._store = store
        self._handler = handler
        self._asynchronous = is_asynchronous(handler)
        self._concurrency = concurrency
        self._queues = tuple(queues)
        self.name: Final = worker_name() if name is None else name
        """Who it is, in histories."""
        self._lease_s = lease_s
        self._max_attempts = max_attempts
        self._working: dict[int, Work] = {}
        self._done: list[Settle] = []
        self._settling: frozenset[int] = frozenset()
        self._hinted = True
        self._stopping = False
        self._lost = False
        self._lease: Lease
        self._pulse: Pulse
        self._loop: asyncio.AbstractEventLoop
        self._woken: asyncio.Event
        self._pool: ThreadPoolExecutor
        self._looking: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {len(self._working)} of {self._concurrency} at work>"

    # --- the lease ------------------------------------------------------------------------------------------------

    async def _take_lease(self) -> None:
        self._lease = await self._store.aio.open_lease(self.name, lease_s=self._lease_s)
        self._pulse = Pulse(self._store, self._lease, self._beaten)
        self._pulse.start()

    async def _give_back(self) -> None:
        """Release what is left at once, rather than let it lapse."""
        left, self._working = list(self._working.values()), {}
        for work in left:
            work.abandon(self._asynchronous)
        try:
            for work in left:
                await self._store.aio.release(self._lease, work.ctx.run)
            await self._store.aio.close_lease(self._lease)
        except StoreError as error:
            log.warning("could not release the lease of %s, it will lapse: %s", self.name, error)
        finally:
            self._pulse.stop()
        if self._asynchronous and left:
            await asyncio.wait([work.future for work in left], timeout=1.0)

    async def _take_new_lease(self) -> None:
        """Begin again after the lease was lost."""
        self._pulse.stop()
        await self._take_lease()
        self._lost = False
        self._hinted = True

    def _beaten(self, sent_at: float, beat: Beat) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._take_beat, sent_at, beat)

    def _take_beat(self, sent_at: float, beat: Beat) -> None:
        if beat.held:
            self._compare(sent_at, beat.runs)
        elif not self._lost:
            self._lose("its lease lapsed")

    def _lose(self, why: str) -> None:
        """Stop all handlers: others may work on these runs now."""
        left, self._working = list(self._working.values()), {}
        self._done.clear()
        for work in left:
            work.abandon(self._asynchronous)
        log.warning("worker %s lets go of %d runs: %s", self.name, len(left), why)
        self._lost = True
        self._woken.set()

    # --- its runs -------------------------------------------------------------------------------------------------

    def _start(self, claim: Claim) -> None:
        work = Work(Context(self._store, self._lease, claim, asynchronous=self._asynchronous))
        self._working[work.seq] = work
        work.begin(self._handler, self._asynchronous, self._pool)
        work.future.add_done_callback(lambda _: self._finish(work))

    def _finish(self, work: Work) -> None:
        """Take what a handler returned or raised, if its run is still this worker's."""
        if self._working.get(work.seq) is not work:
            if not work.future.cancelled():
                work.future.exception()  # look at it, or asyncio complains that nobody did
            return
        del self._working[work.seq]
        settle = work.settle()
        if settle is not None:
            self._done.append(settle)
        self._woken.set()

    def _compare(self, looked_at: float, standing: Mapping[int, RunStatus]) -> None:
        """Stop what is no longer this worker's, and let handlers know of cancels."""
        for seq, work in list(self._working.items()):
            status = standing.get(seq)
            if status is CANCELLING:
                work.cancel(self._asynchronous)
            elif status is None and work.begun_at < looked_at:
                del self._working[seq]
                work.abandon(self._asynchronous)
                self._woken.set()
                log.warning("run %s was ended or taken over by another; its handler is stopped", work.ctx.run_id)

    def _look_for_cancels(self) -> None:
        """See which of its runs somebody asked to cancel; one look at a time."""
        if self._looking is None or self._looking.done():
            self._looking = self._loop.create_task(self._look())

    async def _look(self) -> None:
        looked_at = monotonic()
        try:
            self._compare(looked_at, await self._store.aio.owned(self._lease))
        except StoreError as error:
            log.debug("could not look for cancels, the next heartbeat will: %s", error)

    # --- chores ---------------------------------------------------------------------------------------------------

    async def _do_chores(self) -> None:
        """Watch deadlines and the lease; sweep, at moments that differ from the other workers'."""
        sweep_at, anyway_at = 0.0, monotonic() + _SWEEP_ANYWAY_S * random.random()  # noqa: S311
        while True:
            self._pulse.turned()
            now = monotonic()
            if not self._pulse.is_safe and not self._lost:
                self._lose("it could not renew its lease in time")
            self._pass_deadlines()
            if now >= sweep_at:
                sweep_at = now + _SWEEP_S * (0.8 + 0.4 * random.random())  # noqa: S311
                if await self._sweep(anyway=now >= anyway_at):
                    anyway_at = now + _SWEEP_ANYWAY_S
            await asyncio.sleep(_TICK_S)

    def _pass_deadlines(self) -> None:
        """End the runs whose deadline has come, whatever their handlers do."""
        for work in [work for work in self._working.values() if work.ctx.seconds_left <= 0]:
            del self._working[work.seq]
            self._done.append(work.ctx.settle_event(RunEvent.EXPIRE))
            work.abandon(self._asynchronous)
            self._woken.set()

    async def _sweep(self, *, anyway: bool) -> bool:
        """Sweep if there is something to do, and take over what others left; return whether it swept."""
        aio = self._store.aio
        try:
            if not anyway and not await aio.is_anything_due():
                return False
            swept = await aio.sweep(max_attempts=self._max_attempts)
            free = 0 if self._stopping or self._lost else self._concurrency - len(self._working)
            if swept.adrift and free > 0:
                claims = await aio.take_over(self._lease, free, queues=self._queues, max_attempts=self._max_attempts)
                for claim in claims:
                    log.info("run %s is taken over, attempt %d", claim.run.id, claim.run.attempt)
                    self._start(claim)
            if swept.readied:
                self._hinted = True
                self._woken.set()
        except StoreError as error:
            log.warning("could not sweep, another will: %s", error)
        return True
