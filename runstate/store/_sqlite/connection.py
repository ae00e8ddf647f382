"""Connections to SQLite: WAL, synchronous=FULL, always BEGIN IMMEDIATE; one writing connection per process."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from runstate.clock import monotonic, sleep
from runstate.clock import time_us as _now
from runstate.store._notifier import LocalNotifier
from runstate.store._sql.callers import driver_connection, wrong_connection
from runstate.store._sql.columns import CREATE_COLUMNS, Column, position
from runstate.store._sql.connection import CALLERS_DATABASE, Groups, Params, Trouble
from runstate.store._sql.dialect import SQLITE, Dialect
from runstate.store._sql.identity import StoreIdentity
from runstate.store._sql.migrations import ddl
from runstate.store._sql.rows import Row
from runstate.store._sql.schema import TABLES
from runstate.store._sql.skipped import SkippedRuns
from runstate.store._sql.statements import Statements
from runstate.store._sqlite.files import FileId, file_id, why_not_opened
from runstate.store._sqlite.identity import identity_of
from runstate.store._sqlite.notifier import SqliteNotifier
from runstate.store._sqlite.settle_and_claim import settle_and_claim
from runstate.store.availability import Availability
from runstate.store.errors import AccessDenied, SchemaMismatch, StoreError, StoreUnavailable, StoreUrlError

__all__ = ["SqliteConnection", "SqliteDatabase", "map_error"]

_OLDEST: Final = (3, 38, 0)
# Between two checks whether another process has finished writing. SQLite itself would sleep up to 100 ms at a time.
_LOOKS_S: Final = (0.0002, 0.0005, 0.001, 0.001, 0.002)
_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_SETTINGS: Final = position(CREATE_COLUMNS, "config")
_OUR_TYPES: Final = frozenset({"INTEGER", "TEXT"})
_NO_ROOM: Final = "the disk is full"
_COLUMNS: Final = "SELECT t.value, c.name FROM json_each(:tables) t, pragma_table_info(t.value) c"
# Errors that do not depend on the request: the file was replaced, moved, or is no longer writable.
_LOST: Final = frozenset(
    {
        *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOTADB),
        *(sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_AUTH),
    }
)


def map_error(error: sqlite3.Error, where: str) -> StoreError:
    """Return the store error for an error of the driver."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _BUSY:
        return StoreUnavailable(f"{where} is busy: another connection has been writing for too long")
    if code == sqlite3.SQLITE_FULL:
        return StoreUnavailable(f"cannot write to {where}: {_NO_ROOM}; nothing was changed")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return AccessDenied(f"cannot write to {where}: it is read-only")
    if code == sqlite3.SQLITE_CANTOPEN:
        return StoreUrlError(f"cannot open {where}: {why_not_opened(where)}")
    if code == sqlite3.SQLITE_NOTADB:
        return StoreUrlError(f"{where} is not an SQLite database")
    if code == sqlite3.SQLITE_IOERR:
        return StoreUnavailable(f"cannot read or write {where}: {error}")
    return StoreError(f"{where}: {error}")


def _is_complete(cursor: sqlite3.Cursor) -> bool:
    """Return whether a database has all tables and columns of a store of this version."""
    tables = {"tables": json.dumps(["runstate_migration", *TABLES])}
    with closing(sqlite3.connect(":memory:")) as new:
        new.executescript(ddl(SQLITE))
        needed = set(new.execute(_COLUMNS, tables))
    return needed <= set(cursor.execute(_COLUMNS, tables))


