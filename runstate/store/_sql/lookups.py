"""How the runs in a state are found: what is claimable, due, held by a worker, or live in a thread.

SQLite finds them by partial indexes of the run table. On PostgreSQL an index whose columns or condition name a column
that changes makes every update of a run write to all indexes. There, small private tables hold a row for each live
run; the triggers keep them, and no index of the run table names a column that changes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, Final, NamedTuple

from runstate.lifecycle import INITIAL_STATUS, RunStatus
from runstate.store._sql.literals import ENDED, sql_list
from runstate.store._sql.small_tables import (
    CLAIMABLE,
    COMPLETED,
    COUNT_TABLE,
    COUNTED,
    ENDED_IN_RUNS,
    ENDED_IN_TABLE,
    SMALL_TABLES,
    STARTED,
    STARTED_BY_WORKER,
    TERMINAL,
    UNUSUAL,
    WAITS,
    occupies_thread,
    unpaused,
    waits_for_retry,
)

__all__ = ["POSTGRES_LOOKUPS", "SQLITE_LOOKUPS", "Lookups", "Source", "Wanted"]

_BESIDE_LOCKED: Final = 100
"""How many runs that other transactions hold a claim passes over, to find enough."""


class Source(NamedTuple):
    """A FROM clause with the run table as `r`, whose runs are all that match a condition of a list, and maybe more."""

    rows: str
    where: Sequence[str]
    key: str
    """The number of the run, by which the source is read in order."""
    is_ordered: bool = True
    """Whether few rows are read for the first page."""
    has_statuses: bool = False
    """Whether its runs have the statuses asked for, and a planner must not expect fewer for their sake."""


class Wanted(NamedTuple):
    """What a list is to find: statuses, and the places of the values of other conditions."""

    statuses: frozenset[RunStatus]
    queue: str = ""
    younger: str = ""
    changed: str = ""
    ended: str = ""
    attempts: str = ""
    deadline: str = ""

    @property
    def live(self) -> frozenset[RunStatus]:
        """The live statuses among them."""
        return frozenset() if self.ended else self.statuses - TERMINAL

    @property
    def problems(self) -> frozenset[RunStatus]:
        """The terminal statuses among them, without that of a completed run."""
        return frozenset() if self.deadline else self.statuses & TERMINAL - {COMPLETED}

    @property
    def completed(self) -> bool:
        """Whether completed runs are among them."""
        return COMPLETED in self.statuses and not self.deadline


class Lookups(ABC):
    """The queries by which one dialect finds runs `q`. Moments are in microseconds, deadlines in seconds."""

    tables: ClassVar[Sequence[str]]
    """The small tables that these queries use."""
    rebuild: ClassVar[Sequence[str]]
    """The statements that fill these tables anew from the runs; their triggers must be disabled."""
    holders: ClassVar[str]
    """The table in which each run that a worker holds has the worker's token as `worker`."""
    holder_seq: ClassVar[str]
    """The column of this table that has the number of the run."""
    first_deadline: ClassVar[str]
    """The query of the earliest deadline of a live run, in seconds."""
    first_not_before: ClassVar[str]
    """The query of the earliest moment at which a run becomes claimable."""
    first_retry: ClassVar[str]
    """The query of the earliest moment at which a retry is due."""
    queued: ClassVar[str]
    """The table of all queued runs, with their `queue`."""
    claimable_seq: ClassVar[str]
    """What `besides` calls the seq of a run in the query of the claimable ones."""
    counts: ClassVar[str]
    """The query of the statuses, and of how many runs are in each."""
    miscounted: ClassVar[str]
    """The query of the statuses for which `counts` would be wrong; empty where it counts the runs themselves."""
    misplaced: ClassVar[Mapping[str, str]]
    """Of each of these tables the query of the runs whose row in it is missing, wrong or left over."""

    @abstractmethod
    def claimable(self, names: Sequence[str], queue: str, seconds: str, besides: str, limit: str) -> str:
        """Return the query of columns of up to `limit` claimable runs of a queue, in their order, and lock them.

        Their deadline comes after `seconds`; `besides` is a condition on nothing else of a run than its seq.
        """

    @abstractmethod
    def next_queued(self, queue: str, besides: str, limit: str) -> str:
        """Return the query of seq and priority of the first `limit` claimable runs of a queue. It locks nothing.

        `besides` is a condition, after an AND, on `expires_at` and on `claimable_seq`.
        """

    @abstractmethod
    def due_retries(self, now: str, where: str = "") -> str:
        """Return the query of seq and priority of the runs whose retry is due at `now`.

        `where` is a condition, after an AND, on `queue`.
        """

    @abstractmethod
    def overdue(self, queue: str, ready: str) -> str:
        """Return the tables, the condition and the order of the claimable runs `r` of a queue that are `ready`."""

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

    @abstractmethod
    def sources(self, wanted: Wanted) -> tuple[Source, ...] | None:
        """Return what has all runs that a list is to find; None if there is nothing smaller than all runs."""


