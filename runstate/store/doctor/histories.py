"""Runs that no legal history can have left: rows and histories that contradict the table of transitions or each other.

All runs are examined, some thousands per statement, so that no statement holds a snapshot for long and progress can be
shown. SQL gets a list of the legal field patterns of each status; only other runs are read and judged here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

from runstate.lifecycle import INITIAL_STATUS, RUN_LIFECYCLE, RunStatus
from runstate.lifecycle.errors import RunstateError
from runstate.run import validators
from runstate.store._sql.connection import Connection
from runstate.store._sql.queries import Queries
from runstate.store._sql.rows import Row, decode_run
from runstate.store._sql.triggers.conditions import LEGAL
from runstate.store.doctor.diagnosis import Progress, Sheet
from runstate.traces import field_patterns, judge

__all__ = ["examine_histories"]

_BATCH: Final = 20_000  # runs per statement
_MOST: Final = 1000  # rows that a statement returns: enough to show that a batch is broken
_FIELDS: Final = (
    *("started_at", "cancelled_at", "failed_at", "completed_at"),
    *("expires_at", "required_action", "last_error", "incomplete_details", "usage"),
)
_Range: TypeAlias = Mapping[str, int]

_WRONG: Final = {
    "birth": "run {id} has a first entry that is not its creation: {event} from {source} to {target}",
    "gap": "run {id} has a gap in its history before version {version}",
    "illegal": "run {id} has an entry that is not in the table of transitions, at version {version}: {event} from"
    " {source} to {target}",
    "chain": "run {id} has an entry that begins where the one before did not end, at version {version}: {event} from"
    " {source}, but the run was {stood}",
    "time": "run {id} has an entry that is older than the one before it, at version {version}",
}
_AHEAD: Final = (
    "find out who wrote past the guards; restore the run from a backup, or delete its entries after version {version}"
    " as the owner of the tables, with their triggers disabled"
)
_REPAIRABLE: Final = (
    "insert the entry, as docs/store.md shows: the row has all its values. A TEMP trigger of SQLite can leave this; no"
    " other legal write does"
)
_BY_HAND: Final = "no legal write leaves this: find out who wrote past the guards, and restore the run from a backup"


def _range(speak: Queries, column: str) -> str:
    # Needed for every table of a join: PostgreSQL does not derive it from the equality of the columns.
    return f"{column} > {speak.param('low')} AND {column} <= {speak.param('high')}"


def _entries(speak: Queries) -> str:
    """Return the statement that finds the entries that cannot legally follow the entry before, in a range of runs."""
    move = "coalesce(h.event || ' ' || h.source || ' ' || h.target, '')"
    birth = f"h.version = 1 AND h.event IS NULL AND h.source IS NULL AND h.target = '{INITIAL_STATUS}'"
    follows = f"h.version = p.version + 1 AND h.source = p.target AND h.at_us >= p.at_us AND {move} IN ({LEGAL})"
    return f"""\
SELECT h.run, h.version, h.event, h.source, h.target, p.target, r.id, CASE
        WHEN h.version = 1 THEN 'birth'
        WHEN p.run IS NULL THEN 'gap'
        WHEN {move} NOT IN ({LEGAL}) THEN 'illegal'
        WHEN h.source <> p.target THEN 'chain'
        ELSE 'time' END
    FROM runstate_history AS h
        LEFT JOIN runstate_history AS p ON p.run = h.run AND p.version = h.version - 1 AND {_range(speak, "p.run")}
        LEFT JOIN runstate_run AS r ON r.seq = h.run AND {_range(speak, "r.seq")}
    WHERE {_range(speak, "h.run")} AND NOT coalesce({birth} OR ({follows}), false)
    ORDER BY h.run, h.version LIMIT {_MOST}"""


def _beyond(speak: Queries) -> str:
    """Return the statement that finds the histories that have more entries than their run, or no run."""
    return f"""\
SELECT h.run, min(h.version), r.id, r.version, r.status
    FROM runstate_history AS h LEFT JOIN runstate_run AS r ON r.seq = h.run AND {_range(speak, "r.seq")}
    WHERE {_range(speak, "h.run")} AND (r.seq IS NULL OR h.version > r.version)
    GROUP BY h.run, r.id, r.version, r.status ORDER BY h.run LIMIT {_MOST}"""


def _rows(speak: Queries) -> str:
    """Return the statement that finds rows that differ from their last entry, or have an impossible field pattern."""
    same = speak.dialect.null_safe_eq
    differs = " OR ".join(
        f"NOT h.{entry} {same} r.{row}"
        for entry, row in (("target", "status"), ("event", "event"), ("source", "source"), ("at_us", "changed_at_us"))
    )
    present = " || ".join(f"CASE WHEN r.{name} IS NULL THEN '0' ELSE '1' END" for name in _FIELDS)
    times = " OR ".join(f"r.{name} < r.created_at" for name in _FIELDS[:5])
    return f"""\
SELECT f.* FROM (
    SELECT r.seq, r.id, r.status, r.version, h.target, h.event, h.run IS NULL AS lacks, ({differs}) AS differs,
        (r.status || ' ' || {present} NOT IN ({_shapes()}) OR coalesce({times}, false)) AS odd
    FROM runstate_run AS r LEFT JOIN runstate_history AS h
        ON h.run = r.seq AND h.version = r.version AND {_range(speak, "h.run")}
    WHERE {_range(speak, "r.seq")}) AS f
