"""How a batch of commands becomes a few statements, and how each command gets its own answer.

A statement gives back what it moved. For what it did not move, the row is read and says why: the law, a version, a
lease, a repeated request. Between the two another process may have moved the run on; then it is asked again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from runstate.errors import (
    Conflict,
    IllegalTransition,
    LeaseLost,
    RunNotFound,
    RunstateError,
    StoreError,
    StoreUnavailable,
    ThreadBusy,
    ToolOutputsMismatch,
)
from runstate.lifecycle import LAW, RunEvent
from runstate.store.birth import create, in_parts, one
from runstate.store.commands import Call, Command, Create, Move, Past, Settle, Turn
from runstate.store.rows import Row, read_run, worker_of
from runstate.store.session import Given, Session
from runstate.store.sqlite import SqliteSession
from runstate.store.statements import MOVE_COLUMNS, Outcome
from runstate.store.tables import SQLITE
from runstate.store.turns_sqlite import PLAIN, claim_next, complete_plain
from runstate.stored import StoredRun
from runstate.values import NO_USAGE, Usage

__all__ = ["Witness", "bear_witness", "execute", "note_given", "past_of", "perform", "refused"]

_ASKS: Final = 5  # how often a run that moves on under our eyes is asked again
_IDLE: Final = frozenset(LAW.sources_of(RunEvent.REQUEST_CANCEL)) - {LAW.target_of(RunEvent.START)}
_CANCELLED: Final = (LAW.target_of(RunEvent.REQUEST_CANCEL), LAW.target_of(RunEvent.CONFIRM_CANCEL))


Witness: TypeAlias = Callable[[Session, Sequence[Command[Any]]], None]
"""Performs a batch in a transaction, by `execute`, and looks at what was written."""

_witness: Witness | None = None


def bear_witness(witness: Witness | None) -> None:
    """Let all stores of this process perform by way of `witness`, for who counts what is asked; None for nobody."""
    global _witness
    _witness = witness


def perform(session: Session, batch: Sequence[Command[Any]]) -> None:
    """Execute all commands of a batch, and note each one's answer. Raises `StoreError` if the database fails."""
    if _witness is not None:
        _witness(session, batch)
        return
    creates = [command for command in batch if isinstance(command, Create)]
    moves = [command for command in batch if isinstance(command, Move)]
    turns = [command for command in batch if isinstance(command, Turn)]
    calls = [command for command in batch if isinstance(command, Call)]
    asked = {move.event for move in moves}
    several = len(turns) + len(calls) + bool(creates) + len(asked) > 1
    parted = any(move.event is RunEvent.REQUEST_CANCEL for move in moves) or any(map(in_parts, creates))
    parted = parted or any(map(_is_parted, turns))
    with session.transaction() if several or parted or calls else session.together():
        _execute(session, creates, moves, calls, turns)


def execute(session: Session, batch: Sequence[Command[Any]]) -> None:
    """Execute all commands of a batch in the transaction that is under way."""
    _execute(
        session,
        [command for command in batch if isinstance(command, Create)],
        [command for command in batch if isinstance(command, Move)],
        [command for command in batch if isinstance(command, Call)],
        [command for command in batch if isinstance(command, Turn)],
    )


def _execute(
    session: Session,
    creates: Sequence[Create[Any]],
    moves: Sequence[Move],
    calls: Sequence[Call[Any]],
    turns: Sequence[Turn[Any]],
) -> None:
    if creates:
        create(session, creates)
    if moves:
        _move(session, moves)
    for call in calls:  # what a handler noted, before its run is settled
        call.answer(call.perform(session))
    for turn in turns:
        _turn(session, turn)


# --- moves ------------------------------------------------------------------------------------------------------------


def _move(session: Session, moves: Sequence[Move]) -> None:
    """Execute moves in waves: no two of the same run in one statement."""
    waiting = list(moves)
    while waiting:
        wave: dict[str, Move] = {}
        later: list[Move] = []
        for move in waiting:
            if move.run_id in wave:
                later.append(move)
            else:
                wave[move.run_id] = move
        _move_apart(session, wave)
        waiting = later


