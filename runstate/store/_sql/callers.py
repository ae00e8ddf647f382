"""The driver's connection inside what a caller has: a connection or a session of SQLAlchemy, or Django's connection."""

from __future__ import annotations

from inspect import isawaitable, iscoroutine, isroutine
from typing import Any, Final

from runstate.store.errors import StoreError

__all__ = ["driver_connection", "wrong_connection"]


def driver_connection(connection: Any) -> object:
    """Return the driver's connection inside one of SQLAlchemy's or Django's; any other connection as it is.

    SQLAlchemy begins its transaction, and Django connects, if they have not done so before.
    """
    if hasattr(connection, "get_bind") and isroutine(begin := getattr(connection, "connection", None)):
        connection = begin()
        if isawaitable(connection):
            connection.close() if iscoroutine(connection) else None
            raise StoreError(f"an async session is used with {_ASYNC}")
    if hasattr(connection, "exec_driver_sql") and not connection.in_transaction():
        begun = connection.exec_driver_sql("SELECT 1")  # or SQLAlchemy's `commit` would do nothing
        if isawaitable(begun):
            begun.close() if iscoroutine(begun) else None
            raise StoreError(f"an async connection is used with {_ASYNC}")
    if isroutine(connect := getattr(connection, "ensure_connection", None)):
        connect()
    for step in ("connection", "driver_connection"):
        inner = getattr(connection, step, None)
        if inner is not None and not isroutine(inner):
            connection = inner
    return connection


_ASYNC: Final = "`async with store.aio.within(...)`"


def wrong_connection(connection: object, driver: str, url: str) -> StoreError:
    """Return the error for a connection of another driver, which names the right one."""
    kind = type(connection)
    package = kind.__module__.partition(".")[0]
    name = kind.__name__ if package == "builtins" else f"{package}'s {kind.__name__}"
    if kind.__name__.startswith("Async") or kind.__module__.startswith(("aiosqlite", "asyncpg")):
        return StoreError(f"expected a {driver} connection, got {name}: an async connection is used with {_ASYNC}")
    return StoreError(f"expected a {driver} connection, got {name}: use one of {driver}, or SQLAlchemy's over {url}")
