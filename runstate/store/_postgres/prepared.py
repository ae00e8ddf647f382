"""Statements executed directly by libpq: prepared once with a name, or sent without a name through a pooler.

At each execution, psycopg's cursor parses a statement's parameters again, describes every column and chooses loaders.
That takes 60 us: with ten runs per settle and claim, as much as all of its Python code.

A name is a hash of its statement's text, so it means the same statement on every connection of a pooler.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import errors, pq
from psycopg.adapt import Transformer

from runstate.store._postgres.parameters import OwnAdapters, Parsed, parsed

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

__all__ = ["Prepared", "rows_of"]

_GOOD: Final = frozenset({pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK})
_NO_VALUES: Final[Mapping[str, Any]] = {}


def rows_of(
    result: PGresult, connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]
) -> Sequence[tuple[Any, ...]]:
    """Return the rows of a result, decoded by the loaders of this library, not by those of the caller."""
    if result.status != pq.ExecStatus.TUPLES_OK:
        return []
    transformer = Transformer(OwnAdapters(connection))
    transformer.set_pgresult(result)
    return transformer.load_rows(0, result.ntuples, tuple)


class Prepared:
    """Executes statements on one connection, in autocommit mode or in a transaction that was announced by `begin`.

    `named` is whether statements are prepared with a name. It becomes False if a name is unknown: then a pooler changes
    the connection after every transaction, and each statement is sent as text, together with the settings.
    """

    def __init__(self, connection: psycopg.Connection[Any], *, named: bool = True, settings: str | None = None) -> None:
        self.named: bool = named
        self._connection: Final = connection
        self._pgconn: Final = connection.pgconn
        self._settings: Final = settings
        """The statement that makes the settings for the current transaction."""
        self._known: Final[dict[str, Parsed]] = {}
        self._transformer: Final = Transformer(OwnAdapters(connection))
        self._wait: Final = _waiting_for(self._pgconn.socket)

    def __call__(self, statement: str, params: Mapping[str, Any]) -> Sequence[tuple[Any, ...]]:
        """Execute a statement with parameters by name; return its rows. Raises `psycopg.Error`."""
        if self.named:
            try:
                return self._by_name(statement, params)
            except (errors.InvalidSqlStatementName, errors.DuplicatePreparedStatement):
                self.named = False
                if not self.is_idle:
                    raise  # the transaction has failed, and its caller repeats it
        if self._settings is not None and self.is_idle:
            return self._with_settings(self._settings, statement, params)
        return self._without_name(statement, params)

    @property
    def is_idle(self) -> bool:
        """Whether the connection is in no transaction."""
        return self._pgconn.transaction_status == pq.TransactionStatus.IDLE

    def begin(self) -> None:
        """Make the settings for the transaction that has just begun, if the connection does not have them."""
        if not self.named and self._settings is not None:
            self._without_name(self._settings, _NO_VALUES)

    def _by_name(self, statement: str, params: Mapping[str, Any]) -> Sequence[tuple[Any, ...]]:
        known = self._known.get(statement) or self._prepare(statement)
        return self._rows(
            self._finish(self._pgconn.send_query_prepared, known.name, known.values(params), known.formats)
        )

    def _prepare(self, statement: str) -> Parsed:
        known = parsed(statement)
        self._finish(self._pgconn.send_prepare, known.name, known.text)
        self._known[statement] = known
        return known

    def _without_name(self, statement: str, params: Mapping[str, Any]) -> Sequence[tuple[Any, ...]]:
        known = parsed(statement)
        send = self._pgconn.send_query_params
        return self._rows(self._finish(send, known.text, known.values(params), None, known.formats))

    def _with_settings(self, settings: str, statement: str, params: Mapping[str, Any]) -> Sequence[tuple[Any, ...]]:
        """Execute a statement in its own transaction with the settings, in one round trip if possible."""
        if not psycopg.Pipeline.is_supported():
            with self._connection.transaction():
                self._without_name(settings, _NO_VALUES)
                return self._without_name(statement, params)
        known = parsed(statement)
        values = known.values(params)
        self._pgconn.enter_pipeline_mode()
        try:
            return self._rows(self._finish(self._send_together, settings.encode(), known, values))
        finally:
            if self._pgconn.status == pq.ConnStatus.OK:
                self._pgconn.exit_pipeline_mode()

    def _send_together(self, settings: bytes, known: Parsed, values: Sequence[bytes | None]) -> None:
        self._pgconn.send_query_params(settings, None)
        self._pgconn.send_query_params(known.text, values, None, known.formats)
        self._pgconn.pipeline_sync()

    def _rows(self, result: PGresult) -> Sequence[tuple[Any, ...]]:
        if result.status != pq.ExecStatus.TUPLES_OK:
            return []
        self._transformer.set_pgresult(result)
        return self._transformer.load_rows(0, result.ntuples, tuple)

    def _finish(self, send: Callable[..., None], *what: Any) -> PGresult:
        """Send a request and return its result. If this is interrupted, close the connection."""
        pgconn = self._pgconn
        try:
            send(*what)
            while pgconn.flush():
                self._wait(True)
                pgconn.consume_input()
            result = self._last_result()
        except psycopg.Error:
            raise
        except BaseException:
            with suppress(psycopg.Error):
                pgconn.get_cancel().cancel()  # otherwise the statement may still be executed
            pgconn.finish()
            raise
        if result is None:
            raise psycopg.OperationalError("the connection was closed")
        if result.status not in _GOOD:
            raise _error(result)
        return result

    def _last_result(self) -> PGresult | None:
        """Wait until the server is ready for the next request. Return the last result, or the first that failed.

        This never makes libpq wait, because psycopg lets no other thread run meanwhile.
        """
        pgconn = self._pgconn
        in_pipeline = pgconn.pipeline_status != pq.PipelineStatus.OFF
        last: PGresult | None = None
        while True:
            while pgconn.is_busy():
                self._wait(False)
                pgconn.consume_input()
            result = pgconn.get_result()
            if result is None:  # between two results of a pipeline, or at the end without a pipeline
                if not in_pipeline or pgconn.status != pq.ConnStatus.OK:
                    return last
            elif result.status == pq.ExecStatus.PIPELINE_SYNC:
                return last
            elif last is None or last.status in _GOOD:
                last = result


def _waiting_for(socket: int) -> Callable[[bool], None]:
    """Return the function that waits until a socket can be read; with True, also until it can be written to."""
    if hasattr(select, "poll"):
        ready = select.poll()
        ready.register(socket, select.POLLIN)

        def wait(writing: bool) -> None:
            ready.modify(socket, select.POLLIN | select.POLLOUT if writing else select.POLLIN)
            ready.poll()
    else:  # pragma: no cover  # on Windows

        def wait(writing: bool) -> None:
            select.select([socket], [socket] if writing else [], [])

    return wait


def _error(result: PGresult) -> psycopg.Error:
    code = result.error_field(pq.DiagnosticField.SQLSTATE) or b""
    told = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or result.error_message
    try:
        kind = errors.lookup(code.decode())
    except KeyError:
        kind = psycopg.OperationalError
    return kind(told.decode(errors="replace"), info=result)