def _move_apart(session: Session, wave: Mapping[str, Move]) -> None:
    asked: list[tuple[Move, int | None]] = []
    for move in wave.values():
        if move.outputs is None:
            asked.append((move, move.version))
        else:
            _submit(session, move)
    moved = _run_moves(session, asked)
    idle = [wave[run_id] for run_id, row in moved.items() if _is_idle(wave[run_id], row)]
    if idle:
        values = [(move.run_id, None, move.actor, *(None,) * 5) for move in idle]
        found = session.run(session.statements.confirm_idle, session.table(MOVE_COLUMNS, values))
        moved.update({row[1]: row for row in found})
    for move, _ in asked:
        row = moved.get(move.run_id)
        if row is None:
            _explain(session, move)
        else:
            move.answer(row)


def _run_moves(session: Session, asked: Iterable[tuple[Move, int | None]]) -> dict[str, Row]:
    by_event: dict[RunEvent, list[Row]] = {}
    for move, version in asked:
        by_event.setdefault(move.event, []).append(move.row(version))
    moved: dict[str, Row] = {}
    for event, values in by_event.items():
        found = session.run(session.statements.move[event], session.table(MOVE_COLUMNS, values))
        moved.update({row[1]: row for row in found})
    return moved


def _is_idle(move: Move, row: Row) -> bool:
    """Tell whether a cancel was asked of a run that nobody works on."""
    return move.event is RunEvent.REQUEST_CANCEL and row[9] in _IDLE


def _explain(session: Session, move: Move) -> None:
    """Refuse a move that its statement did not make, or answer it where it was made before."""
    for _ in range(_ASKS):
        row = one(session.run(session.statements.by_id, {"id": move.run_id}))
        if row is None:
            move.refuse(RunNotFound(move.run_id))
            return
        run = read_run(row)
        if _cancelled_before(session, move, run):
            move.answer(row)
            return
        if move.version is not None and move.version != run.version:
            move.refuse(Conflict(run, move.event, move.version))
            return
        if LAW.find(run.status, move.event) is None:
            move.refuse(refused(run, move.event))
            return
        if move.event is RunEvent.START and not run.ready:
            move.refuse(_not_ready(session, run))
            return
        moved = _run_moves(session, [(move, move.version)])  # it moved on in the meantime, to where this is allowed
        if moved:
            move.answer(moved[move.run_id])
            return
    move.refuse(StoreUnavailable(f"run {move.run_id} changes faster than it can be asked to {move.event}"))


def refused(run: StoredRun, event: RunEvent) -> IllegalTransition:
    """Return the refusal of the law, with the run as it stands."""
    error = LAW.refusal(run.id, run.status, event)
    error.args = (*error.args, run)
    return error


def _not_ready(session: Session, run: StoredRun) -> RunstateError:
    """Return why a queued run may not be started yet."""
    head = one(session.run(session.statements.waits_behind, {"run": run.seq}))
    if head is not None:
        return ThreadBusy(run.thread_id, head[0])
    return StoreError(f"run {run.id} is {run.status} and not ready: its `not_before` has not come, so it cannot start")


def _cancelled_before(session: Session, move: Move, run: StoredRun) -> bool:
    """Tell whether this very request to cancel was granted before, and only its answer was lost."""
    if move.event is not RunEvent.REQUEST_CANCEL or run.status not in _CANCELLED:
        return False
    found = session.run(session.statements.latest, {"run": run.seq, "event": RunEvent.REQUEST_CANCEL})
    (version, actor, _) = found[0]
    return bool(actor == move.actor and move.version in (None, version - 1))


