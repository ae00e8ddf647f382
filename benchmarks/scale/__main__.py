"""What gives way first as a store grows: the figures of `docs/scale.md`.

    python -m benchmarks.scale [--rows N] [--quick] [--only postgres|queued|recipes|workers|sqlite] [--json FILE]

A PostgreSQL of its own, its settings untouched but for `max_connections`, is filled with ten thousand, a million, then
ten million ended runs of three entries each, and everything is measured at each size; then with runs that wait on top;
then pruned, partitioned, archived. Workers are measured beside it, in an empty store. Then SQLite files. Ten million
take about 25 GB below the system's temporary folder, and an hour. No figure decides anything, the exit status is 0.
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

from benchmarks.durable.ours import WANTED
from benchmarks.durable.server import fdatasync_us, machine
from benchmarks.scale.fill import fill_postgres, fill_sqlite, write_templates
from benchmarks.scale.measure import Sheet, complete, drained, explained, operations, sampled, timed, timed_over, upkeep
from benchmarks.scale.recipes import archived, partitioned, pruned, sizes, vacuumed
from benchmarks.scale.workers import claims, connections, leases, looks, notifications
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
    """Give a server that waits for the disk, and holds more connections than it usually would."""
    server = OwnServer(fast=False)
    try:
        with psycopg.connect(server.address, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET max_connections = 400")
        server.kill()
        server.restart()
        yield server
    finally:
        server.stop()


def _fresh(server: OwnServer, name: str) -> str:
    with psycopg.connect(server.address, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return server.url(name)


def _one(url: str, statement: str) -> Any:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(statement.encode()).fetchone()
    assert row is not None, statement
    return row[0]


def postgres(server: OwnServer, url: str, sheet: Sheet, rows: Sequence[int], quick: bool) -> None:
    """Measure what one store does at each size."""
    with open_store(url, migrate=True) as store:
        write_templates(store)
    slow = _one(url, _SLOW)
    for size in rows:
        column = _named(size)
        before = perf_counter()
        fill_postgres(url, size)
        sheet.add("filled, and vacuumed", column, [perf_counter() - before], "s")
        with open_store(url) as store:
            if slow:
                _mended(store, url, sheet, column)
            sizes(url, sheet, column)
            operations(store, sheet, column, quick)
            drained(store, url, sheet, column, 2000 if quick else 10_000, 1 if quick else 3)
            upkeep(store, sheet, column)
            _grown(store, sheet, column)
        vacuumed(url, sheet, column)
        if size == rows[0]:
            assert not (wrong := judge(url).wrong), wrong
        _restarted(server, url, sheet, column)


# What is mended here is an error of the library's schema 2; where there is none any more, nothing is done.
_SLOW: Final = """\
SELECT count(*) FROM pg_attribute AS a JOIN pg_attribute AS b USING (attname) WHERE attname = 'id'
    AND a.attrelid = 'runstate_settings'::regclass AND b.attrelid = 'runstate_run'::regclass
    AND a.attcollation <> b.attcollation"""


def _mended(store: Store, url: str, sheet: Sheet, column: str) -> None:
    """Measure what reads a run's settings as the library makes the table, then mend the table."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute('ALTER TABLE runstate_settings ALTER COLUMN id TYPE text COLLATE "default"')
        connection.execute("ANALYZE runstate_settings")
        lease = store.open_lease("bench", lease_s=3600)
        ids = sampled(store, 5)
        wanted: NewRun = {**WANTED, "queue": "probe"}
        store.create_many([wanted] * 20)
        claimed: list[Claim] = []
        sheet.add("get, not mended", column, timed_over(store.get, ids), "ms")
        laps = timed(lambda: claimed.extend(store.claim(lease, 10, queues=("probe",))), 2, 2)
        sheet.add("claim of 10, not mended", column, laps, "ms")
        complete(store, lease, claimed)
        store.close_lease(lease)
        before = perf_counter()
        run_recipe(connection, "settings")
        sheet.add("mend the settings", column, [perf_counter() - before], "s")


