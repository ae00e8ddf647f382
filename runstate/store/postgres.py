"""PostgreSQL 14 or newer, by psycopg 3: autocommit, one statement a move or a batch of them."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from os import dup
from socket import SHUT_RDWR, socket
from typing import Any, Final

from runstate.clock import moved
from runstate.errors import OutcomeUnknown, SchemaMismatch, StoreError, StoreUnavailable, StoreUrlError
from runstate.json_values import printable
from runstate.store.queries import Column
from runstate.store.rows import Row
from runstate.store.session import Given, Interlocked
from runstate.store.statements import Statements
from runstate.store.tables import POSTGRES, Words

try:
    import psycopg
    from psycopg import conninfo, pq, rows

    from runstate.store.prepared import Prepared, array_text
except ModuleNotFoundError as _missing:  # pragma: no cover
    raise StoreUrlError("PostgreSQL needs psycopg: pip install 'runstate[postgres]'") from _missing

__all__ = ["PostgresDatabase", "PostgresSession", "translated"]

_OLDEST: Final = 140000
# Planning a turn anew costs more than a small one. Every statement goes from a few values to rows by an index: what a
# planner would do instead, once it has seen the tables empty or full, is to walk all of them.
_SETTINGS: Final = "; ".join(
    (
        "SET plan_cache_mode = force_generic_plan",
        *(f"SET enable_{way} = off" for way in ("seqscan", "bitmapscan", "hashjoin", "mergejoin")),
        "SET jit = off",
        # A process that is stopped in a transaction must not hold others up: the server ends it, and its locks with it.
        "SET idle_in_transaction_session_timeout = '3s'",
    )
)
_FORM: Final = "postgresql://user@host:5432/database?option=value"
_WRONG: Final = (
    *("does not exist", "authentication failed", "no password", "permission denied", "invalid port"),
    *("invalid integer value", "invalid sslmode value", "definition of service"),
)
# A host that has vanished says nothing any more: by the usual settings that is noticed after a quarter of an hour, if a
# request is under way, or after two. An address may name its own.
_KEPT_ALIVE: Final = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
_PORTS: Final = re.compile(r"[0-9,]*")
_Connection = psycopg.Connection[Any]


def translated(error: psycopg.Error, where: str, *, broken: bool = False) -> StoreError:
    """Return what went wrong, in this library's words and without the password."""
    told = (error.diag.message_primary or str(error)).strip().splitlines() or [type(error).__name__]
    if broken:
        return OutcomeUnknown(f"the connection to {where} broke before the answer came: {told[0]}")
    match error:
        case psycopg.errors.UndefinedTable() | psycopg.errors.UndefinedColumn() | psycopg.errors.UndefinedFunction():
            return SchemaMismatch(f"{where} has no store of this version ({told[0]}); `runstate migrate` makes one")
        case psycopg.errors.InsufficientPrivilege():
            return StoreError(f"no right to this in {where}: {told[0]}")
        case psycopg.errors.ReadOnlySqlTransaction():
            return StoreError(f"cannot write to {where}: it is read-only")
        case psycopg.errors.LockNotAvailable():
            return StoreUnavailable(f"{where} is busy: another transaction has been writing for too long")
        case psycopg.errors.SerializationFailure() | psycopg.errors.DeadlockDetected():
            return Interlocked(f"{where}: {told[0]}")
        case psycopg.errors.UniqueViolation():  # by what another has just committed: it will be seen the next time
            return Interlocked(f"{where}: {told[0]}")
        case psycopg.OperationalError():
            return StoreUnavailable(f"{where}: {told[0]}")
        case _:
            return StoreError(f"{where}: {told[0]}")


def _break_off(connection: _Connection) -> None:
    """End a connection that another thread waits for, which must not be touched but for its socket."""
    with suppress(OSError, psycopg.Error), socket(fileno=dup(connection.fileno())) as line:
        line.shutdown(SHUT_RDWR)


