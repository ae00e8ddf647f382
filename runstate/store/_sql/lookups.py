"""How the runs in a state are found: what is claimable, due, held by a worker, or live in a thread.

SQLite finds them by partial indexes of the run table. On PostgreSQL an index whose columns or condition name a column
that changes makes every update of a run write to all indexes. There, small private tables hold a row for each live
run; the triggers keep them, and no index of the run table names a column that changes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, Final, NamedTuple

from runstate.lifecycle import INITIAL_STATUS
from runstate.store._sql.literals import LIVE

__all__ = ["POSTGRES_LOOKUPS", "SQLITE_LOOKUPS", "Lookups", "occupies_thread", "small_rows", "thread_rows"]

_WAITS: Final = f"status = '{INITIAL_STATUS}' AND claimable_at_us IS NULL"
_BESIDE_LOCKED: Final = 100
"""How many runs that other transactions hold a claim passes over, to find enough."""
_CLAIMABLE: Final = f"status = '{INITIAL_STATUS}' AND claimable_at_us IS NOT NULL"


def occupies_thread(row: str = "") -> str:
    """Return the condition that a row, named by an alias and a dot, is the one live run that its thread may have."""
    queued_behind = f"{row}thread_policy = 'queue' AND {row}claimable_at_us IS NOT NULL"
    return f"{row}status IN ({LIVE}) AND ({row}thread_policy = 'reject' OR ({queued_behind}))"


class Lookups(ABC):
    """The queries by which one dialect finds runs `q`. Moments are in microseconds, deadlines in seconds."""

    tables: ClassVar[Sequence[str]]
    """The small tables that these queries use."""
    rebuild: ClassVar[Sequence[str]]
    """The statements that fill these tables anew from the runs; their triggers must be disabled."""
    holders: ClassVar[str]
    """The table in which each run that a worker holds has the worker's token as `worker`."""
    first_deadline: ClassVar[str]
    """The query of the earliest deadline of a live run, in seconds."""
    first_not_before: ClassVar[str]
    """The query of the earliest moment at which a run becomes claimable."""
    queued: ClassVar[str]
    """The table of all queued runs, with their `queue`."""
    claimable_seq: ClassVar[str]
    """What `besides` calls the seq of a run in the query of the claimable ones."""
    misplaced: ClassVar[Mapping[str, str]]
    """Of each of these tables the query of the runs whose row in it is missing, wrong or left over."""

    @abstractmethod
    def claimable(self, names: Sequence[str], queue: str, seconds: str, besides: str, limit: str) -> str:
        """Return the query of columns of up to `limit` claimable runs of a queue, in their order, and lock them.

        Their deadline comes after `seconds`; `besides` is a condition on nothing else of a run than its seq.
        """

    @abstractmethod
    def overdue(self, queue: str) -> str:
        """Return the tables and the condition of the claimable runs `r` of a queue."""

    @abstractmethod
    def held_by(self, workers: str, row: str = "q.") -> str:
        """Return the condition that a worker holds a row whose token is in a list or a query."""

    @abstractmethod
    def due(self, now: str, late: str, limit: str, besides: str) -> str:
        """Return the condition, after an AND, to be among the runs whose deadline came; `late` for those at work.

        `besides` is a condition, after an AND, on the seq `run`.
        """

    @abstractmethod
    def waiting(self, now: str) -> str:
        """Return the condition to be queued, not yet claimable, and not to wait for a later moment than `now`."""

    @abstractmethod
    def is_busy(self, thread: str) -> str:
        """Return the condition that a thread has its one live run."""

    @abstractmethod
    def busy(self, thread: str) -> str:
        """Return the query of the id of the one live run of a thread."""

    @abstractmethod
    def next_of_thread(self, thread: str, now: str) -> str:
        """Return the query of the seq of the run that is claimable next of those that wait for a thread."""

    @abstractmethod
    def may_occupy(self, row: str) -> str:
        """Return the condition, after an AND, that the thread of a new run is free; empty where an index refuses."""


