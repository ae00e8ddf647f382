"""The numbered steps from an empty database to a store of this version, and what a database is found to be.

A step is never changed once it is released; a new one is added. The guards are made from the law of the library that
makes them, and anew by the step that follows a change of the law.
"""

from __future__ import annotations

from typing import Final

import attrs

from runstate.clock import time_us
from runstate.store._sql.connection import Connection, Database
from runstate.store._sql.dialect import POSTGRES, SQLITE, Dialect
from runstate.store._sql.schema import create_tables
from runstate.store._sql.triggers.ddl import create_guards
from runstate.store.errors import SchemaMismatch

__all__ = ["LATEST", "Migration", "ddl", "migrate", "rebuild_sql", "require_latest", "version_of"]


@attrs.frozen
class Migration:
    """One step."""

    number: int
    description: str

    def statements(self, words: Dialect) -> tuple[str, ...]:
        """Return what it executes."""
        return create_tables(words) if self.number == 1 else create_guards(words)


_MIGRATIONS: Final = (
    Migration(1, "tables and indexes"),
    Migration(2, "the law as triggers"),
)
LATEST: Final = _MIGRATIONS[-1].number

_MIGRATION_TABLE: Final = {
    dialect.name: f"""\
CREATE TABLE runstate_migration (
    number {dialect.number} PRIMARY KEY NOT NULL,
    sentence TEXT NOT NULL,
    at {dialect.number} NOT NULL
){dialect.table_options}"""
    for dialect in (SQLITE, POSTGRES)
}


def ddl(words: Dialect) -> str:
    """Return the SQL that makes an empty database a store, for reading or for a migration tool of one's own."""
    parts = [_MIGRATION_TABLE[words.name]]
    for step in _MIGRATIONS:
        parts += [f"-- {step.number}: {step.description}", *step.statements(words)]
        parts.append(f"INSERT INTO runstate_migration VALUES ({step.number}, '{step.description}', 0)")
    return "".join(part + ("\n" if part.startswith("--") else ";\n\n") for part in parts)


def rebuild_sql(dialect: Dialect) -> str:
    """Return the SQL that fills the small tables anew from the runs; empty for a dialect that has none."""
    lookups = dialect.lookups
    off, on = (
        [f"ALTER TABLE {table} {word} TRIGGER USER" for table in lookups.tables] for word in ("DISABLE", "ENABLE")
    )
    lock = ["LOCK TABLE runstate_run IN SHARE ROW EXCLUSIVE MODE"]
    statements = ["BEGIN", *lock, *off, *lookups.rebuild, *on, "COMMIT"] if lookups.tables else []
    return "".join(f"{statement};\n" for statement in statements)


def version_of(session: Connection) -> int:
    """Return the number of the last step that a database has taken; 0 for none."""
    if not session.execute(session.statements.dialect.table_exists, {})[0][0]:
        return 0
    number: int | None = session.execute("SELECT max(number) FROM runstate_migration", {})[0][0]
    return number or 0


def _newer(shown: str, version: int) -> SchemaMismatch:
    return SchemaMismatch(
        f"{shown} was made by a newer runstate (its schema is {version}, this library knows {LATEST}): "
        "upgrade the library, nothing was changed"
    )


def require_latest(session: Connection, shown: str) -> None:
    """Raise `SchemaMismatch` unless the database is a store of this version."""
    version = version_of(session)
    if version > LATEST:
        raise _newer(shown, version)
    if version < LATEST:
        found = f"has schema {version}, this library needs {LATEST}" if version else "has no store in it"
        raise SchemaMismatch(f"{shown} {found}: `runstate migrate` (or open_store(..., migrate=True)) brings it there")


def migrate(database: Database, upto: int = LATEST, *, dry_run: bool = False) -> tuple[Migration, ...]:
    """Take the steps that a database lacks, all or none; return them. Many processes may do so at once."""
    session = database.open()
    try:
        with session.transaction():
            if session.statements.dialect.migration_lock:
                session.execute(session.statements.dialect.migration_lock, {})  # the others wait, and look
            version = version_of(session)
            if version > LATEST:
                raise _newer(database.display_url, version)
            steps = tuple(step for step in _MIGRATIONS if version < step.number <= upto)
            if dry_run:
                return steps
            if steps and version == 0:
                session.execute_ddl(_MIGRATION_TABLE[session.statements.dialect.name])
            for step in steps:
                for statement in step.statements(session.statements.dialect):
                    session.execute_ddl(statement)
                at = time_us()
                session.execute_ddl(
                    f"INSERT INTO runstate_migration VALUES ({step.number}, '{step.description}', {at})"
                )
            return steps
    finally:
        session.close()
