"""The tasks in which async handlers are awaited: their own, under their run's name, and whoever else cancels one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

import pytest

from runstate.store import Store
from runstate.worker import Context, Worker
from tests.worker.support import KINDS, LIMIT, error_of, finish, left_behind, limited, new, of_kind

_SAID: Final[ContextVar[str]] = ContextVar("said", default="nothing")


@pytest.mark.parametrize("concurrency", [1, 10])
def test_each_handler_has_a_task_of_its_own(concurrency: int, store: Store) -> None:
    """From its first step on a handler is inside a task with a context of its own, also one that never waits."""
    runs = store.create_many([new() for _ in range(20)])
    seen: list[tuple[str, str, str]] = []
    tasks: set[int] = set()

    async def handler(ctx: Context) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(id(task))
        seen.append((ctx.run_id, task.get_name(), _SAID.get()))
        _SAID.set(ctx.run_id)
        async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as group:
            if ctx.run.seq % 2:
                await group.create_task(asyncio.sleep(0))
        assert asyncio.current_task() is task

    finish(store, handler, concurrency=concurrency)
    assert sorted(seen) == sorted((run.id, run.id, "nothing") for run in runs)
    assert {"completed"} == {store.get(run.id).status for run in runs}


@pytest.mark.parametrize("kind", KINDS)
def test_each_handler_begins_with_the_context_of_its_worker(kind: str, store: Store) -> None:
    """What was set where the worker was begun, whatever other handlers have set; also in a run that is taken over."""
    for _ in range(2):
        store.create(**new())
    left_behind(store)
    seen: list[str] = []

    def handler(ctx: Context) -> None:
        seen.append(_SAID.get())
        _SAID.set(ctx.run_id)

    before = _SAID.set("outside")
    try:
        finish(store, of_kind(kind, handler), concurrency=1)
    finally:
        _SAID.reset(before)
    assert ["outside"] * 2 == seen


def _telling(made: Callable[[asyncio.Task[Any]], object]) -> Any:
    """Return a factory of tasks that tells of the handlers' ones before they begin."""

    def make(loop: asyncio.AbstractEventLoop, coroutine: Any, **given: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **given)
        if coroutine.__qualname__ == "RunExecution._await":
            made(task)
        return task

    return make


@limited
async def test_a_task_that_others_cancel_before_it_begins(store: Store) -> None:
    """Its handler is never called, and its run ends all the same; the slot is free again."""
    called: list[str] = []
    made: list[asyncio.Task[Any]] = []

    def meet(task: asyncio.Task[Any]) -> None:
        made.append(task)
        if len(made) == 1:
            task.cancel()

    async def handler(ctx: Context) -> None:
        called.append(ctx.run_id)

    first, second = store.create_many([new(), new()])
    asyncio.get_running_loop().set_task_factory(_telling(meet))
    await Worker(store, handler, concurrency=1).work(until_idle=True)
    assert 2 == len(made)
    assert [second.id] == called
    assert "CancelledError: by others" == error_of(store.get(first.id))["message"]
    assert "completed" == store.get(second.id).status


@limited
async def test_a_handler_that_is_stopped_before_it_begins(store: Store) -> None:
    """A worker that is stopped at once gives back what it has not begun, and waits for no handler."""
    worker = Worker(store, _never, concurrency=5, drain_s=0)
    runs = store.create_many([new() for _ in range(5)])
    asyncio.get_running_loop().set_task_factory(_telling(lambda task: worker.stop()))
    await worker.work()
    assert {"in_progress"} == {store.get(run.id).status for run in runs}
    asyncio.get_running_loop().set_task_factory(None)
    await Worker(store, _nothing).work(until_idle=True)
    ended = [store.get(run.id) for run in runs]
    assert {("completed", 2, 0)} == {(run.status, run.attempt, run.lost) for run in ended}


async def _never(ctx: Context) -> None:
    await asyncio.sleep(LIMIT)


async def _nothing(ctx: Context) -> None:
    return None
