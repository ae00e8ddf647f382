"""Cancelling: how a request reaches a handler, and who has the last word."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from runstate.lifecycle import RunStatus
from runstate.store import Lease, Store, StoredRun, open_store
from runstate.worker import Context, Outcome, RunFailed, drive_async
from runstate.worker._cancels import CancelWatcher
from tests.worker.support import LIMIT, at_work, ended, events, finish, last, limited, new, until

ROOT = Path(__file__).parents[2]
CANCELLED = [None, "start", "request_cancel", "confirm_cancel"]
begun: set[str] = set()


async def cancelled(store: Store, handler: Any, ask: Callable[[str], Awaitable[object]] | None = None) -> StoredRun:
    """Create a run, ask to cancel it once its handler says that it has begun, and return it when it has ended.

    No heartbeat tells the worker of the request: the next one comes in twenty minutes.
    """
    run = store.create(**new())
    async with at_work(store, handler, lease_s=3600.0):
        await until(lambda: run.id in begun, "its handler")
        await (store.aio.request_cancel(run.id, actor="web") if ask is None else ask(run.id))
        return await ended(store, run.id)


async def wait(ctx: Context) -> None:
    """Wait for nothing, as a handler does that waits for an answer."""
    begun.add(ctx.run_id)
    await asyncio.sleep(LIMIT)


def stand(ctx: Context) -> None:
    """Ask from time to time, as a plain handler should."""
    begun.add(ctx.run_id)
    end = time.monotonic() + LIMIT
    while not ctx.cancelling:
        assert time.monotonic() < end, "nobody cancelled"
        time.sleep(0.005)


# --- an async handler -------------------------------------------------------------------------------------------------


@limited
async def test_an_async_handler_is_cancelled(store: Store) -> None:
    """It gets CancelledError; when it has left, the cancel is confirmed by its worker, with what it used."""

    async def answer(ctx: Context) -> None:
        ctx.add_usage(3, 4)
        await wait(ctx)

    run = await cancelled(store, answer)
    assert CANCELLED == events(store, run.id)
    assert [None, "w1", "web", "w1"] == [entry.actor for entry in store.history(run.id)]
    assert ("cancelled", 7) == (run.status, run.to_dict()["usage"]["total_tokens"])


@limited
async def test_a_handler_may_tidy_up_first(store: Store) -> None:
    """It may await in its `finally`, also a checkpoint; the run is cancelling until it has left."""
    seen: list[str] = []

    async def answer(ctx: Context) -> None:
        try:
            await wait(ctx)
        finally:
            assert ctx.cancelling
            await asyncio.sleep(0.1)
            await ctx.checkpoint("tidy")
            seen.append((await store.aio.get(ctx.run_id)).status)

    run = await cancelled(store, answer)
    assert ["cancelling"] == seen
    assert CANCELLED == events(store, run.id)


@limited
async def test_a_handler_that_completes_all_the_same_wins(store: Store) -> None:
    """A cancel is attempted and not guaranteed: an end that came first, or after a swallowed CancelledError, counts."""

    async def say(ctx: Context) -> Outcome:
        with suppress(asyncio.CancelledError):
            await wait(ctx)
        return ctx.complete()

    async def say_nothing(ctx: Context) -> None:
        with suppress(asyncio.CancelledError):
            await wait(ctx)

    async def say_incomplete(ctx: Context) -> Outcome:
        with suppress(asyncio.CancelledError):
            await wait(ctx)
        return ctx.mark_incomplete("max_prompt_tokens")

    for handler, status in ((say, "completed"), (say_nothing, "completed"), (say_incomplete, "incomplete")):
        run = await cancelled(store, handler)
        assert status == run.status
        assert [None, "start", "request_cancel"] == events(store, run.id)[:3]


@limited
async def test_a_handler_that_fails_over_a_cancel_has_failed(store: Store) -> None:
    """An error on the way out is an error."""

    async def answer(ctx: Context) -> None:
        try:
            await wait(ctx)
        finally:
            raise RunFailed("rate_limit_exceeded", "on the way out")

    run = await cancelled(store, answer)
    assert ("failed", "on the way out") == (run.status, run.to_dict()["last_error"]["message"])


@pytest.mark.parametrize("by_id", [False, True], ids=["worker", "drive"])
@limited
async def test_a_cancelling_run_asks_for_no_tools(by_id: bool, store: Store) -> None:
    """A handler that asks for tools although somebody asked to cancel ends its run cancelled, with what it used."""

    async def answer(ctx: Context) -> Outcome:
        ctx.add_usage(3, 4)
        with suppress(asyncio.CancelledError):
            await wait(ctx)
        return ctx.require_action([ctx.tool_call("weather")])

    if by_id:
        run = store.create(**new())
        driving = asyncio.create_task(drive_async(store, run.id, answer))
        await until(lambda: run.id in begun, "its handler")
        await store.aio.request_cancel(run.id)
        driven = await driving
        assert driven is not None
        run = driven
    else:
        run = await cancelled(store, answer)
    assert ("cancelled", 7) == (run.status, run.to_dict()["usage"]["total_tokens"])
    assert CANCELLED == events(store, run.id)


# --- a plain handler --------------------------------------------------------------------------------------------------


@limited
async def test_a_plain_handler_that_asks(store: Store) -> None:
    """It finds out by asking, and confirms by returning nothing; or says that it completes after all."""

    def complete(ctx: Context) -> Outcome:
        stand(ctx)
        return ctx.complete()

    def tools(ctx: Context) -> Outcome:
        stand(ctx)
        return ctx.require_action([ctx.tool_call("weather")])

    assert CANCELLED == events(store, (await cancelled(store, stand)).id)
    assert "completed" == (await cancelled(store, complete)).status
    assert CANCELLED == events(store, (await cancelled(store, tools)).id)


@limited
async def test_a_plain_handler_that_never_asks_completes(store: Store) -> None:
    """Nobody can stop it, and what it returns counts."""
    go_on = asyncio.Event()
    loop = asyncio.get_running_loop()

    def deaf(ctx: Context) -> None:
        begun.add(ctx.run_id)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(LIMIT)

    async def ask(run_id: str) -> None:
        await store.aio.request_cancel(run_id)
        go_on.set()

    run = await cancelled(store, deaf, ask)
    assert [None, "start", "request_cancel", "complete"] == events(store, run.id)


@limited
async def test_asking_without_being_cancelled_means_nothing(store: Store) -> None:
    """A handler that asked, and heard no, completes by returning nothing, also if a cancel came right after."""
    go_on = asyncio.Event()
    loop = asyncio.get_running_loop()

    def answer(ctx: Context) -> None:
        assert not ctx.cancelling
        begun.add(ctx.run_id)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(LIMIT)

    async def ask(run_id: str) -> None:
        await store.aio.request_cancel(run_id)
        go_on.set()

    assert "completed" == (await cancelled(store, answer, ask)).status


# --- who asks ---------------------------------------------------------------------------------------------------------


@limited
async def test_by_another_store(store: Store, store_url: str) -> None:
    """A request through another connection reaches the handler long before the next heartbeat."""
    with open_store(store_url) as other:
        run = await cancelled(store, wait, other.aio.request_cancel)
        assert CANCELLED == events(store, run.id)
        run = await cancelled(store, stand, other.aio.request_cancel)
        assert CANCELLED == events(store, run.id)


@limited
async def test_by_another_process(store: Store, store_url: str) -> None:
    """So does one from another process."""

    async def ask(run_id: str) -> None:
        code = f"from runstate.store import open_store\nwith open_store({store_url!r}) as store:"
        code += f" store.request_cancel({run_id!r}, actor='p2')"
        asked = [sys.executable, "-c", code]
        await asyncio.to_thread(subprocess.run, asked, check=True, cwd=ROOT, timeout=LIMIT)

    run = await cancelled(store, wait, ask)
    assert CANCELLED == events(store, run.id)
    assert "p2" == store.history(run.id)[2].actor


@limited
async def test_while_the_worker_looks_for_another(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that comes while a look for an earlier one is under way is looked for as well, and at once."""
    owned, look = store.aio.owned, CancelWatcher.look
    found, go_on = asyncio.Event(), asyncio.Event()
    hints: list[CancelWatcher] = []

    async def slowly(lease: Lease) -> Mapping[int, RunStatus]:
        answer = await owned(lease)
        found.set()
        await go_on.wait()
        return answer

    def counted(watcher: CancelWatcher) -> None:
        hints.append(watcher)
        look(watcher)

    monkeypatch.setattr(store.aio, "owned", slowly)
    monkeypatch.setattr(CancelWatcher, "look", counted)
    other = store.create(**new(queue="elsewhere"))

    async def ask(run_id: str) -> None:
        await store.aio.request_cancel(other.id)
        await found.wait()
        seen = len(hints)
        await store.aio.request_cancel(run_id)
        await until(lambda: len(hints) > seen, "the hint")
        go_on.set()

    run = await cancelled(store, wait, ask)
    assert CANCELLED == events(store, run.id)


