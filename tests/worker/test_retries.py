"""Runs that wait to be called again after an outage: their tokens count, and a cancel reaches them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from runstate.errors import StoreUnavailable
from runstate.run.values import Usage
from runstate.store import Checkpoint, Store
from runstate.worker import Context, drive
from runstate.worker._last_attempts import Reservation
from tests.worker.support import KINDS, at_work, ended, events, finish, left_behind, limited, new, of_kind, until

AWAY = StoreUnavailable("another store is away")


def total(store: Store, run_id: str) -> tuple[int, int]:
    """Return the tokens that stand in the record of a run."""
    usage = store.get(run_id).usage
    assert usage is not None
    return usage.prompt_tokens, usage.completion_tokens


# --- tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_kept", [True, False], ids=["noted", "in memory alone"])
def test_tokens_of_a_call_that_met_an_outage_count(
    is_kept: bool, kind: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are spent: the next call counts on from them, also where the store did not take the note of them."""
    if not is_kept:
        monkeypatch.setattr(store, "post_checkpoint", lambda *_, **given: None)
    before: list[Usage] = []
    run = store.create(**new(max_completion_tokens=120))

    def answer(ctx: Context) -> None:
        before.append(ctx.usage)
        ctx.add_usage(100, 50)
        raise AWAY

    finish(store, of_kind(kind, answer))
    assert [Usage(0, 0), Usage(100, 50), Usage(200, 100)] == before
    assert "incomplete" == store.get(run.id).status
    assert (300, 150) == total(store, run.id)


def test_tokens_of_a_run_that_is_taken_over_count(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was noted before counts as well, and its checkpoint stays."""
    monkeypatch.setattr(store, "post_checkpoint", lambda *_, **given: None)
    run = store.create(**new())
    left_behind(store, checkpoint=Checkpoint("page 3"), usage=Usage(10, 20))
    before: list[tuple[Any, Usage]] = []

    def answer(ctx: Context) -> None:
        before.append((ctx.checkpoint_value, ctx.usage))
        ctx.add_usage(1, 2)
        if len(before) < 2:
            raise AWAY

    finish(store, answer)
    assert [("page 3", Usage(10, 20)), ("page 3", Usage(11, 22))] == before
    assert (12, 24) == total(store, run.id)


def test_tokens_of_a_delivery_that_met_an_outage_count(store: Store) -> None:
    """They are noted before the run is given back: the next delivery counts on, and ends at the limit."""
    run = store.create(**new(max_completion_tokens=120))

    def answer(ctx: Context) -> None:
        ctx.add_usage(100, 50)
        raise AWAY

    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            drive(store, run.id, answer)
    driven = drive(store, run.id, answer)
    assert driven is not None
    assert "incomplete" == driven.status
    assert (300, 150) == total(store, run.id)


@limited
async def test_tokens_of_a_handler_that_is_stopped_count(store: Store) -> None:
    """A worker that gives a run back notes them before."""
    run, begun = store.create(**new()), asyncio.Event()

    async def answer(ctx: Context) -> None:
        ctx.add_usage(3, 4)
        begun.set()
        await asyncio.sleep(30)

    async with at_work(store, answer, drain_s=0.0):
        await begun.wait()
    async with at_work(store, lambda ctx: ctx.add_usage(1, 1), name="w2"):
        await ended(store, run.id)
    assert (4, 5) == total(store, run.id)


# --- cancels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["notified", "heartbeat"])
@limited
async def test_a_run_that_waits_is_cancelled_at_once(way: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not wait for its next try: the handler is not called again, and its tokens are in the record."""
    monkeypatch.setattr("runstate.worker._retries._FIRST_S", 3600.0)
    monkeypatch.setattr("runstate.worker._retries._MOST_S", 3600.0)
    run, calls = store.create(**new()), list[str]()

    async def answer(ctx: Context) -> None:
        calls.append(ctx.run_id)
        ctx.add_usage(3, 4)
        raise AWAY

    async with at_work(store, answer, lease_s=0.6) as worker:
        if way == "heartbeat":
            monkeypatch.setattr(worker, "_apply_change", lambda hint: None)
        await until(lambda: len(worker._session.retries) == 1, "the run to wait")
        await store.aio.request_cancel(run.id)
        assert "cancelled" == (await ended(store, run.id)).status
        assert 0 == len(worker._session.retries) == len(worker._session.retries.known)
    assert [run.id] == calls
    assert [None, "start", "request_cancel", "confirm_cancel"] == events(store, run.id)
    assert (3, 4) == total(store, run.id)


# --- what is kept of a run --------------------------------------------------------------------------------------------


@pytest.mark.slow
@limited
async def test_nothing_is_kept_of_runs_that_are_over(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """However they end: by their handler, a deadline while they wait or while they are called, or a cancel."""
    again = dict[str, int]()

    async def answer(ctx: Context) -> None:
        again[ctx.run_id] = again.get(ctx.run_id, 0) + 1
        if again[ctx.run_id] == 1 or ctx.run.metadata["then"] == "waits":
            raise AWAY
        if ctx.run.metadata["then"] == "stays":
            await asyncio.sleep(30)

    async with at_work(store, answer, lease_s=0.6) as worker:
        runs = {
            then: (await store.aio.create(**new(metadata={"then": then}, **given))).id
            for then, given in {"returns": {}, "waits": {"expires_in_s": 1}, "stays": {"expires_in_s": 1}}.items()
        }
        cancelled = (await store.aio.create(**new(metadata={"then": "stays"}))).id
        await until(lambda: again.get(cancelled) == 2, "the second call")
        await store.aio.request_cancel(cancelled)
        for run_id in (*runs.values(), cancelled):
            await ended(store, run_id)
        await until(lambda: not worker._session.retries.known, "all to be forgotten")
        assert 0 == len(worker._session.retries)


# --- the place of a last attempt --------------------------------------------------------------------------------------


def test_the_place_of_a_last_attempt_is_never_free(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the moment that it is held for a run: another worker of the process asks at any time."""
    held: list[bool] = []
    hold_while = Reservation.hold_while

    def and_look(self: Reservation, is_at_work: Any) -> None:
        hold_while(self, is_at_work)
        held.append(self.is_held)

    monkeypatch.setattr(Reservation, "hold_while", and_look)
    run = store.create(**new())
    left_behind(store)
    finish(store, lambda ctx: None, max_attempts=2)
    assert "completed" == store.get(run.id).status
    assert [True] == held
