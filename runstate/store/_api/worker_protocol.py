"""The methods of a store for workers: leases, claims, outcomes, checkpoints; and the sweep, which any process may do.

`Worker` and `drive` use only these methods. They are public for worker loops of your own.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from runstate.lifecycle import RunStatus
from runstate.run import codec, validators
from runstate.run.values import LastError, Usage, raise_if_invalid
from runstate.store._api.create import DEFAULT_QUEUE, new_token
from runstate.store._api.worker_commands import checked_outcomes, save_checkpoint_command
from runstate.store._engine.commands import InTransaction, SettleAndClaim, decode_settle_and_claim
from runstate.store._engine.execute_retries import attempt_params
from runstate.store._engine.execute_settle_and_claim import resume_data_of
from runstate.store._engine.row_by_row import execute_sweep
from runstate.store._engine.transport import StoreBase
from runstate.store._notifier import ALL_CHANGES
from runstate.store._sql.connection import Connection
from runstate.store._sql.picking import picking
from runstate.store._sql.rows import Row, decode_claimed
from runstate.store._types import StoredRun
from runstate.store._worker_types import (
    Checkpoint,
    Claim,
    HeartbeatResult,
    Lease,
    Settle,
    SettleAndClaimResult,
    SweepResult,
)
from runstate.store.validators import queue_names

__all__ = ["DEFAULT_MAX_ATTEMPTS", "WorkerProtocolMixin", "worker_name"]

DEFAULT_MAX_ATTEMPTS: Final = 3
_SWEEP_MOST: Final = 500  # runs per statement: a sweep must not delay other requests
_SWEEPER: Final = "sweep"
_GRACE_US: Final = 500_000
_LIMIT: Final = validators.integer(least=0)
_AGE: Final = validators.number(0, validators.YEAR_10000)
_FORGET_SESSIONS_US: Final = 24 * 3600 * 1_000_000


def _owned(session: Connection, lease: Lease) -> Mapping[int, RunStatus]:
    found = session.execute(session.statements.owned_statuses, {"worker": lease.token})
    return {seq: RunStatus(status) for seq, status in found}


def _only_claim(result: SettleAndClaimResult) -> Claim | None:
    return result.claims[0] if result.claims else None


def _claim_retries(
    session: Connection, lease: Lease, limit: int, queues: Sequence[str], run_id: str | None
) -> list[Row]:
    """Claim runs whose retry is due: one by its id, or up to `limit` of some queues.

    A queue with runs that can be claimed comes before the retries of the next queue.
    """
    if run_id is not None:
        return list(session.execute(session.statements.claim_retry, {"worker": lease.token, "id": run_id}))
    found: list[Row] = []
    for queue in queues:
        params = {"worker": lease.token, "queue": queue, "limit": limit - len(found)}
        found += execute_sweep(session, "claim_retries", params)
        if len(found) == limit or (queue != queues[-1] and _has_claimable(session, queue)):
            break
    return found


def _has_claimable(session: Connection, queue: str) -> bool:
    statements, picked = picking(session)
    return bool(session.execute(statements.next_claimable, {**picked, "queue": queue}))


def _record_lost(session: Connection, run: StoredRun, holders: Mapping[int, str]) -> None:
    """Record the attempt of a worker that died, by the run as it was taken over. `holders` are the dead by run."""
    if run.seq in holders:  # the others were released, which is recorded
        ended = attempt_params(run, run.attempt - 1, "lost", holders[run.seq])
        session.execute(session.statements.add_attempt, ended)


def worker_name() -> str:
    """Return the default name of a worker in this process: the host and the process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


