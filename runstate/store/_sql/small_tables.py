"""The states of runs as SQL conditions, and the small tables in which PostgreSQL finds the runs of a state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from runstate.lifecycle import INITIAL_STATUS, RUN_LIFECYCLE, RunEvent, RunStatus
from runstate.store._sql.literals import ENDED, LIVE

__all__ = [
    "CLAIMABLE",
    "COMPLETED",
    "COUNTED",
    "COUNT_TABLE",
    "ENDED_IN_RUNS",
    "ENDED_IN_TABLE",
    "SMALL_TABLES",
    "STARTED",
    "STARTED_BY_WORKER",
    "SUM_UP",
    "TERMINAL",
    "UNUSUAL",
    "WAITS",
    "occupies_thread",
    "problem_rows",
    "small_rows",
    "thread_rows",
    "unpaused",
    "waits_for_retry",
]

TERMINAL: Final = frozenset(status for status in RunStatus if RUN_LIFECYCLE.is_terminal(status))
COMPLETED: Final = RUN_LIFECYCLE.target_of(RunEvent.COMPLETE)

WAITS: Final = f"status = '{INITIAL_STATUS}' AND claimable_at_us IS NULL"
STARTED: Final = RUN_LIFECYCLE.target_of(RunEvent.START)
STARTED_BY_WORKER: Final = f"worker IS NOT NULL AND status = '{STARTED}'"
UNUSUAL: Final = (
    f"status <> '{COMPLETED}' AND status <> '{INITIAL_STATUS}' AND (status <> '{STARTED}' OR worker IS NULL)"
)
CLAIMABLE: Final = f"status = '{INITIAL_STATUS}' AND claimable_at_us IS NOT NULL"


def unpaused(queue: str) -> str:
    """Return the condition that the queue of a row is not paused."""
    return f"{queue} NOT IN (SELECT p.queue FROM runstate_pause AS p WHERE p.resumed_at_us IS NULL)"


def waits_for_retry(row: str = "") -> str:
    """Return the condition that the handler of a row is to be called again, at `claimable_at_us`.

    The row is named by an alias and a dot. (A run that was started by hand has no worker either, and attempt 0.)
    """
    return f"{row}status = '{STARTED}' AND {row}worker IS NULL AND {row}attempt > 0"


def occupies_thread(row: str = "") -> str:
    """Return the condition that a row, named by an alias and a dot, is the one live run that its thread may have."""
    queued_behind = f"{row}thread_policy = 'queue' AND {row}claimable_at_us IS NOT NULL"
    return f"{row}status IN ({LIVE}) AND ({row}thread_policy = 'reject' OR ({queued_behind}))"


class _SmallTable(NamedTuple):
    """A table of PostgreSQL's, and the runs that have a row in it."""

    name: str
    columns: str
    values: str
    """The values of these columns, of the columns of a run."""
    condition: str

    def select(self, rows: str) -> str:
        """Return the query of what the table holds, if these were all runs."""
        return f"SELECT {self.values} FROM {rows} WHERE {self.condition}"

    def insert(self, rows: str, schema: str = "") -> str:
        """Return the statement that inserts the rows of these runs."""
        return f"INSERT INTO {schema}{self.name} ({self.columns}) {self.select(rows)}"

    @property
    def differences(self) -> str:
        """The query of the rows that are missing, wrong or left over."""
        there, right = f"SELECT {self.columns} FROM {self.name}", self.select("runstate_run")
        return f"({there} EXCEPT {right}) UNION ALL ({right} EXCEPT {there})"


_IS_HELD: Final = f"worker IS NOT NULL AND status IN ({LIVE})"
_IS_PROBLEM: Final = f"status IN ({ENDED}) AND (status <> '{COMPLETED}' OR attempt > 1)"
# Each live run has a row in one of the first three.
_CLAIMABLE_TABLE: Final = _SmallTable(
    "runstate_claimable",
    "run, queue, priority, expires_at, attempt",
    "seq, queue, priority, expires_at, attempt",
    CLAIMABLE,
)
_HELD_TABLE: Final = _SmallTable(
    "runstate_held", "run, worker, expires_at, attempt, status", "seq, worker, expires_at, attempt, status", _IS_HELD
)
_IDLE_TABLE: Final = _SmallTable(
    "runstate_idle",
    "run, queue, priority, waits, thread_id, not_before_us, expires_at, status, attempt, retry_at_us",
    f"seq, queue, priority, status = '{INITIAL_STATUS}',"
    f" CASE WHEN status = '{INITIAL_STATUS}' AND thread_policy = 'queue' THEN thread_id END, not_before_us, expires_at,"
    f" status, attempt, CASE WHEN {waits_for_retry()} THEN claimable_at_us END",
    f"status IN ({LIVE}) AND NOT ({CLAIMABLE}) AND NOT ({_IS_HELD})",
)
_THREAD_TABLE: Final = _SmallTable("runstate_thread", "thread_id, run", "thread_id, seq", occupies_thread())
_PROBLEM_TABLE: Final = _SmallTable(
    "runstate_problem", "run, status, ended_at_us, attempt", "seq, status, changed_at_us, attempt", _IS_PROBLEM
)
SMALL_TABLES: Final = (_CLAIMABLE_TABLE, _HELD_TABLE, _IDLE_TABLE, _THREAD_TABLE, _PROBLEM_TABLE)


def small_rows(rows: str, schema: str = "") -> Sequence[str]:
    """Return PostgreSQL's statements that insert the small rows of the live runs among some rows."""
    return [table.insert(rows, schema) for table in (_CLAIMABLE_TABLE, _HELD_TABLE, _IDLE_TABLE)]


def thread_rows(rows: str, schema: str = "") -> str:
    """Return PostgreSQL's statement that inserts the rows of the threads which live runs occupy."""
    return _THREAD_TABLE.insert(rows, schema)


def problem_rows(rows: str, schema: str = "") -> str:
    """Return PostgreSQL's statement that inserts the rows of the runs among some rows that ended with a problem."""
    return _PROBLEM_TABLE.insert(rows, schema)


COUNT_TABLE: Final = "runstate_count"
COUNTED: Final = (
    "SELECT status, sum(runs)::bigint AS runs FROM ("
    f"SELECT '{INITIAL_STATUS}' AS status, count(*) AS runs FROM runstate_claimable"
    " UNION ALL SELECT status, count(*) FROM runstate_held GROUP BY status"
    " UNION ALL SELECT status, count(*) FROM runstate_idle GROUP BY status"
    f" UNION ALL SELECT status, runs FROM {COUNT_TABLE}) AS c GROUP BY status"
)
"""PostgreSQL's query of the statuses, and of how many runs are in each."""
ENDED_IN_TABLE: Final = f"SELECT status, sum(runs)::bigint FROM {COUNT_TABLE} GROUP BY status HAVING sum(runs) <> 0"
ENDED_IN_RUNS: Final = f"SELECT status, count(*) FROM runstate_run WHERE status IN ({ENDED}) GROUP BY status"
# Only rows that are there in the same transaction are summed up, and each by one transaction alone.
SUM_UP: Final = f"""\
WITH gone AS (DELETE FROM @schema.{COUNT_TABLE}
            WHERE ctid = ANY (ARRAY(SELECT ctid FROM @schema.{COUNT_TABLE} FOR UPDATE SKIP LOCKED))
            RETURNING status, runs)
        INSERT INTO @schema.{COUNT_TABLE} SELECT status, sum(runs) FROM gone GROUP BY status HAVING sum(runs) <> 0"""
"""The statement in a function of PostgreSQL's that replaces the rows of counts by their sums."""
