"""What a user does about a large PostgreSQL store: by the SQL that stands in `docs/scale.md`."""

from __future__ import annotations

import time
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import psycopg

from tests.support.scale_page import run_recipe

if TYPE_CHECKING:
    from benchmarks.scale.measure import Sheet
    from runstate.store import Store

__all__ = ["archived", "partitioned", "pruned", "sizes", "vacuumed"]

DAY_S: Final = 86_400
BATCH: Final = 1000


def _run(connection: psycopg.Connection[Any], name: str, **values: int) -> float:
    """Execute a recipe; return the seconds."""
    before = perf_counter()
    run_recipe(connection, name, **values)
    return perf_counter() - before


def sizes(url: str, sheet: Sheet, column: str) -> None:
    """Note how many bytes each table and index takes, and each for a run."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(
            "SELECT relname, pg_relation_size(oid), (SELECT count(*) FROM runstate_run) FROM pg_class"
            " WHERE starts_with(relname, 'runstate_') AND relkind IN ('r', 'i') ORDER BY 2 DESC LIMIT 8"
        ).fetchall()
        for name, size, runs in found:
            sheet.add(f"bytes a run: {name}", column, [size / runs], "B")
        whole = connection.execute("SELECT pg_database_size(current_database())").fetchone()
        assert whole is not None, "no size"
        sheet.add("size of the database", column, [whole[0] / 1e9], "GB")


def vacuumed(url: str, sheet: Sheet, column: str) -> None:
    """Measure a vacuum as slow as autovacuum's own, which sleeps 2 ms again and again."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET vacuum_cost_delay = '2ms'")
        for table in ("runstate_run", "runstate_history"):
            before = perf_counter()
            connection.execute(f"VACUUM (ANALYZE) {table}".encode())
            sheet.add(f"vacuum of {table}, at autovacuum's pace", column, [perf_counter() - before], "s")


def _prune(store: Store, sheet: Sheet, column: str, what: str, batches: int) -> None:
    """Prune batch by batch, and note the first, the last, and how many runs a second."""
    laps: list[float] = []
    for _ in range(batches):
        before = perf_counter()
        assert store.prune(30 * DAY_S, limit=BATCH) == BATCH, "too few runs are old enough"
        laps.append(perf_counter() - before)
    tenth = max(1, batches // 10)
    sheet.add(f"{what}: first batches", column, [1000 * lap for lap in laps[:tenth]], "ms")
    sheet.add(f"{what}: last batches", column, [1000 * lap for lap in laps[-tenth:]], "ms")
    sheet.add(what, column, [batches * BATCH / sum(laps)], "runs/s")


def pruned(store: Store, url: str, sheet: Sheet, column: str, batches: int) -> None:
    """Measure pruning: while it goes on, what it leaves to be cleaned, and how it goes on afterwards."""
    _prune(store, sheet, column, "prune", batches)
    time.sleep(11)  # until the server has counted
    with psycopg.connect(url, autocommit=True) as connection:
        for table in ("runstate_run", "runstate_history"):
            row = connection.execute(
                "SELECT n_dead_tup FROM pg_stat_all_tables WHERE relid = to_regclass(%s)", [table]
            ).fetchone()
            assert row is not None, table
            sheet.add(f"dead rows that pruning left in {table}", column, [row[0]], "rows")
    vacuumed(url, sheet, f"{column} pruned")
    _prune(store, sheet, f"{column} pruned", "prune", max(1, batches // 10))


def partitioned(store: Store, url: str, sheet: Sheet, column: str, batches: int) -> None:
    """Make the history a partitioned table, let go of its first partition, and prune the runs it was of."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute("SELECT max(seq) + 1000000 FROM runstate_run").fetchone()
        assert row is not None, "no runs"
        bounds = {"next": row[0], "after": row[0] + 10_000_000}
        sheet.add("partition the history: prepare", column, [_run(connection, "prepare", **bounds)], "s")
        sheet.add("partition the history: switch", column, [_run(connection, "switch", **bounds)], "s")
        connection.execute(
            "SELECT setval(pg_get_serial_sequence('runstate_run', 'seq'), %s)", [row[0]]
        )  # as if they had been created since
    sheet.add("create, in a new partition", column, _created(store), "ms")
    with psycopg.connect(url, autocommit=True) as connection:
        sheet.add("detach the old partition", column, [_run(connection, "detach", **bounds)], "s")
    _prune(store, sheet, column, "prune, its history detached", batches)


def _created(store: Store) -> list[float]:
    laps = []
    for _ in range(200):
        before = perf_counter()
        run = store.create(thread_id="thread_1", assistant_id="asst_1", model="gpt-4o")
        laps.append(1000 * (perf_counter() - before))
        assert len(store.history(run.id)) == 1, "an entry was lost"
        store.request_cancel(run.id)
        assert len(store.history(run.id)) == 3, "an entry was lost"
    return laps


def archived(url: str, sheet: Sheet, column: str, batches: int) -> None:
    """Move ended runs to tables of the same database, ten thousand a transaction."""
    with psycopg.connect(url, autocommit=True) as connection:
        _run(connection, "archive")
        laps = [_run(connection, "move", cutoff=2**62) for _ in range(batches)]
        row = connection.execute("SELECT count(*) FROM archive.run").fetchone()
        assert row is not None, "no archive"
        sheet.add("move to an archive", column, [row[0] / batches / lap for lap in laps], "runs/s")
