"""A caller's own connection: whatever rows, types, encoding and settings it has, and left exactly as it was."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from typing import Any

import psycopg
import pytest
from psycopg.adapt import Loader
from psycopg.rows import class_row, dict_row, namedtuple_row, scalar_row
from psycopg.types.string import StrDumper

from runstate import IllegalTransition
from runstate.errors import InvalidRun, RunNotFound, StoreError
from runstate.store import BoundStore, Store, open_store
from tests.store.conftest import make_url
from tests.store.support import ask_store, names
from tests.support.lifecycle import WAYS

# Nine letters that no ASCII has; the last is in no encoding of Western Europe.
TEXT = "Grüße, ça"
SUN = "\N{SUN WITH FACE}"


@pytest.fixture
def postgres(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty store in PostgreSQL."""
    yield from make_url("postgres", request)


@pytest.fixture
def sqlite(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty store in SQLite."""
    yield from make_url("sqlite", request)


def use(bound: BoundStore, mark: str = "") -> None:
    """Do in a caller's transaction all that can be done there, and be refused now and then."""
    for status, way in WAYS.items():
        run = bound.create(**names(id=f"{status}{mark}", metadata={"of": TEXT}, instructions=TEXT))
        assert ({"of": TEXT}, TEXT) == (run.metadata, run.instructions)
        for event in way:
            ask_store(bound, run.id, event, actor=TEXT)
        read = bound.get(run.id)
        assert (status, {"of": TEXT}, 1 + len(way)) == (read.status, read.metadata, read.version)
        assert [None, *way] == [entry.event for entry in bound.history(run.id)]
        assert all(entry.actor == TEXT for entry in bound.history(run.id)[1:])
    assert {*WAYS} <= {run.status for run in bound.list(limit=100).data}
    assert bound.list(metadata={"of": TEXT}, status=[*WAYS], limit=100).data
    assert sum(bound.counts().values()) >= len(WAYS)
    with pytest.raises(IllegalTransition):
        bound.start(f"completed{mark}")
    with pytest.raises(RunNotFound):
        bound.start("nobody")
    with pytest.raises(InvalidRun):
        bound.create_many([names(id=f"new{mark}"), names(id=f"queued{mark}", model="other")])
    bound.create_many(
        [names(id=f"a{mark}", one_live_run_per_thread="queue", thread_id=f"x{mark}"), names(id=f"b{mark}")]
    )
    lease = bound.open_lease("w")
    assert bound.claim_id(lease, f"a{mark}") is not None
    bound.sweep()


def same(store: Store) -> None:
    """See that what was committed is there."""
    for status in WAYS:
        run = store.get(status)
        assert (status, TEXT, {"of": TEXT}) == (run.status, run.instructions, run.metadata)


# --- PostgreSQL: what a connection makes of rows and values -----------------------------------------------------------


class Shouting(Loader):
    """Reads any value as a text in capitals."""

    def load(self, data: Any) -> str:
        return bytes(data).decode("utf-8", "replace").upper()


class Bracketing(StrDumper):
    """Writes a text in brackets."""

    def dump(self, obj: str) -> Any:
        return f"<{obj}>".encode()


def _other_loaders(connection: psycopg.Connection[Any]) -> None:
    for kind in ("int2", "int4", "int8", "bool", "text", "varchar", "json", "jsonb", "numeric", "name"):
        connection.adapters.register_loader(kind, Shouting)


def _other_dumpers(connection: psycopg.Connection[Any]) -> None:
    for kind in (str, int, float, list, bytes):
        connection.adapters.register_dumper(kind, Bracketing)


def _with(statement: str) -> Callable[[psycopg.Connection[Any]], None]:
    def change(connection: psycopg.Connection[Any]) -> None:
        connection.execute(statement.encode())
        connection.commit()

    return change


def _attribute(name: str, value: object) -> Callable[[psycopg.Connection[Any]], None]:
    return lambda connection: setattr(connection, name, value)


POSTGRES_KINDS: Mapping[str, Callable[[psycopg.Connection[Any]], None]] = {
    "as it comes": lambda connection: None,
    "rows as dicts": _attribute("row_factory", dict_row),
    "rows as tuples with names": _attribute("row_factory", namedtuple_row),
    "rows as their first value": _attribute("row_factory", scalar_row),
    "rows as objects": _attribute("row_factory", class_row(dict)),
    "a cursor that puts values into the text": _attribute("cursor_factory", psycopg.ClientCursor),
    "a cursor that takes $1": _attribute("cursor_factory", psycopg.RawCursor),
    "other loaders": _other_loaders,
    "other dumpers": _other_dumpers,
    "everything prepared": _attribute("prepare_threshold", 0),
    "nothing prepared": _attribute("prepare_threshold", None),
    "serializable": _attribute("isolation_level", psycopg.IsolationLevel.SERIALIZABLE),
    "repeatable read": _attribute("isolation_level", psycopg.IsolationLevel.REPEATABLE_READ),
    "Latin 1": _with("SET client_encoding = latin1"),
    "Latin 9": _with("SET client_encoding = latin9"),
    "backslashes in strings": _with("SET standard_conforming_strings = off; SET backslash_quote = on"),
    "dates as in Germany": _with(
        "SET DateStyle = German; SET IntervalStyle = iso_8601; SET timezone = 'Asia/Kathmandu'"
    ),
    "bytes escaped": _with("SET bytea_output = 'escape'"),
    "few digits": _with("SET extra_float_digits = -15"),
    "nulls in arrays as words": _with("SET array_nulls = off"),
    "x = null is x is null": _with("SET transform_null_equals = on"),
    "identifiers quoted": _with("SET quote_all_identifiers = on"),
    "other plans": _with("SET plan_cache_mode = force_custom_plan; SET enable_indexscan = off; SET jit = on"),
    "a temporary schema first": _with("SET search_path = pg_temp, public"),
}


SETTINGS = "SELECT name, setting, source FROM pg_settings WHERE NOT starts_with(name, 'plpgsql.')"
"""Of PostgreSQL's own: PL/pgSQL, once it was used, shows more."""


def _state(connection: psycopg.Connection[Any]) -> tuple[object, ...]:
    """Return all that a connection has, and its session on the server; it ends the transaction."""
    with psycopg.Cursor(connection) as cursor:
        cursor.execute(SETTINGS, prepare=False)
        settings = cursor.pgresult
        assert settings is not None
        rows = [tuple(settings.get_value(row, column) for column in range(3)) for row in range(settings.ntuples)]
        cursor.execute("SELECT name FROM pg_prepared_statements", prepare=False)
        assert cursor.pgresult is not None
        prepared = [cursor.pgresult.get_value(row, 0) for row in range(cursor.pgresult.ntuples)]
    connection.rollback()
    here = ("row_factory", "cursor_factory", "prepare_threshold", "isolation_level", "autocommit", "read_only")
    loaders = [connection.adapters.get_loader(oid, psycopg.pq.Format.TEXT) for oid in (16, 20, 23, 25, 114)]
    return sorted(rows), prepared, [getattr(connection, name) for name in here], loaders, connection.info.encoding


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "autocommit"), [*((kind, False) for kind in POSTGRES_KINDS), ("as it comes", True)], ids=str
)
def test_a_connection_to_postgresql(kind: str, autocommit: bool, postgres: str) -> None:
    """All works on it, is committed with it, and nothing of it is changed: by success, refusals, or an error."""
    with open_store(postgres) as store, closing(psycopg.connect(postgres)) as own:
        POSTGRES_KINDS[kind](own)
        own.set_autocommit(autocommit)
        before = _state(own)
        with own.transaction(), store.within(own) as bound:
            use(bound)
        own.commit()
        assert before == _state(own)
        same(store)
        with suppress(ZeroDivisionError), own.transaction(), store.within(own) as bound:
            use(bound, "2")
            raise ZeroDivisionError
        assert before == _state(own)
        with pytest.raises(RunNotFound):
            store.get("queued2")


