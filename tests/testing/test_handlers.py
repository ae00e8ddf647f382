"""`handle` calls a handler once, as a worker does, and returns what it has done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from runstate.errors import InvalidRun
from runstate.lifecycle import RunStatus
from runstate.run.values import Usage
from runstate.testing import handle, handle_async
from runstate.worker import Context, Outcome, RetryLater, RunFailed

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
        (lambda ctx: {"text": "hi"}, "the handler returned a dict; expected what a method of the context returns"),
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
