"""The steps from an empty database to a store of this version.

A step is a file of SQL per dialect: `postgres/run_0001_tables.sql`. Its name has the component and the number. The
comments at its beginning have the description, and `compatible_from`: processes of an older library that know at least
this step keep working on the migrated database. A released step is never changed.

A step of guards (`..._guards.sql`) has all triggers of its component, generated from the table of transitions. A
migration drops the triggers of the database, whatever their names are, takes the steps that are missing, and creates
the newest triggers. `python -m runstate.store._sql.migrations DESCRIPTION` writes such a step after a change of the
table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Final, NamedTuple

import attrs

from runstate.clock import sleep, time_us
from runstate.store._sql.connection import Connection, Database, Trouble
from runstate.store._sql.dialect import Dialect
from runstate.store._sql.migrations.steps import STEPS, Migration, component_order
from runstate.store.errors import SchemaMismatch, StoreError, StoreUnavailable

__all__ = [
    "LATEST",
    "Plan",
    "SchemaVersion",
    "ddl",
    "format_version",
    "migrate",
    "migrate_session",
    "rebuild_sql",
    "require_latest",
    "version_of",
]

SchemaVersion = Mapping[str, int]
"""The number of the last step of each component."""

LATEST: Final[SchemaVersion] = {step.component: step.number for step in STEPS}
_TRIES: Final = 5
"""How often a migration is tried that a worker's transaction has undone, by a deadlock or by a lock."""
_PAUSE_S: Final = 1.0
"""Between two tries, in which clients can work: they wait for a migration that waits for a lock."""


class _Applied(NamedTuple):
    """A step that a database has taken, of this library or of a newer one."""

    component: str
    number: int
    compatible_from: int


@attrs.frozen
class Plan:
    """What a migration does: the steps, and the statements in their order."""

    steps: Sequence[Migration]
    dialect: Dialect
    present: Sequence[str] = ()
    """The components whose tables the database has already."""
    drops: Sequence[str] = ()
    """The statements that drop the triggers of the database."""

    @property
    def statements(self) -> list[str]:
        """The statements, in order. The database records a step when its tables are made, before the triggers."""
        made: list[str] = [*self.drops]
        for step in self.steps:
            if not step.is_guards:
                made += step.statements(self.dialect)
            made.append(_record(step))
        for step in self.guards:
            made += step.statements(self.dialect)
        return made

    @property
    def guards(self) -> Sequence[Migration]:
        """The newest step of guards of each component, as far as the plan leads."""
        if not self.steps:
            return ()
        last = {step.component: step.number for step in self.steps}
        known = [
            step
            for step in STEPS
            if step.is_guards and step.number <= last.get(step.component, _of(step.component, self.present))
        ]
        return list({step.component: step for step in known}.values())

    @property
    def script(self) -> list[str]:
        """The statements in a transaction of their own, which waits for all others; empty if there is nothing to do."""
        if not self.steps:
            return []
        locks = [self.dialect.migration_lock, self.dialect.lock_tables if self.drops else ""]
        return [self.dialect.begin, *filter(None, locks), *self.statements, "COMMIT"]

    def sql(self) -> str:
        """Return the plan as SQL to execute by hand, with a comment for each step."""
        told = [f"-- {step.name}: {step.description}\n" for step in self.steps]
        return "".join(told) + "\n" + "".join(f"{statement};\n\n" for statement in self.script)


def _of(component: str, present: Sequence[str]) -> int:
    """Return the number up to which a component has guards that no step of the plan has: 0 where it has no tables."""
    return LATEST[component] if component in present else 0


def _record(step: Migration, applied_at: int | None = None) -> str:
    values = f"'{step.component}', {step.number}, '{step.description}', {step.compatible_from}"
    return f"INSERT INTO runstate_migration VALUES ({values}, {time_us() if applied_at is None else applied_at})"


def ddl(dialect: Dialect) -> str:
    """Return the SQL that makes an empty database a store, for reading or for another migration tool."""
    parts: list[str] = []
    plan = Plan(STEPS, dialect)
    for step in STEPS:
        parts.append(f"-- {step.name}: {step.description}\n")
        parts += [] if step.is_guards else [f"{statement};\n\n" for statement in step.statements(dialect)]
        parts.append(f"{_record(step, 0)};\n\n")
    for step in plan.guards:
        parts += [f"{statement};\n\n" for statement in step.statements(dialect)]
    return "".join(parts)


def rebuild_sql(dialect: Dialect) -> str:
    """Return the SQL that fills the small tables anew from the runs; empty for a dialect that has none."""
    lookups = dialect.lookups
    off, on = (
        [f"ALTER TABLE {table} {word} TRIGGER USER" for table in lookups.tables] for word in ("DISABLE", "ENABLE")
    )
    lock = ["LOCK TABLE runstate_run IN SHARE ROW EXCLUSIVE MODE"]
    statements = ["BEGIN", *lock, *off, *lookups.rebuild, *on, "COMMIT"] if lookups.tables else []
    return "".join(f"{statement};\n" for statement in statements)