class SqliteConnection:
    """One connection to an SQLite database."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        where: str,
        wait_s: float,
        *,
        owned: bool = True,
        kept: bool = False,
        file: tuple[str, FileId] | None = None,
    ) -> None:
        self.trouble: Trouble | None = None
        self.skipped: SkippedRuns = SkippedRuns()
        self.row_by_row: bool = False
        self._file = file
        """The path and the id of the file that was opened."""
        self.statements: Final = Statements(SQLITE)
        self.connection: Final = connection
        self._where = where
        self._wait_s = wait_s
        self._owned = owned
        self._kept = kept
        # A caller's own connection may have another class of cursors and another row factory.
        self._cursor = connection.cursor() if owned else sqlite3.Cursor(connection)
        self._cursor.row_factory = None

    @property
    def owned(self) -> bool:
        """Whether the connection belongs to the store. If not, it and its transaction belong to a caller."""
        return self._owned

    def execute(self, statement: str, params: Params) -> Sequence[Row]:
        """Execute a statement; return its rows."""
        try:
            if self._owned:
                return self._ask(statement, params).fetchall()
            with self._as_text():
                return self._ask(statement, params).fetchall()
        except sqlite3.Error as error:
            raise self._failed(error) from error

    @contextmanager
    def _as_text(self) -> Generator[None, None, None]:
        """Read texts as `str` inside the block, whatever `text_factory` the caller's connection has."""
        theirs = self.connection.text_factory
        self.connection.text_factory = str
        try:
            if sqlite3.converters.keys() & _OUR_TYPES:
                self._require_plain_types()
            yield
        finally:
            self.connection.text_factory = theirs

    def _require_plain_types(self) -> None:
        """Refuse a connection that converts the columns of a store: `detect_types` can neither be read nor changed."""
        found = self._cursor.execute(
            "SELECT token, name FROM runstate_worker_session ORDER BY token LIMIT 1"
        ).fetchone()
        if found is not None and [type(value) for value in found] != [int, str]:
            raise StoreError(
                "the connection converts INTEGER or TEXT by a registered converter (detect_types=PARSE_DECLTYPES): "
                "use one without detect_types"
            )

    def change(self, statement: str, params: Params) -> int:
        """Execute a statement without a result; return how many rows it changed."""
        return self._ask(statement, params).rowcount

    def _ask(self, statement: str, params: Params) -> sqlite3.Cursor:
        try:
            return self._cursor.execute(statement, {"now": _now(), **params})
        except sqlite3.Error as error:
            raise self._untrusting(error) or self._failed(error) from error
        except UnicodeEncodeError as error:
            raise StoreError(f"{self._where}: text that no database can keep: {error}") from None

    def _untrusting(self, error: sqlite3.Error) -> StoreError | None:
        """Return the error if a caller's connection cannot execute any statement; None if that is not the reason."""
        if self._owned or getattr(error, "sqlite_errorcode", 0) not in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT):
            return None
        if "unsafe use of" not in str(error) or self._cursor.execute("PRAGMA trusted_schema").fetchone() != (0,):
            return None
        told = "the connection does not trust the database's schema, whose checks read JSON"
        return StoreError(f"{self._where}: {told}: PRAGMA trusted_schema = ON")

    def _failed(self, error: sqlite3.Error) -> StoreError:
        self._note_trouble(error)
        return self._translated(error)

    def _note_trouble(self, error: sqlite3.Error) -> None:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _LOST and not self._kept:
            self.trouble = Trouble.SESSION_LOST
        elif code == sqlite3.SQLITE_CONSTRAINT:
            self.trouble = Trouble.ROW_REFUSED

    def is_stale(self) -> bool:
        """Return whether the file was deleted or replaced. Writes to it would be lost."""
        return self._file is not None and file_id(self._file[0]) != self._file[1]

    def execute_ddl(self, statement: str) -> None:
        """Execute a statement without parameters."""
        try:
            self._cursor.execute(statement)
        except sqlite3.Error as error:  # in a migration, missing tables are not the reason
            self._note_trouble(error)
            raise map_error(error, self._where) from error

    def bind_rows(self, columns: Sequence[Column], rows: Iterable[Row]) -> Params:
        """Return the parameters that pass `rows` to a statement: one JSON text."""
        return {"rows": json.dumps(rows if isinstance(rows, list) else list(rows))}

    def insert_runs(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Insert the configuration of runs, then the runs: no configuration can be added to an existing run."""
        params = self.bind_rows(CREATE_COLUMNS, rows)
        has_settings = any(row[_SETTINGS] is not None for row in rows)
        if has_settings:
            self.execute(self.statements.add_config, params)
        return self.execute(self.statements.create[has_settings], params)

    def settle_and_claim(
        self, owner: Params, groups: Groups, queues: Sequence[str], limit: int, *, only: int | None = None
    ) -> tuple[set[int], list[Row]]:
        """Commit outcomes and claim up to `limit` runs; with `only`, no other run than this one."""
        return settle_and_claim(self, owner, groups, queues, limit, only)

    def identity(self) -> StoreIdentity:
        """Return in which file the connection finds the tables of a store."""
        return identity_of(self)

    @contextmanager
    def transaction(self) -> Generator[None, None, None]:
        """Commit all statements of the block, or none. Inside a caller's own transaction this is a savepoint."""
        if not self._owned:
            with self._savepoint():
                yield
            return
        self._begin()
        try:
            yield
            self._execute_control("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                self._execute_control("ROLLBACK")
            raise

    def atomic_if_needed(self) -> AbstractContextManager[None]:
        """Return a transaction. SQLite needs one also for a single statement, to wait for the write lock first."""
        return self.transaction()

    @contextmanager
    def _savepoint(self) -> Generator[None, None, None]:
        if not self.connection.in_transaction:  # the end of a savepoint without a transaction would commit
            if self.connection.isolation_level is None or getattr(self.connection, "autocommit", None) is True:
                raise StoreError("the connection has no transaction open for the runs to be part of: begin one first")
            self._execute_control("BEGIN IMMEDIATE")  # as the driver does before a writing statement
        with self.savepoint():
            yield

    @contextmanager
    def savepoint(self) -> Generator[None, None, None]:
        """Undo what happened inside if it raises, and nothing else of the transaction that is open."""
        self._execute_control("SAVEPOINT runstate")
        try:
            yield
        except BaseException:
            if self.connection.in_transaction:  # else a trigger has rolled all of it back
                self._execute_control("ROLLBACK TO runstate")
                self._execute_control("RELEASE runstate")
            else:
                self.trouble = None  # the error is not about one row
            raise
        self._execute_control("RELEASE runstate")

    def _begin(self) -> None:
        """Begin a transaction. Wait for the write lock in small steps: those of SQLite are too long for a caller."""
        until = monotonic() + self._wait_s
        looks = 0
        while True:
            try:
                self._cursor.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in _BUSY:
                    raise self._failed(error) from error
                if monotonic() > until:
                    self.trouble = Trouble.NOT_BEGUN
                    raise map_error(error, self._where) from error
            else:
                return
            sleep(_LOOKS_S[min(looks, len(_LOOKS_S) - 1)])
            looks += 1

    def _execute_control(self, statement: str) -> None:
        try:
            self._cursor.execute(statement)
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _translated(self, error: sqlite3.Error) -> StoreError:
        # SQLite has no error code for a missing table or column.
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_ERROR:
            with suppress(sqlite3.Error):
                if not _is_complete(self._cursor):
                    why = f"{self._where} has no store of this version ({error})"
                    return SchemaMismatch(f"{why}; `runstate migrate` makes one")
        return map_error(error, self._where)

    def interrupt(self) -> None:
        """Interrupt the statement that another thread waits for."""
        with suppress(sqlite3.Error):  # the statement has ended, and the connection is closed
            self.connection.interrupt()

    def close(self) -> None:
        """Close the connection, unless it is the only one of a database in memory."""
        if not self._kept:
            self.connection.close()


class SqliteDatabase:
    """An SQLite file, or a database in memory, which exists as long as its only connection."""

    dialect: Dialect = SQLITE
    embedded: bool = True

    def __init__(self, path: str, wait_s: float = 10.0) -> None:
        if sqlite3.sqlite_version_info < _OLDEST:
            raise StoreError(f"SQLite {sqlite3.sqlite_version} is too old: a store needs 3.38 or newer")
        self.path: Final = path
        self._place: Final = str(Path(path).absolute())
        """The absolute path, because the process may change its folder."""
        self.in_memory: bool = path == ":memory:"
        self._only: SqliteConnection | None = None
        self._is_known = False
        """Whether the file existed before. A file that is deleted under an open store is not created again, empty."""
        self.display_url: str = f"sqlite:///{path}"
        self.private: Sequence[str] = () if self.in_memory else (path, self._place)
        self._wait_s = wait_s

    def open(self, *, reading: bool = False) -> SqliteConnection:
        """Return a new connection, or the only one in memory. Any thread may use it, one at a time."""
        if self._only is not None:
            return self._only
        where = "the database in memory" if self.in_memory else self.path
        mode = "memory" if self.in_memory else "rw" if reading or self._is_known else "rwc"
        before = file_id(self._place)
        address = "file::memory:" if self.in_memory else f"file:{quote(self._place)}?mode={mode}"
        try:
            connection = sqlite3.connect(
                address, uri=True, isolation_level=None, check_same_thread=False, timeout=0, cached_statements=256
            )
        except sqlite3.Error as error:
            raise map_error(error, where) from error
        try:
            if reading:
                connection.execute(f"PRAGMA busy_timeout = {int(self._wait_s * 1000)}")
                connection.execute("PRAGMA query_only = 1")
            else:
                self._prepare(connection)
            session = SqliteConnection(connection, where, self._wait_s, kept=self.in_memory, file=self._opened(before))
        except BaseException as error:  # also an interrupt: no caller has the connection yet, to close it
            connection.close()
            if isinstance(error, sqlite3.Error):
                raise map_error(error, where) from error
            raise
        if self.in_memory:
            self._only = session
        return session

    def _opened(self, before: FileId | None) -> tuple[str, FileId] | None:
        """Return the path and id of the opened file, by the id `before` and the id now; None for a database in memory.

        If the file was replaced in between, it is unknown which one was opened. Then the id matches no file, so that
        the connection is stale and the file is opened again.
        """
        if self.in_memory:
            return None
        now = file_id(self._place)
        self._is_known = self._is_known or now is not None
        return self._place, now if now is not None and before in (None, now) else (-1, -1)

    def wrap(self, connection: object) -> SqliteConnection:
        """Return a connection over a caller's own connection of sqlite3. Raises `StoreError` for any other."""
        inner = driver_connection(connection)
        if not isinstance(inner, sqlite3.Connection):
            raise wrong_connection(inner, "sqlite3", "sqlite:///")
        return SqliteConnection(inner, CALLERS_DATABASE, 0.0, owned=False)

    def notifier(self, external_commits: Callable[[], int | None], availability: Availability) -> LocalNotifier:
        """Return the notifier. For a database in memory it is local: no other process can change it."""
        return LocalNotifier() if self.in_memory else SqliteNotifier(external_commits)

    def close(self) -> None:
        """Close the only connection of a database in memory."""
        if self._only is not None:
            self._only.connection.close()
            self._only = None

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA busy_timeout = {int(self._wait_s * 1000)}")
        self._write_ahead(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA recursive_triggers = 0")
        # The statement journal, which undoes a failed statement, would be in a file past 64 KiB, which 100 runs exceed.
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA busy_timeout = 0")

    def _write_ahead(self, connection: sqlite3.Connection) -> None:
        """Set WAL mode. If several connections do that at once with a new file, SQLite refuses some without waiting."""
        until = monotonic() + self._wait_s
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in _BUSY or monotonic() > until:
                    raise
                sleep(_LOOKS_S[-1])
            else:
                return
