"""A store with very many ended runs: the library makes a few thousand, and SQL multiplies their rows.

A copy is complete: the run, its entries and its settings, moved to another time, with an id of that time and, on
PostgreSQL, with the number of a used transaction. The triggers are disabled meanwhile, because it would take hours with
them; the benchmark then examines the store with the doctor.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, Final

import attrs
import psycopg

from runstate.lifecycle import RunStatus
from runstate.store import NewRun, Store
from runstate.store._sql.dialect import POSTGRES, SQLITE
from runstate.worker import Context, Outcome, RunFailed, Worker

__all__ = ["TABLES", "TEMPLATES", "fill_postgres", "fill_sqlite", "write_templates"]

TEMPLATES: Final = 2000
TABLES: Final = ("runstate_run", "runstate_history", "runstate_run_config")
INTERVAL_US: Final = 777_600
"""The time between two runs: ten million in ninety days."""
DAYS_US: Final = 90 * 86_400 * 1_000_000
RUNS_PER_TRANSACTION: Final = 1_000_000
PER_COMMIT: Final = 10
"""Runs whose entries share a commit."""
_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ENDS: Final = ("fail", "incomplete", "cancel", "expire")


def _end_of(number: int) -> str:
    """Return the outcome of a template: of a hundred, ninety complete."""
    place = number % 100
    return _ENDS[place % 4] if place >= 90 else "complete"


def _wanted(number: int) -> NewRun:
    return {
        "thread_id": f"thread_{number // 10}",
        "assistant_id": "asst_1",
        "model": "gpt-4o",
        "metadata": {"customer": f"customer_{number % 1000}", "end": _end_of(number)},
    }


def _answer(ctx: Context) -> Outcome | None:
    ctx.add_usage(prompt_tokens=120, completion_tokens=30)
    match ctx.run.metadata["end"]:
        case "fail":
            raise RunFailed("rate_limit_exceeded", "asked too often")
        case "incomplete":
            return ctx.mark_incomplete("max_completion_tokens")
    return ctx.complete()


def write_templates(store: Store) -> None:
    """Write the runs that are multiplied with the library, each with three entries."""
    runs = store.create_many([_wanted(number) for number in range(TEMPLATES)])
    for number, run in enumerate(runs):
        match _end_of(number):
            case "cancel":
                store.request_cancel(run.id)
            case "expire":
                store.start(run.id)
                store.expire(run.id)
    Worker(store, _answer, concurrency=100).run(until_idle=True)
    counts = store.counts()
    assert counts[RunStatus.QUEUED] == counts[RunStatus.IN_PROGRESS] == 0, counts


# All times of a copy are moved by whole seconds, because stamps are in seconds.
_MOMENT: Final = "({now} - {days} + n.place * {apart})"
_MOVED: Final = "({moment} / 1000000 - r.created_at)"
_STAMPS: Final = ("started_at", "cancelled_at", "failed_at", "completed_at")


def _copies(now: int, columns: Sequence[str], dialect: _Dialect) -> Iterator[str]:
    """Yield the statements that copy runs, entries and settings, one copy for each row of the table `n`."""
    moment = _MOMENT.format(now=now, days=DAYS_US, apart=INTERVAL_US)
    seconds = _MOVED.format(moment=moment)
    digits = " || ".join(
        f"substr('{_DIGITS}', CAST({moment} / {62**power} % 62 AS integer) + 1, 1)" for power in range(9, -1, -1)
    )
    new_id = f"'run_' || {digits} || {dialect.random}"
    made = {
        "seq": "n.seq",
        "id": new_id,
        "thread_id": "'thread_' || (n.place / 10)",
        "changed_at_us": f"r.changed_at_us + {seconds} * 1000000",
        "created_at": f"r.created_at + {seconds}",
        "claimable_at_us": f"r.claimable_at_us + {seconds} * 1000000",
        **{name: f"r.{name} + {seconds}" for name in _STAMPS},
    }
    values = ", ".join(made.get(name, f"r.{name}") for name in columns)
    templates = "FROM n CROSS JOIN runstate_run AS r WHERE r.seq = n.template"
    of_templates = "FROM n CROSS JOIN runstate_run AS r CROSS JOIN {} WHERE r.seq = n.template AND {}"
    yield (
        f"INSERT INTO runstate_run ({', '.join(columns)}) {dialect.overriding}"
        f" SELECT {values} {templates} ORDER BY n.seq"
    )
    yield (
        f"INSERT INTO runstate_history (run, version, event, source, target, at_us, actor, detail{dialect.tx})"
        " SELECT n.seq, h.version, h.event, h.source, h.target,"
        f" h.at_us + {seconds} * 1000000, h.actor, h.detail{dialect.tx and ', n.tx'}"
        f" {of_templates.format('runstate_history AS h', 'h.run = r.seq')} ORDER BY n.seq, h.version"
    )
    yield (
        f"INSERT INTO runstate_run_config (id, config) SELECT {new_id}, s.config"
        f" {of_templates.format('runstate_run_config AS s', 's.id = r.id')} ORDER BY n.seq"
    )


@attrs.frozen
class _Dialect:
    """What is written differently in each dialect."""

    random: str
    overriding: str = ""
    tx: str = ""


# -- PostgreSQL -------------------------------------------------------------------------------------------------------

_POSTGRES: Final = _Dialect("substr(md5(n.seq::text), 1, 14)", "OVERRIDING SYSTEM VALUE", ", tx")
_SPEND: Final = """\
DO $$ BEGIN FOR i IN 1..{times} LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"""
_FAST: Final = {"fsync": "off", "full_page_writes": "off", "max_wal_size": "'16GB'", "autovacuum": "off"}
_LOAD: Final = (
    "SET session_replication_role = replica",  # no trigger fires
    "SET synchronous_commit = off",
    "SET work_mem = '256MB'",
    "CREATE TEMPORARY TABLE n (place bigint, seq bigint, tx bigint, template bigint)",
)


def fill_postgres(url: str, upto: int) -> None:
    """Multiply the templates of a store until it has so many runs. Needs a superuser, and a server of its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        for setting, value in _FAST.items():
            connection.execute(f"ALTER SYSTEM SET {setting} = {value}".encode())
        connection.execute("SELECT pg_reload_conf()")
        for statement in _LOAD:
            connection.execute(statement.encode())
        try:
            while (there := _one(connection, "SELECT count(*) FROM runstate_run")) < upto:
                _copy_postgres(connection, there, min(RUNS_PER_TRANSACTION, upto - there))
            for statement in POSTGRES.lookups.rebuild:
                connection.execute(statement.encode())
        finally:
            for setting in _FAST:
                connection.execute(f"ALTER SYSTEM RESET {setting}".encode())
            connection.execute("SELECT pg_reload_conf()")
        for table in (*TABLES, *POSTGRES.lookups.tables):
            connection.execute(f"VACUUM (ANALYZE) {table}".encode())
        connection.execute("CHECKPOINT")


