"""The baselines of the durable benchmark: the same rows, written by hand-made statements without a library.

Each keeps a run with its stamps, a version, the owner's token while it is in progress, and one history row for every
entry, the first included: three a lifecycle. Ids are made before the clock starts; the handler does nothing.

What makes them fast, each measured against its alternatives:

- A claim and the completion of the runs before it are one commit. A commit costs an fsync.
- PostgreSQL: queued runs are in a table of their own, so that no index of `run` has the status. Both updates of a run
  are then HOT, and stay on their page, which has room for them: 1.2 times as fast as a partial index on status with 10
  slots, twice with 100. The claim uses `key = ANY(ARRAY(SELECT ... FOR UPDATE SKIP LOCKED))`: with the select under
  FROM, a kept plan joins the whole table and costs up to half of the rate. The plan is kept (`force_generic_plan`).
- PostgreSQL: statements are prepared and executed through `psycopg.pq`, because a cursor adds 60 us to each.
- SQLite: `executemany` of prepared statements for one row; `json_each` costs 1.1 to 1.6 times the CPU. `INDEXED BY`:
  after an ANALYZE of a table full of queued runs, the planner scans it from the first key, past all completed runs. The
  checkpoint stays at 1,000 pages: a longer WAL is a growing file, and that is slower to sync.
"""

from __future__ import annotations

import select
import shutil
import sqlite3
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import monotonic, perf_counter, sleep, time_ns
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from benchmarks.durable.contestant import Contestant, MeasurementFailed
from benchmarks.durable.processes import TIMEOUT_S, Reporter, WorkerProcesses
from benchmarks.postgres import empty_database, vacuum_tables

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.pq.abc import PGresult

OWNER: Final = "wrk_0123456789abcdef0123"
EXPIRES_IN_S: Final = 600


def new_ids(count: int) -> list[str]:
    """Return that many run ids."""
    return [f"run_{uuid4().hex[:24]}" for _ in range(count)]


def check_counts(runs: int, entries: int, count: int) -> None:
    """Raise MeasurementFailed unless every run is completed and has its three entries."""
    if (runs, entries) != (count, 3 * count):
        raise MeasurementFailed(f"{runs} runs completed with {entries} entries, of {count}")


# -- SQLite -----------------------------------------------------------------------------------------------------------

SQLITE_TABLES: Final = """
CREATE TABLE run (
    key integer PRIMARY KEY,
    id text NOT NULL UNIQUE,
    status text NOT NULL,
    version integer NOT NULL,
    owner text,
    created_at integer NOT NULL,
    expires_at integer,
    started_at integer,
    completed_at integer
);
CREATE INDEX run_queued ON run (key) WHERE status = 'queued';
CREATE TABLE history (
    run integer NOT NULL,
    version integer NOT NULL,
    event text NOT NULL,
    source text,
    target text NOT NULL,
    at integer NOT NULL,
    actor text NOT NULL,
    PRIMARY KEY (run, version)
) WITHOUT ROWID;
"""
SQLITE_LAST_KEY: Final = "SELECT coalesce(max(key), 0) FROM run"
SQLITE_CREATE: Final = """
INSERT INTO run (key, id, status, version, created_at, expires_at) VALUES (?, ?, 'queued', 1, ?, ?)
"""
SQLITE_CREATE_ENTRY: Final = "INSERT INTO history VALUES (?, 1, 'create', NULL, 'queued', ?, 'api')"
SQLITE_NEXT_QUEUED: Final = """
SELECT key, version FROM run INDEXED BY run_queued WHERE status = 'queued' ORDER BY key LIMIT ?
"""
SQLITE_CLAIM: Final = "UPDATE run SET status = 'in_progress', version = ?, owner = ?, started_at = ? WHERE key = ?"
SQLITE_CLAIM_ENTRY: Final = "INSERT INTO history VALUES (?, ?, 'start', 'queued', 'in_progress', ?, ?)"
SQLITE_COMPLETE: Final = """
UPDATE run SET status = 'completed', version = ?, owner = NULL, expires_at = NULL, completed_at = ?
WHERE key = ? AND version = ? AND owner = ? AND status = 'in_progress'
"""
SQLITE_COMPLETE_ENTRY: Final = "INSERT INTO history VALUES (?, ?, 'complete', 'in_progress', 'completed', ?, ?)"


