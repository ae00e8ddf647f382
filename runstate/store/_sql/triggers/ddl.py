"""The triggers that hold the table of transitions in the database, for every client.

The database also writes the history: a client that moves a run writes event, source, version and time into its row, and
a trigger appends the entry. So no run moves without its entry, and no entry is written by hand.

Measured inside the group commit: rows of rules with foreign keys cost as much for every row as the insert of the entry.
Comparing costs a fifth of that, because only the conditions of the requested event are compared; the message of a
refusal is looked for only when there is one. PostgreSQL appends the entries of a statement by one insert.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from runstate.store._sql.dialect import POSTGRES, SQLITE, Dialect
from runstate.store._sql.triggers.postgres import postgres_guards
from runstate.store._sql.triggers.sqlite import sqlite_guards

__all__ = ["create_guards"]

_GUARDS: Final[dict[str, Callable[[], Iterable[str]]]] = {
    SQLITE.name: sqlite_guards,
    POSTGRES.name: postgres_guards,
}


def create_guards(dialect: Dialect) -> tuple[str, ...]:
    """Return the statements that create the triggers of a dialect for the table of this library."""
    return tuple(_GUARDS[dialect.name]())
