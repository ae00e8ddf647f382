"""What becomes slow first as a store grows: the figures of `docs/scale.md`.

    python -m benchmarks.scale [--rows N] [--quick] [--only postgres|queued|recipes|workers|sqlite] [--json FILE]

A PostgreSQL server of its own, with default settings except `max_connections`, is filled with ten thousand, a million,
then ten million ended runs of three entries each, and everything is measured at each size; then with runs that wait on
top; then pruned, partitioned, archived. Workers are measured beside it, in an empty store. Then SQLite files. Ten
million take about 25 GB below the system's temporary folder, and an hour. No figure decides anything, and the exit
status is 0.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import attrs
import psycopg

from benchmarks.durable.runstate_store import NEW_RUN
from benchmarks.machine import fdatasync_us, machine
from benchmarks.scale.fill import fill_postgres, fill_sqlite, write_templates
from benchmarks.scale.measure import (
    Results,
    complete,
    keep_plan,
    measure_drain,
    measure_maintenance,
    measure_operations,
    sample_ids,
    time_each,
    time_over,
)
from benchmarks.scale.recipes import measure_archive, measure_partitioning, measure_prune, measure_sizes, measure_vacuum
from benchmarks.scale.workers import (
    measure_claims,
    measure_connections,
    measure_leases,
    measure_notifications,
    measure_pace,
)
from runstate.store import Claim, NewRun, Store, open_store
from tests.support.judge import judge
from tests.support.postgres import OwnServer, find_programs
from tests.support.scale_page import run_recipe

PARTS: Final = ("postgres", "queued", "recipes", "workers", "sqlite")
SIZES: Final = (10_000, 1_000_000, 10_000_000)
_LISTENERS: Final = (0, 10, 100, 300)


def _named(rows: int) -> str:
    power = len(str(rows)) - 1
    return f"10^{power}" if rows == 10**power else f"{rows:,}"


# -- PostgreSQL -------------------------------------------------------------------------------------------------------


@contextmanager
def _server() -> Iterator[OwnServer]:
    """Yield a server that waits for the disk, and allows more connections than by default."""
    server = OwnServer(fast=False)
    try:
        with psycopg.connect(server.address, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET max_connections = 400")
        server.kill()
        server.restart()
        yield server
    finally:
        server.stop()


def _create_database(server: OwnServer, name: str) -> str:
    with psycopg.connect(server.address, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return server.url(name)


def _one(url: str, statement: str) -> Any:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(statement.encode()).fetchone()
    assert row is not None, statement
    return row[0]


def postgres(server: OwnServer, url: str, results: Results, rows: Sequence[int], quick: bool) -> None:
    """Measure one store at each size."""
    with open_store(url, migrate=True) as store:
        write_templates(store)
    slow = _one(url, _WRONG_COLLATION)
    for size in rows:
        column = _named(size)
        before = perf_counter()
        fill_postgres(url, size)
        results.add("filled, and vacuumed", column, [perf_counter() - before], "s")
        with open_store(url) as store:
            if slow:
                _fix_collation(store, url, results, column)
            measure_sizes(url, results, column)
            measure_operations(store, results, column, quick)
            measure_drain(store, url, results, column, 2000 if quick else 10_000, 1 if quick else 3)
            measure_maintenance(store, results, column)
            _keep_plans(store, results, column)
        measure_vacuum(url, results, column)
        if size == rows[0]:
            assert not (wrong := judge(url).wrong), wrong
        _measure_restart(server, url, results, column)


# The collation of a column was wrong in the library's schema 2. If it is right, nothing is done.
_WRONG_COLLATION: Final = """\
SELECT count(*) FROM pg_attribute AS a JOIN pg_attribute AS b USING (attname) WHERE attname = 'id'
    AND a.attrelid = 'runstate_run_config'::regclass AND b.attrelid = 'runstate_run'::regclass
    AND a.attcollation <> b.attcollation"""


def _fix_collation(store: Store, url: str, results: Results, column: str) -> None:
    """Measure reads of a run's settings with the wrong collation, then correct it."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute('ALTER TABLE runstate_run_config ALTER COLUMN id TYPE text COLLATE "default"')
        connection.execute("ANALYZE runstate_run_config")
        lease = store.open_lease("bench", lease_s=3600)
        ids = sample_ids(store, 5)
        wanted: NewRun = {**NEW_RUN, "queue": "probe"}
        store.create_many([wanted] * 20)
        claimed: list[Claim] = []
        results.add("get, not mended", column, time_over(store.get, ids), "ms")
        laps = time_each(lambda: claimed.extend(store.claim(lease, 10, queues=("probe",))), 2, 2)
        results.add("claim of 10, not mended", column, laps, "ms")
        complete(store, lease, claimed)
        store.close_lease(lease)
        before = perf_counter()
        run_recipe(connection, "settings")
        results.add("mend the settings", column, [perf_counter() - before], "s")