def _submit(session: Session, move: Move) -> None:
    """Submit outputs, if they are for exactly the calls that the run waits for at the version it is moved from."""
    for _ in range(_ASKS):
        row = one(session.run(session.statements.by_id, {"id": move.run_id}))
        if row is None:
            move.refuse(RunNotFound(move.run_id))
            return
        run = read_run(row)
        action = run.required_action
        if action is None:
            if _submitted_before(session, move, run):
                move.answer(row)
            elif move.version not in (None, run.version):
                move.refuse(Conflict(run, move.event, move.version or 0))
            else:
                move.refuse(refused(run, move.event))
            return
        if move.version not in (None, run.version):
            move.refuse(Conflict(run, move.event, move.version or 0))
            return
        outputs = move.outputs or {}
        if outputs.keys() != action.id_set:
            move.refuse(ToolOutputsMismatch(run.id, action.call_ids, tuple(outputs)))
            return
        moved = _run_moves(session, [(move, run.version)])
        if moved:
            move.answer(moved[move.run_id])
            return
    move.refuse(StoreUnavailable(f"run {move.run_id} changes faster than it can be asked to {move.event}"))


def _submitted_before(session: Session, move: Move, run: StoredRun) -> bool:
    """Tell whether these very outputs were the last to be submitted."""
    found = session.run(session.statements.latest, {"run": run.seq, "event": RunEvent.SUBMIT_TOOL_OUTPUTS})
    if not found:
        return False
    version, _, detail = found[0]
    before = json.loads(detail or "{}").get("tool_outputs")
    return bool(before == move.outputs and move.version in (None, version - 1))


# --- work -------------------------------------------------------------------------------------------------------------


def _turn(session: Session, turn: Turn[Any]) -> None:
    """Settle what a worker brings, claim what it asks for."""
    statements = session.statements
    settles = turn.settles
    refused_ones: dict[int, RunstateError] = {}
    claimed: list[Row] = []
    if turn.unsure:
        settles, refused_ones, claimed = _reconcile(session, turn)
    owner = {"worker": turn.worker, "actor": turn.actor}
    for settle in settles:
        if settle.noted is not None:
            session.run(statements.note, note_given(turn.worker, settle.run.seq, usage=settle.noted))
    groups = _by_outcome(settles)
    if statements.words is not SQLITE and len(groups) > 1:
        keys = [settle.run.seq for settle in settles]
        held = session.run(statements.hold_runs, {"keys": keys, "worker": turn.worker})
        session.run(statements.hold_threads, {"keys": [row[0] for row in held]})
    limit = max(0, turn.limit - len(claimed))
    queues = list(turn.queues)
    together = statements.words is not SQLITE and groups and queues and limit and turn.run_id is None
    claim = {"queue": queues.pop(0), "limit": limit} if together else None
    settled = _settle(session, owner, groups, claim, claimed)
    if turn.run_id is not None:
        if not claimed:
            claimed += session.run(statements.claim_id, {**owner, "id": turn.run_id})
    else:
        for queue in queues:
            left = turn.limit - len(claimed)
            if left > 0:
                claimed += _claim(session, {**owner, "queue": queue, "limit": left})
    for settle in settles:
        if settle.run.seq not in settled:
            refused_ones[settle.run.seq] = _why_not_settled(session, turn, settle)
    worked_on = claimed if turn.unsure else [row for row in claimed if row[1] > 2 or row[11] > 1]
    turn.answer((claimed, past_of(session, worked_on) if worked_on else {}, refused_ones))


def _settle(
    session: Session,
    owner: Given,
    groups: Sequence[tuple[Outcome, Sequence[Settle]]],
    claim: Given | None,
    claimed: list[Row],
) -> set[int]:
    """Commit outcomes, the last group in one statement with a claim if one is asked; return the seqs of the settled."""
    statements = session.statements
    settled: set[int] = set()
    for place, (outcome, group) in enumerate(groups, start=1):
        if isinstance(session, SqliteSession) and outcome == PLAIN:
            settled |= complete_plain(session, owner, group)
            continue
        laden = outcome[1]
        values = session.table(statements.settle_columns(laden), [_settle_row(settle, laden) for settle in group])
        if claim is not None and place == len(groups):
            found = session.run(statements.turn[outcome], {**owner, **values, **claim})
            settled |= {row[1] for row in found if row[0] == 0}
            claimed += [row[1:] for row in found if row[0] == 1]
        else:
            settled |= {row[0] for row in session.run(statements.settle[outcome], {**owner, **values})}
    return settled


def _claim(session: Session, given: Given) -> Sequence[Row]:
    if isinstance(session, SqliteSession):
        return claim_next(session, given)
    return session.run(session.statements.claim, given)


