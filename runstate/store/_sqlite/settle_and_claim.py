"""Settle and claim on SQLite. Its transactions are exclusive: no run is moved between two of their statements.

So a statement need not return the rows that it changed. Each row of a RETURNING costs one step, which releases the
interpreter lock and waits for it again, while the event loop's thread computes. Here settle and claim takes a handful
of steps for any number of runs. The lease is checked once, and the claimed rows come as one JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Final, Protocol

from runstate.clock import time_us
from runstate.lifecycle import RUN_LIFECYCLE, RunEvent
from runstate.store._sql.columns import CLAIMED_COLUMNS
from runstate.store._sql.connection import Connection, Groups, Params
from runstate.store._sql.dialect import SQLITE
from runstate.store._sql.picking import picking
from runstate.store._sql.queries import Picks
from runstate.store._sql.rows import Row
from runstate.store._sql.settle import settle_group
from runstate.store._sql.statements import Statements
from runstate.store._worker_types import Settle

__all__ = ["claimable", "settle_and_claim"]

_SQL: Final = Statements(SQLITE)
_DONE: Final = RunEvent.COMPLETE
_COMPLETE_ONLY: Final = (_DONE, False)
"""The outcome of most runs: completed, with the used tokens only."""

_STARTED: Final = RUN_LIFECYCLE.target_of(RunEvent.START)
_AT: Final = "max(changed_at_us, :now)"
_EACH: Final = ("key", "used", "version", "attempt")
_AMONG: Final = "r.seq IN (SELECT value FROM json_each(:seqs))"
# A run is completed once, and every completion writes an entry. So the last completions of these runs are the new ones.
_COMPLETED: Final = (
    "SELECT run FROM runstate_history WHERE run IN (SELECT value FROM json_each(:seqs))"
    f" AND event = '{_DONE}' ORDER BY id DESC LIMIT :some"
)


class _CountingConnection(Connection, Protocol):
    """A connection with the number of rows that a statement has changed."""

    def change(self, statement: str, params: Params) -> int:
        """Execute a statement without a result; return how many rows it changed."""
        ...


def settle_and_claim(
    session: _CountingConnection,
    owner: Params,
    groups: Groups,
    queues: Sequence[str],
    limit: int,
    only: int | None = None,
) -> tuple[set[int], list[Row]]:
    """Commit outcomes and claim runs. Return the seqs of the settled runs, and the rows of the claimed ones."""
    settled: set[int] = set()
    for outcome, group in groups:
        if outcome == _COMPLETE_ONLY:
            settled |= _complete_only(session, owner, group)
        else:
            settled |= settle_group(session, owner, outcome, group)
    claimed: list[Row] = []
    for queue in queues:
        left = limit - len(claimed)
        if left > 0:
            claimed += _claim(session, {**owner, "queue": queue, "limit": left}, only)
    return settled, claimed


def _complete_only(session: _CountingConnection, owner: Params, settles: Sequence[Settle]) -> set[int]:
    """Complete those runs of such outcomes that the worker still holds. Return their seqs."""
    seqs = [settle.run.seq for settle in settles]
    params = {**owner, "seqs": json.dumps(seqs)}
    kinds = {(settle.usage, settle.run.version, settle.run.attempt) for settle in settles}
    if len(kinds) == 1:
        ((usage, version, attempt),) = kinds
        alike = {"usage": usage, "version": version, "attempt": attempt}
        changed = session.change(_completing(alike=True), {**params, **alike})
    else:
        each = json.dumps(
            [(settle.run.seq, settle.usage, settle.run.version, settle.run.attempt) for settle in settles]
        )
        changed = session.change(_completing(alike=False), {**owner, "each": each})
    if changed == len(seqs):
        return set(seqs)
    return {row[0] for row in session.execute(_COMPLETED, {**params, "some": changed})}


@cache
def _completing(*, alike: bool) -> str:
    """Return the statement that completes runs: those of `seqs`, which are alike but for their seq, or those of `each`.

    (SQLite first puts the rows of a FROM into a temporary table.) Fields that are null in progress are not set to null.
    """
    used = ":usage" if alike else "v.used"
    start = f"UPDATE runstate_run AS r SET {_SQL.set_clause(_DONE, actor=':actor', params={'usage': used}, now=':now')}"
    same = _SQL.same_claim(":version", ":attempt") if alike else _SQL.same_claim("v.version", "v.attempt")
    held = f"+r.worker = :worker AND {same} AND {_SQL.in_legal_source(_DONE)} AND {_SQL.leased(':now')}"
    if alike:
        return f"{start} WHERE {_AMONG} AND {held}"
    names = ", ".join(f"json_extract(value, '$[{place}]') AS {name}" for place, name in enumerate(_EACH))
    return f"{start} FROM (SELECT {names} FROM json_each(:each)) AS v WHERE r.seq = v.key AND {held}"


def _claim(session: _CountingConnection, params: Params, only: int | None) -> Sequence[Row]:
    """Claim up to `limit` queued runs of a queue; return the rows for `rows.decode_claimed`."""
    statements, picked = picking(session, only)
    params = {**params, "now": time_us()}  # the same time in both statements
    ((found, seqs),) = session.execute(claimable(statements.picks), {**params, **picked})
    if seqs == "[]":
        return ()
    session.change(_CLAIMING, {**params, "seqs": seqs})
    rows: list[Row] = json.loads(found)
    return rows


@cache
def claimable(picks: Picks = Picks.ALL) -> str:
    """Return the query for the rows of a claim, as they will be after it, and for their seqs."""
    after = {
        "version": "version + 1",
        "status": f"'{_STARTED}'",
        "changed_at_us": _AT,
        "attempt": "1",
        "lost": "0",
        "failed": "0",
        "started_at": f"{_AT} / 1000000",
        "actor": ":actor",
    }
    *names, config = CLAIMED_COLUMNS
    columns = [after.get(name, name) for name in names]
    columns.append(f"(SELECT {config} FROM runstate_run_config AS s WHERE s.id = r.id)")
    picked = Statements(SQLITE, picks).picking(*names, now=":now")
    return f"SELECT json_group_array(json_array({', '.join(columns)})), json_group_array(seq) FROM ({picked}) AS r"


_CLAIMING: Final = (
    "UPDATE runstate_run AS r"
    f" SET {_SQL.set_clause(RunEvent.START, actor=':actor', worker=':worker', params={}, now=':now')} WHERE {_AMONG}"
)
