"""What a store's own connections have, and never leave to another client: names of statements, settings."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any, cast

import psycopg
import pytest

from runstate import IllegalTransition, RunEvent
from runstate.errors import RunstateError, StoreUnavailable, StoreUrlError
from runstate.store import Store, open_store
from runstate.store._engine.commands import InTransaction
from runstate.store._postgres import connection as driver
from runstate.store._postgres import notifier, pooler
from runstate.store._postgres.parameters import parsed
from runstate.store._sql.connection import Connection
from runstate.store._sql.dialect import POSTGRES
from runstate.store._sql.statements import Statements
from tests.store.conftest import make_url
from tests.store.support import Prompt, ask_store, names
from tests.support.lifecycle import WAYS
from tests.support.postgres import Server

LIMIT = 20.0
FOR_WRITING = {
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
    "lock_timeout": "300ms",
    **{f"enable_{way}": "off" for way in ("seqscan", "bitmapscan", "hashjoin", "mergejoin")},
    "idle_in_transaction_session_timeout": "3s",
}
"""What a statement that writes is executed under, where the store waits 0.3 s for rows."""


@pytest.fixture
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty store in PostgreSQL."""
    yield from make_url("postgres", request)


@pytest.fixture
def pooled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection is taken for one that a pooler hands out."""
    for module in (driver, notifier, pooler):
        monkeypatch.setattr(module, "is_pooled", lambda connection: True)


def within_a_command(store: Store, look: Any) -> Any:
    """Return what `look` finds on the connection that writes."""
    return store._transport.execute(InTransaction(look))


def writer(store: Store) -> psycopg.Connection[Any]:
    """Return the connection that writes, to look at it past the store."""
    session: Any = store._committer._connected()
    connection: psycopg.Connection[Any] = session.connection
    return connection


def state(connection: psycopg.Connection[Any]) -> set[tuple[Any, ...]]:
    """Return every setting of a session, and its prepared statements."""
    with psycopg.Cursor(connection) as cursor:
        # PL/pgSQL, once it was used, shows settings of its own.
        cursor.execute("SELECT name, setting, source FROM pg_settings WHERE NOT starts_with(name, 'plpgsql.')")
        settings = cursor.fetchall()
        cursor.execute("SELECT name, statement FROM pg_prepared_statements WHERE NOT from_sql")
        return {*settings, *cursor.fetchall()}


def every_move(store: Store) -> None:
    """Ask every move there is, and see that it was made."""
    for status, way in WAYS.items():
        run = store.create(**names(metadata={"for": status}))
        for event in way:
            ask_store(store, run.id, event)
        assert [None, *way] == [entry.event for entry in store.history(run.id)]


# --- names ------------------------------------------------------------------------------------------------------------


def test_a_name_is_made_of_its_statement() -> None:
    """The same text has the same name, in every process; another has another."""
    texts = [f"SELECT {n}, %(value)s::{kind}" for n in range(3) for kind in ("text", "bigint", "text[]", "bigint[]")]
    assert len(texts) == len({parsed(text).name for text in texts})
    parsed.cache_clear()
    assert [parsed(text).name for text in texts] == [parsed(text).name for text in reversed(texts)][::-1]


def test_two_connections_mean_the_same_by_a_name(url: str) -> None:
    """Whatever two clients ask, and in whichever order: what a name stands for on the server is one text."""
    with open_store(url) as first, open_store(url) as second:
        every_move(first)
        run = second.create(**names())
        second.request_cancel(run.id)
        every_move(second)
        mine, theirs = (
            dict(writer(store).execute("SELECT name, statement FROM pg_prepared_statements").fetchall())
            for store in (first, second)
        )
    asked = {event for way in WAYS.values() for event in way}
    moves = {parsed(text).name.decode() for event, text in Statements(POSTGRES).move.items() if event in asked}
    assert moves <= mine.keys()
    assert mine.keys() & theirs.keys() == mine.keys()
    assert all(theirs[name] == text for name, text in mine.items())
    assert len(mine) == len({*mine.values()})


@pytest.mark.parametrize("how", ["gone", "there already"])
def test_a_name_that_is_not_what_it_was(how: str, url: str) -> None:
    """As where a connection was exchanged unseen: every move is made all the same, once, from then on without names."""
    with open_store(url, wait_s=0.3) as store:
        run = store.create(**names(id="run_1"))
        if how == "gone":
            every_move(store)
            writer(store).execute("DEALLOCATE ALL")
        else:
            move = parsed(Statements(POSTGRES).move[RunEvent.START])
            writer(store).pgconn.prepare(move.name, move.text)
        assert "in_progress" == store.start(run.id).status
        before = state(writer(store))
        every_move(store)
        with pytest.raises(IllegalTransition):
            store.start("run_1")
        assert before == state(writer(store))


@pytest.mark.parametrize("how", ["gone", "there already"])
def test_the_same_in_a_transaction_of_several_statements(how: str, url: str) -> None:
    """It is lost and asked again; nothing of it is done twice."""
    with open_store(url) as store:
        store.create(**names(id="run_1"))
        if how == "gone":
            every_move(store)
            writer(store).execute("DEALLOCATE ALL")
        else:
            idle = parsed(Statements(POSTGRES).confirm_idle)
            writer(store).pgconn.prepare(idle.name, idle.text)
        assert "cancelled" == store.request_cancel("run_1").status
        assert [None, "request_cancel", "confirm_cancel"] == [entry.event for entry in store.history("run_1")]


def test_a_reader_whose_statements_are_gone(url: str) -> None:
    with open_store(url) as store:
        run = store.create(**names())
        readers: Any = store._readers

        def forget(session: Any) -> None:
            session.connection.execute("DEALLOCATE ALL")

        store.get(run.id)
        readers.read(forget)
        assert run.id == store.get(run.id).id


# --- settings ---------------------------------------------------------------------------------------------------------


def shown(session: Connection) -> dict[str, str]:
    """Return what a statement is executed under."""
    wanted = ", ".join(f"current_setting('{name}')" for name in FOR_WRITING)
    return dict(zip(FOR_WRITING, session.execute(f"SELECT {wanted}", {})[0], strict=True))


@pytest.mark.parametrize("pipelines", [True, False], ids=["pipeline", "no pipeline"])
@pytest.mark.parametrize("is_pooled", [False, True], ids=["direct", "pooled"])
def test_what_writes_has_its_settings(
    is_pooled: bool, pipelines: bool, url: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone or among others of a transaction, and whether a pooler stands between or not."""
    if is_pooled:
        request.getfixturevalue("pooled")
    monkeypatch.setattr(psycopg.Pipeline, "is_supported", classmethod(lambda _: pipelines))
    with open_store(url, wait_s=0.3) as store:
        assert FOR_WRITING == shown(store._committer._connected())  # alone
        assert FOR_WRITING == within_a_command(store, shown)  # in a transaction
        every_move(store)


