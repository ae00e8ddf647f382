"""The two dialects of SQL: what each calls things, and how it says what the other says in other words.

Statements and triggers are put together from these, and ask no dialect which one it is. What one of them needs and the
other does not is an empty text there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Final

from runstate.store._sql.columns import Column
from runstate.store._sql.lookups import POSTGRES_LOOKUPS, SQLITE_LOOKUPS, Lookups

__all__ = ["POSTGRES", "SQLITE", "Dialect", "thread_lock_sql"]


def thread_lock_sql(thread: str) -> str:
    """Return PostgreSQL's call that holds a thread until the commit. All who do so must mean the same lock."""
    return f"pg_advisory_xact_lock(hashtextextended('runstate ' || {thread}, 0))"


class Dialect(ABC):
    """One dialect of SQL."""

    name: ClassVar[str]
    lookups: ClassVar[Lookups]
    """How the runs in a state are found."""

    # --- types and constants --------------------------------------------------------------------------------------

    null_safe_eq: ClassVar[str]
    """The comparison that takes two nulls for equal."""
    true: ClassVar[str]
    false: ClassVar[str]
    greatest: ClassVar[str]
    """The function of the greatest of its arguments."""
    json_object: ClassVar[str]
    """The function that makes a JSON object of names and values."""
    json_type: ClassVar[str]
    """The function of the type of a JSON value."""

    # --- tables ---------------------------------------------------------------------------------------------------

    table_exists: ClassVar[str]
    """The query that counts the tables called `runstate_migration`."""
    has_components: ClassVar[str]
    """The query that counts the columns `component` of this table: 1 for a released schema."""
    begin: ClassVar[str]
    """The statement that begins a transaction which writes."""
    migration_lock: ClassVar[str]
    """The statement that lets one process migrate while the others wait; empty where a transaction does that."""
    lock_tables: ClassVar[str]
    """The statement that waits for the transactions of all clients, before triggers change; empty where not needed."""
    drop_guards: ClassVar[str]
    """The query of the statements that drop all triggers and functions of the library, whatever their names are."""

    # --- triggers -------------------------------------------------------------------------------------------------

    clock: ClassVar[str]
    """The database's own moment in microseconds, or the second or transaction that it is in."""

    @abstractmethod
    def valid_json(self, value: str) -> str:
        """Return the condition that a value is JSON, with an AND behind it; empty where its type says so already."""

    @abstractmethod
    def is_object(self, value: str) -> str:
        """Return the condition that a value, which is not null, is a JSON object."""

    @abstractmethod
    def comparable(self, value: str) -> str:
        """Return a JSON value as something that can be compared."""

    # --- parameters and expressions -------------------------------------------------------------------------------

    now: ClassVar[str]
    """The moment in microseconds: the one handed in, else the database's own."""

    @abstractmethod
    def param(self, name: str, kind: str = "bigint") -> str:
        """Return the place where a parameter goes."""

    @abstractmethod
    def rows(self, columns: Sequence[Column]) -> str:
        """Return the CTE `v` of the rows handed in, in order."""

    @abstractmethod
    def as_json(self, value: str) -> str:
        """Return a text as the JSON that a column takes."""

    @abstractmethod
    def as_text(self, column: str) -> str:
        """Return a JSON column as the text it is, which psycopg would read into objects."""

    @abstractmethod
    def indexed(self, column: str) -> str:
        """Return a column to look another table up by, in a RETURNING too: there SQLite uses no index without the +."""

    @abstractmethod
    def unindexed(self, column: str) -> str:
        """Return a column of a condition by which SQLite must not find the rows: another has fewer."""

    @abstractmethod
    def listed(self, text: str) -> str:
        """Return the query of the numbers in a JSON list."""

    # --- statements -----------------------------------------------------------------------------------------------

    returned: ClassVar[str]
    """The name by which a RETURNING knows the table `runstate_run AS r`."""
    hold_lease: ClassVar[str]
    """What ends a query of the lease `w` so that no sweep closes it until the commit."""
    hold_run_and_lease: ClassVar[str]
    """What ends a query of runs `r` and leases `w` so that neither a move nor a sweep ends them until the commit."""
    hold_threads: ClassVar[str]
    """The statement that locks `threads`, in this order, until the commit: no other transaction ends or creates runs of
    them meanwhile. Empty where writers are alone."""
    writes_in_one: ClassVar[bool]
    """Whether one statement can write to several tables."""

    @abstractmethod
    def unlocked(self, column: str, rows: str, alias: str) -> str:
        """Return the condition, after an AND, that no other transaction is at a row; empty where writers are alone."""

    @abstractmethod
    def among(self, rows: str, skip_locked: str = "") -> str:
        """Return the condition to be among the rows of a query, those of a table that others are at left out."""

    # --- histories ------------------------------------------------------------------------------------------------

    entry_cursor: ClassVar[str]
    """Where an entry `h` stands among those of all runs."""
    latest_cursor: ClassVar[str]
    """The query of the place behind the last entry. It never goes back, even if that entry is pruned."""
    entry_mark: ClassVar[str]
    """The query of a number that goes into `written_here` as `before`, asked for before the entries are written."""
    written_here: ClassVar[str]
    """The condition that the transaction under way has written an entry `h`."""

    @property
    def entry_columns(self) -> str:
        """What `rows.decode_entry` reads, of the tables `r` and `h`."""
        return (
            "r.id, h.version, h.event, h.source, h.target, h.at_us, h.actor,"
            f" {self.as_text('h.detail')}, {self.entry_cursor}"
        )

    @property
    @abstractmethod
    def all_entries(self) -> str:
        """The query of up to `limit` entries of all runs after a place, in order, with two more columns.

        These are the number of entries that it has looked at, and the transaction at which to continue, or null if
        there are no more entries. There may be a row without an entry. It looks at the entries of `width` transactions,
        and at `most` of them: if there are more, it returns some, in no order of use.
        """

    @abstractmethod
    def metadata_pair(self, key: str, value: str) -> str:
        """Return what ends the query of the configuration `s` of a run `r` that have a pair of metadata."""


