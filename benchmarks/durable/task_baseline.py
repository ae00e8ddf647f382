"""The second baseline on PostgreSQL: what a library must do at least, with a task for each run.

Like the first baseline it settles and claims by one statement and keeps a history. Unlike it, it has one table with an
index of the queued runs, a lease with its end in each row, a payload, and a task of the event loop for each run, as any
library that calls async handlers. Nothing refuses an illegal move, and nothing fences a late worker.
"""

from __future__ import annotations

import asyncio
from importlib import import_module
from time import monotonic, perf_counter
from typing import Any, Final

import psycopg

from benchmarks.durable.baseline import PostgresFused
from benchmarks.durable.contestant import MeasurementFailed
from benchmarks.durable.peers import missing_package
from benchmarks.durable.processes import Reporter, WorkerProcesses
from benchmarks.postgres import empty_database, vacuum_tables

__all__ = ["PostgresTasks"]

TABLES: Final = """
CREATE TABLE run (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue text NOT NULL DEFAULT 'default',
    status text NOT NULL DEFAULT 'queued',
    priority smallint NOT NULL DEFAULT 0,
    version int NOT NULL DEFAULT 1,
    attempt int NOT NULL DEFAULT 0,
    payload jsonb NOT NULL,
    worker text,
    lease_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    completed_at timestamptz
);
CREATE INDEX run_queued ON run (queue, priority, id) WHERE status = 'queued';
CREATE INDEX run_leased ON run (lease_until) WHERE status = 'in_progress';
CREATE TABLE history (
    run bigint NOT NULL,
    version int NOT NULL,
    source text,
    target text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    actor text NOT NULL,
    PRIMARY KEY (run, version)
);
"""
CREATE: Final = """
WITH made AS (INSERT INTO run (payload) SELECT '{"task": 1}'::jsonb FROM generate_series(1, $1::int) RETURNING id)
INSERT INTO history (run, version, target, actor) SELECT id, 1, 'queued', 'api' FROM made
"""
SETTLE_AND_CLAIM: Final = """
WITH done AS (
    UPDATE run SET status = 'completed', completed_at = now(), version = version + 1, lease_until = NULL
    WHERE id = ANY ($1::bigint[]) AND status = 'in_progress' AND worker = $2 RETURNING id, version
), entered AS (
    INSERT INTO history (run, version, source, target, actor)
    SELECT id, version, 'in_progress', 'completed', $2 FROM done
), picked AS (
    SELECT id FROM run WHERE status = 'queued' AND queue = 'default' ORDER BY priority, id
    LIMIT $3 FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE run AS r SET status = 'in_progress', started_at = now(), attempt = attempt + 1, version = version + 1,
        worker = $2, lease_until = now() + interval '30 s'
    FROM picked WHERE r.id = picked.id RETURNING r.id, r.version, r.payload
), started AS (
    INSERT INTO history (run, version, source, target, actor)
    SELECT id, version, 'queued', 'in_progress', $2 FROM claimed
)
SELECT id, version, payload FROM claimed
"""
WORKER: Final = "worker-1"


class PostgresTasks(PostgresFused):
    """asyncpg by hand, prepared; a worker's cycle is one statement, and each run has a task."""

    name = "baseline, tasks"
    about = "asyncpg by hand, prepared; the same cycle on one table with a lease; a task of the event loop for each run"
    missing = missing_package("asyncpg")
    creates_at_once = ()
    slots = (10, 100)
    measures_start = False

    def prepare(self) -> None:
        self.close()
        empty_database(self._url)
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(TABLES.encode())

    def create(self, count: int, in_flight: int) -> float:
        began = perf_counter()
        asyncio.run(self._create(count))
        return perf_counter() - began

    async def _create(self, count: int) -> None:
        connection = await import_module("asyncpg").connect(self._url)
        await connection.execute(CREATE, count)
        await connection.close()

    def vacuum(self) -> None:
        vacuum_tables(self._url, ("run", "history"))

    def drain(self, count: int, slots: int, processes: int) -> float:
        return self._measure_drain(WorkerProcesses(drain, self._url, slots, processes=processes), count)


def drain(reporter: Reporter, url: str, slots: int) -> None:
    """Complete and claim until no run is left."""
    try:
        run: Any = import_module("uvloop").run
    except ModuleNotFoundError:
        run = asyncio.run
    run(_drain(reporter, url, slots))


async def _drain(reporter: Reporter, url: str, slots: int) -> None:
    connection = await import_module("asyncpg").connect(url)
    step = await connection.prepare(SETTLE_AND_CLAIM)
    done: list[int] = []
    working: set[asyncio.Task[None]] = set()
    wake = asyncio.Event()

    async def work(run_id: int) -> None:
        await asyncio.sleep(0)
        done.append(run_id)
        wake.set()

    reporter.wait_for_start()
    began, total = monotonic(), 0
    while True:
        settled, done = done, []
        claimed = await step.fetch(settled, WORKER, slots - len(working))
        total += len(settled)
        for row in claimed:
            task = asyncio.ensure_future(work(row["id"]))
            working.add(task)
            task.add_done_callback(working.discard)
        if not (claimed or settled or working or done):
            break
        if working and not done:
            wake.clear()
            await wake.wait()
    reporter.report(began, monotonic(), total)
    await connection.close()
    if not total:
        raise MeasurementFailed("there was nothing to drain")
