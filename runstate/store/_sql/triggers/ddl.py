"""The law as the database holds it: triggers that refuse what `lifecycle.py` does not allow, from whoever writes.

The history is written by the database too: whoever moves a run writes event, source, version and time into its row,
and a trigger appends the entry. So no row moves without its entry, and none is written by hand.

Measured inside the group commit: rule rows with foreign keys cost as much for every row as the insert of the entry.
Comparing costs a fifth of that, as only the conditions of the event that was asked are compared; the sentence of a
refusal is looked for when there is one. PostgreSQL appends the entries of a statement by one insert.
"""

from __future__ import annotations

from runstate.store._sql.schema import SQLITE, Dialect
from runstate.store._sql.triggers.postgres import FUNCTIONS, postgres_guards
from runstate.store._sql.triggers.sqlite import sqlite_guards

__all__ = ["create_guards", "drop_guards"]


def create_guards(words: Dialect) -> tuple[str, ...]:
    """Return the statements that make the database hold the law."""
    return tuple(sqlite_guards() if words is SQLITE else postgres_guards())


def drop_guards(words: Dialect) -> tuple[str, ...]:
    """Return the statements that take the guards away again, before those of a newer law are made."""
    names = [statement.split()[2] for statement in create_guards(words) if statement.startswith("CREATE TRIGGER")]
    if words is SQLITE:
        return tuple(f"DROP TRIGGER IF EXISTS {name}" for name in names)
    return tuple(f"DROP FUNCTION IF EXISTS runstate_{name}() CASCADE" for name in FUNCTIONS)
