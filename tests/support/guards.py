"""The guards of a store, to be taken away by tests that write what no client can."""

from __future__ import annotations

import re

from runstate.store._sql.dialect import POSTGRES, SQLITE, Dialect
from runstate.store._sql.migrations import Plan
from runstate.store._sql.migrations.steps import STEPS
from tests.store.support import Prompt

__all__ = ["drop_guards", "make_guards", "record"]


def make_guards(dialect: Dialect) -> tuple[str, ...]:
    """Return the statements that create the guards of all components."""
    return tuple(statement for step in Plan(STEPS, dialect).guards for statement in step.statements(dialect))


def drop_guards(dialect: Dialect) -> tuple[str, ...]:
    """Return the statements that drop the guards of this library, by their names."""
    text = "\n".join(make_guards(dialect))
    if dialect is SQLITE:
        names = re.findall(r"^CREATE TRIGGER (\w+)", text, re.MULTILINE)
        return tuple(f"DROP TRIGGER IF EXISTS {name}" for name in names)
    functions = re.findall(r"CREATE FUNCTION @schema\.(\w+)\(\)", text)
    drops = (f"DROP FUNCTION IF EXISTS {name}() CASCADE" for name in functions)
    return (*drops, "DROP FUNCTION IF EXISTS runstate_promote(text, bigint, bigint)")


def record(prompt: Prompt, statement: str) -> None:
    """Change the table of migrations, as a migration does: without the guards."""
    dialect = SQLITE if prompt.is_sqlite else POSTGRES
    for each in (*drop_guards(dialect), statement, *make_guards(dialect)):
        prompt.run(each)