def _keep_plans(store: Store, results: Results, column: str) -> None:
    """Keep the plans of statements that grow with the ended runs."""
    reading, writing = store._database.open(reading=True), store._database.open()
    statements = reading.statements
    ages = {"age": 365 * 86_400 * 1_000_000, "limit": 1000}
    absent = {"key": "customer", "value": "absent"}
    by_metadata = f"SELECT {statements.columns} FROM runstate_run AS r WHERE {statements.has_metadata('key', 'value')}"
    try:
        keep_plan(results, f"{column} prune, nothing old enough", writing, statements.prune, ages)
        given = {"tx": 0, "run": 0, "version": 0, "width": 512, "most": 10_000, "limit": 9}
        keep_plan(results, f"{column} entries", reading, statements.all_entries, given)
        keep_plan(results, f"{column} metadata", reading, f"{by_metadata} ORDER BY r.seq DESC LIMIT 21", absent)
        keep_plan(results, f"{column} is_anything_due", reading, statements.anything_due, {})
    finally:
        reading.close()
        writing.close()


def _measure_restart(server: OwnServer, url: str, results: Results, column: str) -> None:
    server.kill()
    before = perf_counter()
    server.restart()
    with open_store(url) as store:
        store.list()
    results.add("kill -9 of the server until a list is read", column, [perf_counter() - before], "s")


def queued(url: str, results: Results, rows: int, waiting: Sequence[int]) -> None:
    """Measure what depends on the number of queued runs, besides those that ended."""
    wanted: NewRun = {**NEW_RUN, "expires_in_s": 30 * 86_400}
    there = 0
    with open_store(url) as store:
        for count in waiting:
            before = perf_counter()
            while there < count:
                store.create_many([wanted] * min(10_000, count - there))
                there += min(10_000, count - there)
            column = f"{_named(rows)} + {_named(count)}"
            results.add("create_many, 10,000 at once", column, [count / (perf_counter() - before)], "runs/s")
            _vacuum(url)
            _measure_queued(store, results, column)
        reading = store._database.open(reading=True)
        keep_plan(results, f"{column} is_anything_due", reading, reading.statements.anything_due, {})
        reading.close()
        _measure_blocked_threads(store, url, results, waiting[0])


def _vacuum(url: str) -> None:
    """Update the statistics of the server, as autovacuum would soon do."""
    with psycopg.connect(url, autocommit=True) as connection:
        for table in ("runstate_run", "runstate_history"):
            connection.execute(f"VACUUM (ANALYZE) {table}".encode())


def _measure_queued(store: Store, results: Results, column: str) -> None:
    lease = store.open_lease("bench", lease_s=3600)
    claimed: list[Claim] = []
    results.add("claim of 10", column, time_each(lambda: claimed.extend(store.claim(lease, 10)), 50), "ms")
    complete(store, lease, claimed)
    results.add("create, one caller", column, time_each(lambda: store.create(**NEW_RUN), 100), "ms")
    results.add("is_anything_due", column, time_each(store.is_anything_due, 30), "ms")
    results.add("sweep, nothing due", column, time_each(store.sweep, 20), "ms")
    results.add("list: status queued", column, time_each(lambda: store.list(status="queued"), 50), "ms")
    results.add("counts", column, time_each(store.counts, 3), "ms")
    results.add("overdue", column, time_each(store.overdue, 20), "ms")
    store.close_lease(lease)


def _measure_blocked_threads(store: Store, url: str, results: Results, count: int) -> None:
    """Measure the sweep while many runs are blocked by others of their threads."""
    wanted: NewRun = {**NEW_RUN, "expires_in_s": 30 * 86_400, "one_live_run_per_thread": "queue", "queue": "behind"}
    for place in range(0, count, 1000):
        store.create_many([{**wanted, "thread_id": f"busy_{place}"}] * min(1000, count - place))
    _vacuum(url)
    results.add("sweep, nothing due", f"{_named(count)} behind", time_each(store.sweep, 20), "ms")


