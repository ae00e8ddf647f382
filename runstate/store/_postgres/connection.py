"""Connections to PostgreSQL 14 or newer by psycopg 3, in autocommit mode: one statement for a batch of moves."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from itertools import chain
from os import dup, environ
from socket import SHUT_RDWR, socket
from typing import Any, Final, TypeVar, cast

from runstate._redaction import Password
from runstate.clock import override_us
from runstate.run.json_values import escape
from runstate.store._notifier import LocalNotifier
from runstate.store._sql.callers import driver_connection, wrong_connection
from runstate.store._sql.columns import CREATE_COLUMNS, Column, position
from runstate.store._sql.connection import CALLERS_DATABASE, Groups, Params, Trouble
from runstate.store._sql.dialect import POSTGRES, Dialect
from runstate.store._sql.identity import StoreIdentity
from runstate.store._sql.rows import Row
from runstate.store._sql.skipped import SkippedRuns
from runstate.store._sql.statements import Statements
from runstate.store.availability import Availability
from runstate.store.errors import (
    AccessDenied,
    OutcomeUnknown,
    SchemaMismatch,
    StoreError,
    StoreUnavailable,
    StoreUrlError,
)

try:
    import psycopg
    from psycopg import conninfo, pq

    from runstate.store._postgres.async_caller import AsyncCallerConnection
    from runstate.store._postgres.caller import CallerCursor
    from runstate.store._postgres.identity import identity_of
    from runstate.store._postgres.notifier import PostgresNotifier
    from runstate.store._postgres.parameters import OwnAdapters
    from runstate.store._postgres.pooler import are_set, has_its_path, is_pooled, options_of, set_locally, settings_of
    from runstate.store._postgres.prepared import Prepared
    from runstate.store._postgres.settle_and_claim import settle_and_claim
    from runstate.store._postgres.sqlstates import (
        KEYS_OF_RUNS,
        is_answer_lost,
        is_passing,
        is_wrong,
        refusal_codes,
        trouble_of,
    )
except ModuleNotFoundError as _missing:  # pragma: no cover
    raise StoreUrlError("PostgreSQL needs psycopg: pip install 'psycopg[binary]>=3.2.1'") from _missing

__all__ = ["PostgresConnection", "PostgresDatabase", "map_error"]

_OLDEST: Final = 140000
_FORM: Final = "postgresql://user@host:5432/database?option=value"
_WRONG: Final = (
    *("does not exist", "authentication failed", "no password", "permission denied", "invalid port"),
    *("invalid integer value", "invalid sslmode value", "definition of service"),
    *("no such database", "no such user", "unsupported startup parameter"),  # PgBouncer's
)
# A host that has vanished sends nothing. With the default settings of TCP that is detected after a quarter of an hour
# if a request is under way, otherwise after two hours. An address may have its own settings.
_KEPT_ALIVE: Final = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
_ONLY_READS: Final = ("in_hot_standby", "default_transaction_read_only")  # reported by the server at the start
_READ_ONLY: Final = "cannot write to {}: it is read-only"
_NOT_THERE: Final = (  # messages of libpq itself
    *("Connection refused", "No such file or directory", "timeout expired", "could not translate host name"),
)
_MOST_KNOWN: Final = 64  # refusals whose codes are cached
_PORT: Final = re.compile(r"[0-9]{1,9}")
_SETTINGS: Final = position(CREATE_COLUMNS, "config")
_LAST_PORT: Final = 65535
_DriverConnection = psycopg.Connection[Any]
T = TypeVar("T")


def map_error(error: psycopg.Error, where: str, *, broken: bool = False, reading: bool = False) -> StoreError:
    """Return the store error for an error of the driver, without the password. A read is never `OutcomeUnknown`."""
    told = (error.diag.message_primary or str(error)).strip().splitlines() or [type(error).__name__]
    if broken or is_answer_lost(error.sqlstate):
        sentence = f"the connection to {where} broke before the reply came: {told[0]}"
        return StoreUnavailable(sentence) if reading else OutcomeUnknown(sentence)
    match error:
        case psycopg.errors.UndefinedTable() | psycopg.errors.UndefinedColumn() | psycopg.errors.UndefinedFunction():
            return SchemaMismatch(f"{where} has no store of this version ({told[0]}); `runstate migrate` makes one")
        case psycopg.errors.InsufficientPrivilege():
            return AccessDenied(f"no right to this in {where}: {told[0]}")
        case psycopg.errors.ReadOnlySqlTransaction():
            return StoreUnavailable(_READ_ONLY.format(where))
        case psycopg.errors.LockNotAvailable():
            return StoreUnavailable(f"{where} is busy: another transaction has been writing for too long")
        case psycopg.errors.InvalidSqlStatementName() | psycopg.errors.DuplicatePreparedStatement():
            # The connection was not known to be pooled until this error.
            return StoreUnavailable(f"{where}: {told[0]}; a pooler exchanged the connection")
        case psycopg.errors.UntranslatableCharacter() | psycopg.errors.CharacterNotInRepertoire():
            lacks = "a character of the text is not in the encoding of the connection or the database"
            return StoreError(f"{where}: {lacks}: make it UTF8, and connect with client_encoding=utf8 ({told[0]})")
        case psycopg.errors.UniqueViolation() if error.diag.constraint_name in KEYS_OF_RUNS:
            return StoreError(
                f"{where}: the tables beside the runs have a row already that a run was to get ({told[0]})"
            )
        case psycopg.OperationalError() | psycopg.errors.UniqueViolation():
            return StoreUnavailable(f"{where}: {told[0]}")  # unique: the next try sees what was just committed
        case _ if is_passing(error.sqlstate):
            return StoreUnavailable(f"{where}: {told[0]}")
        case _:
            return StoreError(f"{where}: {told[0]}")


def _interrupt(connection: _DriverConnection) -> None:
    """End a connection that another thread waits for. Only its socket may be used from this thread."""
    with suppress(OSError, psycopg.Error), socket(fileno=dup(connection.fileno())) as line:
        line.shutdown(SHUT_RDWR)


class PostgresConnection:
    """One connection to PostgreSQL."""

    def __init__(
        self,
        connection: _DriverConnection,
        where: str,
        *,
        owned: bool = True,
        named: bool = True,
        settings: str | None = None,
        reading: bool = False,
    ) -> None:
        self.trouble: Trouble | None = None
        self.skipped: SkippedRuns = SkippedRuns()
        self.row_by_row: bool = False
        self._reading = reading
        self.statements: Final = Statements(POSTGRES)
        self.connection: Final = connection
        self._where = where
        self._owned = owned
        self._execute = Prepared(connection, named=named, settings=settings) if owned else CallerCursor(connection)

    @property
    def owned(self) -> bool:
        """Whether the connection belongs to the store. If not, it and its transaction belong to a caller."""
        return self._owned

    def execute(self, statement: str, params: Params) -> Sequence[Row]:
        """Execute a statement; return its rows."""
        try:
            return self._execute(statement, {"now": override_us(), **params})
        except psycopg.Error as error:
            raise self._failed(error) from error
        except UnicodeEncodeError as error:
            raise StoreError(f"{self._where}: {_why_not_encoded(error)}") from None

    def _failed(self, error: psycopg.Error) -> StoreError:
        broken = self.connection.broken
        self.trouble = Trouble.SESSION_LOST if broken else trouble_of(error.sqlstate, error.diag.constraint_name)
        return map_error(error, self._where, broken=broken, reading=self._reading)

    def is_stale(self) -> bool:
        """Return False: if the address leads to another database now, the server of this session reports an error."""
        return False

    def execute_ddl(self, statement: str) -> None:
        """Execute a statement without parameters, which may contain percent signs."""
        try:
            psycopg.Cursor(self.connection).execute(statement.encode(), prepare=False)
        except psycopg.Error as error:
            raise self._failed(error) from error

    def bind_rows(self, columns: Sequence[Column], rows: Iterable[Row]) -> Params:
        """Return the parameters that pass `rows` to a statement: one array per column."""
        turned = list(zip(*rows, strict=True))
        return {column.name: turned[place] if turned else () for place, column in enumerate(columns)}

    def insert_runs(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Insert runs and their configuration."""
        has_settings = any(row[_SETTINGS] is not None for row in rows)
        return self.execute(self.statements.create[has_settings], self.bind_rows(CREATE_COLUMNS, rows))

    def settle_and_claim(
        self, owner: Params, groups: Groups, queues: Sequence[str], limit: int, *, only: int | None = None
    ) -> tuple[set[int], list[Row]]:
        """Commit outcomes and claim up to `limit` runs; with `only`, no other run than this one."""
        return settle_and_claim(self, owner, groups, queues, limit, only)

    def identity(self) -> StoreIdentity:
        """Return in which schema the connection finds the tables of a store."""
        return identity_of(self)

    @contextmanager
    def transaction(self) -> Generator[None, None, None]:
        """Commit all statements of the block, or none. Inside a caller's own transaction this is a savepoint."""
        try:
            if not self._owned:
                self._require_transaction()
            with self.connection.transaction():
                if isinstance(self._execute, Prepared):
                    self._execute.begin()
                yield
        except psycopg.Error as error:
            raise self._failed(error) from error

    def _require_transaction(self) -> None:
        """Make sure that the caller's own transaction is open. Without it, the savepoint's end would commit."""
        if self.connection.info.transaction_status != pq.TransactionStatus.IDLE:
            return
        if self.connection.autocommit:
            raise StoreError("the connection has no transaction open for the runs to be part of: begin one first")
        self._execute("SELECT 1", {})  # this begins the transaction that the caller commits

    def atomic_if_needed(self) -> AbstractContextManager[None]:
        """Return a block that is atomic for one statement. On a connection of the store, no transaction is needed."""
        return nullcontext() if self._owned else self.transaction()

    @contextmanager
    def savepoint(self) -> Generator[None, None, None]:
        """Undo what happened inside if it raises, and nothing else of the transaction that is open."""
        try:
            with self.connection.transaction():
                yield
        except psycopg.Error as error:
            raise self._failed(error) from error

    def interrupt(self) -> None:
        """Wake the thread that waits for a reply, by ending the connection."""
        _interrupt(self.connection)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


