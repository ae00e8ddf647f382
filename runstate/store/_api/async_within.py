"""Inside a caller's own async transaction: the methods of a store for coroutines, on the caller's connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from runstate.store._engine.commands import Command
from runstate.store._engine.transport import CallerTransaction
from runstate.store._sql.connection import Connection
from runstate.store.errors import StoreError

if TYPE_CHECKING:
    from runstate.store._sql.connection import Database

__all__ = ["AsyncCallerTransport", "Runner", "wrap_async"]

T = TypeVar("T")

Runner: TypeAlias = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Calls a blocking function where it may use the caller's connection, and returns its result."""


class AsyncCallerTransport:
    """The transport inside a caller's own async transaction. Its methods return awaitables of the results."""

    def __init__(self, transaction: CallerTransaction, run: Runner) -> None:
        self._transaction: Final = transaction
        self._run: Final = run

    def execute(self, command: Command[T]) -> Awaitable[T]:
        """Execute a command on the caller's connection. It is committed when the caller commits."""
        return self._run(partial(self._transaction.execute, command))

    def read(self, look: Callable[[Connection], T]) -> Awaitable[T]:
        """Call `look` with the caller's connection. It sees the caller's own changes."""
        return self._run(partial(self._transaction.read, look))

    read_for_worker = read


async def wrap_async(database: Database, connection: object) -> tuple[Connection, Runner]:
    """Return a caller's async connection in the form that the store uses, and how to call functions that use it.

    `connection` is psycopg's `AsyncConnection`, aiosqlite's `Connection`, or SQLAlchemy's `AsyncConnection` or
    `AsyncSession` over one of them. Raises `StoreError` for any other.
    """
    inner = await _driver_connection(connection)
    kind = f"{type(inner).__module__.partition('.')[0]}.{type(inner).__name__}"
    if database.embedded and kind == "aiosqlite.Connection":
        return await _wrap_aiosqlite(database, inner)
    if not database.embedded and kind == "psycopg.AsyncConnection":
        from runstate.store._postgres.async_caller import AsyncCallerConnection

        facade = AsyncCallerConnection(inner, asyncio.get_running_loop())
        return database.wrap(facade), asyncio.to_thread
    driver = ("aiosqlite's", "sqlite+aiosqlite") if database.embedded else ("psycopg's async", "postgresql+psycopg")
    raise StoreError(
        f"expected {driver[0]} connection, or an async one of SQLAlchemy over {driver[1]}://, got {kind}; a blocking "
        "connection is used with `with store.within(...)`"
    )


async def _wrap_aiosqlite(database: Database, connection: Any) -> tuple[Connection, Runner]:
    """Return the sqlite3 connection of aiosqlite. It may be used in the thread of aiosqlite alone."""

    async def run(function: Callable[[], Any]) -> Any:
        return await connection._execute(function)

    return await run(lambda: database.wrap(connection._conn)), run


async def _driver_connection(connection: Any) -> Any:
    """Return the driver's connection inside one of SQLAlchemy's; any other connection as it is."""
    if hasattr(connection, "get_bind"):  # a session
        found = connection.connection()
        connection = await found if isawaitable(found) else found
    if hasattr(connection, "get_raw_connection"):
        if not connection.in_transaction():
            await connection.exec_driver_sql("SELECT 1")  # or SQLAlchemy's `commit` would do nothing
        raw = await connection.get_raw_connection()
        return raw.driver_connection
    return connection
