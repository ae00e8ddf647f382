"""Somebody stands still in a transaction: who asks for other runs goes on, and nobody waits for ever."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, NoReturn

import pytest

from runstate.errors import OutcomeUnknown, StoreUnavailable
from runstate.store import Store, open_store
from runstate.store import committer as committing
from runstate.store.commands import Call
from tests.store.conftest import make_url
from tests.store.support import Prompt, names

LIMIT = 10.0


@pytest.fixture
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty store in PostgreSQL, where others may hold single rows."""
    yield from make_url("postgres", request)


def test_a_run_that_another_transaction_holds(url: str) -> None:
    """Its own asker is told so after `wait_s`; whoever asks for something else then goes on."""
    with open_store(url, wait_s=0.2) as store, Prompt(url) as other, ThreadPoolExecutor(2) as pool:
        store.create(**names(id="run_1"))
        other.run("BEGIN")
        other.run("SELECT 1 FROM runstate_run WHERE id = 'run_1' FOR UPDATE")
        try:
            held = pool.submit(store.start, "run_1")
            time.sleep(0.05)
            assert "queued" == pool.submit(store.create, **names(id="run_2")).result(LIMIT).status
            with pytest.raises(StoreUnavailable, match="another transaction has been writing for too long"):
                held.result(LIMIT)
        finally:
            other.run("ROLLBACK")
        assert "in_progress" == store.start("run_1").status


def leave_behind(store: Store, run_id: str) -> None:
    """Leave a run to be taken over: its worker is gone, and its lease over."""
    store.create(**names(id=run_id))
    lease = store.open_lease("dead", lease_s=0.05)
    assert store.claim_id(lease, run_id) is not None
    time.sleep(0.06)


def test_a_sweep_that_stands_still(url: str) -> None:
    """Others sweep past it, and the server ends it: what it had begun is another's then."""
    with open_store(url) as store:
        leave_behind(store, "run_1")
        frozen = store.database.open()
        assert [("3s",)] == frozen.run("SHOW idle_in_transaction_session_timeout", {})
        frozen.run("SET idle_in_transaction_session_timeout = '500ms'", {})
        transaction = ExitStack()
        transaction.enter_context(frozen.transaction())
        assert 1 == len(frozen.run(frozen.statements.close_lapsed, {}))
        leave_behind(store, "run_2")
        swept = store.sweep()
        assert (1, 1) == (swept.lapsed, swept.adrift)  # the second alone
        time.sleep(0.6)
        with pytest.raises(OutcomeUnknown):
            transaction.close()
        assert (1, 2) == (store.sweep().lapsed, len(store.take_over(store.open_lease("w1"), 9)))


def test_who_may_have_been_done_is_not_told_otherwise(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer was lost, and then the database went away: nobody is told that nothing was changed."""
    with open_store(url, wait_s=0.2) as store:
        lost = OutcomeUnknown("the answer was lost")
        calls = [Call[Any](lambda session: None) for _ in range(2)]
        monkeypatch.setattr(committing, "perform", _raise(StoreUnavailable("away")))
        store._committer._again(calls, lost)
        for call in calls:
            with pytest.raises(OutcomeUnknown, match="the answer was lost"):
                call.result()


def _raise(error: Exception) -> Any:
    def perform(*given: object) -> NoReturn:
        raise error

    return perform


def test_a_connection_that_breaks_while_it_is_made(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no other trouble than none at all."""
    with open_store(url) as store, Prompt(url) as other:
        monkeypatch.setattr("runstate.store.postgres._SETTINGS", "SELECT pg_terminate_backend(pg_backend_pid())")
        with pytest.raises(StoreUnavailable, match="cannot connect to"):
            store.database.open()
        monkeypatch.undo()
        store.database.open().close()
        assert [(1,)] == other.run("SELECT 1")
