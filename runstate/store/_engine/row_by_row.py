"""Claims and sweeps one run at a time: a run whose row cannot be written must not stop the others.

A statement that moves many runs fails as a whole if the database refuses one row of them: a guard, or a key of the
history, because the history is ahead of the row. Then the same request is executed again in this way. A run that is
refused by itself is skipped by this process for a minute, and logged. Nothing about it is stored.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from runstate.lifecycle.errors import RunstateError
from runstate.store._engine.commands import SettleAndClaim
from runstate.store._sql.connection import Connection, Groups, Params, Trouble
from runstate.store._sql.picking import picking
from runstate.store._sql.rows import Row
from runstate.store._sql.skipped import SKIP_S
from runstate.store._worker_types import Settle
from runstate.store.errors import StoreError

__all__ = ["execute_sweep", "require_refused_row", "settle_and_claim_row_by_row"]

_log: Final = logging.getLogger("runstate.store")

_MOST_REFUSED: Final = 500  # runs of one request: it must not delay other requests
_MOST_LOGGED: Final = 20
_MOVED: Final[Mapping[str, str]] = {
    "claim": "claimed",
    "expire_due": "expired",
    "fail_exhausted": "failed",
    "confirm_lapsed": "cancelled",
    "take_over": "taken over",
    "claim_retries": "claimed for their retry",
    "promote_ready": "made claimable",
    "prune": "deleted",
}
"""What each statement does to a run."""


def execute_sweep(session: Connection, name: str, params: Params) -> Sequence[Row]:
    """Execute a statement that moves up to `limit` runs which it finds itself. Return its rows.

    If the caller asks for one run by its `id`, the run is not skipped: the caller gets the error.
    """
    if params.get("id") is not None:
        only_this: str = getattr(session.statements, name)
        return session.execute(only_this, params)

    def execute(only: int | None, limit: int) -> Sequence[Row]:
        statements, picked = picking(session, only)
        statement: str = getattr(statements, name)
        if name == "expire_due" and statements.lock_due is not None:
            session.execute(statements.lock_due, {**params, **picked, "limit": limit})
        return session.execute(statement, {**params, **picked, "limit": limit})

    limit: int = params["limit"]
    return _row_by_row(session, name, params, limit, execute) if session.row_by_row else execute(None, limit)


def settle_and_claim_row_by_row(
    session: Connection,
    turn: SettleAndClaim[Any],
    owner: Params,
    groups: Groups,
    save_checkpoint: Callable[[Settle], object],
    limit: int,
) -> tuple[set[int], list[Row], dict[int, RunstateError]]:
    """Commit outcomes and claim runs. Return the seqs of the settled runs, the claimed rows, and refusals by seq."""
    settled: set[int] = set()
    refused: dict[int, RunstateError] = {}
    for outcome, group in groups:
        for settle in group:
            try:
                with session.savepoint():
                    save_checkpoint(settle)
                    settled |= session.settle_and_claim(owner, [(outcome, [settle])], (), 0)[0]
            except StoreError as error:
                require_refused_row(session, error)
                refused[settle.run.seq] = error
    claimed: list[Row] = []
    for queue in turn.queues:

        def claim(only: int | None, most: int, queue: str = queue) -> Sequence[Row]:
            return session.settle_and_claim(owner, (), (queue,), most, only=only)[1]

        params = {**owner, "queue": queue}
        claimed += _row_by_row(session, "claim", params, limit - len(claimed), claim)
    return settled, claimed, refused


def _row_by_row(
    session: Connection, name: str, params: Params, limit: int, execute: Callable[[int | None, int], Sequence[Row]]
) -> list[Row]:
    """Move up to `limit` runs one by one, and skip those that are refused."""
    moved: list[Row] = []
    refused = 0
    while len(moved) < limit and refused < _MOST_REFUSED:
        statements, picked = picking(session)
        found = session.execute(statements.candidates[name], {**params, **picked, "limit": limit - len(moved)})
        before = len(moved) + refused
        for seq, run_id in found:
            try:
                with session.savepoint():
                    moved += execute(seq, 1)
            except StoreError as error:
                require_refused_row(session, error)
                session.skipped.add(seq)
                refused += 1
                if refused <= _MOST_LOGGED:
                    reason = f"{_reason(error)}; skipping it for {SKIP_S:g} s"
                    _log.warning("run %s cannot be %s: %s (see `runstate doctor`)", run_id, _MOVED[name], reason)
        if before == len(moved) + refused:  # there are no more, or other transactions are moving them
            break
    if refused > _MOST_LOGGED:
        _log.warning("%d more runs cannot be %s (see `runstate doctor`)", refused - _MOST_LOGGED, _MOVED[name])
    return moved


def require_refused_row(session: Connection, error: StoreError) -> None:
    """Raise an error again, unless it is about the row that was to be written."""
    if session.trouble is not Trouble.ROW_REFUSED:
        raise error
    session.trouble = None


def _reason(error: StoreError) -> str:
    """Return what the database said, without its address."""
    told = str(error.__cause__ or error).splitlines()
    return told[0] if told else type(error).__name__
