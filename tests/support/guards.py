"""The guards of a store, to be taken away by tests that write what no client can."""

from __future__ import annotations

from runstate.store._sql.dialect import POSTGRES, SQLITE, Dialect
from runstate.store._sql.triggers.ddl import create_guards
from runstate.store._sql.triggers.postgres import FUNCTIONS
from tests.store.support import Prompt

__all__ = ["drop_guards", "record"]


def drop_guards(dialect: Dialect) -> tuple[str, ...]:
    """Return the statements that drop the guards of this library, by their names."""
    if dialect is POSTGRES:
        functions = (f"DROP FUNCTION IF EXISTS runstate_{name}() CASCADE" for name in FUNCTIONS)
        return (*functions, "DROP FUNCTION IF EXISTS runstate_promote(text, bigint, bigint)")
    created = [statement.split() for statement in create_guards(SQLITE)]
    return tuple(f"DROP TRIGGER IF EXISTS {name}" for _, kind, name, *_ in created if kind == "TRIGGER")


def record(prompt: Prompt, statement: str) -> None:
    """Change the table of migrations, as a migration does: without the guards."""
    dialect = SQLITE if prompt.is_sqlite else POSTGRES
    for each in (*drop_guards(dialect), statement, *create_guards(dialect)):
        prompt.run(each)