class PostgresDatabase:
    """A PostgreSQL database, by its URL."""

    dialect: Dialect = POSTGRES
    embedded: bool = False
    in_memory: bool = False

    def __init__(self, url: str, wait_s: float = 10.0) -> None:
        parts = _parts(url)
        if parts is None:
            raise StoreUrlError(f"not a PostgreSQL address: libpq cannot read it; expected {_FORM}")
        host, port = parts.get("host", "localhost"), parts.get("port", "5432")
        if not _are_ports(str(port)):  # in postgresql://me:secret/database the password is parsed as the port
            raise StoreUrlError(f"not a PostgreSQL address: its port is no number from 1 to 65535; expected {_FORM}")
        self.display_url: str = escape(f"postgresql://{host}:{port}/{parts.get('dbname', '')}")
        several = [str(parts.get(name, "")).split(",") for name in ("host", "hostaddr", "port")]
        names = [*chain(*several), str(parts.get("dbname", "")), str(parts.get("user", ""))]
        passwords = (parts.get("password", ""), parts.get("sslpassword", ""), environ.get("PGPASSWORD", ""))
        self.private: Sequence[str] = [each for each in (*names, *map(Password, passwords)) if each]
        self.url: Final = url
        self._parts: Final = parts
        self._wait_s = wait_s
        self._options: str | None = None
        """The `options` of a connection; None until a connection without a pooler was made."""
        self._refusals: Final[dict[str, bool]] = {}
        """Whether the address was wrong, by the message of a refused connection."""

    def open(self, *, reading: bool = False) -> PostgresConnection:
        """Return a new connection in autocommit mode."""
        if reading:
            connection, direct = self._connect_plainly()
            return self._first(
                connection, lambda: PostgresConnection(connection, self.display_url, named=direct, reading=True)
            )
        settings = settings_of(self._wait_s)
        connection, direct = self._connect_with(settings)
        local = set_locally(settings)
        return self._first(connection, lambda: self._to_write(connection, direct, local))

    def _to_write(self, connection: _DriverConnection, direct: bool, settings: str) -> PostgresConnection:
        if any(connection.info.parameter_status(name) == "on" for name in _ONLY_READS):
            raise StoreUnavailable(_READ_ONLY.format(self.display_url))
        return PostgresConnection(connection, self.display_url, named=direct, settings=settings)

    def _connect_plainly(self) -> tuple[_DriverConnection, bool]:
        """Return a new connection, and whether it is direct, without a pooler."""
        connection = self.connect()
        direct = self._first(connection, lambda: not is_pooled(connection))
        if not direct and not self._first(connection, lambda: has_its_path(connection)):
            connection.close()
            raise StoreUrlError(
                f"the pooler at {self.display_url} drops the search_path that the address has in `options`: set it by"
                " ALTER ROLE ... SET search_path, or connect to the server itself"
            )
        self._options = connection.info.options if direct else None
        return connection, direct

    def _connect_with(self, settings: Mapping[str, str]) -> tuple[_DriverConnection, bool]:
        """Return a new connection, which has the settings if it is direct, and whether it is direct."""
        known = others = self._options  # another thread may change it at any time
        if others is None:
            connection, direct = self._connect_plainly()
            if not direct:
                return connection, False
            others = connection.info.options
            connection.close()
        try:
            connection = self.connect(options_of(settings, others))
        except StoreError:
            self._options = None  # there may be a pooler now, which refuses options
            if known is not None:
                raise
            return self._connect_plainly()[0], False
        return connection, self._first(connection, lambda: are_set(connection, settings))

    def _first(self, connection: _DriverConnection, do: Callable[[], T]) -> T:
        """Return the result of the first use of a new connection. Close the connection if that fails."""
        try:
            if connection.info.server_version < _OLDEST:
                raise StoreError(f"{self.display_url} is too old: a store needs PostgreSQL 14 or newer")
            return do()
        except BaseException as error:  # also an interrupt: no caller has the connection yet, to close it
            connection.close()
            if not isinstance(error, psycopg.Error):
                raise
            told = str(error).splitlines() or ["no answer"]
        # Outside of the except block, as in `connect`.
        raise StoreUnavailable(f"cannot connect to {self.display_url}: {told[0]}")

    def wrap(self, connection: object) -> PostgresConnection:
        """Return a connection over a caller's own connection of psycopg 3. Raises `StoreError` for any other."""
        if not isinstance(inner := driver_connection(connection), psycopg.Connection | AsyncCallerConnection):
            raise wrong_connection(inner, "psycopg", "postgresql+psycopg://")
        return PostgresConnection(cast("psycopg.Connection[tuple[Any, ...]]", inner), CALLERS_DATABASE, owned=False)

    def notifier(self, external_commits: Callable[[], int | None], availability: Availability) -> LocalNotifier:
        """Return the notifier for this address. It does not use `external_commits`, which is for SQLite."""
        return PostgresNotifier(self, availability)

    def close(self) -> None:
        """Do nothing: this object has no connections."""

    def interrupt(self, connection: _DriverConnection) -> None:
        """Wake the thread that waits for a reply on a connection, by ending it."""
        _interrupt(connection)

    def connect(self, options: str | None = None) -> _DriverConnection:
        """Return a new connection. `options` replace those of the address. Raises `StoreError` if it fails."""
        patience_s = max(2, int(self._wait_s))
        kept_alive: dict[str, Any] = {**_KEPT_ALIVE, "tcp_user_timeout": patience_s * 1000}
        if any("," in str(self._parts.get(name, "")) for name in ("host", "hostaddr")):  # the one that is primary now
            kept_alive["target_session_attrs"] = "read-write"
        params = {name: value for name, value in kept_alive.items() if name not in self._parts}
        if options is not None:
            params["options"] = options
        # UTF-8 whatever the address, the environment or the database has: statements are sent in UTF-8.
        params |= {"connect_timeout": patience_s, "client_encoding": "utf8"}
        try:
            # psycopg must not prepare statements: its names are numbers, which other clients of a pooler use too.
            return psycopg.connect(self.url, autocommit=True, prepare_threshold=None, context=OwnAdapters(), **params)
        except psycopg.Error as error:
            lines = str(error).splitlines()
            told = [line for line in lines if line and not line.startswith("\t")] or ["no answer"]
            is_late = isinstance(error, psycopg.errors.ConnectionTimeout)
        # Outside of the except block: otherwise psycopg's error, whose frames have the password, would be the context.
        wrong = not is_late and self._is_wrong(told[-1], conninfo.make_conninfo(self.url, **params), patience_s)
        raise (StoreUrlError if wrong else StoreUnavailable)(f"cannot connect to {self.display_url}: {told[-1]}")

    def _is_wrong(self, told: str, address: str, patience_s: float) -> bool:
        """Return whether the address or password is wrong, so that a retry cannot help; False if the server is away.

        The error code of the server decides, if it is available, because its messages may be in any language. The
        result is cached by the message, so that a server that is starting does not get two connections each time.
        """
        if any(words in told for words in _NOT_THERE):
            return False
        if told not in self._refusals:
            if len(self._refusals) >= _MOST_KNOWN:
                self._refusals.clear()
            codes = refusal_codes(address, patience_s)
            if codes == []:
                return False  # the server is back
            by_words = codes is None or "08P01" in codes  # PgBouncer uses this code for all its errors
            self._refusals[told] = any(words in told for words in _WRONG) if by_words else is_wrong(codes or [])
        return self._refusals[told]


def _parts(url: str) -> Mapping[str, object] | None:
    """Return the parts of an address, or None if libpq cannot read it. Its error may contain the password."""
    with suppress(psycopg.ProgrammingError, UnicodeDecodeError):
        return conninfo.conninfo_to_dict(url)
    return None


def _are_ports(text: str) -> bool:
    """Return whether all ports are valid. An empty one means the default port."""
    return all(_PORT.fullmatch(port) and 0 < int(port) <= _LAST_PORT for port in text.split(",") if port)


def _why_not_encoded(error: UnicodeEncodeError) -> str:
    if error.encoding.replace("-", "").lower() == "utf8":
        return f"text that no database can keep: {error}"
    return f"text that the connection's client_encoding cannot spell ({error}): connect with client_encoding=utf8"
