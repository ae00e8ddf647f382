"""Which store a connection leads to: a name alone may be another table elsewhere."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["StoreIdentity"]


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
