"""The outcomes that wait to be committed, and the requests that commit them and claim other runs.

A worker with many slots has two requests under way: while the database executes one of them, the handlers of the
other's runs are called, so neither waits for the other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

import attrs

from runstate.clock import time_us
from runstate.lifecycle import RUN_LIFECYCLE, RunEvent
from runstate.lifecycle.errors import IllegalTransition, RunstateError
from runstate.store import Claim, Settle, SettleAndClaimResult
from runstate.store.errors import StoreError
from runstate.worker._lease import WorkerLease
from runstate.worker._retries import Retries
from runstate.worker._settings import WorkerSettings

__all__ = ["Batch", "Batches"]

_log: Final = logging.getLogger("runstate.worker")

_CANCELLING: Final = RUN_LIFECYCLE.target_of(RunEvent.REQUEST_CANCEL)
_MOST: Final = 500  # runs per claim: more gain little per commit, and the event loop stands still while they are begun
_LEAST_SLOTS: Final = 50  # of a worker with two requests: much of a commit's cost is independent of its size
_SECOND: Final = 4  # a second request needs this part of the slots


@attrs.frozen(eq=False)
class Batch:
    """One request: the outcomes to commit, and how many runs to claim."""

    settles: Sequence[Settle]
    limit: int
    held: AbstractSet[int] | None
    """The other runs that the worker has. With them, the store can repeat the request after a lost reply.

    None while another request is under way, whose runs the worker does not know yet. Then the session reconciles.
    """
    reconcile: bool

    @property
    def has_retries(self) -> bool:
        """Whether some of the runs wait for a retry after it."""
        return any(settle.retry is not None for settle in self.settles)


def _latest_claims(settles: Sequence[Settle]) -> list[Settle]:
    """Return the outcomes without those of earlier claims of the same runs.

    After lost replies a run may have been moved by others and claimed again, before its first outcome was refused. A
    request says of one outcome for each run whether it was committed, and that of the earlier claim is void by now.
    """
    latest: dict[int, Settle] = {}
    for settle in settles:
        before = latest.get(settle.run.seq)
        claims = [(each.run.version, each.run.attempt) for each in (settle, before) if each is not None]
        if claims[0] == max(claims):
            latest[settle.run.seq] = settle
    for settle in settles if len(latest) < len(settles) else ():
        if latest[settle.run.seq] is not settle:
            _log.warning("outcome of run %s was not committed: the run was claimed again since", settle.run.id)
    return list(latest.values())


class Batches:
    """The requests of one session, of which at most two are under way."""

    def __init__(
        self,
        settings: WorkerSettings,
        lease: WorkerLease,
        retries: Retries,
        held: Callable[[], AbstractSet[int]],
        on_waiting: Callable[[float], None],
    ) -> None:
        """Prepare. `held` returns the seqs of the runs that the session executes.

        `on_waiting` is called with the delay of a retry, in seconds, after its commit.
        """
        self._settings: Final = settings
        self._lease: Final = lease
        self._retries: Final = retries
        self._held: Final = held
        self._on_waiting: Final = on_waiting
        self._most_in_flight: Final = 2 if settings.concurrency >= _LEAST_SLOTS else 1
        self._most_at_once: Final = -(-settings.concurrency // self._most_in_flight)
        """The outcomes and the claims of a request while there is a backlog."""
        self._in_flight: Final[list[Batch]] = []
        self.done: list[Settle] = []
        """Outcomes to be committed."""
        self.settled: int = 0
        """How many outcomes were committed."""
        self.reconcile_needed: bool = False
        """Whether this worker may hold runs that it does not know, because a reply was lost."""
        self.has_backlog: bool = False
        """Whether the last claim got as many runs as it asked for, so that there may be more."""

    def __len__(self) -> int:
        """Return how many requests are under way."""
        return len(self._in_flight)

    @property
    def claiming(self) -> int:
        """For how many runs the requests under way have asked."""
        return sum(batch.limit for batch in self._in_flight)

    def knows(self, seqs: AbstractSet[int]) -> bool:
        """Return whether the session knows all these runs to be its own: it executes or settles them."""
        settling = {settle.run.seq for batch in self._in_flight for settle in batch.settles}
        return seqs <= self._held() | settling | {settle.run.seq for settle in self.done}

    def may_begin(self, free: int, work_available: bool) -> bool:
        """Return whether another request may begin, and has something to do."""
        if not self._in_flight:
            return bool(self.done) or (free > 0 and (work_available or self.has_backlog))
        if self.reconcile_needed or len(self._in_flight) == self._most_in_flight:
            return False
        least = max(1, self._settings.concurrency // _SECOND)
        return len(self.done) >= least or (free >= least and self.has_backlog)

    def begin(self, free: int = 0) -> Batch:
        """Return the next request: outcomes, and a claim for free slots. It is under way until `commit` ends.

        With a backlog it takes a part of the slots, so that there can be another request beside it.
        """
        most = self._most_at_once if self.has_backlog else max(len(self.done), free)
        if self.reconcile_needed:  # those that the first request has committed are recognised only now
            settles, self.done = _latest_claims(self.done), []
        else:
            settles, self.done = self.done[:most], self.done[most:]
        reconcile, self.reconcile_needed = self.reconcile_needed, False
        held = None if self._in_flight else frozenset(self._held()).union(settle.run.seq for settle in self.done)
        batch = Batch(settles, min(free, most, _MOST), held, reconcile)
        self._in_flight.append(batch)
        return batch

    async def commit(
        self, batch: Batch, on_claimed: Callable[[Sequence[Claim]], None] | None = None
    ) -> SettleAndClaimResult:
        """Commit a request.

        Raises `StoreError`. Then the outcomes wait again, and the next request finds out which of them were committed.
        """
        try:
            result = await self._settings.store.aio.settle_and_claim(
                self._lease.lease,
                batch.settles,
                batch.limit,
                queues=self._settings.queues,
                held=batch.held,
                reconcile=batch.reconcile,
                on_claimed=on_claimed,
            )
        except StoreError:
            self.reconcile_needed = True
            # No other worker can end these, unless the lease is lost.
            self.done = [] if self._lease.is_lost else [*batch.settles, *self.done]
            raise
        finally:
            self._in_flight.remove(batch)
        if batch.limit:
            self.has_backlog = 0 < len(result.claims) == batch.limit
        if result.refused:
            self._take_refusals(batch.settles, result.refused)
        self.settled += len(batch.settles) - len(result.refused)
        for settle in batch.settles if batch.has_retries else ():
            self._take_retry(settle, result)
        return result

    def _take_retry(self, settle: Settle, result: SettleAndClaimResult) -> None:
        """Wait for a retry that was committed. A run that ended in its place is settled."""
        if settle.retry is None or settle.run.seq in result.refused:
            return
        if settle.run.seq in result.not_retried:
            deadline = settle.run.expires_at
            is_too_late = deadline is not None and time_us() + settle.retry.after_us >= deadline * 1_000_000
            why = "its deadline is too near" if is_too_late else "its cancel was requested"
            _log.warning("run %s is not retried: %s", settle.run.id, why)
            return
        self.settled -= 1
        self._on_waiting(settle.retry.after_us / 1_000_000)

    def _take_refusals(self, settles: Sequence[Settle], refused: Mapping[int, RunstateError]) -> None:
        """Handle the outcomes that the store refused, by seq: confirm cancels, and log the others."""
        for settle in settles:
            if (error := refused.get(settle.run.seq)) is None:
                continue
            if isinstance(error, IllegalTransition) and error.status is _CANCELLING:
                # A cancel was requested meanwhile, and a run that is cancelling cannot require tools.
                self.done.append(Settle(settle.run, RunEvent.CONFIRM_CANCEL))
                continue
            if type(error) is StoreError:  # its row cannot be written
                self._retries.leave(settle.run.seq)
            _log.warning("outcome of run %s was rejected: %s", settle.run.id, error)
