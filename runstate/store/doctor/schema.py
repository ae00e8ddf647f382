"""The comparison of a database's schema with the objects that this library's DDL creates.

This module has no names of tables. The same DDL creates a reference: in SQLite a database in memory, in PostgreSQL
temporary tables in a transaction that is rolled back. The two are compared by the catalog of the database.
"""

from __future__ import annotations

from typing import Final

from runstate.store._sql.connection import Connection
from runstate.store._sql.dialect import POSTGRES, SQLITE
from runstate.store._sql.migrations import ddl, migrate
from runstate.store.doctor.catalog import Catalog, Made, compare
from runstate.store.doctor.diagnosis import Sheet
from runstate.store.errors import StoreError

__all__ = ["examine_schema"]

# --- SQLite -----------------------------------------------------------------------------------------------------------

_KINDS: Final = {"table": "table", "index": "index", "trigger": "guard", "view": "view"}


def _of_sqlite(session: Connection) -> Catalog:
    found = session.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE tbl_name LIKE 'runstate_%' AND sql IS NOT NULL", {}
    )
    return {
        (_KINDS[kind], table, name): Made(_KINDS[kind], name, table, " ".join(sql.split()))
        for kind, name, table, sql in found
    }


def _sqlite_reference() -> Catalog:
    from runstate.store._sqlite.connection import SqliteDatabase

    reference = SqliteDatabase(":memory:")
    try:
        migrate(reference)
        return _of_sqlite(reference.open())
    finally:
        reference.close()


# --- PostgreSQL -------------------------------------------------------------------------------------------------------

# Everything as text that PostgreSQL itself writes, without the name of the schema, which the reference does not share.
# The objects of a partitioned table (docs/scale.md) are also on its partitions.
_CATALOG: Final = """\
WITH t AS (
    SELECT c.oid, c.relname::text AS name, c.relnamespace, c.relowner, c.relkind, c.relpersistence, c.relrowsecurity
    FROM pg_class AS c WHERE c.relnamespace = %(schema)s::bigint::oid
        AND starts_with(c.relname, 'runstate_') AND c.relkind IN ('r', 'p', 'f')
)
SELECT 'table', name, name, CASE WHEN relkind IN ('r', 'p') THEN '' ELSE 'of another kind' END
    || CASE relpersistence WHEN 'u' THEN 'unlogged' ELSE '' END
    || CASE WHEN relrowsecurity THEN 'row security' ELSE '' END, false FROM t
UNION ALL
SELECT 'column', a.attname, t.name, concat_ws(' ', format_type(a.atttypid, a.atttypmod),
        CASE WHEN a.attnotnull THEN 'NOT NULL' END, CASE a.attidentity WHEN 'a' THEN 'GENERATED ALWAYS' END,
        'DEFAULT ' || pg_get_expr(d.adbin, d.adrelid)), false
    FROM t JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef AS d ON d.adrelid = t.oid AND d.adnum = a.attnum
UNION ALL
SELECT 'constraint', k.conname, t.name, pg_get_constraintdef(k.oid, true), false
    FROM t JOIN pg_constraint AS k ON k.conrelid = t.oid AND k.contype IN ('c', 'p', 'u', 'f', 'x')
UNION ALL
SELECT 'index', c.relname, t.name, replace(pg_get_indexdef(i.indexrelid, 0, false), ' ON ONLY ', ' ON '),
        NOT (i.indisvalid AND i.indisready)
    FROM t JOIN pg_index AS i ON i.indrelid = t.oid JOIN pg_class AS c ON c.oid = i.indexrelid
    WHERE NOT EXISTS (SELECT 1 FROM pg_constraint AS k WHERE k.conindid = i.indexrelid)
UNION ALL
SELECT 'view', c.relname, c.relname, pg_get_viewdef(c.oid), false FROM pg_class AS c
    WHERE c.relnamespace = %(schema)s::bigint::oid AND starts_with(c.relname, 'runstate_') AND c.relkind = 'v'
UNION ALL
SELECT 'guard', g.tgname, t.name,
        replace(pg_get_triggerdef(g.oid, false), quote_literal(pg_get_userbyid(t.relowner)) || '::name', 'the owner'),
        g.tgenabled IN ('D', 'R')
    FROM t JOIN pg_trigger AS g ON g.tgrelid = t.oid AND NOT g.tgisinternal
UNION ALL
SELECT 'function', p.proname, '', concat_ws(' ', l.lanname, CASE WHEN p.prosecdef THEN 'SECURITY DEFINER' END,
        p.proconfig::text, p.prosrc), false
    FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang
    WHERE p.pronamespace = %(schema)s::bigint::oid AND starts_with(p.proname, 'runstate_') AND p.pronargs = 0
"""
_HOME: Final = """\
SELECT c.relnamespace::bigint, quote_ident(n.nspname) FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = to_regclass('runstate_migration')"""
_TEMPORARY: Final = "SELECT oid::bigint, quote_ident(nspname) FROM pg_namespace WHERE oid = pg_my_temp_schema()"
_MAY: Final = """\
SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean,
    has_database_privilege(current_database(), 'TEMPORARY')"""