def connect(path: str) -> sqlite3.Connection:
    """Return a connection without implicit transactions, whose commits are durable."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=TIMEOUT_S)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


class SqliteFused(Contestant):
    """`sqlite3` by hand: WAL, synchronous=FULL, BEGIN IMMEDIATE; a worker's cycle is one transaction."""

    name = "baseline, fused"
    dialect = "sqlite"
    about = "sqlite3 by hand: WAL, synchronous=FULL; completes the runs before and claims the next in one transaction"

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="runstate-"))
        self._number = 0
        self._connection: sqlite3.Connection | None = None

    @property
    def path(self) -> str:
        return str(self._folder / f"{self._number}.db")

    @property
    def connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise MeasurementFailed("not prepared")
        return self._connection

    def prepare(self) -> None:
        if self._connection is not None:
            self._connection.close()
            for path in self._folder.iterdir():
                path.unlink()
        self._number += 1
        self._connection = connect(self.path)
        self._connection.executescript(SQLITE_TABLES)

    def create(self, count: int, in_flight: int) -> float:
        made = new_ids(count)
        before = perf_counter()
        for first in range(0, count, in_flight):
            self._commit(made[first : first + in_flight])
        return perf_counter() - before

    def _commit(self, made: Sequence[str]) -> None:
        us = time_ns() // 1000
        at = us // 1_000_000
        execute, many = self.connection.execute, self.connection.executemany
        execute("BEGIN IMMEDIATE")
        newest: int = execute(SQLITE_LAST_KEY).fetchone()[0]
        keys = range(newest + 1, newest + 1 + len(made))
        many(SQLITE_CREATE, [(key, name, at, at + EXPIRES_IN_S) for key, name in zip(keys, made, strict=True)])
        many(SQLITE_CREATE_ENTRY, [(key, us) for key in keys])
        execute("COMMIT")

    def drain(self, count: int, slots: int, processes: int) -> float:
        with WorkerProcesses(sqlite_fused, self.path, slots, processes=processes) as workers:
            workers.start()
            seconds = workers.wait_for_reports(count)
        runs: int
        entries: int
        (runs,) = self.connection.execute(
            "SELECT count(*) FROM run WHERE status = 'completed' AND version = 3 AND completed_at >= started_at"
        ).fetchone()
        (entries,) = self.connection.execute("SELECT count(*) FROM history").fetchone()
        check_counts(runs, entries, count)
        return seconds

    def start(self, count: int, every: float) -> list[float]:
        self.prepare()
        with WorkerProcesses(sqlite_start, self.path, starts=count) as workers:
            workers.start()
            created_at = []
            for name in new_ids(count):
                sleep(every)
                created_at.append(monotonic())
                self._commit([name])
            return [began - before for began, before in zip(workers.start_times(), created_at, strict=True)]

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class SqliteOneByOne(SqliteFused):
    """The same tables, each transition a commit of its own."""

    name = "baseline, one by one"
    about = "the same, each claim and each completion its own transaction"
    creates_at_once = ()
    slots = (1,)
    measures_start = False

    def drain(self, count: int, slots: int, processes: int) -> float:
        with WorkerProcesses(sqlite_one_by_one, self.path, processes=processes) as workers:
            workers.start()
            return workers.wait_for_reports(count)


def _settle_and_claim(connection: sqlite3.Connection, done: list[tuple[int, int]], slots: int) -> list[tuple[int, int]]:
    us = time_ns() // 1000
    at = us // 1_000_000
    execute, many = connection.execute, connection.executemany
    execute("BEGIN IMMEDIATE")
    if done:
        ended = many(SQLITE_COMPLETE, [(version + 2, at, key, version + 1, OWNER) for key, version in done])
        if ended.rowcount != len(done):
            raise MeasurementFailed("a run was lost")
        many(SQLITE_COMPLETE_ENTRY, [(key, version + 2, us, OWNER) for key, version in done])
    claimed: list[tuple[int, int]] = execute(SQLITE_NEXT_QUEUED, (slots,)).fetchall()
    if claimed:
        many(SQLITE_CLAIM, [(version + 1, OWNER, at, key) for key, version in claimed])
        many(SQLITE_CLAIM_ENTRY, [(key, version + 1, us, OWNER) for key, version in claimed])
    execute("COMMIT")
    return claimed


