"""The execution of retries: a run waits without a worker, and the attempt is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Final

import attrs

from runstate.lifecycle import RUN_LIFECYCLE, RunEvent
from runstate.lifecycle.errors import RunstateError
from runstate.store._engine.execute_create import first_row
from runstate.store._engine.row_by_row import require_refused_row
from runstate.store._engine.saving import checkpoint_params
from runstate.store._sql.connection import Connection, Params
from runstate.store._sql.rows import decode_run, lease_of
from runstate.store._types import StoredRun
from runstate.store._worker_types import RetryRequest, Settle
from runstate.store.errors import StoreError

__all__ = ["attempt_params", "execute_retries"]

_CANCELLING: Final = RUN_LIFECYCLE.target_of(RunEvent.REQUEST_CANCEL)


def attempt_params(
    run: StoredRun,
    attempt: int,
    result: str,
    actor: str | None,
    *,
    error: str | None = None,
    next_at: int | None = None,
    ended_at: int | None = None,
) -> Params:
    """Return the parameters of the statement that records an attempt. It ends now without `ended_at`."""
    told = {"result": result, "actor": actor, "error": error, "next_at": next_at, "ended_at": ended_at}
    return {"seq": run.seq, "attempt": attempt, **told}


def execute_retries(
    session: Connection, worker: int, actor: str, settles: Sequence[Settle]
) -> tuple[set[int], list[Settle], dict[int, RunstateError]]:
    """Let the runs with a retry wait for it. Return their seqs, the outcomes of the others, and the refusals by seq.

    A run that cannot wait ends instead: it is cancelled if a cancel was requested, and fails if the retry would come
    after its deadline.
    """
    waiting: set[int] = set()
    ending: list[Settle] = []
    refused: dict[int, RunstateError] = {}
    for settle in settles:
        if settle.retry is None:
            ending.append(settle)
            continue
        try:
            with session.savepoint() if session.row_by_row else nullcontext():
                is_waiting = _wait(session, worker, actor, settle, settle.retry)
        except StoreError as error:
            if not session.row_by_row:
                raise
            require_refused_row(session, error)
            refused[settle.run.seq] = error
            continue
        if is_waiting:
            waiting.add(settle.run.seq)
        elif (outcome := _ending(session, worker, settle)) is not None:
            ending.append(outcome)
    return waiting, ending, refused


def _wait(session: Connection, worker: int, actor: str, settle: Settle, retry: RetryRequest) -> bool:
    """Let a run wait. Return False if the worker does not hold it, or if it must end."""
    run, speak = settle.run, session.statements
    if settle.noted is not None:  # while the worker still has the run
        session.execute(speak.save_checkpoint, checkpoint_params(worker, run, usage=settle.noted))
    held: dict[str, Any] = {"seq": run.seq, "version": run.version, "attempt": run.attempt, "worker": worker}
    wait = {"after": retry.after_us, "failures": int(retry.is_failure)}
    row = first_row(session.execute(speak.wait_for_retry, {**held, **wait}))
    if row is None:
        return False
    times = {"next_at": row[0], "ended_at": row[0] - retry.after_us}
    params = attempt_params(run, run.attempt, "retry", actor, error=retry.error, **times)
    session.execute(speak.add_attempt, params)
    return True


def _ending(session: Connection, worker: int, settle: Settle) -> Settle | None:
    """Return the outcome of a run that cannot wait, or None if the worker does not hold it.

    A lease that had ended when the run was to wait may hold at the next statement: a heartbeat under way renews it. So
    a run fails only because of its deadline, which no other request moves.
    """
    run, retry = settle.run, settle.retry
    row = first_row(session.execute(session.statements.by_seq, {"seq": run.seq}))
    if row is None or retry is None or lease_of(row) != worker:
        return None
    current = decode_run(row)
    if current.status is _CANCELLING:
        return Settle(run, RunEvent.CONFIRM_CANCEL, settle.usage)
    now_us: int = session.execute(session.statements.moment, {})[0][0]
    deadline = current.expires_at  # a live run has one
    is_late = deadline is not None and now_us + retry.after_us >= deadline * 1_000_000
    return attrs.evolve(settle, noted=None) if is_late else None
