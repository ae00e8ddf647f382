"""Deadlines: a run expires in its time, wherever it stands and whatever its handler does.

A deadline is a whole second, and waiting for one takes long. So all these scenes are played at once, in one store.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from runstate import ManualClock, Usage
from runstate.store import Store, StoredRun
from runstate.worker import Context, Outcome, drive_async
from tests.worker.support import LIMIT, Bench, at_work, ended, events, finish, last, limited, new

SOON = 4  # seconds of life, the first of them cut: enough to begin in, also on a busy machine


async def expired(store: Store, run: StoredRun) -> StoredRun:
    """Return a run when it has expired, and not before its deadline."""
    run = await ended(store, run.id)
    assert "expired" == run.status
    born, *_, end = store.history(run.id)
    assert born.at_us // 1_000_000 + SOON <= end.at_us // 1_000_000
    return run


async def at_work_on_it(store: Store, queue: str) -> None:
    """The handler of a run whose deadline comes is stopped, and the run has expired."""
    bench = Bench()
    run = store.create(**new(expires_in_s=SOON, queue=queue))
    async with at_work(store, bench.wait, queues=(queue,)):
        await expired(store, run)
        assert [run.id] == [run_id for run_id, _ in bench.cancelled]
    assert [None, "start", "expire"] == events(store, run.id)


async def usage_is_known(store: Store, queue: str) -> None:
    """What it had used stands in the record: its worker expires it, or what it noted is known to who does."""

    async def answer(ctx: Context) -> None:
        ctx.add_usage(3, 4)
        await ctx.checkpoint(None)
        assert ctx.seconds_left <= SOON
        await asyncio.sleep(LIMIT)

    run = store.create(**new(expires_in_s=SOON, queue=queue))
    async with at_work(store, answer, queues=(queue,)):
        run = await expired(store, run)
    assert 7 == run.to_dict()["usage"]["total_tokens"]


async def plain_and_deaf(store: Store, queue: str) -> None:
    """What a plain handler returns later is dropped; it holds its slot until then, and the next run waits for that."""
    bench = Bench()
    run = store.create(**new(expires_in_s=SOON, queue=queue))
    behind = store.create(**new(queue=queue))
    async with at_work(store, bench.stand, concurrency=1, queues=(queue,)):
        await expired(store, run)
        assert "queued" == (await store.aio.get(behind.id)).status, "its thread is not free yet"
        bench.gate.set()
        assert "completed" == (await ended(store, behind.id)).status
    assert [None, "start", "expire"] == events(store, run.id)
    assert (1, [run.id, behind.id]) == (bench.most_at_once, bench.ended)


async def plain_and_asking(store: Store, queue: str) -> None:
    """A plain handler learns of its deadline as it learns of a cancel."""
    seen: list[float] = []

    def answer(ctx: Context) -> None:
        end = time.monotonic() + LIMIT
        while not ctx.cancelling:
            assert time.monotonic() < end
            time.sleep(0.01)
        seen.append(time.time())

    run = store.create(**new(expires_in_s=SOON, queue=queue))
    async with at_work(store, answer, queues=(queue,)):
        await expired(store, run)
    assert 1 == len(seen)
    # By the store's clock: what the worker has left is reckoned from when it heard of its claim, a moment later.
    assert run.expires_at is not None
    assert run.expires_at <= seen[0]


async def tools(ctx: Context) -> Outcome:
    return ctx.require_action([ctx.tool_call("weather")])


async def where_nobody_works(store: Store, queue: str) -> None:
    """Runs that wait for a worker, for their tools or for their time expire by the sweep of any worker."""
    queued = store.create(**new(queue=f"{queue} elsewhere", expires_in_s=SOON))
    later = store.create(**new(expires_in_s=SOON, queue=f"{queue} elsewhere", not_before=time.time() + 0.5))
    waiting = store.create(**new(expires_in_s=SOON, queue=queue))
    async with at_work(store, tools, queues=(queue,)):
        for run in (queued, waiting, later):
            run = await expired(store, run)
            assert ("expire", "sweep") == (last(store, run.id).event, last(store, run.id).actor)
    assert [None, "start", "require_action", "expire"] == events(store, waiting.id)


async def while_cancelling(store: Store, queue: str) -> None:
    """A handler that does not let itself be cancelled keeps its run no longer than to the deadline."""

    async def deaf(ctx: Context) -> None:
        while ctx.seconds_left > -0.5:
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                continue

    run = store.create(**new(expires_in_s=SOON, queue=queue))
    async with at_work(store, deaf, queues=(queue,)):
        while events(store, run.id) != [None, "start"]:
            await asyncio.sleep(0.01)
        assert "cancelling" == (await store.aio.request_cancel(run.id)).status
        await expired(store, run)
    assert [None, "start", "request_cancel", "expire"] == events(store, run.id)


async def after_a_take_over(store: Store, queue: str) -> None:
    """The seconds left count from now, and not from when the worker before began."""
    run = store.create(**new(expires_in_s=600, queue=queue))
    lease = store.open_lease("w0")
    assert 1 == len(store.claim(lease, queues=(queue,)))
    await asyncio.sleep(0.5)
    store.close_lease(lease)
    taken_after = time.time()
    seen: list[tuple[float, float]] = []

    async def answer(ctx: Context) -> None:
        seen.append((ctx.seconds_left, time.time()))

    async with at_work(store, answer, queues=(queue,)):
        assert "completed" == (await ended(store, run.id)).status
    ((left, at),) = seen
    late = left + at - (run.expires_at or 0)  # this machine's clock is the database's here
    assert -0.01 <= late <= at - taken_after, "at most by the time that the answer to the take-over took"


async def after_its_worker_died(store: Store, queue: str) -> None:
    """It expires by the sweep, and its usage is what was noted."""
    run = store.create(**new(expires_in_s=SOON, queue=queue))
    lease = store.open_lease("w0", lease_s=30)
    (claim,) = store.claim(lease, queues=(queue,))
    assert store.save_checkpoint(lease, claim.run, usage=Usage(5, 6))
    async with at_work(store, tools, queues=(f"{queue} elsewhere",)):
        run = await expired(store, run)
    assert 11 == run.to_dict()["usage"]["total_tokens"]


async def of_a_run_that_is_driven(store: Store, queue: str) -> None:
    """`drive` ends at the deadline, too."""
    run = store.create(**new(expires_in_s=SOON, queue=queue))
    driven = await drive_async(store, run.id, Bench().wait)
    assert driven is not None
    assert "expired" == driven.status
    await expired(store, run)


SCENES: tuple[Any, ...] = (
    *(at_work_on_it, usage_is_known, plain_and_deaf, plain_and_asking, where_nobody_works, while_cancelling),
    *(after_a_take_over, after_its_worker_died, of_a_run_that_is_driven),
)


@pytest.mark.slow
@limited
async def test_deadlines(both: dict[str, tuple[str, Store]]) -> None:
    """Every scene of this page."""
    async with asyncio.TaskGroup() as scenes:
        for dialect, (_, store) in both.items():
            for scene in SCENES:
                scenes.create_task(scene(store, scene.__name__), name=f"{scene.__name__} on {dialect}")


def test_a_run_past_its_deadline_is_not_claimed(store: Store, clock: ManualClock) -> None:
    """Not even where no sweep came by yet."""
    run = store.create(**new(expires_in_s=60))
    clock.advance(60)
    begun: list[str] = []
    finish(store, lambda ctx: begun.append(ctx.run_id))
    assert ([], "expired") == (begun, store.get(run.id).status)