# --- what a database is -----------------------------------------------------------------------------------------------


def _applied(session: Connection, shown: str) -> list[_Applied]:
    """Return the steps that a database has taken. Raises `SchemaMismatch` for a database of an unreleased version."""
    dialect = session.statements.dialect
    if not session.execute(dialect.table_exists, {})[0][0]:
        return []
    if not session.execute(dialect.has_components, {})[0][0]:
        raise SchemaMismatch(
            f"{shown} was made by a runstate before its first release: make a new database, nothing was changed"
        )
    found = session.execute("SELECT component, number, compatible_from FROM runstate_migration ORDER BY 1, 2", {})
    return [_Applied(*row) for row in found]


def _version(applied: Sequence[_Applied]) -> SchemaVersion:
    return {component: max(step.number for step in steps) for component, steps in groupby(applied, lambda one: one[0])}


def version_of(session: Connection, shown: str = "the database") -> SchemaVersion:
    """Return the last step of each component that a database has taken; empty if it is no store."""
    return _version(_applied(session, shown))


def format_version(version: SchemaVersion) -> str:
    """Return a version for people: `run 2`."""
    return (
        ", ".join(f"{component} {version[component]}" for component in sorted(version, key=component_order)) or "none"
    )


def _newer(applied: Sequence[_Applied]) -> list[_Applied]:
    """Return the steps of a newer library."""
    return [step for step in applied if step.number > LATEST.get(step.component, 0)]


def _require_compatible(applied: Sequence[_Applied], shown: str) -> None:
    """Raise `SchemaMismatch` if a newer library has migrated the database, and this one cannot work on it."""
    if any(step.compatible_from > LATEST.get(step.component, 0) for step in _newer(applied)):
        raise SchemaMismatch(
            f"{shown} was made by a newer runstate (its schema is {format_version(_version(applied))}, this library"
            f" knows {format_version(LATEST)}): upgrade the library, nothing was changed"
        )


def _missing(applied: Sequence[_Applied]) -> list[Migration]:
    found = _version(applied)
    return [step for step in STEPS if step.number > found.get(step.component, 0)]


def require_latest(session: Connection, shown: str) -> bool:
    """Raise `SchemaMismatch` unless this library can work on the database. Return whether its schema is newer."""
    applied = _applied(session, shown)
    _require_compatible(applied, shown)
    if _missing(applied):
        version = _version(applied)
        found = "has no store in it"
        if version:
            found = f"has schema {format_version(version)}, this library needs {format_version(LATEST)}"
        raise SchemaMismatch(f"{shown} {found}: `runstate migrate` (or open_store(..., migrate=True)) brings it there")
    return bool(_newer(applied))


# --- migration --------------------------------------------------------------------------------------------------------


def migrate(database: Database, upto: SchemaVersion = LATEST, *, dry_run: bool = False) -> Plan:
    """Take the steps that a database lacks, all or none; return them. Many processes may do so at once.

    Workers and clients may work meanwhile: they wait for the migration. On PostgreSQL one of their transactions and the
    migration may wait for each other. Then the server ends one of them, and it is done again. A migration that gets no
    lock within two seconds, because of a long transaction, lets the clients work for a second, and tries again.
    """
    session = database.open()
    try:
        for tries in range(_TRIES):
            try:
                return migrate_session(session, database.display_url, upto, dry_run=dry_run)
            except StoreUnavailable as error:
                if session.trouble is Trouble.SESSION_LOST:
                    raise
                if tries == _TRIES - 1:
                    raise StoreUnavailable(
                        f"{database.display_url} is busy: a transaction that has been open for long keeps the migration"
                        " from the tables; nothing was changed"
                    ) from error
                sleep(_PAUSE_S)
            except StoreError:
                if session.trouble is not Trouble.CONFLICT or tries == _TRIES - 1:
                    raise
        raise AssertionError
    finally:
        session.close()


def migrate_session(session: Connection, shown: str, upto: SchemaVersion = LATEST, *, dry_run: bool = False) -> Plan:
    """Take the steps that a database lacks, on a connection. On a caller's own, the caller commits them."""
    dialect = session.statements.dialect
    with session.transaction():
        if dialect.migration_lock:
            session.execute(dialect.migration_lock, {})  # other processes wait here, and find the steps taken
        applied = _applied(session, shown)
        _require_compatible(applied, shown)
        steps = [step for step in _missing(applied) if step.number <= upto.get(step.component, 0)]
        drops = [row[0] for row in session.execute(dialect.drop_guards, {})] if steps and applied else []
        plan = Plan(steps, dialect, [*_version(applied)], drops)
        if steps and not dry_run:
            if applied and dialect.lock_tables:
                session.execute_ddl(dialect.lock_tables)
            for statement in plan.statements:
                session.execute_ddl(statement)
        return plan