def sqlite_fused(reporter: Reporter, path: str, slots: int) -> None:
    """Complete and claim until no run is left."""
    connection = connect(path)
    connection.execute(SQLITE_LAST_KEY)
    reporter.wait_for_start()
    began = monotonic()
    total = 0
    done = _settle_and_claim(connection, [], slots)
    while done:
        total += len(done)
        done = _settle_and_claim(connection, done, slots)
    reporter.report(began, monotonic(), total)


def sqlite_one_by_one(reporter: Reporter, path: str) -> None:
    """Claim one, complete it, and so on, each with its own commit."""
    connection = connect(path)
    execute = connection.execute
    execute(SQLITE_LAST_KEY)
    reporter.wait_for_start()
    began = monotonic()
    total = 0
    while True:
        us = time_ns() // 1000
        at = us // 1_000_000
        execute("BEGIN IMMEDIATE")
        row: tuple[int, int] | None = execute(SQLITE_NEXT_QUEUED, (1,)).fetchone()
        if row is None:
            execute("COMMIT")
            break
        key, version = row
        execute(SQLITE_CLAIM, (version + 1, OWNER, at, key))
        execute(SQLITE_CLAIM_ENTRY, (key, version + 1, us, OWNER))
        execute("COMMIT")
        us = time_ns() // 1000
        at = us // 1_000_000
        execute("BEGIN IMMEDIATE")
        if execute(SQLITE_COMPLETE, (version + 2, at, key, version + 1, OWNER)).rowcount != 1:
            raise MeasurementFailed("a run was lost")
        execute(SQLITE_COMPLETE_ENTRY, (key, version + 2, us, OWNER))
        execute("COMMIT")
        total += 1
    reporter.report(began, monotonic(), total)


def sqlite_start(reporter: Reporter, path: str) -> None:
    """Poll every 2 ms for writes of other connections, and start new runs. Keys count from 1, indexes from 0."""
    connection = connect(path)
    reporter.wait_for_start()
    seen = -1
    while True:
        (now,) = connection.execute("PRAGMA data_version").fetchone()
        if now == seen:
            sleep(0.002)
            continue
        seen = now
        done = _settle_and_claim(connection, [], 10)
        while done:
            for key, _ in done:
                reporter.record_start(key - 1)
            done = _settle_and_claim(connection, done, 10)


# -- PostgreSQL -------------------------------------------------------------------------------------------------------