class WorkerProtocolMixin(StoreBase):
    """The methods of a store for workers."""

    def open_lease(self, actor: str | None = None, *, lease_s: float = 30.0) -> Lease:
        """Open a lease for a worker, and return it.

        Renew it by `heartbeat` before `lease_s` seconds (0.05 to a day) have passed; once per third of that time is
        usual. `actor` is the name of the worker in histories (the host and process by default). Raises `InvalidRun` for
        wrong arguments.
        """
        name = worker_name() if actor is None else actor
        lease = Lease(new_token(), name, lease_s)
        params = {"worker": lease.token, "name": name, "lease": int(lease_s * 1_000_000)}

        def perform(session: Connection) -> None:
            session.execute(session.statements.open_lease, params)

        return self._transport.execute(InTransaction(perform, lambda _: lease))

    def heartbeat(self, lease: Lease) -> HeartbeatResult:
        """Renew a lease, and return whether it is valid, with the statuses of its runs.

        A lease that has lapsed is not renewed: other workers may already have its runs.
        """
        params = {"worker": lease.token, "lease": int(lease.lease_s * 1_000_000)}

        def perform(session: Connection) -> HeartbeatResult:
            held = session.execute(session.statements.heartbeat, params)
            if not held:
                return HeartbeatResult(held=False, runs={})
            return HeartbeatResult(held=True, runs=_owned(session, lease))

        return self._in_transaction(perform)

    def owned(self, lease: Lease) -> Mapping[int, RunStatus]:
        """Return the statuses of the runs of a lease, by seq."""
        return self._transport.read_for_worker(lambda session: _owned(session, lease))

    def close_lease(self, lease: Lease) -> None:
        """Close a lease. Other workers can take over at once the runs that it still has."""

        def perform(session: Connection) -> None:
            session.execute(session.statements.close_lease, {"worker": lease.token})

        return self._in_transaction(perform)

    def settle_and_claim(
        self,
        lease: Lease,
        outcomes: Iterable[Settle] = (),
        limit: int = 0,
        *,
        queues: Sequence[str] = (DEFAULT_QUEUE,),
        held: Collection[int] | None = None,
        reconcile: bool = False,
        on_claimed: Callable[[Sequence[Claim]], object] | None = None,
    ) -> SettleAndClaimResult:
        """Commit the outcomes of claimed runs, and claim up to `limit` other runs, in one commit.

        This is the whole round trip of a worker, and the fastest way to drain a queue. The result has the claims, and
        the refused outcomes by the seq of their run; a refused outcome does not affect the others. Runs are claimed by
        priority, then oldest first, from the first of the `queues` before the next.

        `held` are the seqs of the other runs that the caller executes, besides those of `outcomes`. With `held`, a lost
        reply does no harm: the request is repeated, and returns what the first one claimed. Without it,
        `OutcomeUnknown` is raised, and runs that may have been claimed wait for the end of the lease. After any
        `StoreError`, pass the same outcomes again with `reconcile=True`. Then outcomes that were committed count as
        settled, and runs of this lease that are in neither `held` nor `outcomes` are returned as claimed.

        `on_claimed` is called with the claims before the result is returned, in the waiting thread or in the event
        loop. A worker that starts its handlers there saves an iteration of the event loop.

        Raises `InvalidRun` for wrong arguments and for an outcome with a wrong event or wrong JSON,
        `StoreUnavailable` and `OutcomeUnknown`.

            result = await store.aio.settle_and_claim(lease, done, limit=100 - len(working), held=working.keys())
        """
        raise_if_invalid(_LIMIT("limit", limit) + queue_names(queues))
        settles = checked_outcomes(outcomes)

        def convert(result: SettleAndClaimResult) -> SettleAndClaimResult:
            if on_claimed is not None:
                on_claimed(result.claims)
            return result

        return self._transport.execute(
            SettleAndClaim(
                lease.token,
                lease.actor,
                convert,
                queues=tuple(queues) if limit else (),
                limit=limit,
                settles=settles,
                held=None if held is None else frozenset(held),
                is_retry=reconcile,
            )
        )

    def claim(self, lease: Lease, limit: int = 1, *, queues: Sequence[str] = (DEFAULT_QUEUE,)) -> list[Claim]:
        """Claim up to `limit` queued runs, by priority, then oldest first, from the first queue before the next."""
        raise_if_invalid(_LIMIT("limit", limit) + queue_names(queues))
        return self._transport.execute(
            SettleAndClaim(
                lease.token, lease.actor, lambda result: list(result.claims), queues=tuple(queues), limit=limit
            )
        )

    def claim_id(self, lease: Lease, run_id: str) -> Claim | None:
        """Claim the run with this id. Return None if it is not queued, or not claimable yet."""
        raise_if_invalid(validators.identifier("run_id", run_id))
        return self._transport.execute(SettleAndClaim(lease.token, lease.actor, _only_claim, limit=1, run_id=run_id))

    def settle(self, lease: Lease, outcomes: Iterable[Settle]) -> SettleAndClaimResult:
        """Commit the outcomes of claimed runs in one commit. The result has the refused ones, by seq.

        If `refused` has an `OutcomeUnknown`, the reply was lost and the lease has ended since: the outcome may still be
        committed. Raises `InvalidRun` for an outcome with a wrong event or wrong JSON.
        """
        return self.settle_and_claim(lease, outcomes)

    def release(self, lease: Lease, run: StoredRun) -> bool:
        """Return a claimed run without an outcome. Its status stays, and the next worker takes it over at once.

        Return False if the lease no longer has the run, or has it by a later claim.
        """
        params = {"seq": run.seq, "version": run.version, "attempt": run.attempt, "worker": lease.token}

        def perform(session: Connection) -> bool:
            if not session.execute(session.statements.release, params):
                return False
            ended = attempt_params(run, run.attempt, "released", lease.actor)
            session.execute(session.statements.add_attempt, ended)
            return True

        return self._transport.execute(InTransaction(perform, change=ALL_CHANGES))

    def take_over(
        self,
        lease: Lease,
        limit: int = 1,
        *,
        queues: Sequence[str] = (DEFAULT_QUEUE,),
        max_attempts: int = DEFAULT_MAX_ATTEMPTS,
        run_id: str | None = None,
        last_attempts: int | None = None,
    ) -> list[Claim]:
        """Take over up to `limit` runs of closed leases, and runs whose retry is due. Their attempt increases by one.

        Their status stays. A due retry is claimed only if it comes before the queued runs of its queue, by priority,
        then oldest first: as many of these as are asked for are left to `claim`.

        Runs whose workers died `max_attempts` times are left to `sweep`, which fails them. `last_attempts` limits how
        many of the runs may be on their last allowed attempt; these come last. None means no such limit. With `run_id`,
        take over only that run.
        """
        raise_if_invalid(_LIMIT("limit", limit) + queue_names(queues) + _LIMIT("max_attempts", max_attempts))
        if last_attempts is not None:
            raise_if_invalid(_LIMIT("last_attempts", last_attempts))
        if run_id is not None:
            raise_if_invalid(validators.identifier("run_id", run_id))

        def take(session: Connection, below: int, most: int) -> list[Row]:
            found: list[Row] = []
            for queue in queues:
                params = {"worker": lease.token, "max_attempts": below, "queue": queue, "id": run_id}
                if len(found) < most:
                    found += execute_sweep(session, "take_over", {**params, "limit": most - len(found)})
            return found

        def perform(session: Connection) -> Any:
            found = _claim_retries(session, lease, limit, queues, run_id)
            left = limit - len(found)
            holders: dict[int, str] = dict(map(tuple, session.execute(session.statements.holders, {})))
            if last_attempts is None or max_attempts < 2:
                orphans = take(session, max_attempts, left)
            else:
                orphans = take(session, max_attempts - 1, left)
                orphans += take(session, max_attempts, min(last_attempts, left - len(orphans)))
            for row in orphans:
                _record_lost(session, decode_claimed(row), holders)
            found += orphans
            return found, resume_data_of(session, found), {}, ()

        return self._transport.execute(
            InTransaction(perform, lambda raw: list(decode_settle_and_claim(raw).claims), is_idempotent=False)
        )

    def save_checkpoint(
        self,
        lease: Lease,
        run: StoredRun,
        *,
        checkpoint: Checkpoint | None = None,
        usage: Usage | None = None,
        progress: str | None = None,
    ) -> bool:
        """Save the checkpoint, the used tokens or the progress text of a claimed run. Return whether they were saved.

        The next attempt continues with them. Values of None are not changed, and `usage` never decreases. Return False
        if the lease no longer has the run, or has it by a later claim. Raises `InvalidRun` for wrong values.
        """
        return self._transport.execute(save_checkpoint_command(lease, run, checkpoint, usage, progress))

    def is_anything_due(self) -> bool:
        """Return whether a sweep would find something to do. This is a cheap query."""
        return self._transport.read_for_worker(
            lambda session: bool(session.execute(session.statements.anything_due, {})[0][0])
        )

    def sweep(
        self, *, max_attempts: int = DEFAULT_MAX_ATTEMPTS, actor: str = _SWEEPER, limit: int = _SWEEP_MOST
    ) -> SweepResult:
        """Do the work that is due by now, for at most `limit` runs of each kind. Any process may call this at any time.

        Runs past their deadline expire. Lapsed leases are closed. Of their runs, cancelling ones are cancelled, those
        whose workers died `max_attempts` times fail, and the others wait to be taken over. Runs become claimable if
        their `not_before` has passed or their thread has become free. Raises `InvalidRun` for wrong arguments.
        """
        raise_if_invalid(
            _LIMIT("max_attempts", max_attempts) + validators.identifier("actor", actor) + _LIMIT("limit", limit)
        )
        times = "once" if max_attempts == 1 else f"{max_attempts} times"
        last_error = LastError("server_error", f"the worker of the run died {times}")
        spent = codec.json_text(last_error)
        swept = {"actor": actor, "limit": limit}

        def perform(session: Connection) -> SweepResult:
            speak = session.statements

            def ids(name: str, params: Mapping[str, Any]) -> tuple[str, ...]:
                return tuple(row[0] for row in execute_sweep(session, name, params))

            lapsed = len(session.execute(speak.close_expired_leases, {}))
            return SweepResult(
                expired=ids("expire_due", {**swept, "grace": _GRACE_US}),
                failed=ids("fail_exhausted", {**swept, "max_attempts": max_attempts, "last_error": spent}),
                cancelled=ids("confirm_lapsed", swept),
                promoted=ids("promote_ready", {"limit": limit}),
                expired_leases=lapsed,
                orphaned=session.execute(speak.orphaned, {})[0][0],
                retries=session.execute(speak.retries, {})[0][0],
            )

        return self._transport.execute(InTransaction(perform, change=ALL_CHANGES))

    def overdue(self, queue: str = DEFAULT_QUEUE, after_s: float = 30.0, *, limit: int = _SWEEP_MOST) -> list[str]:
        """Return the ids of runs that have waited for a worker for `after_s` seconds, or whose worker has died."""
        raise_if_invalid(
            validators.indexed_identifier("queue", queue) + _AGE("after_s", after_s) + _LIMIT("limit", limit)
        )
        params = {"queue": queue, "age": int(after_s * 1_000_000), "limit": limit}
        return self._transport.read(
            lambda session: [row[0] for row in session.execute(session.statements.overdue, params)]
        )

    def prune(self, older_than_s: float, *, limit: int = 1000, dry_run: bool = False) -> int:
        """Delete up to `limit` runs that ended more than `older_than_s` seconds ago, with their histories.

        Return how many were deleted. With `dry_run`, delete nothing, and return how many such runs there are. Live runs
        are never deleted. Worker sessions that ended a day ago are deleted as well.
        """
        raise_if_invalid(_AGE("older_than_s", older_than_s) + _LIMIT("limit", limit))
        params = {"age": int(older_than_s * 1_000_000)}

        def perform(session: Connection) -> int:
            speak = session.statements
            if dry_run:
                count: int = session.execute(speak.prunable, params)[0][0]
                return count
            session.execute(speak.forget_leases, {"age": _FORGET_SESSIONS_US})
            return len(execute_sweep(session, "prune", {**params, "limit": limit}))

        return self._in_transaction(perform)