def _is_parted(turn: Turn[Any]) -> bool:
    """Tell whether a turn takes more than one statement besides its claims."""
    return len({settle.outcome for settle in turn.settles}) > 1 or any(settle.noted for settle in turn.settles)


def _by_outcome(settles: Sequence[Settle]) -> list[tuple[Outcome, list[Settle]]]:
    """Return settles that one statement can commit together, the largest lot last."""
    groups: dict[Outcome, list[Settle]] = {}
    for settle in settles:
        groups.setdefault(settle.outcome, []).append(settle)
    for group in groups.values():
        group.sort(key=_thread)  # whose ends hold their threads, in the order in which everybody does
    return sorted(groups.items(), key=lambda item: len(item[1]))


def _thread(settle: Settle) -> str:
    return settle.run.thread_id


def _settle_row(settle: Settle, laden: bool) -> Row:
    if not laden:
        return (settle.run.seq, settle.usage)
    carried = (settle.detail, settle.required_action, settle.last_error, settle.incomplete_details)
    return (settle.run.seq, settle.usage, *carried)


def note_given(
    worker: int, seq: int, *, checkpoint: str | None = None, usage: Usage | None = None, progress: str | None = None
) -> Given:
    """Return the parameters of a note."""
    spent = usage or NO_USAGE
    noted = {"seq": seq, "worker": worker, "checkpoint": checkpoint, "progress": progress}
    return {**noted, "prompt": spent.prompt_tokens, "completion": spent.completion_tokens}


def _why_not_settled(session: Session, turn: Turn[Any], settle: Settle) -> RunstateError:
    row = one(session.run(session.statements.by_seq, {"seq": settle.run.seq}))
    if row is None:
        return RunNotFound(settle.run.id)
    run = read_run(row)
    held = worker_of(row) == turn.worker
    unlawful = LAW.is_terminal(run.status) or (held and LAW.find(run.status, settle.event) is None)
    return refused(run, settle.event) if unlawful else LeaseLost(run, settle.event)


def past_of(session: Session, claimed: Sequence[Row]) -> dict[int, Past]:
    """Return what runs that were worked on before bring along, by seq."""
    found: dict[int, Past] = {}
    # The row of a run that was taken over, or found to be claimed before, says when it was started.
    at = session.run(session.statements.moment, {})[0][0] if claimed else None
    for row in claimed:
        seq = row[0]
        # The entry before the start, where that is a submit: a start is the last entry, also after a take-over.
        submitted = one(session.run(session.statements.submitted, {"run": seq, "version": row[1] - 1}))
        notes = one(session.run(session.statements.notes, {"run": seq})) or (None, 0, 0)
        found[seq] = Past(notes[0], notes[1], notes[2], None if submitted is None else submitted[0], at)
    return found


def _reconcile(session: Session, turn: Turn[Any]) -> tuple[list[Settle], dict[int, RunstateError], list[Row]]:
    """Find out what became of a turn whose answer was lost: what is still to settle, and what it had claimed."""
    again: list[Settle] = []
    refused_ones: dict[int, RunstateError] = {}
    for settle in turn.settles:
        row = one(session.run(session.statements.by_seq, {"seq": settle.run.seq}))
        if row is not None and worker_of(row) == turn.worker:
            again.append(settle)
            continue
        run = None if row is None else read_run(row)
        if run is None or not _is_ours(session, turn, settle):
            refused_ones[settle.run.seq] = _why_not_settled(session, turn, settle)
    mine = session.run(session.statements.owned, {"worker": turn.worker})
    known = {settle.run.seq for settle in turn.settles}.union(turn.held or ())
    if turn.held is None:
        mine = [row for row in mine if row[2] == turn.run_id]
    return again, refused_ones, [row for row in mine if row[0] not in known]


def _is_ours(session: Session, turn: Turn[Any], settle: Settle) -> bool:
    """Tell whether an entry shows that this worker settled the run so. Only its holder could, and it was the holder."""
    started = session.run(session.statements.entries_after, {"run": settle.run.seq, "version": settle.run.version})
    return any(event == settle.event and actor == turn.actor for event, actor in started)
