"""A caller's own async connection of psycopg, in the form of a blocking one.

The code of the store blocks. It runs in a thread, and each of its statements is executed in the caller's event loop,
which the thread waits for. So nothing of the store is written twice, and the event loop never waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from threading import Thread
from typing import Any, Final, TypeVar

import psycopg
from psycopg import pq, rows

__all__ = ["AsyncCallerConnection", "run_in_thread"]

T = TypeVar("T")


def run_in_thread(function: Callable[[], T]) -> asyncio.Future[T]:
    """Call a blocking function in a new thread. Return the future of its result.

    The executor of the event loop is not used. All its threads may wait for a lock that this transaction holds, and
    then the call that is to end this transaction would never get a thread.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def work() -> None:
        try:
            done = partial(future.set_result, function())
        except BaseException as error:
            done = partial(future.set_exception, error)
        loop.call_soon_threadsafe(done)

    # A daemon: if the event loop was closed meanwhile, the thread waits for ever, and must not keep the process alive.
    Thread(target=copy_context().run, args=(work,), name="runstate-within", daemon=True).start()
    return future


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
