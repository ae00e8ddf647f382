"""Migrations inside a caller's own transaction, for tools that migrate all tables of an application."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runstate.run.errors import FieldError
from runstate.run.values import raise_if_invalid
from runstate.store._sql.callers import driver_connection
from runstate.store._sql.connection import CALLERS_DATABASE
from runstate.store._sql.migrations import LATEST, format_version, migrate_session
from runstate.store._sqlite.connection import SqliteConnection

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runstate.store._sql.connection import Connection

__all__ = ["migrate_within"]


def migrate_within(connection: object, upto: Mapping[str, int] | None = None) -> Mapping[str, int]:
    """Create or migrate the tables of a store inside the open transaction of your own connection.

    `connection` is one of sqlite3, psycopg, SQLAlchemy or Django, as for `Store.within`. `upto` are the numbers of the
    last steps to take, by component, as in `{"run": 2, "step": 2}`; all steps by default. Return the steps that were
    taken, as the number of the last one of each component; empty if there was nothing to do. On SQLite, where tools
    often begin no transaction for changes of tables, this begins and commits one if none is open.

    Raises `SchemaMismatch` for a database of a newer library, `StoreError` for other connections, and `InvalidRun` for
    an unknown component and for a step that this version does not have.
    """
    wanted = LATEST if upto is None else upto
    raise_if_invalid([fault for name, number in wanted.items() for fault in _faults(name, number)])
    inner = driver_connection(connection)
    if any(kind.__module__ == "sqlite3" for kind in type(inner).__mro__):
        own: Any = inner
        begins = not own.in_transaction
        if begins:
            own.execute("BEGIN IMMEDIATE")
        try:
            taken = _migrated(SqliteConnection(own, CALLERS_DATABASE, 0.0, owned=False), wanted)
        except BaseException:
            if begins:
                own.execute("ROLLBACK")
            raise
        if begins:
            own.execute("COMMIT")
        return taken
    from runstate.store._postgres.connection import PostgresDatabase  # psycopg is an extra

    return _migrated(PostgresDatabase("postgresql:///").wrap(connection), wanted)


def _faults(name: object, number: object) -> Sequence[FieldError]:
    last = LATEST.get(name) if isinstance(name, str) else None
    if last is None:
        return [FieldError("upto", f"has no component {name!r}: {format_version(LATEST)}")]
    if type(number) is not int or not 1 <= number <= last:
        return [FieldError(f"upto[{name!r}]", f"expected 1 to {last}, the last step of this version, got {number!r}")]
    return ()


def _migrated(session: Connection, wanted: Mapping[str, int]) -> Mapping[str, int]:
    plan = migrate_session(session, CALLERS_DATABASE, wanted)
    return {step.component: step.number for step in plan.steps}