def test_a_text_that_the_connection_cannot_spell(postgres: str) -> None:
    """Said of what is written and of what is read, with the way out; what was asked before is kept."""
    with open_store(postgres) as store, closing(psycopg.connect(postgres, client_encoding="latin1")) as own:
        store.create(**names(id="sunny", actor=SUN))
        with store.within(own) as bound:
            bound.create(**names(id="run_1", instructions=TEXT))
            with pytest.raises(StoreError, match="client_encoding=utf8"):
                bound.create(**names(id="run_2", actor=SUN))
        own.commit()
        with store.within(own) as bound, pytest.raises(StoreError, match="client_encoding=utf8"):
            bound.history("sunny")
        assert TEXT == store.get("run_1").instructions
        assert {"run_1", "sunny"} == {run.id for run in store.list().data}


def test_connections_to_postgresql_that_are_refused(postgres: str) -> None:
    """With a sentence that says what to use instead."""
    with open_store(postgres) as store:
        with (
            closing(psycopg.connect(postgres, client_encoding="sql_ascii")) as own,
            pytest.raises(StoreError, match="client_encoding=utf8"),
            store.within(own),
        ):
            pass
        with closing(psycopg.connect(postgres)) as own, own.pipeline(), store.within(own) as bound:
            with pytest.raises(StoreError, match="pipeline mode"):
                bound.create(**names())
            with pytest.raises(StoreError, match="pipeline mode"):
                bound.list()
        own.close()
        with pytest.raises(StoreError, match="is closed"), store.within(own):
            pass
        assert () == store.list().data


