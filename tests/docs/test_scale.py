"""What `docs/scale.md` tells a user to do works, on a PostgreSQL with a few hundred runs and their workers."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from runstate.errors import RunNotFound, StoreError
from runstate.store import NewRun, Store, open_store
from runstate.store.doctor import examine
from runstate.worker import Context, Worker
from tests.store.support import names
from tests.support.judge import judge_by_sql
from tests.support.postgres import OwnServer, Server, wait_until
from tests.support.scale_page import run_recipe

pytestmark = pytest.mark.slow

RUNS = 300


def complete(ctx: Context) -> None:
    """Be the handler."""


def wanted(number: int) -> NewRun:
    return names(thread_id=f"thread_{number % 7}", metadata={"customer": str(number % 3)})


def drive(store: Store, count: int) -> list[str]:
    """Create runs, and drive them to their end; return their ids."""
    runs = store.create_many([wanted(number) for number in range(count)])
    Worker(store, complete, concurrency=100).run(until_idle=True)
    return [run.id for run in runs]


def all_that_a_store_does(store: Store) -> None:
    """Drive runs, end some in other ways, look at all of them; the database is asked for a refusal, too."""
    ids = drive(store, 20)
    assert [entry.target for entry in store.history(ids[0])] == ["queued", "in_progress", "completed"]
    waiting = store.create(**names(expires_in_s=1000))
    assert store.request_cancel(waiting.id).status == "cancelled"
    assert store.get(waiting.id).version == 3
    store.start(store.create(**names()).id)
    entries = store.entries(limit=1000)
    assert [entry.version for entry in entries if entry.run_id == waiting.id] == [1, 2, 3]
    store.sweep()


@pytest.fixture
def connection(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def store(postgres_url: str) -> Iterator[Store]:
    with open_store(postgres_url, migrate=True) as store:
        yield store


def partition(connection: psycopg.Connection[Any], next_run: int) -> None:
    for step in ("prepare", "switch"):
        run_recipe(connection, step, next=next_run, after=next_run + 1000)
    # As if so many had been created since.
    connection.execute("SELECT setval(pg_get_serial_sequence('runstate_run', 'seq'), %s)", [next_run])


def test_a_partitioned_history_is_the_same_to_a_store(
    store: Store, connection: psycopg.Connection[Any], postgres_url: str
) -> None:
    before = drive(store, RUNS)
    partition(connection, RUNS + 100)
    all_that_a_store_does(store)
    placed = connection.execute("SELECT (SELECT count(*) FROM history_p0), (SELECT count(*) FROM history_p1)")
    old, new = placed.fetchone() or (0, 0)
    assert old == 3 * RUNS
    assert new == 20 * 3 + 3 + 2
    assert len(store.history(before[0])) == 3
    assert judge_by_sql(postgres_url) == ()
    assert examine(store).findings == ()


def test_a_partition_that_is_not_guarded(store: Store, connection: psycopg.Connection[Any]) -> None:
    """A doctor finds what a partitioned history has lost as if it were one table."""
    partition(connection, 100)
    connection.execute("DROP INDEX runstate_history_tx")
    (guard,) = connection.execute(
        "SELECT tgname FROM pg_trigger WHERE tgrelid = 'runstate_history'::regclass AND NOT tgisinternal LIMIT 1"
    ).fetchone() or ("",)
    connection.execute(sql.SQL("DROP TRIGGER {} ON runstate_history").format(sql.Identifier(guard)))
    assert {"runstate_history_tx", guard} == {finding.thing for finding in examine(store).findings}


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM runstate_history",
        "UPDATE runstate_history SET at_us = 1",
        "UPDATE history_p0 SET at_us = 1",
        "TRUNCATE runstate_history",
        "INSERT INTO runstate_history VALUES (1, 4, 'fail', 'queued', 'failed', 1, NULL, NULL)",
        "UPDATE runstate_run SET status = 'queued'",
    ],
)
def test_a_partitioned_history_is_guarded(
    store: Store, connection: psycopg.Connection[Any], postgres_url: str, statement: str
) -> None:
    drive(store, 10)
    partition(connection, 100)
    drive(store, 10)
    with pytest.raises(psycopg.errors.CheckViolation, match="runstate: "):
        connection.execute(statement.encode())
    assert judge_by_sql(postgres_url) == ()


def test_an_old_partition_is_let_go_with_its_runs(
    store: Store, connection: psycopg.Connection[Any], postgres_url: str
) -> None:
    old = drive(store, RUNS)
    partition(connection, RUNS + 100)
    live = store.create(**names(expires_in_s=1000))
    run_recipe(connection, "detach")
    assert store.history(old[0]) == ()
    while store.prune(0, limit=100):
        pass
    connection.execute("DROP TABLE history_p0")
    with pytest.raises(RunNotFound):
        store.get(old[0])
    assert store.get(live.id).status == "queued"
    assert judge_by_sql(postgres_url) == ()


def test_the_run_table_cannot_be_partitioned(store: Store, connection: psycopg.Connection[Any]) -> None:
    """Its id is unique by itself, and a partitioned table's unique keys must hold what it is partitioned by."""
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        connection.execute("CREATE TABLE parted (LIKE runstate_run INCLUDING INDEXES) PARTITION BY RANGE (seq)")


