"""Claiming: how many at once, in which order, and how soon."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from runstate.store import Lease, Store, open_store
from runstate.worker import Context, Worker
from runstate.worker._session import WorkerSession
from runstate.worker._sweeper import Sweeper
from tests.worker.process import ROOT
from tests.worker.support import (
    KINDS,
    LIMIT,
    Bench,
    at_work,
    ended,
    events,
    finish,
    left_behind,
    limited,
    new,
    of_kind,
    until,
)


@pytest.fixture
def never_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have idle workers look for runs so seldom that only a hint tells them of one."""
    monkeypatch.setattr("runstate.worker._main_loop._IDLE_S", (3600.0,))


@pytest.fixture
def sweeps(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each look of a worker for what is due found something to sweep, as soon as it has swept it."""
    found: list[bool] = []
    sweep = Sweeper.sweep

    async def counted(sweeper: Sweeper, *, anyway: bool = False) -> bool:
        found.append(await sweep(sweeper, anyway=anyway))
        return found[-1]

    monkeypatch.setattr(Sweeper, "sweep", counted)
    return found


# --- how many ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@limited
async def test_as_many_at_once_as_there_are_slots(kind: str, store: Store) -> None:
    """Never more handlers than slots, and no slot stays empty while there are runs."""
    bench = Bench()
    runs = [run.id for run in store.create_many([new() for _ in range(20)])]
    async with at_work(store, bench.of(kind), concurrency=4) as worker:
        await until(lambda: len(bench.begun) == 4, "the first four")
        assert (4, 4) == (len(bench.begun), store.counts()["in_progress"])  # type: ignore[index]
        assert "4 of 4" in repr(worker)
        bench.gate.set()
        for run_id in runs:
            assert "completed" == (await ended(store, run_id)).status
    assert 4 == bench.most_at_once
    assert sorted(runs) == sorted(bench.begun)


@limited
async def test_two_workers_share(store: Store) -> None:
    """Two workers drive each run once between them."""
    bench = Bench()
    bench.gate.set()
    runs = [run.id for run in store.create_many([new() for _ in range(60)])]
    async with at_work(store, bench.wait, concurrency=5), at_work(store, bench.wait, concurrency=5, name="w2"):
        for run_id in runs:
            await ended(store, run_id)
    assert sorted(runs) == sorted(bench.begun)
    assert all([None, "start", "complete"] == events(store, run_id) for run_id in runs)


@limited
async def test_a_take_over_needs_a_slot(store: Store, sweeps: list[bool]) -> None:
    """Runs that others left are begun as slots become free, and not beyond."""
    runs = store.create_many([new() for _ in range(6)])
    lease = store.open_lease("w0")
    assert 6 == len(store.claim(lease, 10))
    store.close_lease(lease)
    more = store.create_many([new() for _ in range(6)])
    bench = Bench()
    async with at_work(store, bench.wait, concurrency=3):
        await until(lambda: len(bench.begun) == 3, "three handlers")
        seen = len(sweeps)
        await until(lambda: len(sweeps) > seen + 1, "a sweep that began since")
        assert 3 == len(bench.begun)
        bench.gate.set()
        for run in (*runs, *more):
            assert "completed" == (await ended(store, run.id)).status
    assert 3 == bench.most_at_once
    assert {2} == {store.get(run.id).attempt for run in runs}


# --- in which order ---------------------------------------------------------------------------------------------------


def test_by_priority_then_age(store: Store) -> None:
    """Higher priorities first, and among equals the oldest."""
    priorities = [0, 5, -3, 5, 0, 2**31 - 1, -(2**31)]
    runs = [store.create(**new(priority=priority)).id for priority in priorities]
    begun: list[str] = []
    finish(store, lambda ctx: begun.append(ctx.run_id), concurrency=1)
    assert [runs[place] for place in (5, 1, 3, 0, 4, 2, 6)] == begun


def test_by_queue(store: Store) -> None:
    """The first queue before the second, whatever the priorities; queues that are not served are left alone."""
    queues = ["a", "b", "a", "b", "c"]
    runs = [store.create(**new(queue=queue, priority=place)).id for place, queue in enumerate(queues)]
    begun: list[str] = []
    finish(store, lambda ctx: begun.append(ctx.run_id), concurrency=1, queues=("b", "a"))
    assert [runs[place] for place in (3, 1, 2, 0)] == begun
    assert "queued" == store.get(runs[4]).status


def test_several_queues_fill_the_slots(store: Store) -> None:
    """What the first queue does not fill is filled from the next, in the same turn."""
    for queue in ("a", "b", "b"):
        store.create(**new(queue=queue))
    bench = Bench()
    bench.gate.set()
    assert 3 == finish(store, bench.wait, concurrency=3, queues=("a", "b")).settled
    assert 3 == len(bench.begun)


# --- how soon ---------------------------------------------------------------------------------------------------------


async def soon(bench: Bench, ask: Callable[[], Awaitable[object]]) -> None:
    """See that what is asked makes a handler begin, where only a hint does."""
    count = len(bench.begun)
    await ask()
    await until(lambda: len(bench.begun) > count, "a handler")


@limited
async def test_a_run_that_was_just_created(store: Store, store_url: str, never_looks: None) -> None:
    """Whoever creates it, this store, another or another process, its handler begins without a look by chance."""
    bench = Bench()
    bench.gate.set()

    async def by_another_process() -> None:
        names = "thread_id='t', assistant_id='a', model='m'"
        code = f"from runstate.store import open_store\nwith open_store({store_url!r}) as s: s.create({names})"
        await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], check=True, cwd=ROOT, timeout=LIMIT)

    with open_store(store_url) as other:
        async with at_work(store, bench.wait):
            await soon(bench, lambda: store.aio.create(**new()))
            await soon(bench, lambda: asyncio.to_thread(store.create, **new()))
            await soon(bench, lambda: asyncio.to_thread(other.create, **new()))
            await soon(bench, lambda: other.aio.create_many([new(), new()]))
            await soon(bench, by_another_process)


@limited
async def test_a_run_that_goes_on(store: Store, store_url: str, never_looks: None) -> None:
    """So it is with tool outputs, with a run whose time has come, and with one that was given back."""
    bench = Bench()

    async def answer(ctx: Context) -> object:
        bench.begun.append(ctx.run_id)
        return None if ctx.tool_outputs or ctx.run.queue == "b" else ctx.require_action([ctx.tool_call("weather")])

    run = store.create(**new())
    with open_store(store_url) as other:
        async with at_work(store, answer, queues=("default", "b")):  # type: ignore[arg-type]
            await until(lambda: store.get(run.id).status == "requires_action", "its calls")
            action = store.get(run.id).required_action
            assert action is not None
            outputs = dict.fromkeys(action.call_ids, "x")
            await soon(bench, lambda: other.aio.submit_tool_outputs(run.id, outputs))
            await store.aio.create(**new(queue="b", not_before=time.time() + 0.3))
            await until(lambda: len(bench.begun) == 3, "its time")


@limited
async def test_a_thread_that_has_become_free(store: Store) -> None:
    """Of a thread with one live run at a time the next begins when the one before has ended, in order."""
    bench = Bench()
    runs = [store.create(**new(one_live_run_per_thread="queue")).id for _ in range(3)]
    other = store.create(**new(one_live_run_per_thread="queue", thread_id="thread_2")).id
    order: list[tuple[str, str]] = []

    async def answer(ctx: Context) -> None:
        order.append(("begin", ctx.run_id))
        await bench.wait(ctx)
        order.append(("end", ctx.run_id))

    async with at_work(store, answer):
        await until(lambda: len(bench.begun) == 2, "a run of each thread")
        assert {runs[0], other} == set(bench.begun)
        bench.gate.set()
        for run_id in (*runs, other):
            assert "completed" == (await ended(store, run_id)).status
    assert [(what, run_id) for run_id in runs for what in ("begin", "end")] == [
        entry for entry in order if entry[1] != other
    ]


def test_nothing_is_begun_before_its_time(store: Store) -> None:
    """A run for later waits, and does not keep a worker that works until it is idle."""
    run = store.create(**new(not_before=time.time() + 300))
    finish(store, lambda ctx: None)
    assert "queued" == store.get(run.id).status


def test_idle_until_everything_is_done(store: Store) -> None:
    """Until there is nothing to do: also what handlers create meanwhile, and what others left."""
    store.create(**new())
    left_behind(store)

    def answer(ctx: Context) -> None:
        if store.counts()["completed"] < 5:  # type: ignore[index]
            store.create(**new())

    worker = finish(store, answer)
    assert {"completed"} == {status for status, count in store.counts().items() if count}
    assert worker.settled >= 6


def test_many_workers_in_threads(store: Store) -> None:
    """Workers in threads of one process share a store, and a run is never driven by two."""
    runs = [run.id for run in store.create_many([new() for _ in range(60)])]
    begun: list[str] = []
    workers = [Worker(store, lambda ctx: begun.append(ctx.run_id), name=f"w{n}", concurrency=3) for n in range(4)]
    threads = [threading.Thread(target=worker.run, kwargs={"until_idle": True}, daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()
    assert sorted(runs) == sorted(begun)
    assert 60 == sum(worker.settled for worker in workers)


def test_what_was_left_goes_first(store: Store, sweeps: list[bool]) -> None:
    """A worker with few slots takes over all that a dead one had, before it goes on with a long queue."""
    left = [run.id for run in store.create_many([new() for _ in range(40)])]
    dead = store.open_lease("dead")
    assert 40 == len(store.claim(dead, 40))
    store.close_lease(dead)
    store.create_many([new() for _ in range(1000)])
    begun: list[str] = []

    async def handler(ctx: Context) -> None:
        begun.append(ctx.run_id)
        if ctx.attempt == 1:
            await until(lambda: True in sweeps, "the sweep that finds them")

    finish(store, handler, concurrency=4)
    assert 1040 == len(begun)
    assert max(map(begun.index, left)) < 4 + 40


@limited
async def test_a_run_that_it_holds_and_does_not_know_of(store: Store, frequent_heartbeats: None) -> None:
    """Should a worker ever hold a run that it has not begun, its next heartbeat tells, and it begins."""
    run = store.create(**new(queue="not served"))
    async with at_work(store, lambda ctx: None) as worker:
        assert store.claim_id(worker._session.lease, run.id)
        assert "completed" == (await ended(store, run.id)).status
    assert [None, "start", "complete"] == events(store, run.id)


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("moment", ["its answer is read", "its handler is called"])
@limited
async def test_a_claim_from_before_a_standstill(
    moment: str, kind: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease may have ended by then: no handler is called, another attempt begins each run."""
    place = "start_all" if moment == "its answer is read" else {"plain": "_call", "async": "_is_held"}[kind]
    goes_on: Callable[[WorkerSession, Any], object] = getattr(WorkerSession, place)
    attempts: list[int] = []
    stood: list[Lease] = []

    def late(session: WorkerSession, given: Any) -> object:
        if not stood and getattr(given, "claimed", True):
            session.worker_lease._heartbeat._held_until = (
                0.0  # as if this process had stood still for longer than its lease
            )
            stood.append(session.lease)
        return goes_on(session, given)

    monkeypatch.setattr(WorkerSession, place, late)
    async with at_work(store, of_kind(kind, lambda ctx: attempts.append(ctx.attempt))) as worker:
        runs = await store.aio.create_many([new(), new(), new()])
        await until(lambda: bool(stood) and worker._session.lease != stood[0], "the lease after it")
        store.close_lease(stood[0])
        for run in runs:
            assert "completed" == (await ended(store, run.id)).status
    assert [2, 2, 2] == attempts
