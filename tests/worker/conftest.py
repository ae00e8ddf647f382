"""Stores for workers: those of the store's tests, judged in the same way when a test is over."""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from runstate.store import Store
from tests.store.conftest import (
    any_store,
    any_url,
    make_url,
    opened,
    postgres_broom,
    postgres_home,
    prompt,
    sqlite_template,
    store,
    store_url,
)
from tests.support.postgres import OwnServer, Server, postgres_server
from tests.worker.support import LIMIT

__all__ = [
    "any_store",
    "any_url",
    "postgres_broom",
    "postgres_home",
    "postgres_server",
    "prompt",
    "sqlite_template",
    "store",
    "store_url",
]


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    """Show where everything stands, and end, rather than hang: whatever is waited for here has a limit below this."""
    assert sys.__stderr__ is not None
    faulthandler.dump_traceback_later(4 * LIMIT, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def frequent_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have leases renewed a hundred times as often as they must be, so that a long lease needs no long wait."""
    monkeypatch.setattr("runstate.worker._heartbeat._BEATS", 300)


@pytest.fixture(scope="package")
def mortal_server() -> Iterator[OwnServer]:
    """A PostgreSQL that tests may kill, if they start it again."""
    server = Server.start_new(fast=True)
    if not isinstance(server, OwnServer):
        pytest.skip("needs a server of the tests' own")
    yield server
    server.stop()


@pytest.fixture
def both(request: pytest.FixtureRequest) -> Iterator[dict[str, tuple[str, Store]]]:
    """An empty store of each dialect at once, with its URL: for scenes that take long and can be played together."""
    with ExitStack() as undo:
        found: dict[str, tuple[str, Store]] = {}
        for dialect in ("sqlite", "postgres"):
            url = undo.enter_context(contextmanager(make_url)(dialect, request))
            found[dialect] = url, undo.enter_context(contextmanager(opened)(url))
        yield found