def test_ended_runs_are_moved_to_an_archive(
    store: Store, connection: psycopg.Connection[Any], postgres_url: str
) -> None:
    old = drive(store, RUNS)
    live = store.create(**names(expires_in_s=1000))
    run_recipe(connection, "archive")
    run_recipe(connection, "move", cutoff=2**62)
    counted = {
        table: (connection.execute(f"SELECT count(*) FROM archive.{table}".encode()).fetchone() or (0,))[0]
        for table in ("run", "history", "run_config")
    }
    assert counted == {"run": RUNS, "history": 3 * RUNS, "run_config": RUNS}
    with pytest.raises(RunNotFound):
        store.get(old[0])
    assert [run.id for run in store.list().data] == [live.id]
    assert judge_by_sql(postgres_url) == ()


@contextmanager
def standby(server: OwnServer) -> Iterator[int]:
    """Give the port of a server that follows the other."""
    home, port = server.home / "standby", 5433
    copying: list[str | Path] = [server._programs / "pg_basebackup", "-D", home, "-R", "-c", "fast"]
    copying += ["-h", server.home, "-U", "postgres"]
    subprocess.run(copying, check=True, capture_output=True, timeout=60, **server._identity)
    command: list[str | Path] = [server._programs / "postgres", "-D", home, "-c", f"port={port}"]
    with (server.home / "standby-log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **server._identity)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(60)


def test_a_standby_answers_what_only_reads() -> None:
    server = Server.start_new(fast=True)
    if not isinstance(server, OwnServer):
        pytest.skip("needs a server of the tests' own")
    try:
        url = server.create_database()
        with open_store(url, migrate=True) as store, standby(server) as port:
            ids = drive(store, 10)
            waiting = store.create(**names())
            read_all(store, url.replace("port=5432", f"port={port}"), ids, waiting.id)
    finally:
        server.stop()


def read_all(store: Store, url: str, ids: list[str], waiting: str) -> None:
    def is_there() -> bool:
        try:
            with open_store(url) as copy:
                return bool(copy.list(status="queued").data)
        except StoreError:
            return False

    wait_until(is_there, "the standby to have it all")
    with open_store(url) as copy:
        assert copy.get(ids[0]) == store.get(ids[0])
        assert copy.list(metadata={"customer": "1"}) == store.list(metadata={"customer": "1"})
        assert copy.list(thread_id="thread_1", order="asc") == store.list(thread_id="thread_1", order="asc")
        assert copy.history(ids[0]) == store.history(ids[0])
        assert copy.counts() == store.counts()
        assert len(copy.entries(limit=100)) == 31
        with pytest.raises(StoreError, match="it is read-only"):
            copy.request_cancel(waiting)
        watched = copy.watch(waiting)
        assert next(watched).target == "queued"
        store.request_cancel(waiting)
        assert [entry.target for entry in watched] == ["cancelling", "cancelled"]


def test_a_role_that_may_only_read_is_told_so(store: Store, postgres_url: str) -> None:
    drive(store, 3)
    with open_store(f"{postgres_url}&options=-c%20default_transaction_read_only%3Don") as copy:
        assert len(copy.list().data) == 3
        with pytest.raises(StoreError, match="it is read-only"):
            copy.create(**names())
