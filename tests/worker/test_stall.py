"""A worker whose event loop stands still: for a moment it keeps its runs, after the stall timeout others get them."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from runstate.store import Store
from runstate.worker import Context, Worker, drive_async
from tests.worker.process import WorkerProcess
from tests.worker.support import LIMIT, at_work, ended, events, last, limited, new, until

pytestmark = pytest.mark.slow  # waits for whole leases

STALLS: dict[str, dict[str, Any]] = {
    "sqlite": {"lease_s": 0.5},  # and four leases without a turn
    "postgres": {"lease_s": 1.0, "stall_timeout_s": 1.5},
}


async def taken_over(url: str, store: Store, folder: Path, options: dict[str, Any]) -> None:
    """One handler blocks the loop: its run and its neighbour's go on elsewhere, and here they are refused."""
    runs = [store.create(**new(metadata=metadata)).id for metadata in ({}, {"blocks": "yes"})]
    calls: list[tuple[str, int]] = []

    async def go_on(ctx: Context) -> None:
        calls.append((ctx.run_id, ctx.attempt))

    with WorkerProcess(url, folder, "block_or_wait", name="A", **options) as process:
        await process.journaled("begin", 2)
        async with at_work(store, go_on, name="B"):
            for run_id in runs:
                assert "completed" == (await ended(store, run_id)).status
            before = [store.history(run_id) for run_id in runs]
            process.open_gate()
            refused = await process.journaled("refused", 1)
            assert {line["run"] for line in refused} <= set(runs)
            assert [] == process.journal("kept"), "nothing that the stalled worker writes is taken"
        later = store.create(**new()).id  # the loop moves, so it takes a new lease, and works
        assert "completed" == (await ended(store, later)).status
        assert "A" == last(store, later).actor
        told = process.told()
    assert before == [store.history(run_id) for run_id in runs]
    assert sorted((run_id, 2) for run_id in runs) == sorted(calls)
    for run_id in runs:
        assert [None, "start", "complete"] == events(store, run_id)
        assert ["A", "B"] == [entry.actor for entry in store.history(run_id)][1:]
    assert f"by {runs[1]}; the lease is not renewed" in told, "it says whose handler it is"


@limited
async def test_a_loop_that_stands_still(both: dict[str, tuple[str, Store]], tmp_path: Path) -> None:
    """Of both databases, with the timeout that is given and with the one that follows from the lease."""
    async with asyncio.TaskGroup() as scenes:
        for dialect, (url, store) in both.items():
            scenes.create_task(taken_over(url, store, tmp_path / dialect, STALLS[dialect]), name=dialect)


@limited
async def test_a_loop_that_moves_in_time(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Blocked for two leases, and less than the timeout, a worker keeps its run and is only told of."""
    caplog.set_level(logging.WARNING, "runstate.worker")

    async def block(ctx: Context) -> None:
        time.sleep(4.0)

    worker = Worker(store, block, lease_s=2.0, stall_timeout_s=LIMIT, name="A")
    working = threading.Thread(target=worker.run, kwargs={"until_idle": True}, daemon=True)
    run = store.create(**new())
    working.start()
    await until(lambda: store.get(run.id).status == "in_progress", "its start")
    async with at_work(store, lambda ctx: None, name="B"):
        assert "completed" == (await ended(store, run.id)).status
    await asyncio.to_thread(working.join, LIMIT)
    assert (1, "A") == (store.get(run.id).attempt, last(store, run.id).actor)
    assert "has not moved" not in caplog.text


@limited
async def test_a_driver_that_stands_still(store: Store) -> None:
    """So it is with a run that is driven by its id: another takes it over, and what comes of it here is refused."""
    run = store.create(**new())
    attempts: list[int] = []

    async def block(ctx: Context) -> None:
        attempts.append(ctx.attempt)
        if ctx.attempt == 1:
            begun.set()
            assert go_on.wait(LIMIT)
        assert ctx.attempt in (1, 2)

    begun, go_on = threading.Event(), threading.Event()
    options: dict[str, Any] = {"lease_s": 0.4, "stall_timeout_s": 0.4}
    driving = threading.Thread(
        target=lambda: asyncio.run(drive_async(store, run.id, block, name="A", **options)), daemon=True
    )
    driving.start()
    await until(begun.is_set, "its handler")
    try:
        async with asyncio.timeout(LIMIT):
            while await drive_async(store, run.id, block, name="B", lease_s=LIMIT) is None:
                await asyncio.sleep(0.05)
        assert ("completed", "B") == (store.get(run.id).status, last(store, run.id).actor)
    finally:
        go_on.set()
    await asyncio.to_thread(driving.join, LIMIT)
    assert [1, 2] == attempts
    assert [None, "start", "complete"] == events(store, run.id)


@limited
async def test_the_end_of_a_worker_is_no_stall(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """While a worker waits for the last handlers its loop moves, and its lease holds: what they keep is kept."""
    caplog.set_level(logging.WARNING, "runstate.worker")
    begun = asyncio.Event()

    async def answer(ctx: Context) -> None:
        if ctx.checkpoint_value == "kept":
            return
        try:
            begun.set()
            await asyncio.sleep(LIMIT)
        finally:
            await asyncio.sleep(0.6)
            await ctx.checkpoint("kept")

    run = store.create(**new())
    async with Worker(store, answer, drain_s=0.0, lease_s=0.3, stall_timeout_s=0.3):
        await begun.wait()
    async with at_work(store, answer):
        assert "completed" == (await ended(store, run.id)).status
    assert "has not moved" not in caplog.text