@pytest.mark.parametrize("pipelines", [True, False], ids=["pipeline", "no pipeline"])
@pytest.mark.usefixtures("pooled")
def test_nothing_stays_behind_a_pooler(url: str, pipelines: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """After success, refusal, a row that was waited for in vain, an error in the middle: all settings are as before."""
    monkeypatch.setattr(psycopg.Pipeline, "is_supported", classmethod(lambda _: pipelines))
    with open_store(url, wait_s=0.1) as store, Prompt(url) as other:
        before = state(writer(store))
        every_move(store)
        assert before == state(writer(store))
        run = store.create(**names(id="run_1"))
        with pytest.raises(IllegalTransition):
            store.complete("run_1")
        with suppress(RunstateError):
            store.create_many([names(id="run_2"), names(id="run_1", model="other")])
        assert before == state(writer(store))
        with other.undone():
            other.run("SELECT 1 FROM runstate_run FOR UPDATE")
            for ask in (store.start, store.request_cancel):
                with pytest.raises(StoreUnavailable, match="another transaction has been writing for too long"):
                    ask(run.id)
        assert before == state(writer(store))

        def fall(session: Connection) -> None:
            session.execute("SELECT 1", {})
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            within_a_command(store, fall)
        assert before == state(writer(store))


def test_options_that_are_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes no `options` at the start of a connection gets the settings with each transaction."""
    connect = driver.PostgresDatabase.connect

    def refusing(database: driver.PostgresDatabase, options: str | None = None) -> Any:
        if options is not None:
            raise StoreUnavailable("no options here")
        return connect(database)

    monkeypatch.setattr(driver.PostgresDatabase, "connect", refusing)
    with open_store(url, wait_s=0.3, migrate=True) as store:
        store._database._options = None  # type: ignore[attr-defined]
        assert FOR_WRITING == shown(store._committer._connected())
        before = state(writer(store))
        every_move(store)
        assert before == state(writer(store))


def test_options_that_are_dropped(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some poolers take them and do not pass them on."""
    monkeypatch.setattr(driver, "options_of", lambda settings, others: others)
    with open_store(url, wait_s=0.3) as store:
        assert FOR_WRITING == shown(store._committer._connected())
        before = state(writer(store))
        every_move(store)
        assert before == state(writer(store))


def test_the_options_of_the_address_are_kept(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they stand in the address or in the environment; they go before ours."""
    with Prompt(url) as prompt:
        prompt.run("CREATE SCHEMA elsewhere")
    try:
        with open_store(f"{url}&options=-csearch_path%3Delsewhere", migrate=True) as store:
            store.create(**names(id="run_1"))
        monkeypatch.setenv("PGOPTIONS", "-c search_path=elsewhere -c lock_timeout=77")
        with open_store(url, wait_s=0.3) as store:
            assert "run_1" == store.start("run_1").id
            assert FOR_WRITING == shown(store._committer._connected())
        monkeypatch.delenv("PGOPTIONS")
        with open_store(url) as store:
            assert () == store.list().data
    finally:
        with Prompt(url) as prompt:
            prompt.run("DROP SCHEMA elsewhere CASCADE")


def test_loaders_registered_for_the_whole_process(url: str) -> None:
    """Somebody reads integers as text, and text in capitals: the store's own connections do not."""
    from psycopg.adapt import Loader

    class Shouting(Loader):
        def load(self, data: Any) -> str:
            return bytes(data).decode().upper()

    kinds = ("int8", "int4", "text", "bool", "json", "varchar", "name")
    theirs = psycopg.adapters
    text = psycopg.pq.Format.TEXT
    before = {kind: theirs.get_loader(theirs.types[kind].oid, text) for kind in kinds}
    try:
        for kind in kinds:
            theirs.register_loader(kind, Shouting)
        with open_store(url) as store:
            every_move(store)
            assert {"a": "b"} == store.get(store.create(**names(metadata={"a": "b"})).id).metadata
    finally:
        for kind, loader in before.items():
            assert loader is not None
            theirs.register_loader(kind, loader)


# --- arrays -----------------------------------------------------------------------------------------------------------


def test_nulls_where_the_database_reads_them_as_words(url: str) -> None:
    """With `array_nulls` off the text `{NULL}` is a word of four letters: nothing that was not given is kept so."""
    with Prompt(url) as prompt:
        name = prompt.run("SELECT current_database()")[0][0]
        prompt.run(f"ALTER DATABASE {name} SET array_nulls = off")
        try:
            with open_store(url) as store:
                runs = store.create_many([names(), names(actor="me", not_before=1), names(idempotency_key="k")])
                assert [None, "me", None] == [run.actor for run in runs]
                store.create(**names(actor="NULL"))
                every_move(store)
                assert "NULL" == store.list(limit=100, order="asc").data[3].actor
                with closing(psycopg.connect(url)) as own, store.within(own) as bound:
                    assert bound.create(**names()).actor is None
                    bound.start(runs[0].id)
                    own.commit()
            assert [(1,)] == prompt.run("SELECT count(*) FROM runstate_run WHERE 'NULL' IN (actor, idempotency_key)")
        finally:
            prompt.run(f"ALTER DATABASE {name} RESET array_nulls")


# --- where to listen --------------------------------------------------------------------------------------------------


def test_an_address_to_listen_at_that_is_none(url: str) -> None:
    """An SQLite store needs none, and cannot be one; nothing is made."""
    for store_url, listen_url in ((url, "sqlite:///runs.db"), ("sqlite:///:memory:", url)):
        with pytest.raises(StoreUrlError, match="listen_url is for a store in PostgreSQL"):
            open_store(store_url, listen_url=listen_url)
    for wrong in ("mysql://somewhere", "", "runs.db", 5, f"{url}_of_that_name_there_is_none"):
        with pytest.raises(StoreUrlError, match=r"^listen_url: "):
            open_store(url, listen_url=cast("str", wrong))


def test_an_address_to_listen_at_that_leads_to_another_database(url: str, postgres_server: Server) -> None:
    """Notifications do not cross databases; another schema does not matter, nor that it is away for now."""
    elsewhere = postgres_server.create_database()
    with pytest.raises(StoreUrlError, match="listen_url leads to another database"):
        open_store(url, listen_url=elsewhere)
    postgres_server.drop_database(elsewhere)
    open_store(url, listen_url=f"{url}&options=-csearch_path%3Dnothing").close()
    open_store(url, listen_url="postgresql://me@/runs?host=/nowhere", wait_s=0.1).close()


# --- hints without notifications --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("pooled")
def test_changes_are_asked_for_where_notifications_do_not_come(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever listens hears of what another process commits, again and again; the log says once what is missing."""
    heard = threading.Event()
    with caplog.at_level(logging.WARNING, "runstate"), open_store(url) as store, Prompt(url) as other:
        for name in ("first", "second"):  # nothing is asked in between
            with store.subscribe(lambda hint: heard.set()):
                for number in range(3):
                    heard.clear()
                    other.run(f"CREATE TABLE {name}_{number} (id text)")
                    assert heard.wait(LIMIT)
                    other.run(f"DROP TABLE {name}_{number}")
        with closing(psycopg.connect(url)) as old, closing(psycopg.connect(url)) as young:
            for connection in (old, young):  # the younger one ends first
                connection.execute("SELECT pg_current_xact_id()")
            with store.subscribe(lambda hint: heard.set()):
                for connection in (young, old):
                    heard.clear()
                    connection.commit()
                    assert heard.wait(LIMIT)
        assert not other.run("SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND query ~ '^LISTEN'")
    assert 1 == sum("listen_url" in record.getMessage() for record in caplog.records)
