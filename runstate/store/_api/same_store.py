"""The check that a caller's own connection leads to the tables of the store.

Which table the name `runstate_run` means depends on the connection: on its file and attached files, on its database and
`search_path`, and on temporary tables.
"""

from __future__ import annotations

from runstate.store._sql.identity import StoreIdentity
from runstate.store.errors import SchemaMismatch, StoreError

__all__ = ["require_same"]


def require_same(here: StoreIdentity, store: StoreIdentity) -> None:
    """Raise `StoreError` if a connection does not lead to the tables of the store."""
    if not here.table and here.looked_in and store.table:
        raise SchemaMismatch(
            f"there is no store where the connection's search_path looks ({here.looked_in}): the tables are in"
            f" {store.shown}, so connect to that, with its schema in search_path"
        )
    if here.table and store.table and here.table != store.table:
        raise StoreError(
            f"the connection leads to another store, in {here.shown}: the tables of this one are in {store.shown}"
        )
