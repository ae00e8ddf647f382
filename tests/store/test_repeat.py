"""An ended run is repeated: a new run like it, which names it; the ended one stays as it is."""

from __future__ import annotations

from typing import cast

import pytest

from runstate.errors import IdempotencyKeyReused, InvalidRun, RunIsLive, RunNotFound, ThreadBusy
from runstate.store import NewRun, Store, StoredRun
from tests.store.support import bring_in_store, names

_LIKE = ("thread_id", "assistant_id", "model", "instructions", "tools", "metadata", "temperature", "max_prompt_tokens")
ENDS = ("completed", "incomplete", "failed", "cancelled", "expired")

SETTINGS: NewRun = {
    **names(),
    "instructions": "be brief",
    "tools": [{"type": "file_search"}],
    "metadata": {"user": "ada"},
    "temperature": 0.5,
    "max_prompt_tokens": 900,
    "queue": "mail",
    "priority": 7,
}


def ended(store: Store, **given: object) -> StoredRun:
    """Return a run that failed."""
    run = store.create(**cast("NewRun", {**SETTINGS, **given}))
    return store.fail(run.id, "server_error", "boom")


def test_a_repeated_run_is_like_the_ended_one_and_begins_anew(store: Store) -> None:
    old = ended(store)
    new = store.repeat(old.id, actor="ada")
    assert {name: getattr(old, name) for name in (*_LIKE, "queue", "priority")} == {
        name: getattr(new, name) for name in (*_LIKE, "queue", "priority")
    }
    assert ("queued", 1, 0, old.id, "ada") == (new.status, new.version, new.attempt, new.repeats, new.actor)
    assert new.id != old.id
    assert new == store.get(new.id)
    assert old == store.get(old.id)
    assert [None, "fail"] == [entry.event for entry in store.history(old.id)]


@pytest.mark.parametrize("status", ENDS)
def test_every_ended_run_can_be_repeated(status: str, store: Store) -> None:
    old = bring_in_store(store, status)
    assert old.id == store.repeat(old.id).repeats


@pytest.mark.parametrize("status", ["queued", "in_progress", "requires_action", "cancelling"])
def test_a_live_run_cannot_be_repeated(status: str, store: Store) -> None:
    live = bring_in_store(store, status)
    with pytest.raises(RunIsLive, match=f"run {live.id} is {status}, and only an ended run can be repeated"):
        store.repeat(live.id)
    assert 1 == len(store.list().data)


def test_the_same_key_repeats_a_run_once(store: Store) -> None:
    old, other = ended(store), ended(store)
    first = store.repeat(old.id, idempotency_key="k1")
    assert first.id == store.repeat(old.id, idempotency_key="k1").id
    with pytest.raises(IdempotencyKeyReused, match="repeats"):
        store.repeat(other.id, idempotency_key="k1")
    assert 3 == len(store.list().data)


def test_what_is_given_counts_more_than_what_the_old_run_had(store: Store) -> None:
    old = ended(store)
    new = store.repeat(old.id, queue="other", priority=1, expires_in_s=60, id="run_again")
    assert ("run_again", "other", 1) == (new.id, new.queue, new.priority)
    assert new.expires_at == new.created_at + 60


def test_the_thread_of_the_old_run_has_one_live_run_still(store: Store) -> None:
    old = ended(store, one_live_run_per_thread="reject")
    store.repeat(old.id)
    with pytest.raises(ThreadBusy):
        store.repeat(old.id)


def test_a_repetition_can_be_repeated(store: Store) -> None:
    old = ended(store)
    second = store.repeat(old.id)
    store.fail(second.id, "server_error", "again")
    assert second.id == store.repeat(second.id).repeats


def test_an_unknown_run_and_wrong_arguments(store: Store) -> None:
    with pytest.raises(RunNotFound):
        store.repeat("run_unknown")
    old = ended(store)
    with pytest.raises(InvalidRun):
        store.repeat(old.id, expires_in_s=0)
    with pytest.raises(InvalidRun):
        store.repeat("")
    assert 1 == len(store.list().data)


def test_it_is_done_in_a_callers_transaction_too(store: Store, store_url: str) -> None:
    import sqlite3

    import psycopg

    old = ended(store)
    sqlite = store_url.startswith("sqlite")
    connection = sqlite3.connect(store_url.removeprefix("sqlite:///")) if sqlite else psycopg.connect(store_url)
    try:
        with store.within(connection) as inside:
            inside.repeat(old.id)
        connection.rollback()
        assert 1 == len(store.list().data)
        with store.within(connection) as inside:
            inside.repeat(old.id)
        connection.commit()
        assert 2 == len(store.list().data)
    finally:
        connection.close()