class _SqliteLookups(Lookups):
    tables = ()
    rebuild = ()
    misplaced = MappingProxyType[str, str]({})
    holders = "runstate_run"
    holder_seq = "seq"
    first_deadline = "SELECT min(expires_at) FROM runstate_run WHERE expires_at IS NOT NULL"
    first_not_before = f"SELECT min(not_before_us) FROM runstate_run WHERE {WAITS}"
    first_retry = f"SELECT min(claimable_at_us) FROM runstate_run WHERE {waits_for_retry()} AND {unpaused('queue')}"
    queued = f"(SELECT queue FROM runstate_run WHERE status = '{INITIAL_STATUS}')"
    claimable_seq = "seq"
    miscounted = ""
    # Each by an index that has no other runs. How many there are altogether SQLite knows without reading their rows.
    counts = (
        "WITH n (status, runs) AS MATERIALIZED ("
        f"SELECT '{INITIAL_STATUS}', (SELECT count(*) FROM runstate_run WHERE {CLAIMABLE})"
        f" + (SELECT count(*) FROM runstate_run WHERE {WAITS})"
        f" UNION ALL SELECT '{STARTED}', count(*) FROM runstate_run WHERE {STARTED_BY_WORKER}"
        f" UNION ALL SELECT status, count(*) FROM runstate_run WHERE {UNUSUAL} GROUP BY status)"
        " SELECT status, sum(runs) FROM n GROUP BY status UNION ALL"
        f" SELECT '{COMPLETED}', (SELECT count(*) FROM runstate_run) - (SELECT sum(runs) FROM n)"
    )

    def claimable(self, names: Sequence[str], queue: str, seconds: str, besides: str, limit: str) -> str:
        # Once ANALYZE has seen a table full of queued runs, SQLite would walk all of it from the first run on.
        return (
            f"SELECT {', '.join(names)} FROM runstate_run INDEXED BY runstate_run_claim WHERE {CLAIMABLE}"
            f" AND queue = {queue} AND expires_at > {seconds} AND {besides} ORDER BY priority DESC, seq LIMIT {limit}"
        )

    def next_queued(self, queue: str, besides: str, limit: str) -> str:
        return (
            f"SELECT seq, priority FROM runstate_run INDEXED BY runstate_run_claim WHERE {CLAIMABLE}"
            f" AND queue = {queue}{besides} ORDER BY priority DESC, seq LIMIT {limit}"
        )

    def due_retries(self, now: str, where: str = "") -> str:
        return (
            f"SELECT seq, priority FROM runstate_run INDEXED BY runstate_run_retry WHERE {waits_for_retry()}"
            f" AND claimable_at_us <= {now} AND expires_at > {now} / 1000000 AND {unpaused('queue')}{where}"
        )

    def overdue(self, queue: str, ready: str) -> str:
        claimable = f"r.status = '{INITIAL_STATUS}' AND r.claimable_at_us IS NOT NULL"
        table = f"runstate_run AS r INDEXED BY runstate_run_claim WHERE r.queue = {queue}"
        return f"{table} AND {claimable} AND {ready} ORDER BY r.seq"

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

    def sources(self, wanted: Wanted) -> tuple[Source, ...] | None:
        def by(index: str, *where: str, is_ordered: bool = True) -> Source:
            return Source(f"runstate_run AS r INDEXED BY runstate_run_{index}", where, "r.seq", is_ordered)

        if wanted.deadline:
            return (by("deadline", "r.expires_at IS NOT NULL", f"r.expires_at <= {wanted.deadline}"),)
        if wanted.attempts:
            return (by("attempt", "r.attempt > 1"),) if wanted.attempts else None
        since = wanted.ended or wanted.changed
        if wanted.completed and not since:
            return (by("created", f"r.created_at > {wanted.younger}", is_ordered=False),) if wanted.younger else None
        found: list[Source] = []
        if INITIAL_STATUS in wanted.live:
            found += (by("claim", CLAIMABLE, is_ordered=False), by("waiting", WAITS, is_ordered=False))
        if STARTED in wanted.live:
            found.append(by("worker", STARTED_BY_WORKER))
        found += (by("status", UNUSUAL, f"r.status = '{status}'") for status in sorted(wanted.live - {INITIAL_STATUS}))
        for status in sorted(wanted.statuses & TERMINAL):
            own = f"r.status = '{status}'"
            if since:
                found.append(by("ended", "r.expires_at IS NULL", own, f"r.changed_at_us > {since}", is_ordered=False))
            else:
                found.append(by("status", UNUSUAL, own))
        return tuple(found)