def _grown(store: Store, sheet: Sheet, column: str) -> None:
    """Keep the plans of what grows with the ended runs."""
    reading, writing = store.database.open(reading=True), store.database.open()
    speak = reading.statements
    ages = {"age": 365 * 86_400 * 1_000_000, "limit": 1000}
    by_metadata = f"SELECT {speak.columns} FROM runstate_run AS r WHERE {speak.has_metadata('key', 'value')}"
    given = {"key": "customer", "value": "nobody"}
    try:
        explained(sheet, f"{column} prune, nothing old enough", writing, speak.prune, ages)
        explained(sheet, f"{column} entries", reading, speak.all_entries, {"tx": 0, "run": 0, "version": 0, "limit": 9})
        explained(sheet, f"{column} metadata", reading, f"{by_metadata} ORDER BY r.seq DESC LIMIT 21", given)
        explained(sheet, f"{column} is_anything_due", reading, speak.anything_due, {})
    finally:
        reading.close()
        writing.close()


def _restarted(server: OwnServer, url: str, sheet: Sheet, column: str) -> None:
    server.kill()
    before = perf_counter()
    server.restart()
    with open_store(url) as store:
        store.list()
    sheet.add("kill -9 of the server until a list is read", column, [perf_counter() - before], "s")


def queued(url: str, sheet: Sheet, rows: int, waiting: Sequence[int]) -> None:
    """Measure what depends on how many runs wait, on top of those that ended."""
    wanted: NewRun = {**WANTED, "expires_in_s": 30 * 86_400}
    there = 0
    with open_store(url) as store:
        for count in waiting:
            before = perf_counter()
            while there < count:
                store.create_many([wanted] * min(10_000, count - there))
                there += min(10_000, count - there)
            column = f"{_named(rows)} + {_named(count)}"
            sheet.add("create_many, 10,000 at once", column, [count / (perf_counter() - before)], "runs/s")
            _settled(url)
            _waiting(store, sheet, column)
        reading = store.database.open(reading=True)
        explained(sheet, f"{column} is_anything_due", reading, reading.statements.anything_due, {})
        reading.close()
        _behind(store, url, sheet, waiting[0])


def _settled(url: str) -> None:
    """Let the server count its rows, as autovacuum would before long."""
    with psycopg.connect(url, autocommit=True) as connection:
        for table in ("runstate_run", "runstate_history"):
            connection.execute(f"VACUUM (ANALYZE) {table}".encode())


def _waiting(store: Store, sheet: Sheet, column: str) -> None:
    lease = store.open_lease("bench", lease_s=3600)
    claimed: list[Claim] = []
    sheet.add("claim of 10", column, timed(lambda: claimed.extend(store.claim(lease, 10)), 50), "ms")
    complete(store, lease, claimed)
    sheet.add("create, one caller", column, timed(lambda: store.create(**WANTED), 100), "ms")
    sheet.add("is_anything_due", column, timed(store.is_anything_due, 30), "ms")
    sheet.add("sweep, nothing due", column, timed(store.sweep, 20), "ms")
    sheet.add("list: status queued", column, timed(lambda: store.list(status="queued"), 50), "ms")
    sheet.add("counts", column, timed(store.counts, 3), "ms")
    sheet.add("overdue", column, timed(store.overdue, 20), "ms")
    store.close_lease(lease)


def _behind(store: Store, url: str, sheet: Sheet, count: int) -> None:
    """Measure the sweep while many runs wait behind others of their threads."""
    wanted: NewRun = {**WANTED, "expires_in_s": 30 * 86_400, "one_live_run_per_thread": "queue", "queue": "behind"}
    for place in range(0, count, 1000):
        store.create_many([{**wanted, "thread_id": f"busy_{place}"}] * min(1000, count - place))
    _settled(url)
    sheet.add("sweep, nothing due", f"{_named(count)} behind", timed(store.sweep, 20), "ms")