class _Sqlite(Dialect):
    """SQLite's, whose writers are alone: nothing has to be locked."""

    name = "sqlite"
    lookups = SQLITE_LOOKUPS
    null_safe_eq = "IS"
    true = "1"
    false = "0"
    greatest = "max"
    json_object = "json_object"
    json_type = "json_type"

    table_exists = "SELECT count(*) FROM sqlite_master WHERE name = 'runstate_migration'"
    has_components = "SELECT count(*) FROM pragma_table_info('runstate_migration') WHERE name = 'component'"
    begin = "BEGIN IMMEDIATE"
    migration_lock = ""
    lock_tables = ""
    drop_guards = (
        "SELECT 'DROP TRIGGER \"' || name || '\"' FROM sqlite_master"
        " WHERE type = 'trigger' AND name GLOB 'runstate_*' AND tbl_name GLOB 'runstate_*' ORDER BY name"
    )

    clock = "unixepoch('now') * 1000000"

    def valid_json(self, value: str) -> str:
        return f"json_valid({value}) AND "

    def is_object(self, value: str) -> str:
        begins = f"{value} >= '{{' AND {value} < '|'"  # what is valid and begins so is one
        return f"(json_valid({value}) AND (({begins}) OR json_type({value}) = 'object'))"

    def comparable(self, value: str) -> str:
        return value

    now = ":now"

    def param(self, name: str, kind: str = "bigint") -> str:
        return f":{name}"

    def rows(self, columns: Sequence[Column]) -> str:
        taken = ", ".join(f"json_extract(value, '$[{n}]') AS {c.name}" for n, c in enumerate(columns))
        return f"v AS MATERIALIZED (SELECT {taken} FROM json_each(:rows))"

    def as_json(self, value: str) -> str:
        return value

    def as_text(self, column: str) -> str:
        return column

    def indexed(self, column: str) -> str:
        return f"+{column}"

    def unindexed(self, column: str) -> str:
        return f"+{column}"

    def listed(self, text: str) -> str:
        return f"SELECT value FROM json_each({text})"

    returned = "runstate_run"
    hold_lease = ""
    hold_run_and_lease = ""
    hold_threads = ""
    writes_in_one = False

    def unlocked(self, column: str, rows: str, alias: str) -> str:
        return ""

    def among(self, rows: str, skip_locked: str = "") -> str:
        return f"IN ({rows})"

    entry_cursor = "h.id"  # entries are committed in the order they are counted
    latest_cursor = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'runstate_history'"
    entry_mark = "SELECT coalesce(max(id), 0) FROM runstate_history"
    written_here = "h.id > :before"

    @property
    def all_entries(self) -> str:
        return (
            f"SELECT {self.entry_columns}, 0, NULL FROM runstate_history AS h JOIN runstate_run AS r ON r.seq = h.run"
            " WHERE h.id > :tx ORDER BY h.id LIMIT :limit"
        )

    def metadata_pair(self, key: str, value: str) -> str:
        pairs = f"json_each(s.config, '$.metadata') AS m WHERE s.id = r.id AND m.key = {key} AND m.value = {value}"
        return f", {pairs}"