class _PostgresLookups(Lookups):
    tables = (*(table.name for table in SMALL_TABLES), COUNT_TABLE)
    rebuild = (
        *(f"DELETE FROM {table}" for table in (*(table.name for table in SMALL_TABLES), COUNT_TABLE)),
        *(table.insert("runstate_run") for table in SMALL_TABLES),
        f"INSERT INTO {COUNT_TABLE} {ENDED_IN_RUNS}",
    )
    counts = COUNTED
    miscounted = (
        f"SELECT status FROM (({ENDED_IN_TABLE} EXCEPT {ENDED_IN_RUNS})"
        f" UNION ALL ({ENDED_IN_RUNS} EXCEPT {ENDED_IN_TABLE})) AS d"
    )
    misplaced = MappingProxyType({table.name: f"SELECT run FROM ({table.differences}) AS d" for table in SMALL_TABLES})
    holders = "runstate_held"
    holder_seq = "run"
    first_deadline = (
        "SELECT least((SELECT min(expires_at) FROM runstate_claimable), (SELECT min(expires_at) FROM runstate_held),"
        " (SELECT min(expires_at) FROM runstate_idle))"
    )
    first_not_before = "SELECT min(not_before_us) FROM runstate_idle WHERE waits"
    first_retry = f"SELECT min(retry_at_us) FROM runstate_idle WHERE retry_at_us IS NOT NULL AND {unpaused('queue')}"
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
        locked = f"SELECT {', '.join(names)} FROM runstate_run WHERE seq = c.run AND {CLAIMABLE} FOR UPDATE SKIP LOCKED"
        return (
            f"SELECT {', '.join(f'l.{name}' for name in names)} FROM ({first}) AS c"
            f" CROSS JOIN LATERAL ({locked}) AS l LIMIT {limit}"
        )

    def next_queued(self, queue: str, besides: str, limit: str) -> str:
        return (
            f"SELECT c.run AS seq, c.priority FROM runstate_claimable AS c WHERE c.queue = {queue}{besides}"
            f" ORDER BY c.priority DESC, c.run LIMIT {limit}"
        )

    def due_retries(self, now: str, where: str = "") -> str:
        return (
            f"SELECT run AS seq, priority FROM runstate_idle WHERE retry_at_us <= {now}"
            f" AND expires_at > {now} / 1000000 AND {unpaused('queue')}{where}"
        )

    def overdue(self, queue: str, ready: str) -> str:
        # One run after the other, until there are enough: a join of both tables reads all that are claimable.
        in_order = f"SELECT run FROM runstate_claimable WHERE queue = {queue} ORDER BY run OFFSET 0"
        run = "SELECT id, seq, status, changed_at_us, claimable_at_us FROM runstate_run WHERE seq = c.run OFFSET 0"
        return (
            f"({in_order}) AS c CROSS JOIN LATERAL ({run}) AS r WHERE r.status = '{INITIAL_STATUS}' AND {ready}"
            " ORDER BY c.run"
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

    def sources(self, wanted: Wanted) -> tuple[Source, ...] | None:
        def by(rows: str, *where: str, is_ordered: bool = True) -> Source:
            joined = f"{rows} AS c JOIN runstate_run AS r ON r.seq = c.run"
            return Source(joined, where, "c.run", is_ordered, has_statuses=is_ordered)

        if wanted.completed and not wanted.attempts:
            return self._window(wanted, by)
        common = [f"c.attempt > {wanted.attempts}"] if wanted.attempts else []
        of_live = [*common, f"c.expires_at <= {wanted.deadline}"] if wanted.deadline else common
        queued = [*of_live, f"c.queue = {wanted.queue}"] if wanted.queue else of_live
        found: list[Source] = []
        if INITIAL_STATUS in wanted.live:
            found.append(by("runstate_claimable", *queued))
        if wanted.live:
            status = f"c.status IN ({sql_list(sorted(wanted.live))})"
            found += (by("runstate_held", status, *of_live), by("runstate_idle", status, *queued))
        since = wanted.ended or wanted.changed
        of_ended = [*common, f"c.ended_at_us > {since}"] if since else common
        statuses = sorted({*wanted.problems, COMPLETED} if wanted.completed else wanted.problems)
        found += (by("runstate_problem", f"c.status = '{status}'", *of_ended) for status in statuses)
        return tuple(found)

    @staticmethod
    def _window(wanted: Wanted, by: Callable[..., Source]) -> tuple[Source, ...] | None:
        """Return the runs that changed or were created in a window of time."""
        if since := wanted.ended or wanted.changed:
            target = f" AND h.target IN ({ENDED})" if wanted.ended else ""
            entries = f"(SELECT DISTINCT h.run FROM runstate_history AS h WHERE h.at_us > {since}{target})"
            return (by(entries, is_ordered=False),)
        if wanted.younger:
            created = f"(SELECT n.seq AS run FROM runstate_run AS n WHERE n.created_at > {wanted.younger} OFFSET 0)"
            return (by(created, is_ordered=False),)
        return None

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
