"""The table of transitions in the database: triggers that refuse what it does not allow, from every client.

The database writes the history, too: a client that moves a run writes event, source, version and time into its row,
and a trigger appends the entry. So no row moves without its entry, and none is written by hand.

Measured inside the group commit: rule rows with foreign keys cost as much for every row as the insert of the entry.
Comparing costs a fifth of that, as only the conditions of the event that was asked are compared; the sentence of a
refusal is looked for when there is one. PostgreSQL appends the entries of a statement by one insert.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import attrs

from runstate.store._sql.dialect import POSTGRES, SQLITE, Dialect
from runstate.store._sql.triggers.postgres import FUNCTIONS, postgres_guards
from runstate.store._sql.triggers.sqlite import sqlite_guards

__all__ = ["create_guards", "drop_guards"]


@attrs.frozen
class _Guards:
    """The guards of a dialect."""

    create: Callable[[], Iterable[str]]
    drop: Callable[[], Iterable[str]]


def _drop_in_sqlite() -> Iterable[str]:
    created = [statement.split() for statement in sqlite_guards() if statement.startswith("CREATE TRIGGER")]
    return (f"DROP TRIGGER IF EXISTS {name}" for _, _, name, *_ in created)


def _drop_in_postgres() -> Iterable[str]:
    triggers = (f"DROP FUNCTION IF EXISTS runstate_{name}() CASCADE" for name in FUNCTIONS)
    return (*triggers, "DROP FUNCTION IF EXISTS runstate_promote(text, bigint, bigint)")


_GUARDS: Final = {
    SQLITE.name: _Guards(sqlite_guards, _drop_in_sqlite),
    POSTGRES.name: _Guards(postgres_guards, _drop_in_postgres),
}


def create_guards(dialect: Dialect) -> tuple[str, ...]:
    """Return the statements that make the database hold the table of transitions."""
    return tuple(_GUARDS[dialect.name].create())


def drop_guards(dialect: Dialect) -> tuple[str, ...]:
    """Return the statements that take the guards away again, before those of a newer table are made."""
    return tuple(_GUARDS[dialect.name].drop())