class _Postgres(Dialect):
    """PostgreSQL's."""

    name = "postgres"
    lookups = POSTGRES_LOOKUPS
    null_safe_eq = "IS NOT DISTINCT FROM"
    true = "true"
    false = "false"
    greatest = "greatest"
    json_object = "json_build_object"
    json_type = "json_typeof"

    table_exists = "SELECT count(*) FROM pg_class WHERE oid = to_regclass('runstate_migration')"
    has_components = (
        "SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('runstate_migration') AND attname = 'component'"
    )
    begin = "BEGIN"
    migration_lock = "SELECT pg_advisory_xact_lock(7282365610)"
    # In the order in which most transactions lock them.
    lock_tables = (
        "SET LOCAL lock_timeout = '2s';"
        " DO $$ BEGIN IF to_regclass('runstate_event') IS NOT NULL THEN"
        " LOCK TABLE runstate_event IN ACCESS EXCLUSIVE MODE; END IF;"
        " IF to_regclass('runstate_step') IS NOT NULL THEN"
        " LOCK TABLE runstate_step IN ACCESS EXCLUSIVE MODE; END IF; END $$; LOCK TABLE"
        " runstate_run_config, runstate_worker_session, runstate_run, runstate_history, runstate_checkpoint,"
        " runstate_attempt IN ACCESS EXCLUSIVE MODE"
    )
    # Triggers first: they depend on their functions. A trigger of a partition goes with that of its table.
    drop_guards = """\
WITH home AS (SELECT relnamespace AS oid FROM pg_class WHERE oid = to_regclass('runstate_migration')),
guard AS (
    SELECT g.tgname, g.tgrelid, g.tgfoid
        FROM pg_trigger AS g JOIN pg_class AS c ON c.oid = g.tgrelid JOIN home ON home.oid = c.relnamespace
        WHERE NOT g.tgisinternal AND g.tgparentid = 0 AND starts_with(g.tgname, 'runstate_')
            AND starts_with(c.relname, 'runstate_')
)
SELECT statement FROM (
    SELECT 1 AS place, format('DROP TRIGGER %I ON %s', tgname, tgrelid::regclass) AS statement FROM guard
    UNION ALL SELECT 2, format('DROP FUNCTION %s', p.oid::regprocedure)
        FROM pg_proc AS p JOIN home ON home.oid = p.pronamespace WHERE starts_with(p.proname, 'runstate_')
            AND (p.oid IN (SELECT tgfoid FROM guard) OR p.proname IN ('runstate_promote', 'runstate_sum_up'))
) AS drops ORDER BY place, statement"""

    clock = "extract(epoch FROM now()) * 1000000"  # clock_timestamp() would keep the planner from moving a condition

    def valid_json(self, value: str) -> str:
        return ""

    def is_object(self, value: str) -> str:
        return f"json_typeof({value}) = 'object'"

    def comparable(self, value: str) -> str:
        return f"{value}::text"

    now = "coalesce(%(now)s::bigint, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)"

    def param(self, name: str, kind: str = "bigint") -> str:
        return f"%({name})s::{kind}"

    def rows(self, columns: Sequence[Column]) -> str:
        arrays = ", ".join(f"%({c.name})s::{c.kind}[]" for c in columns)
        return f"v AS (SELECT * FROM unnest({arrays}) AS v({', '.join(c.name for c in columns)}))"

    def as_json(self, value: str) -> str:
        return f"{value}::json"

    def as_text(self, column: str) -> str:
        return f"{column}::text"

    def indexed(self, column: str) -> str:
        return column

    def unindexed(self, column: str) -> str:
        return column

    def listed(self, text: str) -> str:
        return f"SELECT value::bigint FROM json_array_elements_text({text}::json)"

    returned = "r"
    hold_lease = " FOR KEY SHARE OF w"
    hold_run_and_lease = " FOR SHARE OF r FOR KEY SHARE OF w"
    hold_threads = f"SELECT {thread_lock_sql('thread')} FROM unnest(%(threads)s::text[]) AS t(thread)"
    writes_in_one = True

    def unlocked(self, column: str, rows: str, alias: str) -> str:
        return f" AND {column} = ANY (ARRAY({rows} FOR UPDATE OF {alias} SKIP LOCKED))"

    def among(self, rows: str, skip_locked: str = "") -> str:
        # Not IN: where PostgreSQL joins by a loop it asks again for every row, and finds others each time.
        free = f" FOR UPDATE OF {skip_locked} SKIP LOCKED" if skip_locked else ""
        return f"= ANY (ARRAY({rows}{free}))"

    entry_cursor = "h.tx || '.' || h.run || '.' || h.version"  # a transaction, and in it a run and a version
    latest_cursor = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1 || '.9223372036854775807.0'"
    entry_mark = "SELECT 0"  # a transaction has a number of its own
    written_here = "h.tx = pg_current_xact_id()::text::bigint"

    @property
    def all_entries(self) -> str:
        # The index of transactions has no order, so what is found is sorted: not all that follow, there may be many.
        horizon = "pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
        end = "%(tx)s::bigint + %(width)s::bigint"
        looked_at = (
            "SELECT * FROM runstate_history AS h WHERE h.tx >= %(tx)s::bigint"
            " AND (h.tx, h.run, h.version) > (%(tx)s::bigint, %(run)s::bigint, %(version)s::bigint)"
            f" AND h.tx < least({end}, {horizon}) LIMIT %(most)s::bigint"
        )
        return (
            f"WITH looked_at AS MATERIALIZED ({looked_at})"
            f" SELECT {self.entry_columns}, (SELECT count(*) FROM looked_at),"
            f" CASE WHEN {end} < {horizon} THEN {end} END"
            " FROM (SELECT) AS one LEFT JOIN (looked_at AS h JOIN runstate_run AS r ON r.seq = h.run) ON true"
            " ORDER BY h.tx, h.run, h.version LIMIT %(limit)s::bigint"
        )

    def metadata_pair(self, key: str, value: str) -> str:
        return f" WHERE s.id = r.id AND s.config -> 'metadata' ->> {key} = {value}"


SQLITE: Final[Dialect] = _Sqlite()
POSTGRES: Final[Dialect] = _Postgres()
