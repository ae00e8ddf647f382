"""Opening a store: connect to its database, create or migrate its tables, and wait for a database that is away."""

from __future__ import annotations

from os import PathLike
from typing import Final

from runstate.run import validators
from runstate.run.values import raise_if_invalid
from runstate.store._api.store import Store
from runstate.store._api.url import database_at
from runstate.store._sql.connection import Database
from runstate.store._sql.identity import StoreIdentity
from runstate.store._sql.migrations import migrate as take_steps
from runstate.store._sql.migrations import require_latest
from runstate.store.availability import Availability
from runstate.store.errors import StoreUnavailable, StoreUrlError

__all__ = ["open_at", "open_store"]

_WAIT_S: Final = validators.number(0, 7 * 24 * 3600)  # databases have milliseconds in 32 bits, which is 24 days
_MIGRATE: Final = validators.optional(validators.boolean)


def open_store(
    url: str | PathLike[str],
    *,
    migrate: bool | None = None,
    wait_s: float = 10.0,
    listen_url: str | None = None,
) -> Store:
    """Open the store at `url`: `sqlite:///runs.db`, `sqlite:///:memory:` or `postgresql://user@host/database`.

    The spellings of SQLAlchemy are taken too, such as `postgresql+psycopg://` and `sqlite+aiosqlite://`: the driver is
    always psycopg or sqlite3. A `pathlib.Path` is the path of an SQLite file.

    Close the store after use, or use `with` or `async with`:

        with open_store("sqlite:///runs.db") as store:
            run = store.create(thread_id="thread_1", assistant_id="asst_1", model="gpt-4o")

    `migrate` creates or migrates the tables before use. By default this is done in SQLite, but not in PostgreSQL: pass
    `migrate=True` there, or run `runstate migrate`. `wait_s` is how many seconds (at most a week) to wait for a busy
    database; while the store is opened, also for one that is away, starting or full. `listen_url` is the server's own
    address, for notifications only, if `url` leads through a pooler.

    Raises `StoreUrlError` for a wrong address or password and for a missing database, `SchemaMismatch` for missing
    tables or those of another version, `StoreUnavailable` if the database is not available in time, and `InvalidRun` (a
    `ValueError`) for a wrong `wait_s` or `migrate`.
    """
    raise_if_invalid(_WAIT_S("wait_s", wait_s) + _MIGRATE("migrate", migrate))
    database = database_at(url, wait_s)
    try:
        return open_at(database, migrate=migrate, wait_s=wait_s, patience_s=wait_s, listen_url=listen_url)
    except BaseException:
        database.close()
        raise


def open_at(
    database: Database, *, migrate: bool | None, wait_s: float, patience_s: float, listen_url: str | None = None
) -> Store:
    """Open a store like `open_store`, but wait up to `patience_s` seconds for a database that is away."""
    listening = None if listen_url is None else _listening_at(listen_url, database, wait_s)
    availability = Availability()

    def look() -> StoreIdentity | None:
        if migrate or (migrate is None and database.embedded):
            take_steps(database)
        return None if migrate is not False and database.embedded else _found_in(database)

    place = availability.wait_for(look, patience_s)
    if listening is not None and place is not None:
        _require_same_database(listening, place)
    return Store(database, wait_s, listening, place, availability)


def _found_in(database: Database) -> StoreIdentity:
    """Return the identity of a store's tables. Raises `SchemaMismatch` unless they have this version."""
    session = database.open(reading=True)
    try:
        require_latest(session, database.display_url)
        return session.identity()
    finally:
        session.close()


def _require_same_database(listening: Database, place: StoreIdentity) -> None:
    """Raise `StoreUrlError` if `listening` is another database than that of the store."""
    try:
        session = listening.open(reading=True)
    except StoreUnavailable:
        return  # it may be available again when it is needed
    except StoreUrlError as error:
        raise StoreUrlError(f"listen_url: {error}") from None
    try:
        here = session.identity()
    finally:
        session.close()
    if here.database != place.database:
        raise StoreUrlError(f"listen_url leads to another database, {listening.display_url}, than that of the store")


def _listening_at(listen_url: str, database: Database, wait_s: float) -> Database:
    """Return the database of `listen_url`. Raises `StoreUrlError` if it cannot be that of the store."""
    try:
        listening = database_at(listen_url, wait_s)
    except StoreUrlError as error:
        raise StoreUrlError(f"listen_url: {error}") from None
    if database.embedded or listening.embedded:
        raise StoreUrlError("listen_url is for a store in PostgreSQL behind a pooler: the server's own address")
    database.private = (*database.private, *listening.private)  # no run may contain a part of either address
    return listening
