"""Whatever fails or is interrupted while a store is opened, read or examined: no connection is left open."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import psycopg
import pytest

from runstate.cli import cli
from runstate.errors import SchemaMismatch, StoreError
from runstate.store import Store, open_store
from runstate.store._api.url import database_at
from runstate.store._postgres import connection as postgres
from runstate.store._sqlite import connection as sqlite
from runstate.store._sqlite.connection import SqliteDatabase
from runstate.store.doctor import examine
from tests.store.support import Prompt, names
from tests.support.cli_runner import CliRunner
from tests.support.guards import record


class Connections:
    """Every connection that was made since, by either driver."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[Any] = []
        for driver in (sqlite3, psycopg):
            monkeypatch.setattr(driver, "connect", self._recording(driver.connect))

    def _recording(self, connect: Callable[..., Any]) -> Callable[..., Any]:
        def record(*args: Any, **given: Any) -> Any:
            self.made.append(connect(*args, **given))
            return self.made[-1]

        return record

    @property
    def still_open(self) -> list[Any]:
        return [made for made in self.made if not is_closed(made)]


def is_closed(connection: Any) -> bool:
    if not isinstance(connection, sqlite3.Connection):
        return bool(connection.closed)
    try:
        connection.execute("SELECT 1")
    except sqlite3.ProgrammingError:
        return True
    return False


@pytest.fixture
def connections(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Connections:
    """What is connected from here on: the fixtures have made their own connections, which outlive the test."""
    for url in {"any_url", "store_url", "postgres_url"}.intersection(request.fixturenames):
        request.getfixturevalue(url)
    return Connections(monkeypatch)


def all_closed(connections: Connections) -> None:
    """There was at least one connection, and none is open."""
    assert connections.made
    assert [] == connections.still_open


def test_what_is_open_is_seen(connections: Connections, any_url: str) -> None:
    """The tests of this page can fail: a store that is open has a connection open, and a closed one has none."""
    with open_store(any_url) as store:
        store.create(**names())
        assert connections.still_open
    all_closed(connections)


@pytest.mark.parametrize("migrate", [False, True, None])
def test_a_store_of_another_version(migrate: bool | None, store_url: str, connections: Connections) -> None:
    with Prompt(store_url) as prompt:
        record(prompt, "INSERT INTO runstate_migration VALUES ('run', 99, 'from the future', 99, 0)")
        with pytest.raises(SchemaMismatch):
            open_store(store_url, migrate=migrate)
        record(prompt, "DELETE FROM runstate_migration WHERE number = 99")
    all_closed(connections)


def test_a_store_in_memory_that_was_not_made(connections: Connections) -> None:
    """A database in memory lives in one connection, which nobody gets to close where there is no store."""
    with pytest.raises(SchemaMismatch):
        open_store("sqlite:///:memory:", migrate=False)
    all_closed(connections)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, sqlite3.OperationalError, psycopg.OperationalError])
def test_a_connection_that_cannot_be_prepared(
    error: type[BaseException], any_url: str, connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error or an interrupt between the connecting and the return: nobody else could close the connection."""

    def fail(*args: object, **given: object) -> None:
        raise error("while it is prepared")

    monkeypatch.setattr(SqliteDatabase, "_prepare", fail)
    monkeypatch.setattr(postgres, "PostgresConnection", fail)
    monkeypatch.setattr(sqlite, "SqliteConnection", fail)
    ours = {"sqlite3": any_url.startswith("sqlite"), "psycopg": any_url.startswith("postgres")}
    expected = StoreError if ours.get(error.__module__) else error
    with pytest.raises(expected):
        open_store(any_url, wait_s=0.5)
    all_closed(connections)


def test_a_server_that_refuses_the_settings(
    postgres_url: str, connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "settings_of", lambda wait_s: {"there_is_no_such_setting": "on"})
    with pytest.raises(StoreError):
        open_store(postgres_url, migrate=True)
    all_closed(connections)


def test_a_server_that_is_too_old(postgres_url: str, connections: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_OLDEST", 10_000_000)
    with pytest.raises(StoreError, match="is too old"):
        open_store(postgres_url, migrate=True)
    all_closed(connections)


class ClosedFirst(SimpleQueue[Any]):
    """The idle connections of a store, which is closed when the first of them is about to be put back."""

    store: Store | None = None

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        if self.store is not None:
            store, self.store = self.store, None
            store.close()
        super().put(item, block, timeout)


def test_a_read_that_ends_while_the_store_is_closed(store_url: str, connections: Connections) -> None:
    """Who reads last lets go of the connection, wherever the close has got to by then."""
    store = open_store(store_url)
    assert store._readers is not None
    store._readers._idle = idle = ClosedFirst()
    idle.store = store
    assert store.counts()
    assert idle.store is None
    all_closed(connections)


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_migrate_and_doctor_on_the_command_line(
    dry_run: bool, dialect: str, request: pytest.FixtureRequest, tmp_path: Path, connections: Connections
) -> None:
    """A dry run on a file that is not there asks a database in memory what would be missing."""
    url = f"sqlite:///{tmp_path / 'new.db'}" if dialect == "sqlite" else request.getfixturevalue("postgres_url")
    for command in (["migrate", *(["--plan"] if dry_run else [])], ["doctor"]):
        done = CliRunner().invoke(cli, [*command, "--store", url])
        assert done.exit_code == (2 if dry_run and command == ["doctor"] else 0)
        assert [] == connections.still_open
    assert dry_run or connections.made


def test_an_examination(any_url: str, connections: Connections) -> None:
    """The doctor lets go of what it opened; of a store in memory only its owner may."""
    with open_store(any_url) as store:
        store.create(**names())
    with open_store(any_url) as store:  # one whose notifier has nothing to connect for
        before = len(connections.still_open)
        assert examine(store).findings == ()
        assert before == len(connections.still_open)
    if not database_at(any_url).in_memory:
        connections.made.clear()
        assert examine(database_at(any_url)).findings == ()
    all_closed(connections)


def test_an_examination_in_memory_of_what_is_no_store(connections: Connections) -> None:
    """Who hands a database over closes it."""
    database = database_at("sqlite:///:memory:")
    with pytest.raises(SchemaMismatch):
        examine(database)
    database.close()
    all_closed(connections)
