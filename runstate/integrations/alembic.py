"""Alembic: the tables of a store as one step of an application's own migrations.

In a revision:

    from runstate.integrations.alembic import migrate_store

    def upgrade() -> None:
        migrate_store()

In the environment script, so that `alembic revision --autogenerate` and `alembic check` leave these tables alone:

    context.configure(connection=connection, target_metadata=metadata, include_name=include_name)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

try:
    from alembic import op
except ImportError as _missing:
    raise ImportError("runstate.integrations.alembic needs Alembic: pip install 'alembic>=1.13'") from _missing

from runstate.store import migrate_within
from runstate.store.errors import StoreError

__all__ = ["include_name", "migrate_store"]

_PREFIX = "runstate_"


def migrate_store(upto: Mapping[str, int] | None = None) -> None:
    """Create or migrate the tables of a store, in the transaction of the revision. Call this in `upgrade()`.

    `upto` are the numbers of the last steps, by component, as `runstate migrate --plan` prints them; all steps that the
    installed library knows by default. A revision that names them does the same with every later version. Raises
    `StoreError` in offline mode (`--sql`): `runstate ddl` prints the statements.
    """
    if op.get_context().as_sql:
        raise StoreError("offline mode cannot look which steps are missing: put the output of `runstate ddl` there")
    migrate_within(op.get_bind(), upto)


def include_name(name: str | None, type_: str, parent_names: Mapping[str, Any]) -> bool:
    """Return False for the tables of a store: they are in no metadata, and autogenerate would drop them.

    To combine it with a filter of your own: `lambda *names: include_name(*names) and my_filter(*names)`.
    """
    return not (type_ == "table" and name is not None and name.startswith(_PREFIX))
