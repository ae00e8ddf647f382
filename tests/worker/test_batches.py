"""Two requests of a worker with many slots: one is under way while the handlers of the other's runs are called."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random

import pytest

from runstate.lifecycle import RunEvent
from runstate.store import Settle, Store, open_store
from runstate.worker import Context, Worker
from runstate.worker._batches import Batches, _latest_claims
from tests.store.support import Prompt
from tests.support.pg_proxy import Loss, Proxy
from tests.worker.support import at_work, ended, events, finish, limited, new

SLOTS = 60
RUNS = 400


@pytest.fixture
def in_flight(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many requests were under way, each time another one began; itself included."""
    counts: list[int] = []
    begin = Batches.begin

    def counted(batches: Batches, free: int = 0) -> object:
        batch = begin(batches, free)
        counts.append(len(batches))
        return batch

    monkeypatch.setattr(Batches, "begin", counted)
    return counts


@pytest.mark.parametrize(("slots", "most"), [(SLOTS, 2), (10, 1), (1, 1)])
def test_how_many_are_under_way(store: Store, in_flight: list[int], slots: int, most: int) -> None:
    """Two for many slots. For few slots one: much of a commit's cost is independent of its size."""
    store.create_many([new() for _ in range(RUNS)])
    beside: list[int] = []

    async def answer(ctx: Context) -> None:
        beside.append(len(worker._session.batches))

    worker = Worker(store, answer, concurrency=slots)
    worker.run(until_idle=True)
    assert (most, RUNS, RUNS) == (max(in_flight), worker.settled, len(beside))
    assert (max(beside) == 2) == (most == 2), "handlers are called while the other request is under way"
    assert RUNS == store.counts()["completed"]  # type: ignore[index]


@limited
async def test_no_more_handlers_than_slots(store: Store, in_flight: list[int]) -> None:
    """Runs that a request under way may claim have their slots already."""
    at_once: list[int] = []
    calls: Counter[str] = Counter()
    working: set[str] = set()

    async def answer(ctx: Context) -> None:
        working.add(ctx.run_id)
        calls[ctx.run_id] += 1
        at_once.append(len(working))
        await asyncio.sleep(0.002)
        working.discard(ctx.run_id)

    runs = await store.aio.create_many([new() for _ in range(RUNS)])
    async with at_work(store, answer, concurrency=SLOTS):
        for run in runs:
            assert "completed" == (await ended(store, run.id)).status
    assert max(at_once) <= SLOTS
    assert 2 == max(in_flight)
    assert calls == Counter(run.id for run in runs)


@pytest.mark.parametrize("store_url", ["postgres"], indirect=True)
@pytest.mark.parametrize("seed", range(4))
def test_lost_replies(store: Store, store_url: str, prompt: Prompt, in_flight: list[int], seed: int) -> None:
    """Whatever is lost while two are under way, each handler is called once, and each outcome is committed once."""
    chance = Random(seed)
    runs = [run.id for run in store.create_many([new() for _ in range(RUNS)])]
    calls: Counter[str] = Counter()

    def loses(which: Loss, asked: bytes) -> bool:
        return b"settled AS" in asked and chance.random() < 0.1

    async def answer(ctx: Context) -> None:
        calls[ctx.run_id] += 1

    with Proxy(store_url) as proxy, open_store(proxy.url, wait_s=5.0) as lossy:
        proxy.loses = loses
        worker = finish(lossy, answer, concurrency=SLOTS)
        assert proxy.lost
    assert (RUNS, 2) == (worker.settled, max(in_flight))
    assert calls == Counter(runs)
    assert all([None, "start", "complete"] == events(store, run_id) for run_id in runs)
    assert [] == prompt.run("SELECT id FROM runstate_run WHERE worker IS NOT NULL")


@limited
async def test_a_take_over_waits_for_the_requests_under_way(store: Store) -> None:
    """A request that reconciles would return the runs that are taken over meanwhile: both would begin them."""
    left = [await store.aio.create(**new()) for _ in range(3)]
    dead = store.open_lease("dead")
    assert len(store.claim(dead, 3)) == 3
    calls: Counter[str] = Counter()

    async def answer(ctx: Context) -> None:
        calls[ctx.run_id] += 1
        await asyncio.sleep(0.3)

    async with at_work(store, answer, concurrency=SLOTS) as worker:
        store.close_lease(dead)
        session = worker._session
        session.batches.reconcile_needed = session.batches.has_backlog = session.orphans_waiting = True
        session.wake.set()
        for run in left:
            assert "completed" == (await ended(store, run.id)).status
    assert calls == Counter(run.id for run in left)


def test_of_two_outcomes_of_a_run_the_one_of_its_latest_claim_is_sent(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker may claim a run again while the outcome of its own earlier claim waits for a request."""
    store.create(**new())
    lease = store.open_lease()
    (first,) = store.claim(lease)
    assert store.release(lease, first.run)
    (again,) = store.take_over(lease, 1)
    earlier, later = Settle(first.run, RunEvent.COMPLETE), Settle(again.run, RunEvent.COMPLETE)
    for settles in ([earlier, later], [later, earlier]):
        caplog.clear()
        assert [later] == _latest_claims(settles)
        assert ["the run was claimed again since"] == [record.message.split(": ")[1] for record in caplog.records]
    caplog.clear()
    assert [later] == _latest_claims([later])
    assert [] == caplog.records