POSTGRES_TABLES: Final = """
CREATE TABLE run (
    key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text COLLATE "C" NOT NULL UNIQUE,
    status text NOT NULL,
    version integer NOT NULL,
    owner text,
    created_at bigint NOT NULL,
    expires_at bigint,
    started_at bigint,
    completed_at bigint
) WITH (fillfactor = 40);
CREATE TABLE waiting (key bigint PRIMARY KEY);
CREATE TABLE history (
    run bigint NOT NULL,
    version integer NOT NULL,
    event text NOT NULL,
    source text,
    target text NOT NULL,
    at bigint NOT NULL,
    actor text NOT NULL,
    PRIMARY KEY (run, version) WITH (fillfactor = 40)
);
"""
_POSTGRES_INSERT: Final = """
WITH born AS (
    INSERT INTO run (id, status, version, created_at, expires_at)
    SELECT id, 'queued', 1, $2::bigint, $2::bigint + 600 FROM unnest($1::text[]) AS id
    RETURNING key
), queued AS (
    INSERT INTO waiting SELECT key FROM born
), entries AS (
    INSERT INTO history SELECT key, 1, 'create', NULL, 'queued', $3::bigint, 'api' FROM born
)
"""
POSTGRES_CREATE: Final = f"{_POSTGRES_INSERT}SELECT count(*) FROM born"
POSTGRES_CREATE_AND_NOTIFY: Final = f"{_POSTGRES_INSERT}SELECT pg_notify('queued', '') FROM born LIMIT 1"
POSTGRES_FUSED: Final = """
WITH done AS (
    UPDATE run
    SET status = 'completed', version = version + 1, owner = NULL, expires_at = NULL, completed_at = $3::bigint
    WHERE key = ANY($1::bigint[]) AND status = 'in_progress' AND owner = $2::text
    RETURNING key, version
), next AS (
    DELETE FROM waiting
    WHERE key = ANY(ARRAY(SELECT key FROM waiting ORDER BY key LIMIT $5::int FOR UPDATE SKIP LOCKED))
    RETURNING key
), claimed AS (
    UPDATE run
    SET status = 'in_progress', version = version + 1, owner = $2::text, started_at = $3::bigint
    WHERE key = ANY(ARRAY(SELECT key FROM next))
    RETURNING key, version
), completed_entries AS (
    INSERT INTO history
    SELECT key, version, 'complete', 'in_progress', 'completed', $4::bigint, $2::text FROM done
), claimed_entries AS (
    INSERT INTO history
    SELECT key, version, 'start', 'queued', 'in_progress', $4::bigint, $2::text FROM claimed
)
SELECT key FROM claimed
"""
POSTGRES_CLAIM: Final = """
WITH next AS (
    DELETE FROM waiting
    WHERE key = (SELECT key FROM waiting ORDER BY key LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING key
), claimed AS (
    UPDATE run
    SET status = 'in_progress', version = version + 1, owner = $1::text, started_at = $2::bigint
    WHERE key = (SELECT key FROM next)
    RETURNING key, version
)
INSERT INTO history
SELECT key, version, 'start', 'queued', 'in_progress', $3::bigint, $1::text FROM claimed
RETURNING run
"""
POSTGRES_COMPLETE: Final = """
WITH done AS (
    UPDATE run
    SET status = 'completed', version = version + 1, owner = NULL, expires_at = NULL, completed_at = $3::bigint
    WHERE key = $1::bigint AND status = 'in_progress' AND owner = $2::text
    RETURNING key, version
)
INSERT INTO history
SELECT key, version, 'complete', 'in_progress', 'completed', $4::bigint, $2::text FROM done
RETURNING run
"""
_OK: Final = frozenset({1, 2})  # PGRES_COMMAND_OK, PGRES_TUPLES_OK
_OWNER: Final = OWNER.encode()


class Prepared:
    """Statements prepared on one connection and executed by name through libpq."""

    def __init__(self, url: str, **statements: str) -> None:
        import psycopg

        self.connection: Connection[tuple[object, ...]] = psycopg.connect(url, autocommit=True)
        self.connection.execute("SET plan_cache_mode = force_generic_plan")
        for name, statement in statements.items():
            self._check(self.connection.pgconn.prepare(name.encode(), statement.encode()))

    def __call__(self, name: bytes, *values: bytes) -> PGresult:
        result = self.connection.pgconn.exec_prepared(name, values)
        return result if result.status in _OK else self._check(result)

    @staticmethod
    def _check(result: PGresult) -> PGresult:
        if result.status not in _OK:
            raise MeasurementFailed(result.error_message.decode())
        return result


