"""Remedies for a large PostgreSQL store: the SQL of `docs/scale.md`."""

from __future__ import annotations

import time
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import psycopg

from tests.support.scale_page import run_recipe

if TYPE_CHECKING:
    from benchmarks.scale.measure import Results
    from runstate.store import Store

__all__ = ["measure_archive", "measure_partitioning", "measure_prune", "measure_sizes", "measure_vacuum"]

DAY_S: Final = 86_400
BATCH: Final = 1000


def _run(connection: psycopg.Connection[Any], name: str, **values: int) -> float:
    """Execute a recipe; return the seconds."""
    before = perf_counter()
    run_recipe(connection, name, **values)
    return perf_counter() - before


def measure_sizes(url: str, results: Results, column: str) -> None:
    """Add the size of the database, and the bytes of a run in each table and index."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(
            "SELECT relname, pg_relation_size(oid), (SELECT count(*) FROM runstate_run) FROM pg_class"
            " WHERE starts_with(relname, 'runstate_') AND relkind IN ('r', 'i') ORDER BY 2 DESC LIMIT 8"
        ).fetchall()
        for name, size, runs in found:
            results.add(f"bytes a run: {name}", column, [size / runs], "B")
        whole = connection.execute("SELECT pg_database_size(current_database())").fetchone()
        assert whole is not None, "no size"
        results.add("size of the database", column, [whole[0] / 1e9], "GB")


def measure_vacuum(url: str, results: Results, column: str) -> None:
    """Measure a vacuum that is as slow as autovacuum, which sleeps for 2 ms again and again."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET vacuum_cost_delay = '2ms'")
        for table in ("runstate_run", "runstate_history"):
            before = perf_counter()
            connection.execute(f"VACUUM (ANALYZE) {table}".encode())
            results.add(f"vacuum of {table}, at autovacuum's pace", column, [perf_counter() - before], "s")


def _prune(store: Store, results: Results, column: str, what: str, batches: int) -> None:
    """Prune in batches; add the first ones, the last ones, and the runs a second."""
    laps: list[float] = []
    for _ in range(batches):
        before = perf_counter()
        assert store.prune(30 * DAY_S, limit=BATCH) == BATCH, "too few runs are old enough"
        laps.append(perf_counter() - before)
    tenth = max(1, batches // 10)
    results.add(f"{what}: first batches", column, [1000 * lap for lap in laps[:tenth]], "ms")
    results.add(f"{what}: last batches", column, [1000 * lap for lap in laps[-tenth:]], "ms")
    results.add(what, column, [batches * BATCH / sum(laps)], "runs/s")


def measure_prune(store: Store, url: str, results: Results, column: str, batches: int) -> None:
    """Measure pruning, the dead rows that it leaves, and pruning after a vacuum."""
    _prune(store, results, column, "prune", batches)
    time.sleep(11)  # until the server has updated its counts
    with psycopg.connect(url, autocommit=True) as connection:
        for table in ("runstate_run", "runstate_history"):
            row = connection.execute(
                "SELECT n_dead_tup FROM pg_stat_all_tables WHERE relid = to_regclass(%s)", [table]
            ).fetchone()
            assert row is not None, table
            results.add(f"dead rows that pruning left in {table}", column, [row[0]], "rows")
    measure_vacuum(url, results, f"{column} pruned")
    _prune(store, results, f"{column} pruned", "prune", max(1, batches // 10))


def measure_partitioning(store: Store, url: str, results: Results, column: str, batches: int) -> None:
    """Partition the history, detach its first partition, and prune the runs of that partition."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute("SELECT max(seq) + 1000000 FROM runstate_run").fetchone()
        assert row is not None, "no runs"
        bounds = {"next": row[0], "after": row[0] + 10_000_000}
        results.add("partition the history: prepare", column, [_run(connection, "prepare", **bounds)], "s")
        results.add("partition the history: switch", column, [_run(connection, "switch", **bounds)], "s")
        connection.execute(
            "SELECT setval(pg_get_serial_sequence('runstate_run', 'seq'), %s)", [row[0]]
        )  # as if they had been created since
    results.add("create, in a new partition", column, _create_laps(store), "ms")
    with psycopg.connect(url, autocommit=True) as connection:
        results.add("detach the old partition", column, [_run(connection, "detach", **bounds)], "s")
    _prune(store, results, column, "prune, its history detached", batches)


def _create_laps(store: Store) -> list[float]:
    laps = []
    for _ in range(200):
        before = perf_counter()
        run = store.create(thread_id="thread_1", assistant_id="asst_1", model="gpt-4o")
        laps.append(1000 * (perf_counter() - before))
        assert len(store.history(run.id)) == 1, "an entry was lost"
        store.request_cancel(run.id)
        assert len(store.history(run.id)) == 3, "an entry was lost"
    return laps


def measure_archive(url: str, results: Results, column: str, batches: int) -> None:
    """Move ended runs to tables of the same database, ten thousand a transaction."""
    with psycopg.connect(url, autocommit=True) as connection:
        _run(connection, "archive")
        laps = [_run(connection, "move", cutoff=2**62) for _ in range(batches)]
        row = connection.execute("SELECT count(*) FROM archive.run").fetchone()
        assert row is not None, "no archive"
        results.add("move to an archive", column, [row[0] / batches / lap for lap in laps], "runs/s")
