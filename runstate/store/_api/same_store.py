"""Whether a caller's own connection leads to the store's tables: a name alone may be another table there.

Which table `runstate_run` is depends on the connection: on its file and what it has attached, on its database and its
`search_path`, on temporary tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Final, NamedTuple

from runstate.store._sql.connection import Connection
from runstate.store._sql.schema import SQLITE
from runstate.store._sqlite.connection import file_id
from runstate.store.errors import SchemaMismatch, StoreError, StoreUrlError

__all__ = ["StoreIdentity", "identity_of", "require_same"]

_HOME: Final = """\
SELECT coalesce(c.oid::bigint, 0), d.oid::bigint, coalesce(n.nspname, ''), current_database(),
        current_schemas(false)::text
    FROM pg_database AS d LEFT JOIN pg_class AS c ON c.oid = to_regclass('runstate_run')
    LEFT JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE d.datname = current_database()"""

_NO_DEVICE: Final = -1
_numbers: Final = count()  # a database without a file is the same as no other


class StoreIdentity(NamedTuple):
    """Where a connection finds the tables of a store."""

    table: tuple[int, ...]
    """What the table is in the database, or the file that it is in; empty where there is none."""
    shown: str
    """The same for people."""
    looked_in: str = ""
    """PostgreSQL's schemas that a name is looked up in."""
    database: int = 0
    """PostgreSQL's number of the database."""


def identity_of(session: Connection) -> StoreIdentity:
    """Return where a connection finds the tables of a store."""
    if session.statements.dialect is SQLITE:
        return _place_in_sqlite(session)
    ((table, database, schema, name, path),) = session.execute(_HOME, {})
    return StoreIdentity(
        (table, database) if table else (), f"the schema {schema} of the database {name}", path, database
    )


def _place_in_sqlite(session: Connection) -> StoreIdentity:
    attached = session.execute("PRAGMA database_list", {})
    for _, name, path in sorted(attached, key=_looked_in_first):
        quoted = '"' + name.replace('"', '""') + '"'
        schema = "sqlite_temp_master" if name == "temp" else f"{quoted}.sqlite_master"
        if session.execute(f"SELECT 1 FROM {schema} WHERE name = 'runstate_run'", {}):
            return StoreIdentity(_file_at(path) if path else (_NO_DEVICE, next(_numbers)), path or "no file")
    return StoreIdentity((), "nowhere")


def _file_at(path: str) -> tuple[int, int]:
    file = file_id(path)
    if file is None:
        raise StoreUrlError(f"cannot open {path}: the file was deleted or renamed")
    return file


def _looked_in_first(attached: Sequence[object]) -> tuple[bool, object]:
    return attached[1] != "temp", attached[0]


def require_same(here: StoreIdentity, store: StoreIdentity) -> None:
    """Raise `StoreError` if a connection's place is not that of the store."""
    if not here.table and here.looked_in and store.table:
        raise SchemaMismatch(
            f"there is no store where the connection's search_path looks ({here.looked_in}): the tables are in"
            f" {store.shown}, so connect to that, with its schema in search_path"
        )
    if here.table and store.table and here.table != store.table:
        raise StoreError(
            f"the connection leads to another store, in {here.shown}: the tables of this one are in {store.shown}"
        )
