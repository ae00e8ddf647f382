"""What a store's URL means: `sqlite:///runs.db`, `sqlite:////var/lib/runs.db`, `sqlite:///:memory:`, `postgresql://...`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import unquote, urlsplit

from runstate.errors import StoreUrlError
from runstate.store.session import Database

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["database_at"]

_FORMS: Final = "sqlite:///runs.db, sqlite:////absolute/path.db, sqlite:///:memory: or postgresql://user@host/database"
_MOST: Final = 2048
_SECRET: Final = re.compile(r"(?:[^@/?#%\s]|%[0-9A-Fa-f]{2})*")


def database_at(url: str, wait_s: float = 10.0) -> Database:
    """Return the database that a URL names; no connection is made yet. Raises `StoreUrlError`."""
    given = cast("object", url)
    if not isinstance(given, str) or not given or len(given) > _MOST or not given.isprintable():
        raise StoreUrlError(f"not the address of a store: expected {_FORMS}")
    scheme, colon, _ = given.partition(":")
    make = _DIALECTS.get(scheme)
    if not colon or make is None:
        told = f"{scheme!r} is no dialect of a store" if colon else f"{given!r} is not an address"
        raise StoreUrlError(f"{told if '@' not in told else 'that is not an address'}: expected {_FORMS}")
    try:
        urlsplit(given)
    except ValueError as error:
        raise StoreUrlError(f"not the address of a store ({error}): expected {_FORMS}") from None
    return make(given, wait_s)


def _sqlite(url: str, wait_s: float) -> Database:
    from runstate.store.sqlite import SqliteDatabase

    head, _, path = url.partition("///")
    if head != "sqlite:" or not path:
        raise StoreUrlError(f"an SQLite address has three slashes, four for an absolute path: expected {_FORMS}")
    if "?" in path or "#" in path:
        raise StoreUrlError("an SQLite address takes no options; a path with ? or # in it is written %3F or %23")
    return SqliteDatabase(unquote(path), wait_s)


def _postgres(url: str, wait_s: float) -> Database:
    from runstate.store.postgres import PostgresDatabase  # psycopg is an extra

    # libpq quotes what it cannot read, and takes what follows a stray @ or / for the host: that may be the password.
    person, _, _ = url.partition("://")[2].rpartition("@")
    if not _SECRET.fullmatch(person.partition(":")[2]):
        raise StoreUrlError("in a password @ is written %40, / is %2F, ? is %3F, # is %23, % is %25 and a space %20")
    return PostgresDatabase(url, wait_s)


_DIALECTS: Final[dict[str, Callable[[str, float], Database]]] = {
    "sqlite": _sqlite,
    "postgresql": _postgres,
    "postgres": _postgres,
}
