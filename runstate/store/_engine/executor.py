"""The executor: it executes a batch of commands by a few statements, and sets the result of each command.

A statement returns the runs that it moved. For each other run the row is read, and shows why: the table of transitions,
a version, a repeated request. Another process may have moved the run between the two statements; then the move is tried
again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from runstate.lifecycle import RUN_LIFECYCLE, RunEvent
from runstate.lifecycle.errors import RunstateError
from runstate.run.errors import ToolOutputsMismatch
from runstate.store._engine.commands import Command, CreateRuns, InTransaction, SettleAndClaim, TransitionRun
from runstate.store._engine.execute_create import create_needs_transaction, execute_create, first_row
from runstate.store._engine.execute_settle_and_claim import execute_settle_and_claim, settle_needs_transaction
from runstate.store._engine.refusals import refused, too_late
from runstate.store._sql.columns import MOVE_COLUMNS, RUN_COLUMNS, position
from runstate.store._sql.connection import Connection, Trouble
from runstate.store._sql.rows import Row, decode_run
from runstate.store._types import StoredRun
from runstate.store.errors import RunNotFound, StoreError, StoreUnavailable, ThreadBusy, VersionConflict

__all__ = ["ExecutionHook", "execute_batch", "execute_in_transaction", "set_execution_hook"]

_ASKS: Final = 5  # tries, if another process moves the run between two statements
_UNOWNED: Final = frozenset(RUN_LIFECYCLE.sources_of(RunEvent.REQUEST_CANCEL)) - {
    RUN_LIFECYCLE.target_of(RunEvent.START)
}
_ENDS: Final = frozenset(
    event for event in RUN_LIFECYCLE.events if RUN_LIFECYCLE.is_terminal(RUN_LIFECYCLE.target_of(event))
)
_CANCELLED: Final = (RUN_LIFECYCLE.target_of(RunEvent.REQUEST_CANCEL), RUN_LIFECYCLE.target_of(RunEvent.CONFIRM_CANCEL))


_ID: Final = position(RUN_COLUMNS, "id")
_SOURCE: Final = position(RUN_COLUMNS, "source")
_WORKER: Final = position(RUN_COLUMNS, "worker")
_ATTEMPT: Final = position(RUN_COLUMNS, "attempt")
_Other: TypeAlias = InTransaction[Any] | SettleAndClaim[Any]
_Kinds: TypeAlias = tuple[list[CreateRuns[Any]], list[TransitionRun], list[_Other]]
ExecutionHook: TypeAlias = Callable[[Connection, Sequence[Command[Any]]], None]
"""Executes a batch in a transaction, by `execute_in_transaction`, and can read what was written."""

_hook: ExecutionHook | None = None


def set_execution_hook(witness: ExecutionHook | None) -> ExecutionHook | None:
    """Let all stores of this process execute their batches by `witness`, which may count them; None for no hook.

    Return the previous hook, to restore it later.
    """
    global _hook
    before, _hook = _hook, witness
    return before


def execute_batch(session: Connection, batch: Sequence[Command[Any]]) -> None:
    """Execute all commands of a batch, and set the result of each. Raises `StoreError` if the database fails.

    If the database refuses a row that a single command was to write, the command is executed again row by row.
    """
    try:
        _execute_batch(session, batch)
    except StoreError:
        if session.trouble is not Trouble.ROW_REFUSED or not _moves_many(batch):
            raise
        batch[0].reset()
        session.trouble, session.row_by_row = None, True
        try:
            _execute_batch(session, batch)
        finally:
            session.row_by_row = False


def _moves_many(batch: Sequence[Command[Any]]) -> bool:
    """Return whether a batch is a single command that can move several runs which the caller does not name."""
    return len(batch) == 1 and isinstance(batch[0], InTransaction | SettleAndClaim)


def _execute_batch(session: Connection, batch: Sequence[Command[Any]]) -> None:
    if _hook is not None:
        _hook(session, batch)
        return
    creates, moves, others = _by_kind(batch)
    # All or none: if one fails, the commands are repeated one by one, and must not have been executed before.
    several = len(others) + len(moves) + bool(creates) > 1
    parted = any(map(_move_needs_transaction, moves)) or any(map(create_needs_transaction, creates))
    parted = parted or any(map(_needs_transaction, others))
    with session.transaction() if several or parted or session.row_by_row else session.atomic_if_needed():
        _execute(session, creates, moves, others)


def _move_needs_transaction(move: TransitionRun) -> bool:
    return move.event is RunEvent.REQUEST_CANCEL or _reads_tokens(move)


def _reads_tokens(move: TransitionRun) -> bool:
    """Return whether a move ends a run with the tokens that its worker has saved."""
    return move.usage is None and move.event in _ENDS


def _needs_transaction(other: _Other) -> bool:
    return not other.one_statement if isinstance(other, InTransaction) else settle_needs_transaction(other)


def execute_in_transaction(session: Connection, batch: Sequence[Command[Any]]) -> None:
    """Execute all commands of a batch in the current transaction."""
    _execute(session, *_by_kind(batch))


def _by_kind(batch: Sequence[Command[Any]]) -> _Kinds:
    return (
        [command for command in batch if isinstance(command, CreateRuns)],
        [command for command in batch if isinstance(command, TransitionRun)],
        [command for command in batch if isinstance(command, InTransaction | SettleAndClaim)],
    )


def _execute(
    session: Connection,
    creates: Sequence[CreateRuns[Any]],
    moves: Sequence[TransitionRun],
    others: Sequence[_Other],
) -> None:
    if creates:
        execute_create(session, creates)
    if moves:
        _move(session, moves)
    for other in others:  # in order: save a checkpoint before its run is settled, and settle before the lease is closed
        if isinstance(other, SettleAndClaim):
            execute_settle_and_claim(session, other)
        else:
            other.set_result(other.callback(session))


# --- moves ------------------------------------------------------------------------------------------------------------


def _move(session: Connection, moves: Sequence[TransitionRun]) -> None:
    """Execute moves in waves: no statement has two moves of one run."""
    waiting = list(moves)
    while waiting:
        wave: dict[str, TransitionRun] = {}
        later: list[TransitionRun] = []
        for move in waiting:
            if move.run_id in wave:
                later.append(move)
            else:
                wave[move.run_id] = move
        _move_apart(session, wave)
        waiting = later


def _move_apart(session: Connection, wave: Mapping[str, TransitionRun]) -> None:
    asked: list[tuple[TransitionRun, int | None]] = []
    for move in wave.values():
        if move.outputs is None:
            asked.append((move, move.version))
        else:
            _submit(session, move)
    moved = _run_moves(session, asked)
    idle = [wave[run_id] for run_id, row in moved.items() if _is_idle(wave[run_id], row)]
    if idle:
        values = [(move.run_id, None, move.actor, *(None,) * 5) for move in idle]
        found = session.execute(session.statements.confirm_idle, session.bind_rows(MOVE_COLUMNS, values))
        moved.update({row[_ID]: row for row in found})
    for move, _ in asked:
        row = moved.get(move.run_id)
        if row is None:
            _refuse_or_recognize(session, move)
        else:
            move.set_result(row)


def _run_moves(session: Connection, asked: Sequence[tuple[TransitionRun, int | None]]) -> dict[str, Row]:
    by_event: dict[RunEvent, list[Row]] = {}
    for move, version in asked:
        by_event.setdefault(move.event, []).append(move.row(version))
    moved: dict[str, Row] = {}
    lock = session.statements.lock_held
    if lock is not None and (ends := [move.run_id for move, _ in asked if _reads_tokens(move)]):
        session.execute(lock, {"key": ends})
    for event, values in by_event.items():
        found = session.execute(session.statements.move[event], session.bind_rows(MOVE_COLUMNS, values))
        moved.update({row[_ID]: row for row in found})
    return moved


def _is_idle(move: TransitionRun, row: Row) -> bool:
    """Return whether the move is a cancel request for a run that no worker has.

    A run that waits for a retry has none, either. One that a client has started is that client's, in attempt 0.
    """
    if move.event is not RunEvent.REQUEST_CANCEL:
        return False
    return row[_SOURCE] in _UNOWNED or (row[_WORKER] is None and row[_ATTEMPT] > 0)


def _refuse_or_recognize(session: Connection, move: TransitionRun) -> None:
    """Set the result of a move that its statement did not make: a refusal, or the run if it was made before."""
    for _ in range(_ASKS):
        row = first_row(session.execute(session.statements.by_id, {"id": move.run_id}))
        if row is None:
            move.set_exception(RunNotFound(move.run_id))
            return
        run = decode_run(row)
        if _cancelled_before(session, move, run):
            move.set_result(row)
            return
        if move.version is not None and move.version != run.version:
            move.set_exception(VersionConflict(run, move.event, move.version))
            return
        if RUN_LIFECYCLE.find(run.status, move.event) is None:
            move.set_exception(refused(run, move.event))
            return
        if move.event in RUN_LIFECYCLE.until_deadline and _refuse_late(session, move, run):
            return
        if move.event is RunEvent.START and not run.claimable:
            move.set_exception(_not_ready(session, run))
            return
        moved = _run_moves(session, [(move, move.version)])  # another process moved it to a status that allows this
        if moved:
            move.set_result(moved[move.run_id])
            return
    move.set_exception(StoreUnavailable(f"run {move.run_id} changes too fast, so {move.event} was not applied"))


def _refuse_late(session: Connection, move: TransitionRun, run: StoredRun) -> bool:
    """Refuse a move that is allowed only before the deadline, if the deadline has passed. Expire the run first.

    In a caller's own transaction the run is not expired, because the caller may roll the transaction back.
    """
    if not session.owned:
        late = first_row(session.execute(session.statements.is_late, {"id": run.id}))
        if late is None or not late[0]:
            return False
        move.set_exception(too_late(run, move.event))
        return True
    detail = json.dumps({"asked": move.event, "expires_at": run.expires_at}, separators=(",", ":"))
    expiry = TransitionRun(run.id, RunEvent.EXPIRE, actor=move.actor, version=run.version, detail=detail)
    params = session.bind_rows(MOVE_COLUMNS, [expiry.row(run.version)])
    expired = first_row(session.execute(session.statements.expire_late, params))
    if expired is None:
        return False
    move.set_exception(refused(decode_run(expired), move.event))
    return True


def _not_ready(session: Connection, run: StoredRun) -> RunstateError:
    """Return the error for a queued run that may not be started yet."""
    head = first_row(session.execute(session.statements.waits_behind, {"run": run.seq}))
    if head is not None:
        return ThreadBusy(run.thread_id, head[0])
    return StoreError(f"run {run.id} is {run.status} and not ready: its `not_before` has not come, so it cannot start")


def _cancelled_before(session: Connection, move: TransitionRun, run: StoredRun) -> bool:
    """Return whether the same cancel request was granted before, and its reply was lost.

    For a repeated command only the history decides, because the run may have ended since.
    """
    if move.event is not RunEvent.REQUEST_CANCEL or not (move.is_retry or run.status in _CANCELLED):
        return False
    for version, actor, _ in session.execute(session.statements.latest, {"run": run.seq, "event": move.event}):
        return bool(actor == move.actor and move.version in (None, version - 1))
    return False


def _submit(session: Connection, move: TransitionRun) -> None:
    """Submit outputs, if they are for exactly the calls that the run waits for at the version from which it moves."""
    for _ in range(_ASKS):
        row = first_row(session.execute(session.statements.by_id, {"id": move.run_id}))
        if row is None:
            move.set_exception(RunNotFound(move.run_id))
            return
        run = decode_run(row)
        refused_for = _why_not_submitted(move, run)
        moved = {} if refused_for is not None else _run_moves(session, [(move, run.version)])
        if moved:
            move.set_result(moved[move.run_id])
            return
        again = move.is_retry or run.required_action is None
        if again and _submitted_before(session, move, run):
            move.set_result(row)
            return
        takes_outputs = refused_for is None or isinstance(refused_for, ToolOutputsMismatch)
        if takes_outputs and _refuse_late(session, move, run):
            return
        if refused_for is not None:
            move.set_exception(refused_for)
            return
    move.set_exception(StoreUnavailable(f"run {move.run_id} changes too fast, so {move.event} was not applied"))


def _why_not_submitted(move: TransitionRun, run: StoredRun) -> RunstateError | None:
    """Return the error if the run in its current state does not accept these outputs; None if it does."""
    action, outputs = run.required_action, move.outputs or {}
    if move.version not in (None, run.version):
        return VersionConflict(run, move.event, move.version or 0)
    if action is None:
        return refused(run, move.event)
    if outputs.keys() != action.id_set:
        return ToolOutputsMismatch(run.id, action.call_ids, tuple(outputs))
    return None


def _submitted_before(session: Connection, move: TransitionRun, run: StoredRun) -> bool:
    """Return whether the same outputs were the last that were submitted."""
    found = session.execute(session.statements.latest, {"run": run.seq, "event": RunEvent.SUBMIT_TOOL_OUTPUTS})
    if not found:
        return False
    version, _, detail = found[0]
    before = json.loads(detail or "{}").get("tool_outputs")
    return bool(before == move.outputs and move.version in (None, version - 1))
