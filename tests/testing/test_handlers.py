"""`handle` calls a handler once, as a worker does, and returns what it has done."""

from __future__ import annotations

import ast
import asyncio
import logging
import textwrap
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from runstate.clock import ManualClock, use_clock
from runstate.errors import InvalidRun
from runstate.lifecycle import RunStatus
from runstate.run.values import Usage
from runstate.store import open_store
from runstate.testing import handle, handle_async, handlers
from runstate.worker import Context, Outcome, RetryLater, RunFailed, TokenLimitReached, Worker

KINDS = ("plain", "async")


def of_kind(kind: str, handler: Callable[[Context], Any]) -> Any:
    """Return a handler that does the same, as a plain or an async one."""
    if kind == "plain":
        return handler

    async def later(ctx: Context) -> Any:
        await asyncio.sleep(0)
        return handler(ctx)

    return later


def answer(ctx: Context) -> Outcome:
    """Ask for the weather, then tell it."""
    if not ctx.tool_outputs:
        return ctx.require_action([ctx.tool_call("weather", city="Paris")])
    ctx.emit({"text": "It is "})
    ctx.progress("almost")
    ctx.add_usage(3, 4)
    return ctx.complete()


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_call_and_the_call_after_a_tool_round(kind: str) -> None:
    first = handle(of_kind(kind, answer))
    assert ("require_action", RunStatus.REQUIRES_ACTION) == (first.event, first.status)
    assert [("weather", '{"city": "Paris"}')] == [(call.name, call.arguments) for call in first.tool_calls]
    second = handle(of_kind(kind, answer), tool_outputs={"call_1": "sunny"})
    assert ("complete", Usage(3, 4), "almost") == (second.event, second.usage, second.progress)
    assert [{"text": "It is "}] == [event.data for event in second.events]
    assert () == second.tool_calls


def test_a_handler_sees_what_earlier_calls_have_left() -> None:
    seen: list[Any] = []

    def look(ctx: Context) -> None:
        seen.append((ctx.checkpoint_value, ctx.usage, ctx.attempt, ctx.run.failed, ctx.run.metadata, ctx.run.model))
        seen.append(ctx.step("answer", pytest.fail) + ctx.step("page", pytest.fail, key="2"))
        ctx.checkpoint("page 4")

    handled = handle(
        look,
        checkpoint="page 3",
        usage=Usage(5, 6),
        steps={"answer": 40, ("page", "2"): 2},
        attempt=4,
        failed=2,
        metadata={"user": "ada"},
        model="gpt-4o",
    )
    assert [("page 3", Usage(5, 6), 4, 2, {"user": "ada"}, "gpt-4o"), 42] == seen
    assert "page 4" == handled.checkpoint
    assert [("answer", ""), ("page", "2")] == [(step.name, step.key) for step in handled.steps]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [ZeroDivisionError("a"), RunFailed("invalid_prompt", "no"), KeyboardInterrupt()])
def test_what_a_handler_raises_passes_through(error: BaseException, kind: str) -> None:
    def fail(ctx: Context) -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        handle(of_kind(kind, fail))
    assert error is raised.value


@pytest.mark.parametrize("kind", KINDS)
def test_a_wish_to_be_called_again_is_no_exception(kind: str) -> None:
    def later(ctx: Context) -> None:
        raise RetryLater(20, "busy")

    for handler in (of_kind(kind, later), of_kind(kind, lambda ctx: ctx.retry(after_s=20, reason="busy"))):
        handled = handle(handler)
        assert (None, 20.0, RunStatus.IN_PROGRESS) == (handled.event, handled.retry_after_s, handled.status)


def test_a_retry_past_the_deadline_fails_as_with_a_worker() -> None:
    handled = handle(lambda ctx: ctx.retry(after_s=700, reason="busy", code="rate_limit_exceeded"))
    assert handled.error is not None
    assert ("fail", None, "rate_limit_exceeded") == (handled.event, handled.retry_after_s, handled.error.code)


def test_a_token_limit_ends_the_run_as_incomplete() -> None:
    handled = handle(lambda ctx: ctx.add_usage(0, 11), max_completion_tokens=10)
    assert "mark_incomplete" == handled.event
    assert "max_completion_tokens" == getattr(handled.run.incomplete_details, "reason", None)


