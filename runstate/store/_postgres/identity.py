"""The schema in which a PostgreSQL connection finds the tables of a store, by its search_path."""

from __future__ import annotations

from typing import Final

from runstate.store._sql.connection import Connection
from runstate.store._sql.identity import StoreIdentity

__all__ = ["identity_of"]

_HOME: Final = """\
SELECT coalesce(c.oid::bigint, 0), d.oid::bigint, coalesce(n.nspname, ''), current_database(),
        current_schemas(false)::text
    FROM pg_database AS d LEFT JOIN pg_class AS c ON c.oid = to_regclass('runstate_run')
    LEFT JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE d.datname = current_database()"""


def identity_of(session: Connection) -> StoreIdentity:
    """Return in which schema and database a connection finds the tables of a store."""
    ((table, database, schema, name, path),) = session.execute(_HOME, {})
    return StoreIdentity(
        (table, database) if table else (), f"the schema {schema} of the database {name}", path, database
    )
