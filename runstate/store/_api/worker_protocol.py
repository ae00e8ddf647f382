"""What a worker asks of a store: a lease, runs to work on, their outcomes committed; and the sweep, which all may ask.

`Worker` and `drive` do all of this. It is public for those who build a loop of their own.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import attrs

from runstate.lifecycle import RunStatus
from runstate.run import codec, validators
from runstate.run.errors import FieldError, InvalidRun
from runstate.run.values import NO_USAGE, LastError, Usage, raise_if_invalid
from runstate.store._api.create import DEFAULT_QUEUE, new_token, queue_names
from runstate.store._engine.commands import (
    InTransaction,
    ResumeData,
    SettleAndClaim,
    SettleAndClaimResult,
    decode_settle_and_claim,
)
from runstate.store._engine.execute_settle_and_claim import checkpoint_params, resume_data_of
from runstate.store._engine.transport import StoreBase
from runstate.store._notifier import ALL_CHANGES
from runstate.store._sql.connection import Connection
from runstate.store._sql.rows import Row
from runstate.store._sql.statements import OUTCOMES
from runstate.store._types import Settle, StoredRun

__all__ = [
    "DEFAULT_MAX_ATTEMPTS",
    "LEASE_S",
    "NO_OUTPUTS",
    "Claim",
    "HeartbeatResult",
    "Lease",
    "SweepResult",
    "WorkerProtocolMixin",
    "identity",
]

DEFAULT_MAX_ATTEMPTS: Final = 3
_SWEEP_MOST: Final = 500  # runs a statement: a sweep must not hold others up
_SWEEPER: Final = "sweep"
_GRACE_US: Final = 500_000
LEASE_S: Final = validators.number(0.05, 86_400)
_LIMIT: Final = validators.integer(least=0)
_AGE: Final = validators.number(0, validators.YEAR_10000)
_OF_OUTCOMES: Final = tuple(event for event, laden in OUTCOMES if laden)
_FORGET_SESSIONS_US: Final = 24 * 3600 * 1_000_000


@attrs.frozen
class Lease:
    """A worker's session: while it is renewed, the runs that carry its token are this worker's."""

    token: int = attrs.field(repr=False)
    """Unguessable; every write to a claimed run is conditional on it."""
    actor: str
    """The worker's name, for histories."""
    lease_s: float

    def __attrs_post_init__(self) -> None:
        raise_if_invalid(validators.identifier("actor", self.actor) + LEASE_S("lease_s", self.lease_s))


@attrs.frozen
class HeartbeatResult:
    """What a heartbeat tells."""

    held: bool
    """Whether the lease still holds. If not, its runs are another's, or will be."""
    runs: Mapping[int, RunStatus]
    """Where its runs stand, by seq: in_progress, or cancelling because somebody asked."""


NO_OUTPUTS: Final[Mapping[str, str]] = MappingProxyType({})


@attrs.frozen
class Claim:
    """A claimed run, and what its handler goes on with."""

    run: StoredRun
    checkpoint: Any = None
    usage: Usage = NO_USAGE
    tool_outputs: Mapping[str, str] = NO_OUTPUTS
    claimed_at_us: int = 0
    """When this worker got it, in Unix microseconds by the database's clock."""


@attrs.frozen
class SweepResult:
    """What a sweep did: the ids of the runs it moved, by what it asked of them."""

    expired: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    cancelled: tuple[str, ...] = ()
    promoted: tuple[str, ...] = ()
    """Runs that may be claimed now: their time has come, or their thread is free."""
    expired_leases: int = 0
    """How many leases were found lapsed, and closed."""
    orphaned: int = 0
    """How many runs wait to be taken over."""

    @property
    def total(self) -> int:
        """How many runs were moved."""
        return len(self.expired) + len(self.failed) + len(self.cancelled)


def decode_claim(run: StoredRun, past: ResumeData | None) -> Claim:
    """Return what a handler goes on with."""
    if past is None:
        return Claim(run, claimed_at_us=run.changed_at_us)
    outputs: Mapping[str, str] = json.loads(past.submitted)["tool_outputs"] if past.submitted else NO_OUTPUTS
    noted = None if past.checkpoint is None else json.loads(past.checkpoint)
    usage = Usage(past.prompt_tokens, past.completion_tokens)
    return Claim(run, noted, usage, outputs, run.changed_at_us if past.at is None else past.at)


def _owned(session: Connection, lease: Lease) -> Mapping[int, RunStatus]:
    found = session.execute(session.statements.owned_statuses, {"worker": lease.token})
    return {seq: RunStatus(status) for seq, status in found}


def _claims(came: SettleAndClaimResult) -> list[Claim]:
    return [decode_claim(run, past) for run, past in came.claimed]


def _only_claim(came: SettleAndClaimResult) -> Claim | None:
    return _claims(came)[0] if came.claimed else None


