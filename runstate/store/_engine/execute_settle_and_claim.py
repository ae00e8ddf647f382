"""A worker's turn: what it brings is settled, what it asks for is claimed; after a lost answer both are found out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

from runstate.lifecycle import RUN_LIFECYCLE, RunEvent
from runstate.lifecycle.errors import RunstateError
from runstate.run.values import NO_USAGE, Usage
from runstate.store._engine.commands import ResumeData, SettleAndClaim, group_by_outcome
from runstate.store._engine.execute_create import first_row
from runstate.store._engine.refusals import refused
from runstate.store._sql.connection import Connection, Params
from runstate.store._sql.rows import Row, decode_run, lease_of
from runstate.store._sql.schema import SQLITE
from runstate.store._sql.statements import PAYLOAD
from runstate.store._sqlite.connection import SqliteConnection
from runstate.store._sqlite.settle_and_claim import COMPLETE_ONLY, claim_next, complete_only
from runstate.store._types import Settle, SettleKey, StoredRun
from runstate.store.errors import LeaseLost, OutcomeUnknown, RunNotFound, StoreError

__all__ = ["checkpoint_params", "execute_settle_and_claim", "resume_data_of", "settle_needs_transaction"]


def execute_settle_and_claim(session: Connection, turn: SettleAndClaim[Any]) -> None:
    """Settle what a worker brings, claim what it asks for."""
    statements = session.statements
    settles, groups = turn.settles, turn.groups
    refused_ones: dict[int, RunstateError] = {}
    claimed: list[Row] = []
    if turn.is_retry:
        settles, refused_ones, claimed = _reconcile(session, turn)
        groups = group_by_outcome(settles)
    owner = {"worker": turn.worker, "actor": turn.actor}
    for settle in _with_checkpoint(groups):
        session.execute(statements.save_checkpoint, checkpoint_params(turn.worker, settle.run, usage=settle.noted))
    if statements.dialect is not SQLITE and len(groups) > 1:
        keys = [settle.run.seq for settle in settles]
        held = session.execute(statements.lock_runs, {"keys": keys, "worker": turn.worker})
        session.execute(statements.lock_threads, {"keys": [row[0] for row in held]})
    limit = max(0, turn.limit - len(claimed))
    queues = list(turn.queues)
    together = statements.dialect is not SQLITE and groups and queues and limit and turn.run_id is None
    claim = {"queue": queues.pop(0), "limit": limit} if together else None
    settled = _settle(session, owner, groups, claim, claimed)
    if turn.run_id is not None:
        if not claimed:
            claimed += session.execute(statements.claim_id, {**owner, "id": turn.run_id})
        if not claimed and turn.is_retry:
            claimed += _claimed_before(session, turn)  # by a request that the server was at until a moment ago
    else:
        for queue in queues:
            left = turn.limit - len(claimed)
            if left > 0:
                claimed += _claim(session, {**owner, "queue": queue, "limit": left})
    try:
        turn.set_result((claimed, *_read_results(session, turn, settles, settled, claimed, refused_ones)))
    except StoreError as error:
        if not (session.owned and (settled or claimed)):
            raise
        # Outside a transaction these are committed by now: asked again as if they were not, they would be refused.
        raise OutcomeUnknown(str(error)) from error


def _read_results(
    session: Connection,
    turn: SettleAndClaim[Any],
    settles: Sequence[Settle],
    settled: set[int],
    claimed: Sequence[Row],
    refused_ones: dict[int, RunstateError],
) -> tuple[Mapping[int, ResumeData], Mapping[int, RunstateError]]:
    """Return what claimed runs bring along, and why the outcomes that were not settled are refused, by seq."""
    for settle in settles if len(settled) < len(settles) else ():
        refusal = None if settle.run.seq in settled else _refusal(session, turn, settle, _row_of(session, settle))
        if refusal is not None:
            refused_ones[settle.run.seq] = refusal
    worked_on = claimed if turn.is_retry else [row for row in claimed if row[1] > 2 or row[11] > 1]
    return resume_data_of(session, worked_on) if worked_on else {}, refused_ones


def _settle(
    session: Connection,
    owner: Params,
    groups: Sequence[tuple[SettleKey, Sequence[Settle]]],
    claim: Params | None,
    claimed: list[Row],
) -> set[int]:
    """Commit outcomes, the last group in one statement with a claim if one is asked; return the seqs of the settled."""
    statements = session.statements
    settled: set[int] = set()
    for place, (outcome, group) in enumerate(groups, start=1):
        if isinstance(session, SqliteConnection) and outcome == COMPLETE_ONLY:
            settled |= complete_only(session, owner, group)
            continue
        laden = outcome[1]
        values = session.bind_rows(statements.settle_columns(laden), _settle_rows(group, laden))
        if claim is not None and place == len(groups):
            found = session.execute(statements.settle_and_claim[outcome], {**owner, **values, **claim})
            settled |= {row[1] for row in found if row[0] == 0}
            claimed += [row[1:] for row in found if row[0] == 1]
        else:
            settled |= {row[0] for row in session.execute(statements.settle[outcome], {**owner, **values})}
    return settled


def _claim(session: Connection, params: Params) -> Sequence[Row]:
    if isinstance(session, SqliteConnection):
        return claim_next(session, params)
    return session.execute(session.statements.claim, params)


def settle_needs_transaction(turn: SettleAndClaim[Any]) -> bool:
    """Tell whether a turn takes more than one statement that writes."""
    several = turn.held is None and len(turn.queues) > 1  # a worker finds out what it got of the first
    return several or len(turn.groups) > 1 or bool(_with_checkpoint(turn.groups))


def _with_checkpoint(groups: Sequence[tuple[SettleKey, Sequence[Settle]]]) -> Sequence[Settle]:
    """Return the settles by which something is to be remembered: they are among the laden ones."""
    return [settle for (_, laden), group in groups if laden for settle in group if settle.noted is not None]


def _settle_rows(group: Sequence[Settle], laden: bool) -> list[Row]:
    """Return the values of `settle_columns`. Ends hold their threads, in the order in which everybody does."""
    group = sorted(group, key=_BY_THREAD)
    if not laden:
        return [(settle.run.seq, settle.usage, settle.run.version) for settle in group]
    return [(settle.run.seq, settle.usage, settle.run.version, *_CARRIED(settle)) for settle in group]


_BY_THREAD: Final = attrgetter("run.thread_id")
_CARRIED: Final = attrgetter(*PAYLOAD)


def checkpoint_params(
    worker: int,
    run: StoredRun,
    *,
    checkpoint: str | None = None,
    usage: Usage | None = None,
    progress: str | None = None,
) -> Params:
    """Return the parameters of a note of a run as it was claimed."""
    spent = usage or NO_USAGE
    held = {"seq": run.seq, "version": run.version, "worker": worker}
    return {
        **held,
        "checkpoint": checkpoint,
        "progress": progress,
        "prompt": spent.prompt_tokens,
        "completion": spent.completion_tokens,
    }


def _row_of(session: Connection, settle: Settle) -> Row | None:
    return first_row(session.execute(session.statements.by_seq, {"seq": settle.run.seq}))


def _refusal(session: Connection, turn: SettleAndClaim[Any], settle: Settle, row: Row | None) -> RunstateError | None:
    """Return why an outcome was not taken; None if it was, by the first request of a turn that is asked again.

    `row` is the run's, read before this: the server may have been at the first request until a moment ago.
    """
    if turn.is_retry and _settled_by_lease(session, turn, settle):
        return None
    if row is None:
        return RunNotFound(settle.run.id)
    run = decode_run(row)
    held = lease_of(row) == turn.worker
    if RUN_LIFECYCLE.is_terminal(run.status) or (held and RUN_LIFECYCLE.find(run.status, settle.event) is None):
        return refused(run, settle.event)
    if held and turn.is_retry and _is_same_claim(run, settle):
        # The first request may have begun while the lease held, and wait in the server for a lock.
        return OutcomeUnknown(
            f"run {run.id} was asked to {settle.event}, and the answer was lost; the lease has ended since, so "
            "it may still be done, or not"
        )
    return LeaseLost(run, settle.event)


def resume_data_of(session: Connection, claimed: Sequence[Row]) -> dict[int, ResumeData]:
    """Return what runs that were worked on before bring along, by seq."""
    found: dict[int, ResumeData] = {}
    # The row of a run that was taken over, or found to be claimed before, says when it was started.
    at = session.execute(session.statements.moment, {})[0][0] if claimed else None
    for row in claimed:
        seq = row[0]
        # The entry before the start, where that is a submit: a start is the last entry, also after a take-over.
        submitted = first_row(session.execute(session.statements.submitted, {"run": seq, "version": row[1] - 1}))
        notes = first_row(session.execute(session.statements.notes, {"run": seq})) or (None, 0, 0)
        found[seq] = ResumeData(notes[0], notes[1], notes[2], None if submitted is None else submitted[0], at)
    return found


def _reconcile(
    session: Connection, turn: SettleAndClaim[Any]
) -> tuple[list[Settle], dict[int, RunstateError], list[Row]]:
    """Find out what became of a turn whose answer was lost: what is still to settle, and what it had claimed."""
    again: list[Settle] = []
    refused_ones: dict[int, RunstateError] = {}
    for settle in turn.settles:
        row = _row_of(session, settle)
        run = None if row is None else decode_run(row)
        # The turn may have settled it, and claimed it again: then it is not what was brought that is still to settle.
        if row is not None and run is not None and lease_of(row) == turn.worker and _is_same_claim(run, settle):
            again.append(settle)
            continue
        refusal = _refusal(session, turn, settle, row)
        if refusal is not None:
            refused_ones[settle.run.seq] = refusal
    known = {settle.run.seq for settle in again}.union(turn.held or ())
    return again, refused_ones, [row for row in _claimed_before(session, turn) if row[0] not in known]


def _claimed_before(session: Connection, turn: SettleAndClaim[Any]) -> Sequence[Row]:
    """Return the runs of a turn's worker; of one that asks for a certain run, this run alone."""
    mine = session.execute(session.statements.owned, {"worker": turn.worker})
    return mine if turn.held is not None else [row for row in mine if row[2] == turn.run_id]


def _is_same_claim(run: StoredRun, settle: Settle) -> bool:
    """Tell what the condition `Leases.same_claim` does."""
    return run.version <= settle.run.version + 1


def _settled_by_lease(session: Connection, turn: SettleAndClaim[Any], settle: Settle) -> bool:
    """Tell whether an entry shows that this worker settled the run so.

    It is the next one but for a wish to cancel, and made under its lease: another worker may have the same name.
    """
    params = {"run": settle.run.seq, "version": settle.run.version, "worker": turn.worker}
    after = session.execute(session.statements.entries_after, params)
    ended = next((entry for entry in after if entry[0] != RunEvent.REQUEST_CANCEL), None)
    return ended == (settle.event, turn.actor)
