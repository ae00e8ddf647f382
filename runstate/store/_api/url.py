"""URLs of stores: `sqlite:///runs.db`, `sqlite:////var/lib/runs.db`, `sqlite:///:memory:`, `postgresql://...`."""

from __future__ import annotations

import re
from contextlib import suppress
from os import PathLike, fspath
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import quote, unquote, urlsplit

from runstate.store._sql.connection import Database
from runstate.store.errors import StoreUrlError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["database_at"]

_FORMS: Final = "sqlite:///runs.db, sqlite:////absolute/path.db, sqlite:///:memory: or postgresql://user@host/database"
_MOST: Final = 2048
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]{0,30}", re.ASCII | re.IGNORECASE)
_FILE: Final = re.compile(r"[\w./~-]+\.(?:db|sqlite3?)")
_SECRET: Final = re.compile(r"(?:[^@/?#%\s]|%[0-9A-Fa-f]{2})*")


def database_at(url: str | PathLike[str], wait_s: float = 10.0) -> Database:
    """Return the database at a URL, or the SQLite file at a path. This does not connect. Raises `StoreUrlError`."""
    params = _url_of_path(url) if isinstance(url, PathLike) else cast("object", url)
    if not isinstance(params, str):
        got = "None" if params is None else f"a Python {type(params).__name__}"
        raise StoreUrlError(f"not the address of a store: expected {_FORMS}, as a string; got {got}")
    if not params or len(params) > _MOST or not params.isprintable():
        raise StoreUrlError(f"not the address of a store: expected {_FORMS}")
    params = _without_driver(params)
    scheme, colon, rest = params.partition(":")
    make = _DIALECTS.get(scheme)
    if not colon or make is None:
        raise StoreUrlError(f"{_told(params)}: expected {_FORMS}")
    if make is _postgres and not rest.startswith("//"):
        raise StoreUrlError(f"a PostgreSQL address has two slashes: expected {_FORMS}")
    if not _is_split(params):
        raise StoreUrlError(f"not the address of a store: expected {_FORMS}")
    return make(params, wait_s)


def _url_of_path(path: PathLike[str]) -> str:
    """Return the URL of an SQLite file."""
    return f"sqlite:///{quote(fspath(path))}"


def _without_driver(url: str) -> str:
    """Return a URL without the driver that SQLAlchemy's spelling names: this library has one for each database."""
    dialect, plus, rest = url.partition("+")
    driver, colon, _ = rest.partition(":")
    if plus and colon and driver in _DRIVERS.get(dialect, ()):
        return dialect + rest.removeprefix(driver)
    return url


def _told(params: str) -> str:
    """Return the message about a wrong address. It quotes only a scheme or a file name: the rest may be a password."""
    scheme, colon, _ = params.partition("://")
    if colon and _SCHEME.fullmatch(scheme):
        return f"{scheme!r} names no kind of store"
    return f"{params!r} is not an address" if _FILE.fullmatch(params) else "that is not an address"


def _is_split(url: str) -> bool:
    # The `ValueError` quotes the password, and would be the context of an error that is raised in its `except` block.
    with suppress(ValueError):
        urlsplit(url)
        return True
    return False


def _sqlite(url: str, wait_s: float) -> Database:
    from runstate.store._sqlite.connection import SqliteDatabase

    head, _, path = url.partition("///")
    if head != "sqlite:" or not path:
        raise StoreUrlError(f"an SQLite address has three slashes, four for an absolute path: expected {_FORMS}")
    if "?" in path or "#" in path:
        raise StoreUrlError("an SQLite address takes no options; a path with ? or # in it is written %3F or %23")
    try:
        name = unquote(path, errors="strict")
    except UnicodeDecodeError:
        name = "\0"
    if not name.isprintable():  # SQLite would open another file, whose name ends before a NUL
        raise StoreUrlError("an SQLite path is readable text: what %00 to %1F, %7F or no UTF-8 spell is none")
    return SqliteDatabase(name, wait_s)


def _postgres(url: str, wait_s: float) -> Database:
    from runstate.store._postgres.connection import PostgresDatabase  # psycopg is an extra

    # libpq quotes what it cannot read. It takes the text after a stray @ or / for the host, which may be the password.
    person, _, _ = url.partition("://")[2].rpartition("@")
    is_name = "/" in person and "?" not in person  # it would be shown, as in postgresql://host/me:secret@database
    if is_name or not _SECRET.fullmatch(person.partition(":")[2]):
        raise StoreUrlError("in a password @ is written %40, / is %2F, ? is %3F, # is %23, % is %25 and a space %20")
    return PostgresDatabase(url, wait_s)


_DRIVERS: Final = {
    "sqlite": ("pysqlite", "aiosqlite"),
    "postgresql": ("psycopg", "psycopg_async", "psycopg2", "psycopg2cffi", "asyncpg", "pg8000"),
}
"""The drivers that SQLAlchemy's URLs name."""
_DIALECTS: Final[dict[str, Callable[[str, float], Database]]] = {
    "sqlite": _sqlite,
    "postgresql": _postgres,
    "postgres": _postgres,
}