def identity(came: SettleAndClaimResult) -> SettleAndClaimResult:
    """Return all that came of a turn, for who wants no part of it."""
    return came


def _faults_of_outcome(settle: Settle) -> Iterator[FieldError]:
    if settle.event not in _OF_OUTCOMES:
        yield FieldError("event", f"expected the event of an outcome, got {validators.preview(settle.event)}")
    for field in ("usage", "detail", "required_action", "last_error", "incomplete_details"):
        text: str | None = getattr(settle, field)
        if text is None:
            continue
        try:
            found = json.loads(text, parse_constant=_no_json)
            yield from validators.extra(field, found) if field == "detail" else ()
            if field != "detail":
                codec.decode_field(field, found)
        except InvalidRun as refused:
            yield from refused.errors
        except (TypeError, ValueError, RecursionError):
            yield FieldError(field, "is not JSON")


def _faults_of_note(checkpoint: str | None, progress: str | None) -> tuple[FieldError, ...]:
    faults = () if progress is None else validators.plain_text("progress", progress)
    if checkpoint is not None:
        found = validators.plain_text("checkpoint", checkpoint)
        try:
            json.loads("" if found else checkpoint, parse_constant=_no_json)
        except ValueError:
            found = found or (FieldError("checkpoint", "is not JSON"),)
        faults += found
    return faults


def _no_json(constant: str) -> None:
    raise ValueError(constant)


def worker_name() -> str:
    """Return a name for a worker of this process, for people."""
    return f"{socket.gethostname()}:{os.getpid()}"