WHERE f.differs OR f.odd ORDER BY f.seq LIMIT {_MOST}"""


def _shapes() -> str:
    """Return the legal field patterns in the form that `_rows` compares, as a list of SQL literals."""
    spelled = sorted(
        f"{shape.status} {''.join('1' if name in shape.present else '0' for name in _FIELDS)}"
        for shape in field_patterns()
    )
    return ", ".join(f"'{one}'" for one in spelled)


def _ranges(session: Connection) -> Iterator[tuple[_Range, int]]:
    """Yield ranges of seqs that together include all runs, and how many runs are in each."""
    speak = session.statements
    next_some = (
        f"SELECT max(seq), count(*) FROM (SELECT seq FROM runstate_run WHERE seq > {speak.param('low')}"
        f" ORDER BY seq LIMIT {_BATCH}) AS b"
    )
    low = -validators.INT64_MAX
    while True:
        ((high, count),) = session.execute(next_some, {"low": low})
        if count < _BATCH:
            yield {"low": low, "high": validators.INT64_MAX}, count
            return
        yield {"low": low, "high": high}, count
        low = high


def examine_histories(session: Connection, sheet: Sheet, newest: int, progress: Progress) -> tuple[int, int]:
    """Add a finding for every broken run. Return how many runs and entries were examined."""
    speak = session.statements
    (runs, entries) = (
        session.execute(f"SELECT count(*) FROM runstate_{name}", {})[0][0] for name in ("run", "history")
    )
    find_entries, find_beyond, find_rows = _entries(speak), _beyond(speak), _rows(speak)
    seen = 0
    for limits, count in _ranges(session):
        for row in session.execute(find_entries, limits):
            _note_entry(sheet, row)
        for row in session.execute(find_beyond, limits):
            _note_beyond(sheet, row)
        for row in session.execute(find_rows, limits):
            _note_row(session, sheet, row)
        seen += count
        progress("histories", seen, max(runs, seen))
    _judge_newest(session, sheet, newest, progress)
    return max(runs, seen), entries


def _note_entry(sheet: Sheet, row: Row) -> None:
    run, version, event, source, target, stood, run_id, fault = row
    told = {"version": version, "event": event, "source": source, "target": target, "stood": stood}
    sentence = _WRONG[fault].format(id=run_id or f"number {run}", **told)
    sheet.add("error", "broken", sentence, _BY_HAND, run_id=run_id)


def _note_beyond(sheet: Sheet, row: Row) -> None:
    run, version, run_id, stands, status = row
    remedy = _BY_HAND
    if run_id is None:
        sentence = f"run number {run} has a history, but there is no such run"
    else:
        sentence = f"run {run_id} is at version {stands}, but its history continues with version {version}"
        if not RUN_LIFECYCLE.is_terminal(RunStatus(status)):
            sentence += f": it stays {status}, because no worker can claim or settle it, and no sweep can end it"
            remedy = _AHEAD.format(version=stands)
    sheet.add("error", "broken", sentence, remedy, run_id=run_id)


def _note_row(session: Connection, sheet: Sheet, row: Row) -> None:
    seq, run_id, status, version, target, event, lacks, differs, odd = row
    if lacks:
        sentence = f"run {run_id} is {status} at version {version}, but its history has no such entry"
        sheet.add("error", "broken", sentence, _REPAIRABLE, run_id=run_id)
    elif differs:
        sentence = f"run {run_id} is {status}, but the last entry of its history is {event or 'creation'} to {target}"
        if target == status:
            sentence = f"run {run_id} is {status}, but the last entry of its history has another move or time"
        sheet.add("error", "broken", sentence, _BY_HAND, run_id=run_id)
    if odd:
        for whole in session.execute(session.statements.by_seq, {"seq": seq}):
            _judge(sheet, whole)


def _judge_newest(session: Connection, sheet: Sheet, newest: int, progress: Progress) -> None:
    """Read and judge the newest runs completely: only that finds errors inside of values."""
    speak = session.statements
    whole = f"SELECT {speak.columns} FROM runstate_run AS r ORDER BY r.seq DESC LIMIT {speak.param('limit')}"
    found = session.execute(whole, {"limit": newest})
    told = {finding.run_id for finding in sheet.findings() if finding.what == "implausible"}
    for row in found:
        if row[1] not in told:
            _judge(sheet, row)
    progress("newest runs", len(found), len(found))


def _judge(sheet: Sheet, row: Row) -> None:
    run_id: Any = row[1]
    try:
        run = decode_run(row)
        found = judge(run)
    except (RunstateError, ValueError, LookupError, TypeError, AttributeError) as error:
        told = str(error) or type(error).__name__
        sheet.add("error", "implausible", f"run {run_id} cannot be read: {told}", _BY_HAND, run_id=str(run_id))
        return
    for finding in found:
        remedy = _BY_HAND if finding.severity == "error" else finding.hint
        sheet.add(finding.severity, "implausible", f"run {run_id}: {finding.message}", remedy, run_id=run_id)