class _SqliteLookups(Lookups):
    tables = ()
    rebuild = ()
    misplaced = MappingProxyType[str, str]({})
    holders = "runstate_run"
    first_deadline = "SELECT min(expires_at) FROM runstate_run WHERE expires_at IS NOT NULL"
    first_not_before = f"SELECT min(not_before_us) FROM runstate_run WHERE {_WAITS}"
    queued = f"(SELECT queue FROM runstate_run WHERE status = '{INITIAL_STATUS}')"
    claimable_seq = "seq"

    def claimable(self, names: Sequence[str], queue: str, seconds: str, besides: str, limit: str) -> str:
        # Once ANALYZE has seen a table full of queued runs, SQLite would walk all of it from the first run on.
        return (
            f"SELECT {', '.join(names)} FROM runstate_run INDEXED BY runstate_run_claim WHERE {_CLAIMABLE}"
            f" AND queue = {queue} AND expires_at > {seconds} AND {besides} ORDER BY priority DESC, seq LIMIT {limit}"
        )

    def overdue(self, queue: str) -> str:
        claimable = f"r.status = '{INITIAL_STATUS}' AND r.claimable_at_us IS NOT NULL"
        return f"runstate_run AS r WHERE r.queue = {queue} AND {claimable}"

    def held_by(self, workers: str, row: str = "q.") -> str:
        return f"{row}worker IN ({workers})"

    def due(self, now: str, late: str, limit: str, besides: str) -> str:
        return ""

    def waiting(self, now: str) -> str:
        come = f"q.not_before_us IS NULL OR q.not_before_us <= {now}"
        return f"q.status = '{INITIAL_STATUS}' AND q.claimable_at_us IS NULL AND ({come})"

    def is_busy(self, thread: str) -> str:
        return f"EXISTS (SELECT 1 FROM runstate_run AS h WHERE h.thread_id = {thread} AND {occupies_thread('h.')})"

    def busy(self, thread: str) -> str:
        return f"SELECT h.id FROM runstate_run AS h WHERE h.thread_id = {thread} AND {occupies_thread('h.')}"

    def next_of_thread(self, thread: str, now: str) -> str:
        return (
            f"SELECT min(b.seq) FROM runstate_run AS b WHERE b.thread_id = {thread} AND b.thread_policy = 'queue'"
            f" AND b.claimable_at_us IS NULL AND b.status = '{INITIAL_STATUS}'"
            f" AND (b.not_before_us IS NULL OR b.not_before_us <= {now})"
        )

    def may_occupy(self, row: str) -> str:
        return ""


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
# Each live run has a row in one of the first three.
_CLAIMABLE_TABLE: Final = _SmallTable(
    "runstate_claimable", "run, queue, priority, expires_at", "seq, queue, priority, expires_at", _CLAIMABLE
)
_HELD_TABLE: Final = _SmallTable("runstate_held", "run, worker, expires_at", "seq, worker, expires_at", _IS_HELD)
_IDLE_TABLE: Final = _SmallTable(
    "runstate_idle",
    "run, queue, waits, thread_id, not_before_us, expires_at",
    f"seq, queue, status = '{INITIAL_STATUS}',"
    f" CASE WHEN status = '{INITIAL_STATUS}' AND thread_policy = 'queue' THEN thread_id END, not_before_us, expires_at",
    f"status IN ({LIVE}) AND NOT ({_CLAIMABLE}) AND NOT ({_IS_HELD})",
)
_THREAD_TABLE: Final = _SmallTable("runstate_thread", "thread_id, run", "thread_id, seq", occupies_thread())
_SMALL_TABLES: Final = (_CLAIMABLE_TABLE, _HELD_TABLE, _IDLE_TABLE, _THREAD_TABLE)


def small_rows(rows: str, schema: str = "") -> Sequence[str]:
    """Return PostgreSQL's statements that insert the small rows of the live runs among some rows."""
    return [table.insert(rows, schema) for table in (_CLAIMABLE_TABLE, _HELD_TABLE, _IDLE_TABLE)]


def thread_rows(rows: str, schema: str = "") -> str:
    """Return PostgreSQL's statement that inserts the rows of the threads which live runs occupy."""
    return _THREAD_TABLE.insert(rows, schema)


