"""The schema: made in steps or at once it is the same, and a database of another version is left alone."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from runstate.errors import SchemaMismatch, StoreError
from runstate.store import open_store
from runstate.store._api.url import database_at
from runstate.store._sql.dialect import POSTGRES, SQLITE
from runstate.store._sql.migrations import LATEST, ddl, migrate, version_of
from tests.store.support import Prompt, names

Make = Callable[[], str]


@pytest.fixture(params=["sqlite", "postgres"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Makes empty databases, and returns the URL of each."""
    made: list[str] = []

    def sqlite() -> str:
        return f"sqlite:///{tmp_path / f'empty_{len(made)}.db'}"

    def postgres() -> str:
        return str(request.getfixturevalue("postgres_server").create_database())

    def one() -> str:
        made.append(sqlite() if request.param == "sqlite" else postgres())
        return made[-1]

    yield one
    for url in made if request.param == "postgres" else ():
        request.getfixturevalue("postgres_server").drop_database(url)


POSTGRES_CATALOG = """
SELECT 'column', table_name, column_name, data_type, collation_name, column_default, is_nullable, is_identity
    FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL SELECT 'index', tablename, indexname, indexdef, NULL, NULL, NULL, NULL
    FROM pg_indexes WHERE schemaname = 'public'
UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), NULL, NULL, NULL, NULL
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL SELECT 'trigger', tgrelid::regclass::text, tgname, pg_get_triggerdef(oid), NULL, NULL, NULL, NULL
    FROM pg_trigger WHERE NOT tgisinternal
UNION ALL SELECT 'function', proname, pg_get_functiondef(oid), NULL, NULL, NULL, NULL, NULL
    FROM pg_proc WHERE pronamespace = 'public'::regnamespace
UNION ALL SELECT 'table', relname, reloptions::text, NULL, NULL, NULL, NULL, NULL
    FROM pg_class WHERE relnamespace = 'public'::regnamespace
"""
SQLITE_CATALOG = "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_stat%'"


def catalog(url: str) -> list[str]:
    """Return all that a database says of its tables, indexes, constraints, triggers and functions."""
    with Prompt(url) as prompt:
        found = prompt.run(SQLITE_CATALOG if prompt.is_sqlite else POSTGRES_CATALOG)
        nobody = prompt.run("SELECT * FROM runstate_worker_session")
    return sorted(map(repr, found + nobody))


def by_steps(url: str) -> None:
    database = database_at(url)
    for step in range(1, LATEST + 1):
        assert [step] == [taken.number for taken in migrate(database, upto=step)]
        assert () == migrate(database, upto=step)
    assert () == migrate(database)
    database.close()