class WorkerProtocolMixin(StoreBase):
    """The part of a store that workers use."""

    def open_lease(self, actor: str | None = None, *, lease_s: float = 30.0) -> Lease:
        """Begin a worker's session. It must be renewed by `heartbeat` before `lease_s` seconds are over."""
        name = worker_name() if actor is None else actor
        lease = Lease(new_token(), name, lease_s)
        params = {"worker": lease.token, "name": name, "lease": int(lease_s * 1_000_000)}

        def perform(session: Connection) -> None:
            session.execute(session.statements.open_lease, params)

        return self._transport.execute(InTransaction(perform, lambda _: lease))

    def heartbeat(self, lease: Lease) -> HeartbeatResult:
        """Renew a lease. One that has lapsed is not renewed: its runs may be another's already."""
        params = {"worker": lease.token, "lease": int(lease.lease_s * 1_000_000)}

        def perform(session: Connection) -> HeartbeatResult:
            held = session.execute(session.statements.heartbeat, params)
            if not held:
                return HeartbeatResult(held=False, runs={})
            return HeartbeatResult(held=True, runs=_owned(session, lease))

        return self._in_transaction(perform)

    def owned(self, lease: Lease) -> Mapping[int, RunStatus]:
        """Return where the runs of a lease stand, by seq."""
        return self._transport.read(lambda session: _owned(session, lease))

    def close_lease(self, lease: Lease) -> None:
        """End a worker's session: what it still holds can be taken over at once."""

        def perform(session: Connection) -> None:
            session.execute(session.statements.close_lease, {"worker": lease.token})

        return self._in_transaction(perform)

    def claim(self, lease: Lease, limit: int = 1, *, queues: Sequence[str] = (DEFAULT_QUEUE,)) -> list[Claim]:
        """Start up to `limit` queued runs, by priority, then oldest first; of the first queue before the next."""
        raise_if_invalid(_LIMIT("limit", limit) + queue_names(queues))
        return self._transport.execute(
            SettleAndClaim(lease.token, lease.actor, _claims, queues=tuple(queues), limit=limit)
        )

    def claim_id(self, lease: Lease, run_id: str) -> Claim | None:
        """Start a certain run, if it is queued and ready; None if there is nothing to claim (any more)."""
        raise_if_invalid(validators.identifier("run_id", run_id))
        return self._transport.execute(SettleAndClaim(lease.token, lease.actor, _only_claim, limit=1, run_id=run_id))

    def settle(self, lease: Lease, outcomes: Iterable[Settle]) -> SettleAndClaimResult:
        """Commit the outcomes of claimed runs together. What was refused stands in the answer, by seq.

        `OutcomeUnknown` among the refusals: the answer was lost, and the lease has ended since. The outcome may still
        be committed.

        Raises `InvalidRun` for an outcome whose JSON texts are not what they must be: the run could not be read again.
        """
        settles = tuple(outcomes)
        raise_if_invalid(tuple(fault for settle in settles for fault in _faults_of_outcome(settle)))
        return self._transport.execute(SettleAndClaim(lease.token, lease.actor, identity, settles=settles))

    def release(self, lease: Lease, run: StoredRun) -> bool:
        """Give a claimed run back without an outcome: its status stays, the next worker takes it over at once.

        False if it is held no longer, or by a later claim.
        """
        params = {"seq": run.seq, "version": run.version, "worker": lease.token}

        def perform(session: Connection) -> bool:
            return bool(session.execute(session.statements.release, params))

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
        """Take over up to `limit` runs of lapsed workers: their status stays, their attempt is one more.

        Of runs whose last allowed attempt this is, after others, at most `last_attempts`; None: as of all others.
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
                    found += session.execute(session.statements.take_over, {**params, "limit": most - len(found)})
            return found

        def perform(session: Connection) -> Any:
            if last_attempts is None or max_attempts < 2:
                found = take(session, max_attempts, limit)
            else:
                found = take(session, max_attempts - 1, limit)
                found += take(session, max_attempts, min(last_attempts, limit - len(found)))
            return found, resume_data_of(session, found), {}

        return self._transport.execute(
            InTransaction(perform, lambda raw: _claims(decode_settle_and_claim(raw, lease.actor)), is_idempotent=False)
        )

    def note(
        self,
        lease: Lease,
        run: StoredRun,
        *,
        checkpoint: str | None = None,
        usage: Usage | None = None,
        progress: str | None = None,
    ) -> bool:
        """Keep what a worker notes of a run it holds; False if it holds it no longer, or by a later claim.

        `checkpoint` is JSON text. None leaves what was noted.
        """
        raise_if_invalid(_faults_of_note(checkpoint, progress))
        params = checkpoint_params(lease.token, run, checkpoint=checkpoint, usage=usage, progress=progress)
        return self._in_transaction(lambda session: bool(session.execute(session.statements.save_checkpoint, params)))

    def is_anything_due(self) -> bool:
        """Tell whether a sweep would find something to do: a look that costs next to nothing."""
        return self._transport.read(lambda session: bool(session.execute(session.statements.anything_due, {})[0][0]))

    def sweep(
        self, *, max_attempts: int = DEFAULT_MAX_ATTEMPTS, actor: str = _SWEEPER, limit: int = _SWEEP_MOST
    ) -> SweepResult:
        """Do what time has made due, at most `limit` runs of each kind; any process may ask at any time.

        Runs past their deadline expire. Leases that lapsed are closed; of their runs, those asked to cancel are
        cancelled, those whose attempts are spent fail, the others wait for a worker to take them over. Runs whose
        time has come, or whose thread has become free, get ready.
        """
        raise_if_invalid(
            _LIMIT("max_attempts", max_attempts) + validators.identifier("actor", actor) + _LIMIT("limit", limit)
        )
        last_error = LastError("server_error", f"the run was begun {max_attempts} times, and its worker died")
        spent = codec.json_text(last_error)
        swept = {"actor": actor, "limit": limit}

        def perform(session: Connection) -> SweepResult:
            speak = session.statements

            def ids(statement: str, params: Mapping[str, Any]) -> tuple[str, ...]:
                return tuple(row[0] for row in session.execute(statement, params))

            lapsed = len(session.execute(speak.close_expired_leases, {}))
            return SweepResult(
                expired=ids(speak.expire_due, {**swept, "grace": _GRACE_US}),
                failed=ids(speak.fail_exhausted, {**swept, "max_attempts": max_attempts, "last_error": spent}),
                cancelled=ids(speak.confirm_lapsed, swept),
                promoted=ids(speak.promote_ready, {"limit": limit}),
                expired_leases=lapsed,
                orphaned=session.execute(speak.orphaned, {})[0][0],
            )

        return self._transport.execute(InTransaction(perform, change=ALL_CHANGES))

    def overdue(self, queue: str = DEFAULT_QUEUE, after_s: float = 30.0, *, limit: int = _SWEEP_MOST) -> list[str]:
        """Return the ids of runs that wait for a worker longer than so many seconds, or whose worker has died."""
        raise_if_invalid(
            validators.indexed_identifier("queue", queue) + _AGE("after_s", after_s) + _LIMIT("limit", limit)
        )
        params = {"queue": queue, "age": int(after_s * 1_000_000), "limit": limit}
        return self._transport.read(
            lambda session: [row[0] for row in session.execute(session.statements.overdue, params)]
        )

    def prune(self, older_than_s: float, *, limit: int = 1000, dry_run: bool = False) -> int:
        """Delete up to `limit` runs that ended longer ago than so many seconds, with all that belongs to them.

        Returns how many they were; with `dry_run`, how many there are. Live runs are never deleted.
        """
        raise_if_invalid(_AGE("older_than_s", older_than_s) + _LIMIT("limit", limit))
        params = {"age": int(older_than_s * 1_000_000)}

        def perform(session: Connection) -> int:
            speak = session.statements
            if dry_run:
                count: int = session.execute(speak.prunable, params)[0][0]
                return count
            session.execute(speak.forget_leases, {"age": _FORGET_SESSIONS_US})
            return len(session.execute(speak.prune, {**params, "limit": limit}))

        return self._in_transaction(perform)