@pytest.mark.parametrize(
    ("handler", "sentence"),
    [
        (lambda ctx: {"text": "hi"}, "the handler returned a dict; expected an outcome, such as `return ctx.complete"),
        (
            lambda ctx: ctx.fail("server_error", "x") and None,
            r"the handler called ctx.fail\(...\) and returned nothing",
        ),
    ],
    ids=["rubbish", "a forgotten return"],
)
def test_a_mistake_fails_the_run_with_a_sentence(handler: Any, sentence: str) -> None:
    handled = handle(handler)
    assert "fail" == handled.event
    with pytest.raises(AssertionError, match=sentence):
        raise AssertionError(handled.error.message if handled.error else "")


def test_a_cancelled_plain_handler_sees_it_and_an_async_one_is_cancelled() -> None:
    seen: list[str] = []

    def plain(ctx: Context) -> Outcome | None:
        return None if ctx.cancelling else ctx.fail("server_error", "not cancelled")

    async def waits(ctx: Context) -> None:
        seen.append("begun")
        try:
            await asyncio.sleep(60)
        finally:
            seen.append("left")

    async def insists(ctx: Context) -> Outcome:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("insisted")
        return ctx.complete()

    assert "confirm_cancel" == handle(plain, cancelled=True).event
    assert "confirm_cancel" == handle(waits, cancelled=True).event
    assert "complete" == handle(insists, cancelled=True).event
    assert ["begun", "left", "insisted"] == seen


def test_the_time_left_is_that_of_the_call() -> None:
    left: list[float] = []
    handle(lambda ctx: left.append(ctx.seconds_left), seconds_left=5)
    handle(lambda ctx: left.append(ctx.seconds_left), seconds_left=0)
    handle(lambda ctx: left.append(ctx.seconds_left))
    assert 4 < left[0] <= 5
    assert -1 < left[1] <= 0
    assert 598 < left[2] <= 600


def test_middleware_is_around_the_call() -> None:
    seen: list[str] = []

    def outer(ctx: Context, call: Callable[[Context], Outcome | None]) -> Outcome | None:
        seen.append("before")
        outcome = call(ctx)
        seen.append("after")
        return outcome

    assert "complete" == handle(lambda ctx: seen.append("handler"), middleware=[outer]).event
    assert ["before", "handler", "after"] == seen

    async def asynchronous(ctx: Context, call: Callable[[Context], Awaitable[Outcome | None]]) -> Outcome | None:
        return await call(ctx)

    with pytest.raises(TypeError, match="is async and the handler is plain"):
        handle(lambda ctx: None, middleware=[asynchronous])


def test_in_an_event_loop_the_async_form_does_it() -> None:
    async def scene() -> str | None:
        with pytest.raises(RuntimeError, match="handle_async"):
            handle(answer)
        return (await handle_async(answer)).event

    assert "require_action" == asyncio.run(scene())