def by_hand(url: str) -> None:
    if url.startswith("sqlite:"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.executescript(ddl(SQLITE))
    else:
        with psycopg.connect(url) as connection:
            connection.execute(ddl(POSTGRES).encode())


def by_opening(url: str) -> None:
    open_store(url, migrate=True).close()


def test_all_ways_lead_to_one_schema(make: Make) -> None:
    """At once, step by step, and by executing `ddl` by hand: the catalogs are the same, and the store works."""
    found = {}
    for way in (by_opening, by_steps, by_hand):
        url = make()
        way(url)
        found[way.__name__] = catalog(url)
        with open_store(url) as store:
            run = store.create(**names(metadata={"a": "b"}))
            assert "in_progress" == store.start(run.id).status
    assert found["by_opening"] == found["by_steps"] == found["by_hand"]
    assert len(found["by_hand"]) > 30


def test_nothing_twice(make: Make) -> None:
    """A database that has taken all steps takes none; a dry run tells which it would take and takes none either."""
    url = make()
    database = database_at(url)
    assert [*range(1, LATEST + 1)] == [step.number for step in migrate(database, dry_run=True)]
    session = database.open()
    assert 0 == version_of(session)
    assert [*range(1, LATEST + 1)] == [step.number for step in migrate(database)]
    assert LATEST == version_of(session)
    session.close()
    before = catalog(url)
    assert () == migrate(database) == migrate(database, dry_run=True)
    assert before == catalog(url)
    with Prompt(url) as prompt:
        steps = prompt.run("SELECT number, sentence FROM runstate_migration ORDER BY number")
    assert [*range(1, LATEST + 1)] == [number for number, _ in steps]
    assert all(sentence for _, sentence in steps)


def test_a_newer_schema(make: Make) -> None:
    """A database of a newer library is refused with a sentence, and not touched; once it is our version, it opens."""
    url = make()
    by_opening(url)
    with Prompt(url) as prompt:
        prompt.run("INSERT INTO runstate_migration VALUES (99, 'from the future', 0)")
        before = catalog(url), prompt.everything(), prompt.run("SELECT * FROM runstate_migration")
        for ask in (True, False, None):
            with pytest.raises(SchemaMismatch, match=r"was made by a newer runstate \(its schema is 99") as newer:
                open_store(url, migrate=ask)
            assert "upgrade the library, nothing was changed" in str(newer.value)
        with pytest.raises(SchemaMismatch):
            migrate(database_at(url))
        assert before == (catalog(url), prompt.everything(), prompt.run("SELECT * FROM runstate_migration"))
        prompt.run("DELETE FROM runstate_migration WHERE number = 99")
    open_store(url).close()


def test_no_schema(make: Make) -> None:
    """Where nobody has made a store, the sentence says how; SQLite's file is made one if nobody says otherwise."""
    url = make()
    if url.startswith("sqlite:"):
        open_store(make()).close()
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.execute("CREATE TABLE mine (id)")
        with pytest.raises(SchemaMismatch, match="has no store in it: `runstate migrate`"):
            open_store(url, migrate=False)
    else:
        for ask in (None, False):
            with pytest.raises(SchemaMismatch, match="has no store in it: `runstate migrate`"):
                open_store(url, migrate=ask)
    open_store(url, migrate=True).close()


def test_half_a_schema(make: Make) -> None:
    """A database that has taken some of the steps is said to be of that version, and is brought on."""
    url = make()
    database = database_at(url)
    migrate(database, upto=1)
    database.close()
    with pytest.raises(SchemaMismatch, match=rf"has schema 1, this library needs {LATEST}: `runstate migrate`"):
        open_store(url, migrate=False)
    open_store(url, migrate=True).close()
    with open_store(url) as store:
        assert store.create(**names()).claimable


def test_a_step_that_fails_leaves_nothing(make: Make) -> None:
    """All steps are taken or none: what stands in the way of one undoes those before it."""
    url = make()
    with Prompt(url) as prompt:
        prompt.run("CREATE TABLE runstate_checkpoint (mine text)")
        before = prompt.run(SQLITE_CATALOG if prompt.is_sqlite else POSTGRES_CATALOG)
        with pytest.raises(StoreError) as refused:
            open_store(url, migrate=True)
        assert (StoreError, True) == (type(refused.value), "runstate_checkpoint" in str(refused.value))
        assert before == prompt.run(SQLITE_CATALOG if prompt.is_sqlite else POSTGRES_CATALOG)
        prompt.run("DROP TABLE runstate_checkpoint")
    open_store(url, migrate=True).close()


def test_eight_threads_migrate_at_once(make: Make) -> None:
    """One of them makes the store, the others wait and find it made."""
    url = make()
    taken: list[Any] = []
    barrier = threading.Barrier(8)

    def go() -> None:
        database = database_at(url)
        barrier.wait()
        try:
            taken.append(len(migrate(database)))
        except Exception as error:
            taken.append(error)
        database.close()

    threads = [threading.Thread(target=go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [0] * 7 + [LATEST] == sorted(taken, key=repr)
    open_store(url).close()


def test_four_processes_open_at_once(make: Make) -> None:
    """The same of processes, each of which opens the store and creates a run."""
    url = make()
    code = (
        "import sys; from runstate.store import open_store\n"
        "sys.stdin.readline()\n"
        "with open_store(sys.argv[1], migrate=True) as store:\n"
        "    store.create(thread_id='t', assistant_id='a', model='m')\n"
    )
    command = [sys.executable, "-c", code, url]
    place = Path(__file__).parents[2]
    some = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=place, text=True) for _ in range(4)
    ]
    for process in some:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    told = [process.communicate(timeout=60)[1] for process in some]
    assert [""] * 4 == told
    with open_store(url) as store:
        assert 4 == len(store.list().data)


def test_beside_tables_of_ones_own(make: Make) -> None:
    """A store lives in a database of the user's own, beside other tables, and leaves them alone."""
    url = make()
    with Prompt(url) as prompt:
        prompt.run("CREATE TABLE mine (id text)")
        prompt.run("INSERT INTO mine VALUES ('a')")
        by_opening(url)
        assert [("a",)] == prompt.run("SELECT id FROM mine")


def test_in_a_schema_of_its_own(make: Make) -> None:
    """PostgreSQL: by `search_path` a store lives in a schema, whatever the path of others who write there."""
    url = make()
    if url.startswith("sqlite:"):
        pytest.skip("it has no schemas")
    with Prompt(url) as prompt:
        prompt.run('CREATE SCHEMA "MyRuns"')
        inside = f"{url}{'&' if '?' in url else '?'}options=-csearch_path%3D%22MyRuns%22"
        with open_store(inside, migrate=True) as store:
            run = store.create(**names(metadata={"a": "b"}, one_live_run_per_thread="queue"))
            behind = store.create(**names(one_live_run_per_thread="queue"))
            columns = "status = 'expired', version = 2, event = 'expire', source = 'queued'"
            ended = "expires_at = NULL, completed_at = (changed_at_us + 1) / 1000000, usage = '{}'"
            moved = f"SET {columns}, changed_at_us = changed_at_us + 1, {ended}"
            prompt.run(f"UPDATE \"MyRuns\".runstate_run {moved} WHERE id = '{run.id}'")
            assert [None, "expire"] == [entry.event for entry in store.history(run.id)]
            assert store.get(behind.id).claimable
            assert [("MyRuns",)] == prompt.run("SELECT schemaname FROM pg_tables WHERE tablename = 'runstate_run'")