# --- SQLite -----------------------------------------------------------------------------------------------------------


class OtherCursor(sqlite3.Cursor):
    """A cursor that gives no plain row."""

    def fetchall(self) -> list[Any]:
        raise AssertionError


class OtherConnection(sqlite3.Connection):
    """A connection that makes such cursors."""

    def cursor(self, *_: Any) -> Any:
        return super().cursor(OtherCursor)


def _sqlite(change: Callable[[sqlite3.Connection], object] = lambda _: None, **given: Any) -> Callable[[str], Any]:
    def connect(path: str) -> sqlite3.Connection:
        connection: sqlite3.Connection = sqlite3.connect(path, **given)
        change(connection)
        return connection

    return connect


def _pragma(text: str) -> Callable[[str], Any]:
    return _sqlite(lambda connection: connection.execute(f"PRAGMA {text}"))


def _as_dict(cursor: sqlite3.Cursor, row: tuple[object, ...]) -> dict[int, object]:
    return dict(enumerate(row))


def _text(factory: Any) -> Callable[[str], Any]:
    return _sqlite(lambda connection: setattr(connection, "text_factory", factory))


SQLITE_KINDS: Mapping[str, Callable[[str], Any]] = {
    "as it comes": _sqlite(),
    "no isolation level": _sqlite(isolation_level=None),
    "deferred": _sqlite(isolation_level="DEFERRED"),
    "immediate": _sqlite(isolation_level="IMMEDIATE"),
    "exclusive": _sqlite(isolation_level="EXCLUSIVE"),
    "rows with names": _sqlite(lambda connection: setattr(connection, "row_factory", sqlite3.Row)),
    "rows as dicts": _sqlite(lambda connection: setattr(connection, "row_factory", _as_dict)),
    "text as bytes": _text(bytes),
    "text as bytearrays": _text(bytearray),
    "text in capitals": _text(lambda data: data.decode().upper()),
    "types by their names": _sqlite(detect_types=sqlite3.PARSE_DECLTYPES | sqlite3.PARSE_COLNAMES),
    "no statements kept": _sqlite(cached_statements=0),
    "another cursor": _sqlite(factory=OtherConnection),
    "triggers in triggers": _pragma("recursive_triggers = ON"),
    "foreign keys": _pragma("foreign_keys = ON"),
    "like by its case": _pragma("case_sensitive_like = ON"),
    "rows from behind": _pragma("reverse_unordered_selects = ON"),
    "full names": _pragma("full_column_names = ON"),
    "temporary files": _pragma("temp_store = FILE"),
}
PRAGMAS = (
    *("busy_timeout", "synchronous", "temp_store", "recursive_triggers", "foreign_keys", "journal_mode", "query_only"),
    *("cache_size", "case_sensitive_like", "reverse_unordered_selects", "trusted_schema", "locking_mode"),
)


