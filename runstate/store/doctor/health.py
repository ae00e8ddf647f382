"""The health of the database: reasons why it cannot clean up, and whether acknowledged changes are durable."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from runstate.clock import format_duration
from runstate.store._sql.connection import Connection, Database
from runstate.store.doctor.diagnosis import Sheet
from runstate.store.errors import StoreError

if TYPE_CHECKING:
    from runstate.store._sqlite.connection import SqliteDatabase

__all__ = ["examine_health"]

# --- PostgreSQL -------------------------------------------------------------------------------------------------------

_SNAPSHOTS: Final = """\
SELECT pid, coalesce(usename, '?'), coalesce(application_name, ''), coalesce(state, '?'),
    (extract(epoch FROM clock_timestamp() - xact_start) * 1000000)::bigint AS age, age(backend_xmin)
    FROM pg_stat_activity
    WHERE (datname = current_database() OR datname IS NULL) AND pid <> pg_backend_pid()
        AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL) AND backend_type <> 'autovacuum worker'
        AND xact_start < clock_timestamp() - make_interval(secs => %(seconds)s::double precision)
    ORDER BY xact_start"""
_HIDDEN: Final = """\
SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND usename <> current_user AND backend_type IS NULL"""
_SLOTS: Final = """\
SELECT slot_name, active, coalesce(age(xmin), 0) FROM pg_replication_slots
    WHERE (database = current_database() OR database IS NULL) AND NOT temporary
        AND (NOT active OR age(xmin) > 1000000) ORDER BY slot_name"""
_PREPARED: Final = """\
SELECT gid, (extract(epoch FROM clock_timestamp() - prepared) * 1000000)::bigint FROM pg_prepared_xacts
    WHERE database = current_database()
        AND prepared < clock_timestamp() - make_interval(secs => %(seconds)s::double precision) ORDER BY prepared"""
_AUTOVACUUM: Final = """\
SELECT c.relname, current_setting('autovacuum')::boolean AND current_setting('track_counts')::boolean,
        coalesce((SELECT option_value::boolean FROM pg_options_to_table(c.reloptions)
            WHERE option_name = 'autovacuum_enabled'), true),
        coalesce(s.n_dead_tup, 0), coalesce(s.n_live_tup, 0), (extract(epoch FROM clock_timestamp() - coalesce(
            greatest(s.last_autovacuum, s.last_vacuum),
            (SELECT to_timestamp(created_at) FROM runstate_run ORDER BY seq LIMIT 1))) * 1000000)::bigint
    FROM pg_class AS c LEFT JOIN pg_stat_all_tables AS s ON s.relid = c.oid
    WHERE c.oid IN (to_regclass('runstate_run'), to_regclass('runstate_history'))"""
_AHEAD: Final = """\
SELECT EXISTS (SELECT 1 FROM runstate_history WHERE tx >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint)"""
_DEAD_MOST: Final = 10_000  # rows: fewer are cleaned up quickly
_DEAD_RATIO: Final = 0.2

_HELD_BACK: Final = "rows that died since cannot be cleaned away, and every claim passes over them"


def _examine_postgres(session: Connection, sheet: Sheet, old_snapshot_s: float) -> None:
    params = {"seconds": old_snapshot_s}
    for pid, user, name, doing, age, _ in session.execute(_SNAPSHOTS, params):
        who = f"process {pid} ({user}{f', {name}' if name else ''})"
        sentence = f"{who} is {doing} in a transaction that is {format_duration(age)} old: {_HELD_BACK}"
        remedy = f"end it, or SELECT pg_terminate_backend({pid}); idle_in_transaction_session_timeout prevents it"
        sheet.add("warning", "snapshot", sentence, remedy, thing=str(pid))
    ((hidden,),) = session.execute(_HIDDEN, {})
    if hidden:
        sheet.unseen.append(f"what {hidden} sessions of other roles do (GRANT pg_read_all_stats shows it)")
    for name, attached, age in session.execute(_SLOTS, {}):
        kept = f"it keeps rows that {age} transactions have passed" if age else "it keeps WAL until the disk is full"
        sentence = f"the replication slot {name} is {'behind' if attached else 'not in use'}: {kept}"
        remedy = f"let its reader catch up, or SELECT pg_drop_replication_slot('{name}')"
        sheet.add("warning", "slot", sentence, remedy, thing=name)
    for name, age in session.execute(_PREPARED, params):
        sentence = f"the prepared transaction {name} has been left for {format_duration(age)}: {_HELD_BACK}"
        sheet.add("warning", "prepared", sentence, "COMMIT PREPARED or ROLLBACK PREPARED it", thing=name)
    ((ahead,),) = session.execute(_AHEAD, {})
    if ahead:
        sentence = (
            "there are entries of a server that had counted further than this: `entries` and `watch` pass over them"
        )
        sheet.add("error", "restored", sentence, "see Backups in docs/store.md: their numbers must be set again")
    for table, everywhere, here, dead, alive, since in session.execute(_AUTOVACUUM, {}):
        if not everywhere or not here:
            sentence = f"autovacuum is off for {table}{'' if here else ' alone'}: dead rows are never cleaned away"
            remedy = (
                f"ALTER TABLE {table} RESET (autovacuum_enabled)" if everywhere else "set autovacuum and track_counts"
            )
            sheet.add("warning", "autovacuum", sentence, remedy, thing=table)
        # A busy table has as many between two runs of autovacuum, usually a minute apart. That is not a problem.
        if dead > max(_DEAD_MOST, _DEAD_RATIO * alive) and (since or 0) > old_snapshot_s * 1_000_000:
            idle = format_duration(since)
            sentence = f"{table} has {dead} dead rows beside {alive} living ones, and none was cleaned for {idle}"
            remedy = f"VACUUM {table}; if they stay, something holds an old snapshot"
            sheet.add("warning", "dead rows", sentence, remedy, thing=table)


# --- SQLite -----------------------------------------------------------------------------------------------------------

_FULL: Final = 2
_WAL_MOST: Final = 64_000_000  # bytes: four times the size to which it may grow before a checkpoint


def _examine_sqlite(database: Database, session: Connection, sheet: Sheet, path: Path) -> None:
    mode = session.execute("PRAGMA journal_mode", {})[0][0]
    if mode != "wal":
        sentence = f"its journal_mode is {mode}, not wal: readers and the writer shut each other out"
        sheet.add("warning", "journal", sentence, "open it with this library, which sets it, and see who unsets it")
        return
    _examine_wal(session, sheet, path.with_name(f"{path.name}-wal"))
    try:
        writing = database.open()
    except StoreError:
        return  # without write access, this process cannot lose changes
    try:
        if writing.execute("PRAGMA synchronous", {})[0][0] < _FULL:
            sentence = "this SQLite does not take synchronous = FULL: what was acknowledged is lost in a power cut"
            sheet.add("error", "journal", sentence, "use a build of SQLite that does")
    finally:
        writing.close()


def _examine_wal(session: Connection, sheet: Sheet, wal: Path) -> None:
    size = wal.stat().st_size if wal.exists() else 0
    if size <= _WAL_MOST:
        return
    # A passive checkpoint neither waits for other connections nor blocks them. A reader needs the pages that it leaves.
    ((_, pages, done),) = session.execute("PRAGMA wal_checkpoint(PASSIVE)", {})
    if done < pages:
        sentence = f"{wal} has grown to {size // 1_000_000} MB, and {pages - done} of its {pages} pages cannot be moved"
        sentence += " into the database: an old reader needs it as it was"
        sheet.add(
            "warning", "wal", sentence, "find the process with a read transaction open, and end it", thing=wal.name
        )


def _read_all_pages(session: Connection, sheet: Sheet) -> None:
    for (said,) in session.execute(f"PRAGMA quick_check({sheet.most})", {}):
        if said != "ok":
            for line in str(said).splitlines():
                remedy = "stop writing, copy the file, and restore it from a backup or with `sqlite3 ... .recover`"
                sheet.add("error", "corrupt", f"the file is damaged: {line.strip('* ')}", remedy)


def examine_health(
    database: Database, session: Connection, sheet: Sheet, *, old_snapshot_s: float, quick_check: bool
) -> None:
    """Add the findings about the database itself."""
    if not database.embedded:
        _examine_postgres(session, sheet, old_snapshot_s)
        return
    if not database.in_memory:
        _examine_sqlite(database, session, sheet, Path(cast("SqliteDatabase", database).path))
    if quick_check:
        _read_all_pages(session, sheet)