@limited
async def test_by_nobody_but_the_heartbeat(
    store: Store, frequent_heartbeats: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no hint comes through, the next heartbeat tells."""
    monkeypatch.setattr(store._notifier, "notify", lambda hint: None)
    run = store.create(**new())
    async with at_work(store, wait):
        await until(lambda: run.id in begun, "its handler")
        store.request_cancel(run.id)
        run = await ended(store, run.id)
    assert CANCELLED == events(store, run.id)


def test_before_it_was_claimed(store: Store) -> None:
    """A run that nobody works on is cancelled in one request, and never reaches a handler."""
    run = store.create(**new())
    assert "cancelled" == store.request_cancel(run.id).status
    finish(store, stand)
    assert [None, "request_cancel", "confirm_cancel"] == events(store, run.id)
    assert run.id not in begun


def test_while_it_waits_for_its_tools(store: Store) -> None:
    """Nor is there a handler to be told while the run waits for its tools."""
    run = store.create(**new())
    finish(store, lambda ctx: ctx.require_action([ctx.tool_call("weather")]))
    assert "cancelled" == store.request_cancel(run.id).status
    finish(store, stand)
    assert run.id not in begun


@limited
async def test_cancelled_before_the_handler_began(store: Store) -> None:
    """A run that was asked to cancel after its worker had died is cancelled by the sweep, and not taken over."""
    run = store.create(**new())
    lease = store.open_lease("w0")
    assert 1 == len(store.claim(lease))
    assert "cancelling" == store.request_cancel(run.id).status
    store.close_lease(lease)
    async with at_work(store, wait):
        assert "cancelled" == (await ended(store, run.id)).status
    assert ([*CANCELLED], "sweep") == (events(store, run.id), last(store, run.id).actor)
    assert run.id not in begun