def _state_of_sqlite(connection: sqlite3.Connection) -> list[object]:
    with closing(sqlite3.Cursor(connection)) as cursor:
        cursor.row_factory = None
        found: list[object] = [cursor.execute(f"PRAGMA {name}").fetchall() for name in PRAGMAS]
    here = ("isolation_level", "row_factory", "text_factory", "in_transaction")
    return found + [getattr(connection, name) for name in here]


@pytest.mark.parametrize("kind", SQLITE_KINDS)
def test_a_connection_to_sqlite(kind: str, sqlite: str) -> None:
    """As with PostgreSQL."""
    with open_store(sqlite) as store, closing(SQLITE_KINDS[kind](sqlite.removeprefix("sqlite:///"))) as own:
        before = _state_of_sqlite(own)
        for mark, word in (("", "COMMIT"), ("2", "ROLLBACK")):
            own.execute("BEGIN IMMEDIATE")
            with suppress(ZeroDivisionError), store.within(own) as bound:
                use(bound, mark)
                raise ZeroDivisionError
            own.execute(word)
            assert before == _state_of_sqlite(own)
        same(store)
        with pytest.raises(RunNotFound):
            store.get("queued2")


def test_a_connection_to_sqlite_whose_columns_are_converted(sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be read past a converter of ours types: refused, unless that leaves values as they are."""
    path = sqlite.removeprefix("sqlite:///")
    for name, convert, is_fine in (
        ("INTEGER", lambda data: data, False),
        ("TEXT", lambda data: data.decode().upper().encode(), False),
        ("INTEGER", int, True),
        ("TEXT", bytes.decode, True),
    ):
        monkeypatch.setitem(sqlite3.converters, name, convert)
        own = sqlite3.connect(path, detect_types=sqlite3.PARSE_DECLTYPES, isolation_level=None)
        with closing(own), open_store(sqlite) as store:
            before = _state_of_sqlite(own)
            own.execute("BEGIN")
            with store.within(own) as bound:
                if is_fine:
                    assert bound.get(bound.create(**names()).id).metadata is not None
                else:
                    with pytest.raises(StoreError, match="without detect_types"):
                        bound.create(**names())
            own.execute("ROLLBACK")
            assert before == _state_of_sqlite(own)
        monkeypatch.delitem(sqlite3.converters, name)


def test_a_connection_to_sqlite_that_does_not_trust_the_schema(sqlite: str) -> None:
    """Some versions of SQLite do not let such a connection see a CHECK that reads JSON: it is told what to change."""
    with open_store(sqlite) as store, closing(sqlite3.connect(sqlite.removeprefix("sqlite:///"))) as own:
        own.execute("PRAGMA trusted_schema = OFF")
        with store.within(own) as bound:
            try:
                own.execute("SELECT 1 FROM runstate_run")
            except sqlite3.DatabaseError:
                with pytest.raises(StoreError, match="PRAGMA trusted_schema = ON"):
                    bound.create(**names())
                own.execute("PRAGMA trusted_schema = ON")
            use(bound)


def test_what_is_refused_on_a_connection_that_may_not_write(sqlite: str) -> None:
    with open_store(sqlite) as store, closing(sqlite3.connect(sqlite.removeprefix("sqlite:///"))) as own:
        run = store.create(**names())
        own.execute("PRAGMA query_only = ON")
        with store.within(own) as bound:
            assert run.id == bound.get(run.id).id
            with pytest.raises(StoreError, match="read-only"):
                bound.start(run.id)
        own.rollback()
        assert "queued" == store.get(run.id).status