def workers(url: str, sheet: Sheet, quick: bool) -> None:
    """Measure what workers cost, in a store of their own."""
    programs, seconds = find_programs(), 1 if quick else 5
    many = (10, 1000) if quick else (10, 1000, 100_000)
    with open_store(url, migrate=True) as store:
        leases(store, url, sheet, many)
        looks(programs, url, sheet, many, seconds)
        claims(store, programs, url, sheet, (1, 10) if quick else (1, 10, 50, 200), seconds)
        notifications(programs, url, sheet, _LISTENERS[:2] if quick else _LISTENERS, seconds)
    connections(url, sheet)


# -- SQLite -----------------------------------------------------------------------------------------------------------


def sqlite(folder: Path, sheet: Sheet, rows: Sequence[int], quick: bool) -> None:
    """Measure the same of a file."""
    path = folder / "runs.db"
    url = f"sqlite:///{path}"
    with open_store(url) as store:
        write_templates(store)
    for size in rows:
        column = f"{_named(size)} SQLite"
        before = perf_counter()
        fill_sqlite(str(path), size)
        sheet.add("filled", column, [perf_counter() - before], "s")
        sheet.add("size of the database", column, [path.stat().st_size / 1e9], "GB")
        with open_store(url) as store:
            operations(store, sheet, column, quick)
            if size <= 1_000_000:  # the drain ends with a sweep, which takes longer than the worker's patience there
                drained(store, url, sheet, column, 2000 if quick else 10_000, 1 if quick else 3)
            upkeep(store, sheet, column)
            laps = timed(lambda: store.prune(30 * 86_400, limit=1000), 5)
            sheet.add("prune", column, [1_000_000 / lap for lap in laps], "runs/s")


# -- the command ------------------------------------------------------------------------------------------------------


def _measure(sheet: Sheet, parts: Sequence[str], rows: Sequence[int], quick: bool) -> str:
    about = ""
    if set(parts) - {"sqlite"}:
        with _server() as server:
            about = _one(server.address, "SELECT version()")
            url = _fresh(server, "runs")
            if {"postgres", "queued", "recipes"} & set(parts):
                postgres(server, url, sheet, rows if "postgres" in parts else rows[-1:], quick)
            if "queued" in parts:
                queued(url, sheet, rows[-1], (1000, 10_000) if quick else (10_000, 100_000, 1_000_000))
            if "recipes" in parts:
                with open_store(url) as store:
                    pruned(store, url, sheet, _named(rows[-1]), 5 if quick else 200)
                    archived(url, sheet, _named(rows[-1]), 1 if quick else 10)
                    partitioned(store, url, sheet, _named(rows[-1]), 2 if quick else 200)
            if "workers" in parts:
                workers(_fresh(server, "workers"), sheet, quick)
    if "sqlite" in parts:
        with tempfile.TemporaryDirectory(prefix="runstate-") as folder:
            sqlite(Path(folder), sheet, rows, quick)
    return about


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What gives way first as a store grows.")
    parser.add_argument("--rows", type=int, default=SIZES[-1], help="the most ended runs (10,000,000)")
    parser.add_argument("--quick", action="store_true", help="20,000 runs at most and short measurements: a look")
    parser.add_argument("--only", choices=PARTS, action="append", help="a part; may be said again")
    parser.add_argument("--json", type=Path, help="write figures and plans to this file, too")
    options = parser.parse_args()
    most = min(options.rows, 20_000) if options.quick else options.rows
    rows = [size for size in SIZES if size < most] + [most]
    sheet = Sheet()
    about = {**machine(), "a page written and synced": f"{fdatasync_us(tempfile.gettempdir()):.0f} us"}
    print("; ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    try:
        about["postgresql"] = _measure(sheet, options.only or PARTS, rows, options.quick)
    finally:
        if options.json:
            figures = [attrs.asdict(figure) for figure in sheet.figures]
            result = {"about": about, "figures": figures, "plans": sheet.plans}
            options.json.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(about["postgresql"])
    for name, plan in sheet.plans.items():
        print(f"\n{name}", *plan, sep="\n    ")


if __name__ == "__main__":
    main()