def workers(url: str, results: Results, quick: bool) -> None:
    """Measure what workers cost, in a store of their own."""
    programs, seconds = find_programs(), 1 if quick else 5
    many = (10, 1000) if quick else (10, 1000, 100_000)
    with open_store(url, migrate=True) as store:
        measure_leases(store, url, results, many)
        measure_pace(programs, url, results, many, seconds)
        measure_claims(store, programs, url, results, (1, 10) if quick else (1, 10, 50, 200), seconds)
        measure_notifications(programs, url, results, _LISTENERS[:2] if quick else _LISTENERS, seconds)
    measure_connections(url, results)


# -- SQLite -----------------------------------------------------------------------------------------------------------


def sqlite(folder: Path, results: Results, rows: Sequence[int], quick: bool) -> None:
    """Measure the same of a file."""
    path = folder / "runs.db"
    url = f"sqlite:///{path}"
    with open_store(url) as store:
        write_templates(store)
    for size in rows:
        column = f"{_named(size)} SQLite"
        before = perf_counter()
        fill_sqlite(str(path), size)
        results.add("filled", column, [perf_counter() - before], "s")
        results.add("size of the database", column, [path.stat().st_size / 1e9], "GB")
        with open_store(url) as store:
            measure_operations(store, results, column, quick)
            if size <= 1_000_000:  # the drain ends with a sweep, which takes longer than the worker's timeout there
                measure_drain(store, url, results, column, 2000 if quick else 10_000, 1 if quick else 3)
            measure_maintenance(store, results, column)
            laps = time_each(lambda: store.prune(30 * 86_400, limit=1000), 5)
            results.add("prune", column, [1_000_000 / lap for lap in laps], "runs/s")


# -- the command ------------------------------------------------------------------------------------------------------


def _measure(results: Results, parts: Sequence[str], rows: Sequence[int], quick: bool) -> str:
    about = ""
    if set(parts) - {"sqlite"}:
        with _server() as server:
            about = _one(server.address, "SELECT version()")
            url = _create_database(server, "runs")
            if {"postgres", "queued", "recipes"} & set(parts):
                postgres(server, url, results, rows if "postgres" in parts else rows[-1:], quick)
            if "queued" in parts:
                queued(url, results, rows[-1], (1000, 10_000) if quick else (10_000, 100_000, 1_000_000))
            if "recipes" in parts:
                with open_store(url) as store:
                    measure_prune(store, url, results, _named(rows[-1]), 5 if quick else 200)
                    measure_archive(url, results, _named(rows[-1]), 1 if quick else 10)
                    measure_partitioning(store, url, results, _named(rows[-1]), 2 if quick else 200)
            if "workers" in parts:
                workers(_create_database(server, "workers"), results, quick)
    if "sqlite" in parts:
        with tempfile.TemporaryDirectory(prefix="runstate-") as folder:
            sqlite(Path(folder), results, rows, quick)
    return about


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What becomes slow first as a store grows.")
    parser.add_argument("--rows", type=int, default=SIZES[-1], help="the most ended runs (10,000,000)")
    parser.add_argument("--quick", action="store_true", help="20,000 runs at most and short measurements: a trial")
    parser.add_argument("--only", choices=PARTS, action="append", help="a part (repeatable)")
    parser.add_argument("--json", type=Path, help="also write figures and plans to this file")
    options = parser.parse_args()
    most = min(options.rows, 20_000) if options.quick else options.rows
    rows = [size for size in SIZES if size < most] + [most]
    results = Results()
    about = {**machine(), "a page written and synced": f"{fdatasync_us(tempfile.gettempdir()):.0f} us"}
    print("; ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    try:
        about["postgresql"] = _measure(results, options.only or PARTS, rows, options.quick)
    finally:
        if options.json:
            figures = [attrs.asdict(figure) for figure in results.figures]
            result = {"about": about, "figures": figures, "plans": results.plans}
            options.json.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(about["postgresql"])
    for name, plan in results.plans.items():
        print(f"\n{name}", *plan, sep="\n    ")


if __name__ == "__main__":
    main()
