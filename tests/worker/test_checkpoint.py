"""Checkpoints and progress: what a handler keeps for its next call, and what it says meanwhile."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from typing import Any

import pytest

from runstate import InvalidRun, Usage
from runstate.errors import LeaseLost, RunNotFound
from runstate.store import Checkpoint, Store, open_store
from runstate.worker import Context, Outcome
from tests.store.support import Prompt
from tests.worker.support import (
    KINDS,
    LIMIT,
    at_work,
    error_of,
    events,
    finish,
    finished,
    last,
    left_behind,
    limited,
    new,
)

VALUES: tuple[Any, ...] = (
    {"step": 1, "found": ["a", 1.5, None, True], "text": "\N{SUN WITH FACE}\0\ud800"},
    [],
    "text",
    0,
    False,
    2**70,
    "",
)


def notes(prompt: Prompt, run_id: str) -> dict[str, Any]:
    (row,) = prompt.rows("runstate_checkpoint", "WHERE run = (SELECT seq FROM runstate_run WHERE id = ?)", [run_id])
    return row


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_is_there_after_a_tool_round(kind: str, store: Store, prompt: Prompt) -> None:
    """What was kept last comes back as it was, round after round; it is durable before the handler goes on."""
    seen: list[Any] = []

    def begin(ctx: Context) -> Any:
        seen.append(ctx.checkpoint_value)
        ctx.add_usage(1, 2)
        return VALUES[len(seen) - 1]

    def check(ctx: Context, value: Any) -> Outcome | None:
        assert value == ctx.checkpoint_value
        found = notes(prompt, ctx.run_id)
        assert (value, len(seen), 2 * len(seen)) == (
            json.loads(found["checkpoint"]),
            found["prompt_tokens"],
            found["completion_tokens"],
        )
        return ctx.require_action([ctx.tool_call("weather")]) if len(seen) < len(VALUES) else None

    def plain(ctx: Context) -> Outcome | None:
        value = begin(ctx)
        ctx.checkpoint(value)
        return check(ctx, value)

    async def later(ctx: Context) -> Outcome | None:
        value = begin(ctx)
        await ctx.checkpoint(value)
        return check(ctx, value)

    handler = plain if kind == "plain" else later
    run = finished(store, handler)
    while run.required_action is not None:
        store.submit_tool_outputs(run.id, dict.fromkeys(run.required_action.call_ids, "x"))
        finish(store, handler)
        run = store.get(run.id)
    assert "completed" == run.status, run.last_error
    assert [None, *VALUES[:-1]] == seen


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_outlives_a_worker(kind: str, store: Store) -> None:
    """Who takes a run over goes on from what its last worker kept."""
    run = store.create(**new())
    left_behind(store, checkpoint=Checkpoint({"step": 1}), usage=Usage(1, 2))
    left_behind(store, name="w00", progress="half")

    def plain(ctx: Context) -> None:
        assert ({"step": 1}, 3) == (ctx.checkpoint_value, ctx.attempt)

    async def later(ctx: Context) -> None:
        plain(ctx)

    finish(store, plain if kind == "plain" else later)
    assert "completed" == store.get(run.id).status
    assert [None, "start", "complete"] == events(store, run.id), "a run that is taken over does not change its status"
    assert {"attempt": 3} == last(store, run.id).detail


def test_a_plain_handler_may_await_nothing(store: Store) -> None:
    """What a plain handler gets back is done, and can be awaited all the same, should it have a loop of its own."""

    def answer(ctx: Context) -> None:
        async def wait() -> None:
            await ctx.checkpoint(1)

        asyncio.run(wait())

    assert "completed" == finished(store, answer).status


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_json_is_refused(kind: str, store: Store, prompt: Prompt) -> None:
    """A checkpoint that could not be read again is refused, and the one before stays."""
    wrong: tuple[Any, ...] = ({1, 2}, object(), float("nan"), {1: "a"}, b"bytes", [float("inf")], "x" * 16 * 1024**2)

    async def later(ctx: Context) -> None:
        await ctx.checkpoint("before")
        for value in wrong:
            with pytest.raises(InvalidRun):
                await ctx.checkpoint(value)
        assert "before" == ctx.checkpoint_value

    def plain(ctx: Context) -> None:
        ctx.checkpoint("before")
        for value in wrong:
            with pytest.raises(InvalidRun):
                ctx.checkpoint(value)
        assert "before" == ctx.checkpoint_value

    run = finished(store, plain if kind == "plain" else later)
    assert "completed" == run.status, run.last_error
    assert '"before"' == notes(prompt, run.id)["checkpoint"]


@pytest.mark.parametrize("kind", KINDS)
@limited
async def test_no_checkpoint_of_a_lost_run(kind: str, store: Store, prompt: Prompt) -> None:
    """A handler whose run was ended by another learns so at its next checkpoint, and changes nothing."""
    begun, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    lost: list[LeaseLost] = []

    async def later(ctx: Context) -> None:
        await ctx.checkpoint("before")
        begun.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(LIMIT)  # the worker notices, and stops the handler
        with pytest.raises(LeaseLost) as caught:
            await ctx.checkpoint("after")
        lost.append(caught.value)
        raise caught.value

    def plain(ctx: Context) -> None:
        ctx.checkpoint("before")
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(LIMIT)
        with pytest.raises(LeaseLost) as caught:
            ctx.checkpoint("after")
        lost.append(caught.value)
        raise caught.value

    run = store.create(**new())
    async with at_work(store, plain if kind == "plain" else later):
        await begun.wait()
        await store.aio.complete(run.id, actor="hand")
        go_on.set()
        while not lost:
            await asyncio.sleep(0.01)
    assert run.id in str(lost[0])
    assert '"before"' == notes(prompt, run.id)["checkpoint"]
    assert [None, "start", "complete"] == events(store, run.id)
    assert "hand" == last(store, run.id).actor


def test_a_checkpoint_that_nobody_awaits_is_made(store: Store, prompt: Prompt) -> None:
    """An async handler that does not wait for it has only itself to blame if it dies before."""

    async def answer(ctx: Context) -> None:
        ctx.checkpoint(1)

    run = finished(store, answer)
    assert ("completed", "1") == (run.status, notes(prompt, run.id)["checkpoint"])


@pytest.mark.parametrize("kind", KINDS)
def test_progress_is_seen_from_outside(kind: str, store: Store, prompt: Prompt) -> None:
    """The last text counts; what is too long is cut; it costs the handler no waiting and the checkpoint stays."""
    seen: list[str] = []

    def look(ctx: Context) -> bool:
        seen[:] = [row["progress"] for row in prompt.rows("runstate_checkpoint") if row["progress"]]
        return seen == ["b" * 1000]

    def say(ctx: Context) -> None:
        ctx.progress("a quarter")
        ctx.progress("b" * 500 + "\0" + "b" * 5000)

    def plain(ctx: Context) -> None:
        ctx.checkpoint({"step": 1})
        say(ctx)
        end = time.monotonic() + LIMIT
        while not look(ctx) and time.monotonic() < end:
            time.sleep(0.01)

    async def later(ctx: Context) -> None:
        await ctx.checkpoint({"step": 1})
        say(ctx)
        end = time.monotonic() + LIMIT
        while not look(ctx) and time.monotonic() < end:
            await asyncio.sleep(0.01)

    run = finished(store, plain if kind == "plain" else later)
    assert "completed" == run.status, run.last_error
    assert ["b" * 1000] == seen

    async def ask() -> str | None:
        return await store.aio.progress(run.id)

    assert "b" * 1000 == store.progress(run.id) == asyncio.run(ask())
    assert {"step": 1} == json.loads(notes(prompt, run.id)["checkpoint"])


def test_progress_of_nobody(store: Store) -> None:
    """A run whose handler said nothing has none, and no run is told as such."""
    assert store.progress(store.create(**new()).id) is None
    with pytest.raises(RunNotFound, match="run_nowhere"):
        store.progress("run_nowhere")


def test_progress_that_cannot_be(store: Store) -> None:
    """What is no text is refused; half a character spoils only its own note."""

    def wrong(ctx: Context) -> None:
        ctx.progress(5)  # type: ignore[arg-type]

    assert error_of(finished(store, wrong))["message"].startswith("InvalidRun: progress")

    def half(ctx: Context) -> None:
        ctx.progress("half \ud800")
        ctx.checkpoint("kept")
        ctx.progress("whole")

    assert "completed" == finished(store, half).status


def test_a_run_is_worked_on_in_memory_too() -> None:
    """A store in memory has one connection, and everything goes through it."""
    with open_store("sqlite:///:memory:") as store:

        def answer(ctx: Context) -> None:
            ctx.checkpoint(1)
            ctx.progress("done")

        run = finished(store, answer)
        assert "completed" == run.status
