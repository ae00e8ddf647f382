"""The execution of settle and claim. After a lost reply, it finds out what the first request has done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from runstate.lifecycle import RUN_LIFECYCLE, RunEvent
from runstate.lifecycle.errors import RunstateError
from runstate.store._engine.commands import ResumeData, SettleAndClaim, group_by_outcome
from runstate.store._engine.execute_create import first_row
from runstate.store._engine.execute_retries import execute_retries
from runstate.store._engine.refusals import refused
from runstate.store._engine.row_by_row import settle_and_claim_row_by_row
from runstate.store._engine.saving import checkpoint_params
from runstate.store._sql.columns import CLAIMED_COLUMNS, position
from runstate.store._sql.connection import Connection, Groups
from runstate.store._sql.rows import Row, decode_run, lease_of
from runstate.store._types import StoredRun
from runstate.store._worker_types import Settle
from runstate.store.errors import LeaseLost, OutcomeUnknown, RunNotFound, StoreError

__all__ = ["execute_settle_and_claim", "resume_data_of", "settle_needs_transaction"]


_SEQ: Final = position(CLAIMED_COLUMNS, "seq")
_VERSION: Final = position(CLAIMED_COLUMNS, "version")
_RUN_ID: Final = position(CLAIMED_COLUMNS, "id")
_ATTEMPT: Final = position(CLAIMED_COLUMNS, "attempt")


def execute_settle_and_claim(session: Connection, turn: SettleAndClaim[Any]) -> None:
    """Commit the outcomes of a worker, and claim runs for it."""
    statements = session.statements
    settles, groups = turn.settles, turn.groups
    refused_ones: dict[int, RunstateError] = {}
    claimed: list[Row] = []
    if turn.is_retry:
        settles, refused_ones, claimed = _reconcile(session, turn)
        groups = group_by_outcome(settles)
    waiting: set[int] = set()
    ended_instead: set[int] = set()
    if turn.has_retries:
        waiting, ending, unwritable = execute_retries(session, turn.worker, turn.actor, settles)
        refused_ones |= unwritable
        ended_instead = {settle.run.seq for settle in settles if settle.retry is not None} - waiting
        groups = group_by_outcome(ending)
    owner = {"worker": turn.worker, "actor": turn.actor}
    limit = max(0, turn.limit - len(claimed))

    def save_checkpoint(settle: Settle) -> None:
        session.execute(statements.save_checkpoint, checkpoint_params(turn.worker, settle.run, usage=settle.noted))

    if session.row_by_row:
        settled, found, unwritable = settle_and_claim_row_by_row(session, turn, owner, groups, save_checkpoint, limit)
        refused_ones |= unwritable
    else:
        for settle in _with_checkpoint(groups):
            save_checkpoint(settle)
        settled, found = session.settle_and_claim(owner, groups, turn.queues, limit)
    claimed += found
    if turn.run_id is not None:
        claimed = claimed or list(session.execute(statements.claim_id, {**owner, "id": turn.run_id}))
        if not claimed and turn.is_retry:
            claimed += _claimed_before(session, turn)  # the server may have just finished the first request
    try:
        results = _read_results(session, turn, settles, settled | waiting, claimed, refused_ones)
        turn.set_result((claimed, *results, ended_instead & settled))
    except StoreError as error:
        if not (session.owned and (settled or claimed)):
            raise
        # Outside a transaction these are committed by now: a repetition as a first request would be refused.
        raise OutcomeUnknown(str(error)) from error


def _read_results(
    session: Connection,
    turn: SettleAndClaim[Any],
    settles: Sequence[Settle],
    settled: set[int],
    claimed: Sequence[Row],
    refused_ones: dict[int, RunstateError],
) -> tuple[Mapping[int, ResumeData], Mapping[int, RunstateError]]:
    """Return the resume data of the claimed runs, and the refusals of the outcomes that were not committed, by seq."""
    for settle in settles if len(settled) < len(settles) else ():
        known = settle.run.seq in settled or settle.run.seq in refused_ones
        refusal = None if known else _refusal(session, turn, settle, _row_of(session, settle))
        if refusal is not None:
            refused_ones[settle.run.seq] = refusal
    worked_on = claimed if turn.is_retry else [row for row in claimed if row[_VERSION] > 2 or row[_ATTEMPT] > 1]
    return resume_data_of(session, worked_on) if worked_on else {}, refused_ones


def settle_needs_transaction(turn: SettleAndClaim[Any]) -> bool:
    """Return whether a command needs more than one statement that writes."""
    several = turn.held is None and len(turn.queues) > 1  # with `held`, a worker finds out what it got from the first
    return several or len(turn.groups) > 1 or turn.has_retries or bool(_with_checkpoint(turn.groups))


def _with_checkpoint(groups: Groups) -> Sequence[Settle]:
    """Return the outcomes whose used tokens are to be saved. They are among those with a payload."""
    return [settle for (_, has_payload), group in groups if has_payload for settle in group if settle.noted is not None]


def _row_of(session: Connection, settle: Settle) -> Row | None:
    return first_row(session.execute(session.statements.by_seq, {"seq": settle.run.seq}))


def _refusal(session: Connection, turn: SettleAndClaim[Any], settle: Settle, row: Row | None) -> RunstateError | None:
    """Return why an outcome was not committed; None if the first request of a repeated command has committed it.

    `row` is the row of the run, read before this: the server may have just finished the first request.
    """
    if turn.is_retry and (_settled_by_lease(session, turn, settle) or _waits_or_waited(session, settle)):
        return None
    if row is None:
        return RunNotFound(settle.run.id)
    run = decode_run(row)
    held = lease_of(row) == turn.worker
    if RUN_LIFECYCLE.is_terminal(run.status) or (held and RUN_LIFECYCLE.find(run.status, settle.event) is None):
        return refused(run, settle.event)
    if held and turn.is_retry and _is_same_claim(run, settle):
        # The first request may have begun while the lease was valid, and still wait in the server for a lock.
        return OutcomeUnknown(
            f"the reply to {settle.event} of run {run.id} was lost, and the lease has ended since: "
            "the event may still be applied, or not"
        )
    return LeaseLost(run, settle.event)


def resume_data_of(session: Connection, claimed: Sequence[Row]) -> dict[int, ResumeData]:
    """Return the resume data of runs with earlier attempts, by seq."""
    found: dict[int, ResumeData] = {}
    # The row of a run that was taken over, or was claimed by the first request, has the time of its start.
    at = session.execute(session.statements.moment, {})[0][0] if claimed else None
    for row in claimed:
        seq = row[_SEQ]
        # The entry before the start, if it submitted outputs. The start is the last entry, also after a take-over.
        submitted = first_row(session.execute(session.statements.submitted, {"run": seq, "version": row[_VERSION] - 1}))
        row_beside = first_row(session.execute(session.statements.notes, {"run": seq})) or (None, 0, 0)
        checkpoint, prompt, completion = row_beside
        found[seq] = ResumeData(checkpoint, prompt, completion, None if submitted is None else submitted[0], at)
    return found


def _reconcile(
    session: Connection, turn: SettleAndClaim[Any]
) -> tuple[list[Settle], dict[int, RunstateError], list[Row]]:
    """Find out what a request with a lost reply has done. Return the outcomes left, the refusals, and its claims."""
    again: list[Settle] = []
    refused_ones: dict[int, RunstateError] = {}
    for settle in turn.settles:
        row = _row_of(session, settle)
        run = None if row is None else decode_run(row)
        # The first request may have settled the run and claimed it again: then this outcome is not left.
        if row is not None and run is not None and lease_of(row) == turn.worker and _is_same_claim(run, settle):
            again.append(settle)
            continue
        refusal = _refusal(session, turn, settle, row)
        if refusal is not None:
            refused_ones[settle.run.seq] = refusal
    known = {settle.run.seq for settle in again}.union(turn.held or ())
    return again, refused_ones, [row for row in _claimed_before(session, turn) if row[_SEQ] not in known]


def _claimed_before(session: Connection, turn: SettleAndClaim[Any]) -> Sequence[Row]:
    """Return the runs that the worker holds; only the requested one if the worker does not track them."""
    mine = session.execute(session.statements.owned, {"worker": turn.worker})
    return mine if turn.held is not None else [row for row in mine if row[_RUN_ID] == turn.run_id]


def _is_same_claim(run: StoredRun, settle: Settle) -> bool:
    """Return whether a run is still in the claim of an outcome, like the condition `Leases.same_claim`."""
    return run.version <= settle.run.version + 1 and run.attempt == settle.run.attempt


def _settled_by_lease(session: Connection, turn: SettleAndClaim[Any], settle: Settle) -> bool:
    """Return whether an entry of the history shows that this worker has committed the outcome.

    It is the next entry, apart from a cancel request, and was made under its lease: another worker may have the same
    name.
    """
    params = {"run": settle.run.seq, "version": settle.run.version, "worker": turn.worker}
    after = session.execute(session.statements.entries_after, params)
    ended = next((entry for entry in after if entry[0] != RunEvent.REQUEST_CANCEL), None)
    # A run that was to wait for a retry is cancelled instead if a cancel was requested.
    possible = (settle.event,) if settle.retry is None else (settle.event, RunEvent.CONFIRM_CANCEL)
    return ended is not None and ended[0] in possible and ended[1] == turn.actor


def _waits_or_waited(session: Connection, settle: Settle) -> bool:
    """Return whether the first request has let the run wait for a retry."""
    params = {"run": settle.run.seq, "attempt": settle.run.attempt, "since": settle.run.changed_at_us}
    return settle.retry is not None and bool(session.execute(session.statements.was_retried, params))
