"""The implementation of the fixtures of the pytest plugin."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload
from urllib.parse import parse_qsl, quote, unquote, urlencode

from runstate.clock import ManualClock
from runstate.lifecycle import RunEvent, RunStatus
from runstate.store import Store, StoredRun, open_store
from runstate.store._api.url import database_at
from runstate.store.errors import StoreError
from runstate.testing.factories import TrackedRun, a_run

if TYPE_CHECKING:
    import pytest

__all__ = ["MakeRun", "temporary_store"]


class MakeRun:
    """Makes runs in any status, as `a_run` does, by the clock of the test."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock

    @overload
    def __call__(
        self,
        status: RunStatus | str | None = None,
        *,
        path: Iterable[RunEvent | str] | None = None,
        store: None = None,
        **settings: Any,
    ) -> TrackedRun: ...
    @overload
    def __call__(
        self,
        status: RunStatus | str | None = None,
        *,
        path: Iterable[RunEvent | str] | None = None,
        store: Store,
        **settings: Any,
    ) -> StoredRun: ...
    def __call__(
        self,
        status: RunStatus | str | None = None,
        *,
        path: Iterable[RunEvent | str] | None = None,
        store: Store | None = None,
        **settings: Any,
    ) -> TrackedRun | StoredRun:
        """Return a run in a status: in memory, or in a store. See `a_run`."""
        clock = self._clock
        if store is None:
            return a_run(status, path=path, clock=clock, store=None, **settings)
        return a_run(status, path=path, clock=clock, store=store, **settings)


@contextmanager
def temporary_store(url: str, request: pytest.FixtureRequest) -> Generator[Store, None, None]:
    """Open an empty store for one test, of the kind that the URL names, and remove it afterwards.

    Of the path of an SQLite file only the name is used: the file is created in the temporary directory of the test. In
    PostgreSQL the store is in a schema of its own, which is dropped afterwards.
    """
    if database_at(url).embedded:  # this raises for a wrong address
        name = unquote(url.rpartition("/")[2])
        directory = cast("Path", request.getfixturevalue("tmp_path")) if name != ":memory:" else None
        with open_store(url if directory is None else f"sqlite:///{quote(str(directory / name))}") as store:
            yield store
        return
    with _schema(url) as inside, open_store(inside, migrate=True) as store:
        yield store


@contextmanager
def _schema(url: str) -> Generator[str, None, None]:
    """Create a schema; yield a URL whose connections use it; drop the schema."""
    import psycopg
    from psycopg.sql import SQL, Identifier

    name = f"runstate_test_{secrets.token_hex(6)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SQL("CREATE SCHEMA {}").format(Identifier(name)))
        try:
            inside = _with_search_path(url, name)
            _require_search_path(inside, name)
            yield inside
        finally:
            with connection.transaction():  # the setting applies to it alone
                connection.execute("SET LOCAL client_min_messages = warning")
                connection.execute(SQL("DROP SCHEMA {} CASCADE").format(Identifier(name)))


def _require_search_path(url: str, schema: str) -> None:
    """Raise `StoreError` if connections do not use the schema of the URL: a test would write elsewhere."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute("SELECT current_schema()").fetchone()
    if found != (schema,):
        raise StoreError("a pooler drops the `options` of the address: give the tests the server's own")


def _with_search_path(url: str, schema: str) -> str:
    """Return a URL whose connections use a schema."""
    head, _, query = url.partition("?")
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    parameters["options"] = f"{parameters.get('options', '')} -csearch_path={schema}".strip()
    return f"{head}?{urlencode(parameters, quote_via=quote)}"
