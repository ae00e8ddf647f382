"""Stores for the tests: each in both dialects, judged when the test is over."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from runstate.store import Store, open_store
from runstate.store._sql.dialect import POSTGRES
from runstate.traces import judge
from tests.store.support import TABLES, Prompt, template
from tests.support.judge import judge_by_sql, judge_through
from tests.support.postgres import Server, postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an empty store."""
    return template(tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="session")
def postgres_home(postgres_server: Server) -> Iterator[str]:
    """The URL of the database that tests share one after the other."""
    url = postgres_server.create_database()
    open_store(url, migrate=True).close()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture(scope="session")
def postgres_broom(postgres_home: str) -> Iterator[Prompt]:
    """A connection to empty it with."""
    with Prompt(postgres_home) as prompt:
        yield prompt


def empty(prompt: Prompt) -> None:
    """Delete every run, which the guards would refuse; whoever owns the tables may send the guards away."""
    tables = (*TABLES, *POSTGRES.lookups.tables)
    everything = "".join(f"DELETE FROM {table};" for table in tables)
    off, on = (
        "".join(f"ALTER TABLE {table} {word} TRIGGER USER;" for table in tables) for word in ("DISABLE", "ENABLE")
    )
    released = "INSERT INTO runstate_worker_session VALUES (0, 'released', 0, 0, 1);"
    prompt.run(f"BEGIN; SET LOCAL lock_timeout = '60s'; {off} {everything} {released} {on} COMMIT")


def definitions(prompt: Prompt) -> set[str]:
    """Return what is defined in a PostgreSQL database: schemas, functions, columns, triggers and whether they fire."""
    ours = "NOT LIKE ALL (ARRAY['pg\\_%', 'information_schema'])"
    found = prompt.run(
        f"SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname {ours}"
        f" UNION SELECT 'function ' || oid::regprocedure FROM pg_proc WHERE pronamespace::regnamespace::text {ours}"
        " UNION SELECT 'column ' || attrelid::regclass || '.' || attname FROM pg_attribute"
        f" JOIN pg_class ON pg_class.oid = attrelid AND relnamespace::regnamespace::text {ours}"
        " UNION SELECT 'trigger ' || tgname || ' on ' || tgrelid::regclass || ' fires ' || tgenabled::text"
        " FROM pg_trigger WHERE NOT tgisinternal"
    )
    return {text for (text,) in found}


@cache
def definitions_before(prompt: Prompt) -> set[str]:
    """Return what was defined in a database when its first test began."""
    return definitions(prompt)


def make_url(dialect: str, request: pytest.FixtureRequest) -> Iterator[str]:
    if dialect == "memory":
        yield "sqlite:///:memory:"
        return
    if dialect == "sqlite":
        path = request.getfixturevalue("tmp_path") / "runs.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        url = f"sqlite:///{path}"
        yield url
        assert () == judge_by_sql(url)
        return
    broom = request.getfixturevalue("postgres_broom")
    before = definitions_before(broom)
    empty(broom)
    yield broom.url
    assert () == judge_through(broom.run).wrong
    assert before == definitions(broom)  # the next test has the same database


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty store. When the test is over, every history in it must be a legal one."""
    yield from make_url(request.param, request)


@pytest.fixture(params=["sqlite", "memory", "postgres"])
def any_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The same, or a database in memory, which no other connection reaches."""
    yield from make_url(request.param, request)


def opened(url: str) -> Iterator[Store]:
    with open_store(url) as store:
        yield store
        page = store.list(limit=100)
        while page.data:
            assert [] == [finding for run in page.data for finding in judge(run)]
            page = store.list(limit=100, after=page.last_id)


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """An empty store. When the test is over, some legal history must be able to leave each run in it."""
    yield from opened(store_url)


@pytest.fixture
def any_store(any_url: str) -> Iterator[Store]:
    """The same, or one in memory."""
    yield from opened(any_url)


@pytest.fixture
def prompt(store_url: str) -> Iterator[Prompt]:
    """An SQL prompt at the store's database."""
    with Prompt(store_url) as prompt:
        yield prompt