_FOREIGN: Final = """\
SELECT g.tgname, c.relname FROM pg_trigger AS g JOIN pg_class AS c ON c.oid = g.tgrelid
    WHERE c.relnamespace = %(schema)s::bigint::oid AND starts_with(c.relname, 'runstate_') AND NOT g.tgisinternal
        AND g.tgenabled <> 'D' AND g.tgtype & 3 = 3"""  # before, and for each row


class _Rollback(Exception):
    """Raised inside a transaction to roll it back."""


def _of_postgres(session: Connection, schema: int, *names: str) -> Catalog:
    """Return the objects of a schema, without its name in their definitions."""

    def plain(definition: str) -> str:
        for name in names:
            definition = definition.replace(f"{name}.runstate_", "runstate_")
        return " ".join(definition.split())

    return {
        (kind, table, name): Made(kind, name, table, plain(definition), disabled)
        for kind, name, table, definition, disabled in session.execute(_CATALOG, {"schema": schema})
    }


def _postgres_reference(session: Connection) -> Catalog:
    """Return the objects that the DDL creates, as temporary objects of the current transaction."""
    session.execute("SELECT set_config('search_path', 'pg_temp', true)", {})
    # Temporary functions are found only by their full name.
    session.execute_ddl(ddl(POSTGRES).replace("EXECUTE FUNCTION runstate_", "EXECUTE FUNCTION pg_temp.runstate_"))
    ((schema, name),) = session.execute(_TEMPORARY, {})
    return _of_postgres(session, schema, name, "pg_temp")


def _examine_postgres(session: Connection, sheet: Sheet) -> None:
    if session.execute("SELECT current_setting('session_replication_role')", {})[0][0] != "origin":
        sentence = "session_replication_role is not origin for this role or database: no guard is obeyed"
        sheet.add("error", "guard", sentence, "ALTER ROLE (or DATABASE) ... RESET session_replication_role")
    ((read_only, may),) = session.execute(_MAY, {})
    if read_only or not may:
        reason = "the database is read-only" if read_only else "this role may not make temporary tables here"
        sentence = f"tables and guards were not compared with what this library makes: {reason}"
        remedy = "examine the primary" if read_only else "GRANT TEMPORARY ON DATABASE ... TO this role"
        sheet.add("warning", "schema", sentence, remedy)
        return
    try:
        with session.transaction():
            ((schema, home),) = session.execute(_HOME, {})
            live = _of_postgres(session, schema, home)
            foreign = session.execute(_FOREIGN, {"schema": schema})
            needed = _postgres_reference(session)
            compare(live, needed, "runstate ddl --dialect postgres", sheet)
            for name, table in foreign:
                if ("guard", table, name) not in needed:
                    sentence = f"the trigger {name} on {table} is not this library's, and can change what it writes"
                    sheet.add("warning", "trigger", sentence, "see that it returns NEW as it came", thing=name)
            raise _Rollback
    except _Rollback:
        return


def _examine_sqlite(session: Connection, sheet: Sheet) -> None:
    compare(_of_sqlite(session), _sqlite_reference(), "runstate ddl --dialect sqlite", sheet)


_EXAMINERS: Final = {SQLITE.name: _examine_sqlite, POSTGRES.name: _examine_postgres}


def examine_schema(session: Connection, sheet: Sheet) -> None:
    """Add a finding for each difference between the database and this version's schema."""
    try:
        _EXAMINERS[session.statements.dialect.name](session, sheet)
    except StoreError as error:
        if error.retryable:
            raise
        sheet.add("warning", "schema", f"the tables and guards could not be compared: {error}", "see the reason given")
