"""Statements prepared once a connection and executed by name, straight through libpq.

psycopg's cursor reads a statement's parameters anew, describes every column and picks loaders at each execution: 60 us,
with ten runs a turn as much as what the turn does in Python.
"""

from __future__ import annotations

import re
import select
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import pq
from psycopg.adapt import Transformer

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

__all__ = ["Prepared", "array_text"]

_PARAM: Final = re.compile(r"%\((\w+)\)s")
_GOOD: Final = frozenset({pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK})


def array_text(values: Sequence[str | int | None]) -> str:
    """Return values as the text of an array."""
    if len(values) > 1 and len(set(values)) == 1:  # such as the usage of runs that used nothing
        items = [_item(values[0])] * len(values)
    else:
        items = [_item(value) for value in values]
    return "{" + ",".join(items) + "}"


def _item(value: str | int | None) -> str:
    if value is None:
        return "NULL"
    if type(value) is int:
        return str(value)
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


class Prepared:
    """The prepared statements of one connection, which must be in autocommit or in a transaction it was told of."""

    possible: Final = hasattr(select, "poll")
    """Whether this platform can wait for a socket so: all but Windows."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._pgconn: Final = connection.pgconn
        self._plans: Final[dict[str, tuple[bytes, tuple[str, ...]]]] = {}
        self._transformer: Final = Transformer(connection)
        self._ready: Final = select.poll()
        self._ready.register(self._pgconn.socket, select.POLLIN)

    def __call__(self, statement: str, given: Mapping[str, Any]) -> Sequence[tuple[Any, ...]]:
        """Execute a statement with its parameters by name; return its rows. Raises `psycopg.Error`."""
        name, order = self._plans.get(statement) or self._prepare(statement)
        result = self._finish(self._pgconn.send_query_prepared, name, [_sent(given[each]) for each in order])
        if result.status != pq.ExecStatus.TUPLES_OK:
            return []
        self._transformer.set_pgresult(result)
        return self._transformer.load_rows(0, result.ntuples, tuple)

    def _prepare(self, statement: str) -> tuple[bytes, tuple[str, ...]]:
        order = tuple(dict.fromkeys(_PARAM.findall(statement)))
        numbered = _PARAM.sub(lambda found: f"${order.index(found[1]) + 1}", statement)
        name = b"runstate_%d" % len(self._plans)
        self._finish(self._pgconn.send_prepare, name, numbered.encode())
        self._plans[statement] = plan = (name, order)
        return plan

    def _finish(self, send: Any, *what: Any) -> PGresult:
        """Send something and return its result. Interrupted meanwhile, the connection is of no more use."""
        pgconn = self._pgconn
        try:
            send(*what)
            while pgconn.flush():
                self._wait(select.POLLIN | select.POLLOUT)
                pgconn.consume_input()
            result = self._last_result()
        except psycopg.Error:
            raise
        except BaseException:
            with suppress(psycopg.Error):
                pgconn.get_cancel().cancel()  # or it may be done after all, and nobody knows
            pgconn.finish()
            raise
        if result is None:
            raise psycopg.OperationalError("the connection was closed")
        if result.status not in _GOOD:
            raise _error(result)
        return result

    def _last_result(self) -> PGresult | None:
        """Return the result, once the server is ready for the next statement.

        libpq is asked for nothing that it does not have: it would wait, and psycopg lets no other thread run meanwhile.
        """
        pgconn = self._pgconn
        last: PGresult | None = None
        while True:
            while pgconn.is_busy():
                self._wait(select.POLLIN)
                pgconn.consume_input()
            result = pgconn.get_result()
            if result is None:
                return last
            last = result

    def _wait(self, for_what: int) -> None:
        self._ready.modify(self._pgconn.socket, for_what)
        self._ready.poll()


def _sent(value: str | int | Sequence[str | int | None] | None) -> bytes | None:
    if value is None:
        return None
    return (array_text(value) if isinstance(value, list) else str(value)).encode()


def _error(result: PGresult) -> psycopg.Error:
    code = result.error_field(pq.DiagnosticField.SQLSTATE) or b""
    told = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or result.error_message
    try:
        kind = psycopg.errors.lookup(code.decode())
    except KeyError:
        kind = psycopg.OperationalError
    return kind(told.decode(errors="replace"))
