"""Inside a caller's own async transaction: the methods of a store for coroutines, on the caller's connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, cast

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
    """The transport inside a caller's own async transaction. Its methods return awaitables of the results.

    The requests are executed one after the other, because each is a savepoint of the same transaction. No call returns
    or raises while a request that it made or waited for is executed, also if it is cancelled. So the caller can use the
    connection afterwards, for a rollback for instance.
    """

    def __init__(self, transaction: CallerTransaction, run: Runner) -> None:
        self._transaction: Final = transaction
        self._run: Final = run
        self._turn: Final = asyncio.Lock()
        self._request: asyncio.Future[Any] | None = None
        """The last request that was begun."""
        self._is_over = False

    def execute(self, command: Command[T]) -> Awaitable[T]:
        """Execute a command on the caller's connection. It is committed when the caller commits."""
        return self._perform(partial(self._transaction.execute, command))

    def read(self, look: Callable[[Connection], T]) -> Awaitable[T]:
        """Call `look` with the caller's connection. It sees the caller's own changes."""
        return self._perform(partial(self._transaction.read, look))

    read_for_worker = read

    async def _perform(self, function: Callable[[], T]) -> T:
        """Call a function after the earlier requests, and return its result. If cancelled before, do not call it."""
        try:
            async with self._turn:
                if self._is_over:
                    raise StoreError("the block of `within` is over: await each call inside it")
                self._request = asyncio.ensure_future(self._run(function))
                await _wait_for_end(self._request)
                return cast("T", self._request.result())
        except asyncio.CancelledError:
            # A call that waited for its turn also waits for the request of another: `asyncio.gather` raises as soon as
            # the first of its cancelled calls does.
            await self._rest()
            raise

    async def end(self) -> None:
        """Wait for the request that is executed, and refuse all others."""
        self._is_over = True
        await self._rest()

    async def _rest(self) -> None:
        if self._request is not None:
            await _wait_for_end(self._request)


async def _wait_for_end(request: asyncio.Future[Any]) -> None:
    """Wait until a request has ended. If cancelled meanwhile, raise `CancelledError` only then."""
    cancelled: asyncio.CancelledError | None = None
    while not request.done():
        try:
            await asyncio.wait([request])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not request.cancelled():
            request.exception()  # asyncio logs an error that is never retrieved
        raise cancelled


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
        from runstate.store._postgres.async_caller import AsyncCallerConnection, run_in_thread

        facade = AsyncCallerConnection(inner, asyncio.get_running_loop())
        return database.wrap(facade), run_in_thread
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
