"""Settle and claim on PostgreSQL: the last group of outcomes and the first claim are one statement."""

from __future__ import annotations

from collections.abc import Sequence

from runstate.store._sql.connection import Connection, Groups, Params
from runstate.store._sql.picking import picking
from runstate.store._sql.rows import Row
from runstate.store._sql.settle import settle_group, settle_params

__all__ = ["settle_and_claim"]


def settle_and_claim(
    session: Connection,
    owner: Params,
    groups: Groups,
    queues: Sequence[str],
    limit: int,
    only: int | None = None,
) -> tuple[set[int], list[Row]]:
    """Commit outcomes and claim runs. Return the seqs of the settled runs, and the rows of the claimed ones."""
    statements, picked = picking(session, only)
    settled: set[int] = set()
    claimed: list[Row] = []
    waiting = list(queues) if limit else []
    if len(groups) > 1:
        _lock(session, owner, groups)
    for outcome, group in groups[:-1]:
        settled |= settle_group(session, owner, outcome, group)
    if groups and waiting:
        outcome, group = groups[-1]
        params = {**owner, **settle_params(session, outcome, group), "queue": waiting.pop(0), "limit": limit, **picked}
        for is_claim, *row in session.execute(statements.settle_and_claim[outcome], params):
            if is_claim:
                claimed.append(row)
            else:
                settled.add(row[0])
    elif groups:
        settled |= settle_group(session, owner, *groups[-1])
    for queue in waiting:
        left = limit - len(claimed)
        if left > 0:
            claimed += session.execute(statements.claim, {**owner, "queue": queue, "limit": left, **picked})
    return settled, claimed


def _lock(session: Connection, owner: Params, groups: Groups) -> None:
    """Lock the runs that several statements settle, then their threads, in the same order in all transactions."""
    keys = [settle.run.seq for _, group in groups for settle in group]
    held = session.execute(session.statements.lock_runs, {"keys": keys, "worker": owner["worker"]})
    session.execute(session.statements.lock_threads, {"keys": [seq for (seq,) in held]})