def test_it_leaves_nothing_behind_and_calls_do_not_see_each_other() -> None:
    runs = {handle(answer).run.id for _ in range(3)}
    assert 3 == len(runs)
    assert all(1 == handle(answer).run.seq for _ in range(2))


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"attempt": -1}, InvalidRun),
        ({"attempt": 1, "failed": 1}, ValueError),
        ({"seconds_left": -1}, InvalidRun),
        ({"metdata": {}}, TypeError),
        ({"checkpoint": object()}, InvalidRun),
        ({"steps": {"a": object()}}, InvalidRun),
    ],
    ids=["attempt", "failed", "time left", "a typo", "checkpoint", "step"],
)
def test_wrong_arguments_are_told(given: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        handle(answer, **given)


def test_a_handler_without_a_parameter_is_told() -> None:
    with pytest.raises(TypeError, match="cannot be called with one argument"):
        handle(lambda: None)  # type: ignore[arg-type]


def test_the_fixture_is_the_function(request: pytest.FixtureRequest) -> None:
    assert handle is request.getfixturevalue("handle")


@pytest.mark.parametrize(("attempt", "failed"), [(2, 1), (4, 3), (4, 2), (3, 0)])
def test_earlier_attempts_under_a_clock_that_stands_still(attempt: int, failed: int) -> None:
    seen: list[Any] = []
    with use_clock(ManualClock(1_800_000_000)) as clock:
        handled = handle(lambda ctx: seen.append((ctx.attempt, ctx.run.failed)), attempt=attempt, failed=failed)
        assert clock.time() == 1_800_000_000
    assert [(attempt, failed)] == seen
    assert (1_800_000_000, RunStatus.COMPLETED) == (handled.run.completed_at, handled.status)


def act(ctx: Context) -> Outcome:
    return ctx.require_action([ctx.tool_call("weather")])


def later(ctx: Context) -> None:
    raise RetryLater(5, "busy")


def later_past_the_limit(ctx: Context) -> None:
    try:
        ctx.add_usage(prompt_tokens=100)
    except TokenLimitReached:
        later(ctx)


def insists(ctx: Context) -> Outcome:
    assert ctx.cancelling
    return ctx.complete()


def forgets(ctx: Context) -> None:
    assert ctx.cancelling
    ctx.complete()


CALLS: dict[str, tuple[Callable[[Context], Any], bool]] = {
    "tools": (act, False),
    "tools, cancelled": (act, True),
    "later": (later, False),
    "later, cancelled": (later, True),
    "a retry, cancelled": (lambda ctx: ctx.retry(after_s=5, reason="busy"), True),
    "later, past a limit": (later_past_the_limit, False),
    "later, past a limit, cancelled": (later_past_the_limit, True),
    "insists": (insists, True),
    "forgets to return": (forgets, True),
    "does not look": (lambda ctx: None, True),
    "past a limit": (lambda ctx: ctx.add_usage(prompt_tokens=100), True),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CALLS)
def test_it_leads_to_what_a_worker_does(name: str, kind: str) -> None:
    """The handler waits for nothing after its cancel, so that also an async one ends by itself."""
    plain, cancelled = CALLS[name]

    def call(ctx: Context) -> Any:
        if cancelled and isinstance(ctx, Context) and not ctx.is_cancelling:  # called by the worker
            ctx.store.request_cancel(ctx.run_id)
            ctx.ask_to_cancel()
        return plain(ctx)

    async def asynchronous(ctx: Context) -> Any:
        return call(ctx)

    handler: Any = call if kind == "plain" else asynchronous
    handled = handle(handler, cancelled=cancelled, max_prompt_tokens=10)
    with open_store("sqlite:///:memory:") as store:
        run = store.create(thread_id="thread_1", assistant_id="asst_1", model="gpt-4o", max_prompt_tokens=10)
        Worker(store, handler).run(until_idle=True)
        run = store.get(run.id)
        waits = run.status is RunStatus.IN_PROGRESS
        assert (run.status, None if waits else run.event) == (handled.status, handled.event)
        assert (run.last_error, run.usage) == (handled.error, handled.run.usage)
    assert (5.0 if waits else None) == handled.retry_after_s


def test_a_worker_logs_no_failure_of_a_run_that_ends_incomplete(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), open_store("sqlite:///:memory:") as store:
        run = store.create(thread_id="thread_1", assistant_id="asst_1", model="gpt-4o", max_prompt_tokens=10)
        Worker(store, later_past_the_limit).run(until_idle=True)
        assert RunStatus.INCOMPLETE is store.get(run.id).status
    assert [] == caplog.messages


@pytest.mark.parametrize("cancelled", [False, True])
def test_the_async_form_can_be_cancelled_itself(cancelled: bool) -> None:
    seen: list[str] = []

    async def waits(ctx: Context) -> None:
        for _ in range(1 + cancelled):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
            seen.append("left")
            await asyncio.sleep(0)
        raise asyncio.CancelledError

    async def scene() -> None:
        async with asyncio.timeout(0.1):
            await handle_async(waits, cancelled=cancelled)

    with pytest.raises(TimeoutError):
        asyncio.run(scene())
    assert ["left"] * (1 + cancelled) == seen


def test_a_handler_that_cancels_its_own_task_is_told() -> None:
    async def cancels(ctx: Context) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    with pytest.raises(asyncio.CancelledError):
        handle(cancels)


def test_the_example_of_the_module_is_valid() -> None:
    _, _, example = str(handlers.__doc__).partition("\n\n")
    found = ast.parse(textwrap.dedent(example)).body
    assert all(isinstance(each, ast.FunctionDef) for each in found)
