"""The doctor: whether a store is as the law wants it, whether its runs get on, and whether its database is well.

    diagnosis = examine(store, stuck_after_s=3600)
    for finding in diagnosis.findings:
        print(finding.severity, finding.sentence, finding.remedy)

It only reads. (PostgreSQL: it makes temporary tables in a transaction that it rolls back, to compare with.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, cast

from runstate.run import validators
from runstate.run.values import raise_if_invalid
from runstate.store._api.store import Store, database_of
from runstate.store._sql.connection import Connection, Database
from runstate.store._sql.migrations import LATEST, require_latest, version_of
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
    """Nobody listens."""


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
    """Examine a store, or a database that holds one.

    Tables, indexes and guards are compared with what this library makes. All histories are checked against the law,
    and the `newest` runs judged whole. Live runs that have not moved for `stuck_after_s` seconds are told, and what
    else nobody looks after; so is what keeps the database from cleaning up, such as a snapshot older than
    `old_snapshot_s`. `quick_check` lets SQLite read every page of its file. Of each kind at most `most` findings are
    told one by one.

    Raises `SchemaMismatch` where there is no store, `StoreUnavailable` where no database answers, `InvalidRun` for
    impossible arguments.
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
        version = version_of(session)
        if version == LATEST:
            examine_schema(session, sheet)
            _readable(sheet, histories)
            examine_lookups(session, sheet)
            _readable(sheet, lambda: examine_waiting(session, sheet, stuck_after_s))
            _readable(
                sheet,
                lambda: examine_health(
                    database, session, sheet, old_snapshot_s=old_snapshot_s, quick_check=quick_check
                ),
            )
        else:
            _note_version(session, sheet, database.display_url, version)
    finally:
        session.close()
    return Diagnosis(database.display_url, version, runs, entries, sheet.findings(), tuple(sheet.unseen))


def _open(database: Database) -> Connection:
    session = database.open(reading=True)
    if not database.in_memory:
        return session
    from runstate.store._sqlite.connection import SqliteConnection

    # Its one connection is the store's own, which other threads use meanwhile: beside them with a cursor of our own.
    connection = cast("SqliteConnection", session).connection
    return SqliteConnection(connection, database.display_url, 0.0, owned=False, kept=True)


def _note_version(session: Connection, sheet: Sheet, shown: str, version: int) -> None:
    """Note that the schema is of another version. Raises `SchemaMismatch` where there is none at all."""
    try:
        require_latest(session, shown)
    except SchemaMismatch as error:
        if version == 0:
            raise
        sentence, _, remedy = str(error).partition(": ")
        sheet.add("error", "schema", f"{sentence}; nothing else was examined", remedy, thing="runstate_migration")


def _readable(sheet: Sheet, examine_part: Callable[[], None]) -> None:
    """Examine a part; if the database cannot give it, that is a finding too."""
    try:
        examine_part()
    except StoreError as error:
        if error.retryable:
            raise
        sheet.add(
            "error", "unreadable", f"a part of it could not be examined: {error}", "mend what is told above first"
        )
