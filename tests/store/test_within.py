"""A move inside a transaction of the caller's own: their rows and the run's live or die together."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from runstate import IllegalTransition, InvalidRun, ManualClock
from runstate.errors import RunNotFound, SchemaMismatch, StoreError, StoreUrlError, ThreadBusy
from runstate.store import BoundStore, Store, open_store
from runstate.store._api.same_store import require_same
from runstate.store._sqlite.connection import SqliteConnection
from tests.store.support import Prompt, names
from tests.support.lifecycle import CALL

OPEN = ["plain", "begun", "rows"]


def connect(url: str, how: str) -> Any:
    """Return a connection of the caller's own, as people have them: the driver begins, or they do, or rows are odd."""
    if url.startswith("sqlite:"):
        path = url.removeprefix("sqlite:///")
        if how == "begun":
            return sqlite3.connect(path, isolation_level=None)
        connection = sqlite3.connect(path)
        if how == "rows":
            connection.row_factory = sqlite3.Row
        return connection
    if how == "rows":
        return psycopg.connect(url, row_factory=dict_row)
    return psycopg.connect(url, autocommit=how == "begun")


@pytest.fixture(params=OPEN)
def own(request: pytest.FixtureRequest, store_url: str, prompt: Prompt) -> Iterator[Any]:
    """The caller's connection, with a table of orders, and its transaction begun where the driver does not do it."""
    prompt.run("CREATE TABLE orders (id text)")
    connection = connect(store_url, request.param)
    if request.param == "begun":
        connection.execute("BEGIN")
    yield connection
    connection.close()
    prompt.run("DROP TABLE orders")


def ordered(prompt: Prompt) -> list[str]:
    return [row for (row,) in prompt.run("SELECT id FROM orders ORDER BY id")]


def end(connection: Any, word: str) -> None:
    """Commit, or roll back, what the caller began."""
    if getattr(connection, "isolation_level", "") is None or getattr(connection, "autocommit", False) is True:
        connection.execute(word)
    else:
        getattr(connection, word.lower())()


@pytest.mark.parametrize("first", ["the run", "the order"])
@pytest.mark.parametrize("word", ["COMMIT", "ROLLBACK"])
def test_together(store: Store, prompt: Prompt, clock: ManualClock, own: Any, word: str, first: str) -> None:
    """What is created, moved and asked inside is committed with the caller's rows, or gone with them."""
    store.create(**names(id="old"))
    if first == "the order":
        own.execute("INSERT INTO orders VALUES ('a')")
    with store.within(own) as bound:
        run = bound.create(**names(id="new", metadata={"a": "b"}))
        bound.start("old", actor="me")
        assert "in_progress" == bound.require_action("old", [CALL]).source
        assert run == bound.get("new")
        assert {"old", "new"} == {one.id for one in bound.list().data}
        assert "cancelled" == bound.request_cancel("new").status
        assert 3 == len(bound.history("new"))
    if first == "the run":
        own.execute("INSERT INTO orders VALUES ('a')")
    assert [] == ordered(prompt)
    assert "queued" == store.get("old").status
    with pytest.raises(RunNotFound):
        store.get("new")
    end(own, word)
    if word == "COMMIT":
        assert ["a"] == ordered(prompt)
        assert ("requires_action", "cancelled") == (store.get("old").status, store.get("new").status)
        assert {"a": "b"} == store.get("new").metadata
    else:
        assert [] == ordered(prompt)
        assert "queued" == store.get("old").status
        with pytest.raises(RunNotFound):
            store.get("new")
        assert [] == prompt.rows("runstate_run_config")


def test_a_refusal_inside(store: Store, prompt: Prompt, clock: ManualClock, own: Any) -> None:
    """An error undoes what was asked, and nothing of what the caller did before; the transaction goes on."""
    store.create(**names(id="busy", one_live_run_per_thread="reject"))
    own.execute("INSERT INTO orders VALUES ('a')")
    with store.within(own) as bound:
        bound.create(**names(id="kept"))
        with pytest.raises(IllegalTransition):
            bound.complete("kept")
        with pytest.raises(RunNotFound):
            bound.start("nobody")
        with pytest.raises(InvalidRun):
            bound.create_many([names(id="gone", metadata={"a": "b"}), names(id="kept", model="other")])
        with pytest.raises(ThreadBusy):
            bound.create(**names(one_live_run_per_thread="reject", instructions="x"))
        own.execute("INSERT INTO orders VALUES ('b')")
        bound.start("kept")
    end(own, "COMMIT")
    assert ["a", "b"] == ordered(prompt)
    assert {"busy", "kept"} == {run.id for run in store.list().data}
    assert "in_progress" == store.get("kept").status
    assert [] == prompt.rows("runstate_run_config")


def test_several_times(store: Store, prompt: Prompt, clock: ManualClock, own: Any) -> None:
    """One connection can be used again, in the same transaction and in the next."""
    for number in range(3):
        with store.within(own) as bound:
            bound.create(**names(id=f"run_{number}"))
        with store.within(own) as bound:
            bound.start(f"run_{number}")
        end(own, "COMMIT" if number != 1 else "ROLLBACK")
        if number < 2 and (getattr(own, "isolation_level", "") is None or getattr(own, "autocommit", False) is True):
            own.execute("BEGIN")
    assert {"run_0", "run_2"} == {run.id for run in store.list(status="in_progress").data}


