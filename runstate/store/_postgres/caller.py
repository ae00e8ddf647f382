"""Statements on a caller's own PostgreSQL connection, which is left unchanged."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final, cast

import psycopg
from psycopg import pq, rows
from psycopg.adapt import Buffer, Dumper

from runstate.store._postgres.async_caller import AsyncCallerConnection
from runstate.store._postgres.parameters import parsed
from runstate.store._postgres.prepared import rows_of
from runstate.store.errors import StoreError

__all__ = ["CallerCursor"]


class _Text(bytes):
    """A value in text form, in the connection's encoding."""


class _Binary(bytes):
    """A value in binary form."""


class _TextDumper(Dumper):
    """Sends a value unchanged. The statement determines its type."""

    format = pq.Format.TEXT

    def dump(self, obj: Any) -> Buffer | None:
        """Return the value itself."""
        return bytes(obj)


class _BinaryDumper(_TextDumper):
    """Does the same for the binary form."""

    format = pq.Format.BINARY


class CallerCursor:
    """Executes statements on a caller's connection with any row factory, loaders, dumpers and encoding.

    It prepares no statement: a prepared statement would stay on the connection, and with a pooler on that of another
    client.
    """

    def __init__(self, connection: psycopg.Connection[Any] | AsyncCallerConnection) -> None:
        if connection.closed:
            raise StoreError("the connection is closed: open one, and begin the transaction there")
        if connection.info.encoding == "ascii":
            raise StoreError(
                "the connection's client_encoding is SQL_ASCII, by which no text has an encoding: "
                "connect with client_encoding=utf8"
            )
        self._connection: Final = connection
        # Not `connection.cursor()` of the driver: its class may have another style of parameters.
        self._cursor: Final = (
            connection.cursor()
            if isinstance(connection, AsyncCallerConnection)
            else psycopg.Cursor(connection, row_factory=rows.tuple_row)
        )
        self._cursor.adapters.register_dumper(_Text, _TextDumper)
        self._cursor.adapters.register_dumper(_Binary, _BinaryDumper)

    def __call__(self, statement: str, params: Mapping[str, Any]) -> Sequence[tuple[Any, ...]]:
        """Execute a statement with parameters by name; return its rows. Raises `psycopg.Error` and `StoreError`."""
        if self._connection.pgconn.pipeline_status != pq.PipelineStatus.OFF:
            raise StoreError("the connection is in pipeline mode, which answers later: leave `with pipeline()` first")
        known = parsed(statement)
        values = known.values(params, self._connection.info.encoding)
        sent = {
            name: value if value is None else _Binary(value) if binary else _Text(value)
            for (name, _), value, binary in zip(known.parameters, values, known.formats, strict=True)
        }
        # Bytes, because psycopg accepts only literal strings for type checkers.
        done = self._cursor.execute(statement.encode(), sent, prepare=False)
        if isinstance(self._connection, AsyncCallerConnection):
            self._connection.wait(cast("Coroutine[Any, Any, object]", done))
        result = self._cursor.pgresult
        if result is None:
            return []
        own = self._connection
        return rows_of(result, own.driver if isinstance(own, AsyncCallerConnection) else own)
