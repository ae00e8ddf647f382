"""What the committer and the readers need of a database, whichever it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from inspect import isroutine
from typing import Any, Final, Protocol, TypeAlias

from runstate.store._sql.queries import Column
from runstate.store._sql.rows import Row
from runstate.store._sql.schema import Dialect
from runstate.store._sql.statements import Statements

__all__ = ["CALLERS_DATABASE", "Connection", "Database", "Params", "Trouble", "driver_connection"]

CALLERS_DATABASE: Final = "the database of the connection that was given"
"""How messages call the database of a caller's own connection, which may be another than the store's."""

Params: TypeAlias = Mapping[str, Any]
"""Parameters by name."""


class Trouble(Enum):
    """What an error of a session means for what was asked, and for the session."""

    CONFLICT = "another transaction went first, and this one was undone: it can be done again at once"
    NOT_BEGUN = "the transaction could not begin: what was to happen in it need not be tried in another"
    SESSION_LOST = "the session is of no more use: another may be"


class Connection(Protocol):
    """One connection. Whatever goes wrong in the database comes out of it as an error of `runstate.errors`."""

    @property
    def statements(self) -> Statements:
        """The statements of its dialect."""
        ...

    @property
    def owned(self) -> bool:
        """Whether the connection is the store's own; else it is a caller's, and so is its transaction."""
        ...

    trouble: Trouble | None
    """What the last error means, where it means more than that what was asked is refused."""

    def is_stale(self) -> bool:
        """Tell whether the session leads to another database than its address does by now."""
        ...

    def execute(self, statement: str, params: Params) -> Sequence[Row]:
        """Execute a statement; return its rows."""
        ...

    def execute_ddl(self, statement: str) -> None:
        """Execute a statement that takes no parameters, as those that make tables."""
        ...

    def bind_rows(self, columns: Sequence[Column], rows: Iterable[Row]) -> Params:
        """Return the parameters that hand `rows` to a statement over these columns."""
        ...

    def transaction(self) -> AbstractContextManager[None]:
        """Commit what happens inside together, or nothing of it."""
        ...

    def atomic_if_needed(self) -> AbstractContextManager[None]:
        """The same, where it takes several statements; a dialect may leave out what one statement does by itself."""
        ...

    def interrupt(self) -> None:
        """End the statement that another thread waits for; the connection may be of no use afterwards."""
        ...

    def close(self) -> None:
        """Let the connection go."""
        ...


class Database(Protocol):
    """Where the runs are: makes connections to it, to write and to read."""

    dialect: Dialect
    display_url: str
    """Its address without the password, for people."""
    private: Sequence[str]
    """The parts of its address, which stand in no run: hosts, names, paths."""
    in_memory: bool
    """Whether it lives in one connection, and as long as that."""

    def open(self, *, reading: bool = False) -> Connection:
        """Return a new connection. Raises `StoreError` if there is none to be had."""
        ...

    def wrap(self, connection: object) -> Connection:
        """Work on a caller's own connection of the driver. Raises `StoreError` for one of another driver."""
        ...

    def close(self) -> None:
        """Let go of what is kept between connections."""
        ...


def driver_connection(connection: object) -> object:
    """Return the driver's connection inside one of SQLAlchemy's; any other connection as it is."""
    for step in ("connection", "driver_connection"):
        inner = getattr(connection, step, None)
        if inner is not None and not isroutine(inner):
            connection = inner
    return connection
