"""The health check of a store: its schema, its histories, stuck runs, and the database itself.

    diagnosis = examine(store, stuck_after_s=3600)
    for finding in diagnosis.findings:
        print(finding.severity, finding.sentence, finding.remedy)

It only reads. (In PostgreSQL it creates temporary tables for a comparison, in a transaction that it rolls back.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, cast

from runstate.run import validators
from runstate.run.values import raise_if_invalid
from runstate.store._api.store import Store, database_of
from runstate.store._sql.connection import Connection, Database
from runstate.store._sql.migrations import SchemaVersion, require_latest, version_of
from runstate.store.doctor.diagnosis import Diagnosis, Finding, Progress, Severity, Sheet
from runstate.store.doctor.health import examine_health
from runstate.store.doctor.histories import examine_histories
from runstate.store.doctor.lookups import examine_lookups
from runstate.store.doctor.schema import examine_schema
from runstate.store.doctor.stuck import examine_waiting
from runstate.store.errors import SchemaMismatch, StoreError

__all__ = ["Diagnosis", "Finding", "Progress", "Severity", "examine"]

_SPAN: Final = validators.number(0, validators.YEAR_10000)
_MOST: Final = validators.integer(1)
_NONE: Final = validators.integer(0)


def _unheard(what: str, seen: int, all_there_is: int) -> None:
    """Ignore the progress."""


def examine(
    where: Store | Database,
    *,
    stuck_after_s: float = 3600.0,
    old_snapshot_s: float = 600.0,
    newest: int = 2000,
    most: int = 10,
    quick_check: bool = False,
    progress: Progress = _unheard,
) -> Diagnosis:
    """Examine a store, or a database with one, and return the findings.

    Tables, indexes and guards are compared with those that this library creates. All histories are checked against the
    table of transitions, and the `newest` runs are judged completely. Findings are also live runs that have not moved
    for `stuck_after_s` seconds, other runs and leases that need attention, and reasons why the database cannot clean
    up, such as a snapshot older than `old_snapshot_s` seconds. With `quick_check`, SQLite reads every page of its file.
    At most `most` findings of each kind are reported individually, the others by their number. `progress` is called
    with the part, and how much of it was examined of how much.

    Raises `SchemaMismatch` if there is no store, `StoreUnavailable` if the database is away, and `InvalidRun` for wrong
    arguments.
    """
    raise_if_invalid(
        (
            *_SPAN("stuck_after_s", stuck_after_s),
            *_SPAN("old_snapshot_s", old_snapshot_s),
            *_NONE("newest", newest),
            *_MOST("most", most),
        )
    )
    database = database_of(where) if isinstance(where, Store) else where
    sheet = Sheet(most)
    session = _open(database)
    runs = entries = 0

    def histories() -> None:
        nonlocal runs, entries
        runs, entries = examine_histories(session, sheet, newest, progress)

    try:
        version = version_of(session, database.display_url)
        if _is_known(session, sheet, database.display_url, version):
            _readable(sheet, histories)
            examine_lookups(session, sheet)
            _readable(sheet, lambda: examine_waiting(session, sheet, stuck_after_s))
            _readable(
                sheet,
                lambda: examine_health(
                    database, session, sheet, old_snapshot_s=old_snapshot_s, quick_check=quick_check
                ),
            )
    finally:
        session.close()
    return Diagnosis(database.display_url, version, runs, entries, sheet.findings(), tuple(sheet.unseen))


def _open(database: Database) -> Connection:
    session = database.open(reading=True)
    if not database.in_memory:
        return session
    from runstate.store._sqlite.connection import SqliteConnection

    # The only connection belongs to the store, and other threads use it meanwhile. So use another cursor of it.
    connection = cast("SqliteConnection", session).connection
    return SqliteConnection(connection, database.display_url, 0.0, owned=False, kept=True)


def _is_known(session: Connection, sheet: Sheet, shown: str, version: SchemaVersion) -> bool:
    """Examine the schema. Return whether this library can read it. Raises `SchemaMismatch` if there is none at all."""
    try:
        newer = require_latest(session, shown)
    except SchemaMismatch as error:
        if not version:
            raise
        sentence, _, remedy = str(error).partition(": ")
        sheet.add("error", "schema", f"{sentence}; nothing else was examined", remedy, thing="runstate_migration")
        return False
    if newer:
        sentence = "a newer runstate has migrated the database, so its tables and guards were not compared"
        sheet.add("warning", "schema", sentence, "examine it with the newer version", thing="runstate_migration")
    else:
        examine_schema(session, sheet)
    return True


def _readable(sheet: Sheet, examine_part: Callable[[], None]) -> None:
    """Examine a part. If the database cannot read it, add that as a finding."""
    try:
        examine_part()
    except StoreError as error:
        if error.retryable:
            raise
        sheet.add("error", "unreadable", f"a part of it could not be examined: {error}", "fix the other findings first")