def _one(connection: psycopg.Connection[Any], statement: str) -> Any:
    row = connection.execute(statement.encode()).fetchone()
    assert row is not None, statement
    return row[0]


def _copy_postgres(connection: psycopg.Connection[Any], there: int, more: int) -> None:
    seq = _one(connection, "SELECT max(seq) + 1 FROM runstate_run")
    tx = _one(connection, "SELECT pg_current_xact_id()::text::bigint + 1")
    connection.execute(_SPEND.format(times=more // PER_COMMIT + 2).encode())
    now = _one(connection, "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
    names = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'runstate_run'::regclass AND attnum > 0 ORDER BY attnum"
    )
    columns = [row[0] for row in names]
    with connection.transaction():
        connection.execute("TRUNCATE n")
        places = f"i + {there}, i + {seq}, i / {PER_COMMIT} + {tx}, i % {TEMPLATES} + 1"
        connection.execute(f"INSERT INTO n SELECT {places} FROM generate_series(0, {more - 1}) AS i".encode())
        connection.execute("ANALYZE n")
        for statement in _copies(now, columns, _POSTGRES):
            connection.execute(statement.encode())
        connection.execute("SELECT setval(pg_get_serial_sequence('runstate_run', 'seq'), max(seq)) FROM runstate_run")


# -- SQLite -----------------------------------------------------------------------------------------------------------

_SQLITE: Final = _Dialect("printf('%014x', n.seq * 2654435761 % 281474976710656)")


def fill_sqlite(path: str, upto: int) -> None:
    """Multiply the templates of a store, which no process has open, until it has so many runs."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "temp_store = MEMORY", "cache_size = -500000"):
            connection.execute(f"PRAGMA {pragma}")
        guards = connection.execute("SELECT sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (statement,) in connection.execute(SQLITE.drop_guards).fetchall():
            connection.execute(statement)
        connection.execute("CREATE TEMPORARY TABLE n (place INTEGER, seq INTEGER PRIMARY KEY, template INTEGER)")
        while (there := connection.execute("SELECT count(*) FROM runstate_run").fetchone()[0]) < upto:
            _copy_sqlite(connection, there, min(RUNS_PER_TRANSACTION, upto - there))
        for (statement,) in guards:
            connection.execute(statement)
        connection.execute("PRAGMA journal_mode = WAL")


def _copy_sqlite(connection: sqlite3.Connection, there: int, more: int) -> None:
    (seq,) = connection.execute("SELECT max(seq) + 1 FROM runstate_run").fetchone()
    columns = [row[1] for row in connection.execute("PRAGMA table_info(runstate_run)")]
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("DELETE FROM n")
    counted = f"WITH RECURSIVE c (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM c WHERE i + 1 < {more})"
    connection.execute(f"{counted} INSERT INTO n SELECT i + {there}, i + {seq}, i % {TEMPLATES} + 1 FROM c")
    for statement in _copies(time.time_ns() // 1000, columns, _SQLITE):
        connection.execute(statement)
    connection.execute("COMMIT")