class _PostgresLookups(Lookups):
    tables = tuple(table.name for table in _SMALL_TABLES)
    rebuild = (
        *(f"DELETE FROM {table.name}" for table in _SMALL_TABLES),
        *(table.insert("runstate_run") for table in _SMALL_TABLES),
    )
    misplaced = MappingProxyType({table.name: f"SELECT run FROM ({table.differences}) AS d" for table in _SMALL_TABLES})
    holders = "runstate_held"
    first_deadline = (
        "SELECT least((SELECT min(expires_at) FROM runstate_claimable), (SELECT min(expires_at) FROM runstate_held),"
        " (SELECT min(expires_at) FROM runstate_idle))"
    )
    first_not_before = "SELECT min(not_before_us) FROM runstate_idle WHERE waits"
    claimable_seq = "c.run"
    queued = "(SELECT queue FROM runstate_claimable UNION ALL SELECT queue FROM runstate_idle WHERE waits)"

    def claimable(self, names: Sequence[str], queue: str, seconds: str, besides: str, limit: str) -> str:
        # First the small rows are locked, then their runs. Another worker may have claimed a run since the snapshot of
        # this statement: its small row is gone, but its run could be locked, and would keep that worker waiting. The
        # subqueries cannot be joined in another order: rows are locked one by one until there are enough. (To order
        # the result, PostgreSQL would lock all of them: the order of locked rows may change.)
        first = (
            f"SELECT c.run, c.priority FROM runstate_claimable AS c WHERE c.queue = {queue}"
            f" AND c.expires_at > {seconds} AND {besides} ORDER BY c.priority DESC, c.run"
            f" LIMIT {limit} + {_BESIDE_LOCKED} FOR UPDATE SKIP LOCKED"
        )
        locked = (
            f"SELECT {', '.join(names)} FROM runstate_run WHERE seq = c.run AND {_CLAIMABLE} FOR UPDATE SKIP LOCKED"
        )
        return (
            f"SELECT {', '.join(f'l.{name}' for name in names)} FROM ({first}) AS c"
            f" CROSS JOIN LATERAL ({locked}) AS l LIMIT {limit}"
        )

    def overdue(self, queue: str) -> str:
        return (
            f"runstate_claimable AS c JOIN runstate_run AS r ON r.seq = c.run WHERE c.queue = {queue}"
            f" AND r.status = '{INITIAL_STATUS}'"
        )

    def held_by(self, workers: str, row: str = "q.") -> str:
        # Not IN: the planner would read all runs, if it took these tables for large ones.
        return f"{row}seq = ANY (ARRAY(SELECT h.run FROM runstate_held AS h WHERE h.worker IN ({workers})))"

    def due(self, now: str, late: str, limit: str, besides: str) -> str:
        first = "(SELECT run FROM {} WHERE expires_at <= {} / 1000000{} ORDER BY expires_at LIMIT {})"
        of = {"runstate_claimable": now, "runstate_idle": now, "runstate_held": late}
        found = " UNION ALL ".join(first.format(table, moment, besides, limit) for table, moment in of.items())
        return f" AND q.seq = ANY (ARRAY({found}))"

    def waiting(self, now: str) -> str:
        return (
            "q.claimable_at_us IS NULL AND q.seq = ANY (ARRAY(SELECT i.run FROM runstate_idle AS i"
            f" WHERE i.waits AND (i.not_before_us IS NULL OR i.not_before_us <= {now})))"
        )

    def is_busy(self, thread: str) -> str:
        return f"EXISTS (SELECT 1 FROM runstate_thread AS h WHERE h.thread_id = {thread})"

    def busy(self, thread: str) -> str:
        occupied = "runstate_thread AS o JOIN runstate_run AS h ON h.seq = o.run"
        return f"SELECT h.id FROM {occupied} WHERE o.thread_id = {thread}"

    def next_of_thread(self, thread: str, now: str) -> str:
        return (
            f"SELECT min(b.run) FROM runstate_idle AS b WHERE b.thread_id = {thread}"
            f" AND (b.not_before_us IS NULL OR b.not_before_us <= {now})"
        )

    def may_occupy(self, row: str) -> str:
        waits = f"{row}.thread_policy = 'queue' AND {row}.ready = 0"
        return f" AND ({row}.thread_policy IS NULL OR ({waits}) OR NOT {self.is_busy(f'{row}.thread_id')})"


SQLITE_LOOKUPS: Final[Lookups] = _SqliteLookups()
POSTGRES_LOOKUPS: Final[Lookups] = _PostgresLookups()
