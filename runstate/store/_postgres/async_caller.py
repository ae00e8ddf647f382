"""A caller's own async connection of psycopg, in the form of a blocking one.

The code of the store blocks. It runs in a thread, and each of its statements is executed in the caller's event loop,
which the thread waits for. So nothing of the store is written twice, and the event loop never waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import psycopg
from psycopg import pq, rows

__all__ = ["AsyncCallerConnection"]

T = TypeVar("T")


class AsyncCallerConnection:
    """What the store uses of a caller's connection. Its methods must not be called in the event loop."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], loop: asyncio.AbstractEventLoop) -> None:
        self.driver: Final = connection
        """The connection itself."""
        self._loop: Final = loop

    @property
    def info(self) -> psycopg.ConnectionInfo:
        """The state of the connection."""
        return self.driver.info

    @property
    def pgconn(self) -> pq.abc.PGconn:
        """The connection of libpq."""
        return self.driver.pgconn

    @property
    def adapters(self) -> Any:
        """The loaders and dumpers of the connection."""
        return self.driver.adapters

    @property
    def closed(self) -> bool:
        """Whether the connection is closed."""
        return self.driver.closed

    @property
    def broken(self) -> bool:
        """Whether the connection was lost."""
        return self.driver.broken

    @property
    def autocommit(self) -> bool:
        """Whether each statement is committed by itself."""
        return self.driver.autocommit

    def cursor(self) -> psycopg.AsyncCursor[tuple[Any, ...]]:
        """Return a cursor, whose methods `wait` awaits."""
        return psycopg.AsyncCursor(self.driver, row_factory=rows.tuple_row)

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine in the event loop, and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    @contextmanager
    def transaction(self) -> Generator[None, None, None]:
        """Make a savepoint, or a transaction if there is none."""
        transaction = self.driver.transaction()
        self.wait(transaction.__aenter__())
        try:
            yield
        except BaseException as error:
            self.wait(transaction.__aexit__(type(error), error, error.__traceback__))
            raise
        self.wait(transaction.__aexit__(None, None, None))