def test_the_error_of_the_caller(store: Store, prompt: Prompt, clock: ManualClock, own: Any) -> None:
    """An exception of the caller's passes through the block and changes nothing by itself."""

    def fall() -> None:
        with store.within(own) as bound:
            bound.create(**names(id="run_1"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fall()
    end(own, "ROLLBACK")
    assert () == store.list().data


@pytest.mark.parametrize("begin", [None, "a reading"])
def test_without_a_transaction(store: Store, store_url: str, prompt: Prompt, clock: ManualClock, begin: Any) -> None:
    """In autocommit, where no transaction is open, nothing is written: it would not be the caller's to take back."""
    with closing(connect(store_url, "begun")) as connection:
        if begin:
            connection.execute("SELECT 1").fetchall()
        before = prompt.everything()
        with store.within(connection) as bound:
            with pytest.raises(StoreError, match=r"no transaction open .* begin one first"):
                bound.create(**names())
            assert () == bound.list().data
        assert before == prompt.everything()


class Wrapped:
    """A connection inside one of SQLAlchemy's."""

    def __init__(self, inner: Any, by: str) -> None:
        setattr(self, by, inner)


def test_a_wrapped_connection(store: Store, clock: ManualClock, own: Any) -> None:
    """SQLAlchemy's connection holds a proxy, and that the driver's own."""
    wrapped = Wrapped(Wrapped(own, "driver_connection"), "connection")
    with store.within(wrapped) as bound:
        bound.create(**names(id="run_1"))
    end(own, "COMMIT")
    assert "run_1" == store.get("run_1").id


@pytest.mark.parametrize("wrong", [None, 5, "connection", object()])
def test_what_is_no_connection(store: Store, wrong: Any) -> None:
    """Something else is refused by its kind."""
    kind = f"expected a (sqlite3|psycopg) connection, got {type(wrong).__name__}"
    with pytest.raises(StoreError, match=kind), store.within(wrong):
        pass


def test_the_connection_of_the_other_dialect(store: Store, store_url: str) -> None:
    """A connection to another kind of database is refused."""
    with closing(sqlite3.connect(":memory:")) as other:
        if store_url.startswith("sqlite:"):
            with store.within(other) as bound, pytest.raises(SchemaMismatch, match="has no store of this version"):
                bound.create(**names())
        else:
            kind = "expected a psycopg connection, got sqlite3's Connection: use one of psycopg"
            with pytest.raises(StoreError, match=kind), store.within(other):
                pass


def test_locks_are_the_caller_s(store: Store, store_url: str, prompt: Prompt, clock: ManualClock) -> None:
    """Until the caller commits, its move is nobody else's to see; the store's own move then is judged by it."""
    if store_url.startswith("sqlite:"):
        pytest.skip("its other writers wait for the whole transaction")
    store.create(**names(id="run_1"))
    with closing(psycopg.connect(store_url)) as own:
        with store.within(own) as bound:
            bound.start("run_1")
        assert "queued" == store.get("run_1").status
        lease = store.open_lease("w1")
        assert [] == store.claim(lease)  # it is skipped, not waited for
        own.commit()
    with pytest.raises(IllegalTransition):
        store.start("run_1")


# --- another store on the caller's connection -------------------------------------------------------------------------


def refused_elsewhere(store: Store, connection: Any, match: str) -> None:
    """See that nothing is written, read or left by way of a connection that leads elsewhere."""
    asks: tuple[Callable[[BoundStore], object], ...] = (
        lambda bound: bound.create(**names(id="run_9")),
        lambda bound: bound.start("run_1"),
        lambda bound: bound.get("run_1"),
        lambda bound: bound.list(),
    )
    for ask in asks:
        with store.within(connection) as bound, pytest.raises(StoreError, match=match):
            ask(bound)
    assert ["run_1"] == [run.id for run in store.list().data]
    assert "queued" == store.get("run_1").status


def test_a_search_path_that_leads_to_another_store(postgres_url: str) -> None:
    """The same names are other tables there: refused, and the other store has seen nothing."""
    elsewhere = f"{postgres_url}&options=-csearch_path%3Delsewhere"
    with closing(psycopg.connect(postgres_url, autocommit=True)) as prompt:
        prompt.execute("CREATE SCHEMA elsewhere")
        prompt.execute("CREATE SCHEMA nothing")
    with open_store(postgres_url, migrate=True) as store, open_store(elsewhere, migrate=True) as other:
        store.create(**names(id="run_1"))
        with closing(psycopg.connect(postgres_url)) as own:
            own.execute("SET search_path = elsewhere")
            refused_elsewhere(store, own, r"another store, in the schema elsewhere .* are in the schema public")
            own.execute("SET search_path = nothing")
            refused_elsewhere(store, own, r"no store where the connection's search_path looks .* the schema public")
            own.execute("SET search_path = nothing, public")
            with store.within(own) as bound:
                bound.start("run_1")
            own.execute("CREATE TEMPORARY TABLE runstate_run (id text)")
            with store.within(own) as bound, pytest.raises(StoreError, match="another store, in the schema pg_temp"):
                bound.complete("run_1")
            own.rollback()
        assert () == other.list().data


def test_a_connection_to_another_database(postgres_server: Any) -> None:
    """On the same server, with a store of its own."""
    first, second = postgres_server.create_database(), postgres_server.create_database()
    with open_store(first, migrate=True) as store, open_store(second, migrate=True) as other:
        store.create(**names(id="run_1"))
        with closing(psycopg.connect(second)) as own:
            refused_elsewhere(store, own, "leads to another store, in the schema public of the database")
        assert () == other.list().data
    for url in (first, second):
        postgres_server.drop_database(url)


def test_a_connection_to_another_file(tmp_path: Path) -> None:
    """Also where this one's is attached, but comes after; attached to what has no store it is found."""
    here, there = tmp_path / "here.db", tmp_path / "there.db"
    with open_store(f"sqlite:///{here}") as store, open_store(f"sqlite:///{there}") as other:
        store.create(**names(id="run_1"))
        with closing(sqlite3.connect(there)) as own:
            refused_elsewhere(store, own, r"another store, in .*there\.db: the tables of this one are in .*here\.db")
            own.execute("ATTACH ? AS here", [str(here)])
            refused_elsewhere(store, own, r"another store, in .*there\.db")
        with closing(sqlite3.connect(tmp_path / "orders.db")) as own:
            own.execute('ATTACH ? AS "the ""runs"""', [str(here)])
            with store.within(own) as bound:
                assert "run_1" == bound.get("run_1").id
            own.rollback()
            own.execute("CREATE TEMPORARY TABLE runstate_run (id TEXT)")
            refused_elsewhere(store, own, "another store, in no file")
        assert () == other.list().data


@pytest.mark.parametrize("where", [":memory:", "", "file"])
def test_a_store_in_memory_has_no_other_connection(where: str, tmp_path: Path) -> None:
    """None can lead there, so each is refused: what it creates would be lost with the caller's own database."""
    file = tmp_path / "runs.db"
    open_store(f"sqlite:///{file}").close()
    with (
        open_store("sqlite:///:memory:") as store,
        closing(sqlite3.connect(str(file) if where == "file" else where)) as own,
    ):
        store.create(**names(id="run_1"))
        if where != "file":
            with closing(sqlite3.connect(file)) as source:
                source.backup(own)
        own.execute("BEGIN")
        with (
            pytest.raises(StoreError, match="no other connection leads to a store in memory"),
            store.within(own) as bound,
        ):
            bound.create(**names(id="run_9"))
        assert ["run_1"] == [run.id for run in store.list().data]
        assert [(0,)] == own.execute("SELECT count(*) FROM runstate_run").fetchall()


def test_a_database_without_a_file_is_no_other(tmp_path: Path) -> None:
    """Two of them are two stores, also where one is looked at twice."""
    file = tmp_path / "runs.db"
    open_store(f"sqlite:///{file}").close()
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(":memory:")) as own:
        source.backup(own)
        first, second = (SqliteConnection(own, "here", 0.0, owned=False).identity() for _ in range(2))
        assert first.table != second.table
        with pytest.raises(StoreError, match="leads to another store, in no file"):
            require_same(first, second)


@pytest.mark.parametrize("is_deleted", [False, True])
def test_a_file_that_was_renamed_meanwhile(tmp_path: Path, is_deleted: bool) -> None:
    """Its place cannot be known any more: refused by an error of the store, and nothing is written."""
    file = tmp_path / "runs.db"
    with open_store(f"sqlite:///{file}") as store, closing(sqlite3.connect(file)) as own:
        store.create(**names(id="run_1"))
        own.execute("SELECT count(*) FROM runstate_run").fetchall()
        own.execute("BEGIN")
        file.unlink() if is_deleted else file.rename(tmp_path / "other.db")
        asks: tuple[Callable[[BoundStore], object], ...] = (
            lambda bound: bound.create(**names(id="run_9")),
            lambda bound: bound.list(),
        )
        for ask in asks:
            with (
                store.within(own) as bound,
                pytest.raises(StoreUrlError, match=r"cannot open .*runs\.db: the file was"),
            ):
                ask(bound)
        assert [("run_1",)] == own.execute("SELECT id FROM runstate_run").fetchall()


def test_tables_that_were_made_anew(postgres_url: str) -> None:
    """A store that was opened before finds them as its callers do."""
    with open_store(postgres_url, migrate=True) as store, closing(psycopg.connect(postgres_url)) as own:
        with store.within(own) as bound:
            bound.create(**names(id="run_1"))
        own.rollback()
        own.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        own.commit()
        open_store(postgres_url, migrate=True).close()
        with store.within(own) as bound:
            bound.create(**names(id="run_2"))
        own.commit()
        assert "run_2" == store.get("run_2").id