class PostgresSession:
    """One connection to PostgreSQL."""

    def __init__(self, connection: _Connection, where: str, *, owned: bool = True) -> None:
        self.statements: Final = Statements(POSTGRES)
        self.connection: Final = connection
        self._where = where
        self._owned = owned
        self._cursor = connection.cursor(row_factory=rows.tuple_row)
        self._execute = Prepared(connection) if owned and Prepared.possible else self._by_cursor

    @property
    def owned(self) -> bool:
        """Whether the connection is the store's own; else it is a caller's, and so is its transaction."""
        return self._owned

    def run(self, statement: str, given: Given) -> Sequence[Row]:
        """Execute a statement; return its rows."""
        try:
            return self._execute(statement, {"now": moved(), **given})
        except psycopg.Error as error:
            raise translated(error, self._where, broken=self.connection.broken) from error
        except UnicodeEncodeError as error:
            raise StoreError(f"{self._where}: text that no database can keep: {error}") from None

    def _by_cursor(self, statement: str, given: Given) -> Sequence[Row]:
        """Execute a statement on a caller's own connection, which psycopg may first have to begin a transaction on."""
        # As bytes, because psycopg wants texts that a type checker knows to be literal.
        self._cursor.execute(statement.encode(), given, prepare=True)
        return self._cursor.fetchall() if self._cursor.description else []

    def define(self, statement: str) -> None:
        """Execute a statement that takes no parameters: it may hold percent signs."""
        try:
            self._cursor.execute(statement.encode())
        except psycopg.Error as error:
            raise translated(error, self._where, broken=self.connection.broken) from error

    def table(self, columns: Sequence[Column], rows: Iterable[Row]) -> Given:
        """Return the parameters that hand `rows` to a statement: an array a column, as PostgreSQL writes arrays.

        (psycopg looks at every item, which costs more than the rest of a turn.)
        """
        turned = list(zip(*rows, strict=True))
        return {column.name: array_text(turned[place]) if turned else "{}" for place, column in enumerate(columns)}

    @contextmanager
    def transaction(self) -> Generator[None, None, None]:
        """Commit what happens inside together, or nothing of it; inside a caller's own, a savepoint."""
        try:
            if not self._owned:
                self._require_transaction()
            with self.connection.transaction():
                yield
        except psycopg.Error as error:
            raise translated(error, self._where, broken=self.connection.broken) from error

    def _require_transaction(self) -> None:
        """See that the caller's own transaction is open: a lone savepoint would be committed when it ends."""
        if self.connection.info.transaction_status != pq.TransactionStatus.IDLE:
            return
        if self.connection.autocommit:
            raise StoreError("the connection has no transaction open for the runs to be part of: begin one first")
        self._cursor.execute(b"SELECT 1")  # begins the one that the caller commits

    def together(self) -> AbstractContextManager[None]:
        """Return a transaction only where several statements need one: one by itself is atomic already."""
        return nullcontext() if self._owned else self.transaction()

    def break_off(self) -> None:
        """Wake the thread that waits for an answer, by an end of the connection."""
        _break_off(self.connection)

    def close(self) -> None:
        """Let the connection go."""
        self.connection.close()


class PostgresDatabase:
    """A PostgreSQL database, by its URL."""

    words: Words = POSTGRES
    in_memory: bool = False

    def __init__(self, url: str, wait_s: float = 10.0) -> None:
        parts = _parts(url)
        if parts is None:
            raise StoreUrlError(f"not a PostgreSQL address: libpq cannot read it; expected {_FORM}")
        host, port = parts.get("host", "localhost"), parts.get("port", "5432")
        if not _PORTS.fullmatch(str(port)):  # in postgresql://me:secret/database it is the password
            raise StoreUrlError(f"not a PostgreSQL address: its port is no number; expected {_FORM}")
        self.shown: str = printable(f"postgresql://{host}:{port}/{parts.get('dbname', '')}")
        self.url: Final = url
        self._parts: Final = parts
        self._wait_s = wait_s

    def open(self, *, reading: bool = False) -> PostgresSession:
        """Return a new connection in autocommit."""
        connection = self.connect()
        try:
            if connection.info.server_version < _OLDEST:
                raise StoreError(f"{self.shown} is too old: a store needs PostgreSQL 14 or newer")
            if not reading:
                # Whoever else holds a row, by a transaction of their own, is waited for as long as a busy database is.
                patience_ms = max(1, int(self._wait_s * 1000))
                connection.execute(f"{_SETTINGS}; SET lock_timeout = {patience_ms}".encode())
            return PostgresSession(connection, self.shown)
        except BaseException as error:  # also an interrupt: no caller has the connection yet, to close it
            connection.close()
            if not isinstance(error, psycopg.Error):
                raise
            told = str(error).splitlines() or ["no answer"]
        # Not inside the block, as in `connect`.
        raise _no_connection(f"cannot connect to {self.shown}: {told[0]}")

    def close(self) -> None:
        """Keep nothing."""

    def break_off(self, connection: _Connection) -> None:
        """Wake the thread that waits for a connection's answer, by an end of it."""
        _break_off(connection)

    def connect(self) -> _Connection:
        """Return a new connection, or say why there is none."""
        try:
            patience_s = max(2, int(self._wait_s))
            kept_alive: dict[str, Any] = {**_KEPT_ALIVE, "tcp_user_timeout": patience_s * 1000}
            given = {name: value for name, value in kept_alive.items() if name not in self._parts}
            # UTF-8 whatever the address, the environment or the database says: that is what statements are sent in.
            return psycopg.connect(
                self.url, autocommit=True, connect_timeout=patience_s, client_encoding="utf8", **given
            )
        except psycopg.Error as error:
            lines = str(error).splitlines()
            told = [line for line in lines if line and not line.startswith("\t")] or ["no answer"]
        # Not inside the block: psycopg's error would go along, and the frames of its traceback hold the password.
        raise _no_connection(f"cannot connect to {self.shown}: {told[-1]}")


def _parts(url: str) -> Mapping[str, object] | None:
    """Return the parts of an address; None if libpq cannot read it. What it says then may quote the password."""
    with suppress(psycopg.ProgrammingError, UnicodeDecodeError):
        return conninfo.conninfo_to_dict(url)
    return None


def _no_connection(told: str) -> StoreError:
    """Tell a wrong address or password, which asking again does not mend, from a server that is not there."""
    if any(words in told for words in _WRONG):
        return StoreUrlError(told)
    return StoreUnavailable(told)