def _now() -> tuple[bytes, bytes]:
    us = time_ns() // 1000
    return b"%d" % (us // 1_000_000), b"%d" % us


class PostgresFused(Contestant):
    """psycopg by hand, autocommit, one statement a commit; a worker's cycle is one statement."""

    name = "baseline, fused"
    dialect = "postgres"
    about = "psycopg.pq by hand, prepared; completes the runs before and claims the next in one statement"

    def __init__(self, url: str) -> None:
        self._url = url
        self._prepared: Prepared | None = None

    def prepare(self) -> None:
        self.close()
        empty_database(self._url)
        prepared = Prepared(self._url)
        prepared.connection.execute(POSTGRES_TABLES.encode())
        prepared.connection.close()
        self._prepared = Prepared(self._url, create=POSTGRES_CREATE, notify=POSTGRES_CREATE_AND_NOTIFY)

    def create(self, count: int, in_flight: int) -> float:
        made = new_ids(count)
        before = perf_counter()
        for first in range(0, count, in_flight):
            self._commit(made[first : first + in_flight])
        return perf_counter() - before

    def _commit(self, made: Sequence[str], statement: bytes = b"create") -> None:
        if self._prepared is None:
            raise MeasurementFailed("not prepared")
        self._prepared(statement, ("{" + ",".join(made) + "}").encode(), *_now())

    def vacuum(self) -> None:
        vacuum_tables(self._url, ("run", "waiting", "history"))

    def drain(self, count: int, slots: int, processes: int) -> float:
        return self._measure_drain(WorkerProcesses(postgres_fused, self._url, slots, processes=processes), count)

    def _measure_drain(self, workers: WorkerProcesses, count: int) -> float:
        import psycopg

        with workers:
            workers.start()
            seconds = workers.wait_for_reports(count)
        with psycopg.connect(self._url) as connection:
            row = connection.execute(
                "SELECT count(*) FILTER (WHERE version = 3 AND status = 'completed' AND completed_at >= started_at),"
                " (SELECT count(*) FROM history) FROM run"
            ).fetchone()
        assert row is not None
        check_counts(row[0], row[1], count)
        return seconds

    def start(self, count: int, every: float) -> list[float]:
        self.prepare()
        with WorkerProcesses(postgres_start, self._url, starts=count) as workers:
            workers.start()
            created_at = []
            for name in new_ids(count):
                sleep(every)
                created_at.append(monotonic())
                self._commit([name], b"notify")
            return [began - before for began, before in zip(workers.start_times(), created_at, strict=True)]

    def close(self) -> None:
        if self._prepared is not None:
            self._prepared.connection.close()
            self._prepared = None


class PostgresOneByOne(PostgresFused):
    """The same tables, each transition a statement and a commit of its own."""

    name = "baseline, one by one"
    about = "the same, each claim and each completion its own statement"
    creates_at_once = ()
    slots = (1,)
    measures_start = False

    def drain(self, count: int, slots: int, processes: int) -> float:
        return self._measure_drain(WorkerProcesses(postgres_one_by_one, self._url, processes=processes), count)


def _keys(result: PGresult) -> list[bytes]:
    return [result.get_value(row, 0) or b"" for row in range(result.ntuples)]


def postgres_fused(reporter: Reporter, url: str, slots: int) -> None:
    """Complete and claim until no run is left."""
    prepared = Prepared(url, fused=POSTGRES_FUSED)
    free = b"%d" % slots
    reporter.wait_for_start()
    began = monotonic()
    total = 0
    done = _keys(prepared(b"fused", b"{}", _OWNER, *_now(), free))
    while done:
        total += len(done)
        done = _keys(prepared(b"fused", b"{" + b",".join(done) + b"}", _OWNER, *_now(), free))
    reporter.report(began, monotonic(), total)


def postgres_one_by_one(reporter: Reporter, url: str) -> None:
    """Claim one, complete it, and so on, each with its own commit."""
    prepared = Prepared(url, claim=POSTGRES_CLAIM, complete=POSTGRES_COMPLETE)
    reporter.wait_for_start()
    began = monotonic()
    total = 0
    while claimed := _keys(prepared(b"claim", _OWNER, *_now())):
        if prepared(b"complete", claimed[0], _OWNER, *_now()).ntuples != 1:
            raise MeasurementFailed("a run was lost")
        total += 1
    reporter.report(began, monotonic(), total)


def postgres_start(reporter: Reporter, url: str) -> None:
    """Wait for notifications, and start new runs. Keys count from 1, indexes from 0."""
    prepared = Prepared(url, fused=POSTGRES_FUSED)
    prepared.connection.execute("LISTEN queued")
    raw = prepared.connection.pgconn
    reporter.wait_for_start()
    done: list[bytes] = []
    while True:
        done = _keys(prepared(b"fused", b"{" + b",".join(done) + b"}", _OWNER, *_now(), b"10"))
        for key in done:
            reporter.record_start(int(key) - 1)
        if done:
            continue
        while raw.notifies() is None:
            select.select([raw.socket], [], [], 0.5)
            raw.consume_input()
