"""Outcomes made and not returned, returned and not made, or made twice: the run fails, and the log says why."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from runstate.errors import InvalidRun, RunNotFound
from runstate.lifecycle import RunEvent
from runstate.run.values import LastError
from runstate.store import Store, StoredRun
from runstate.worker import Context, Outcome, RunFailed, TokenLimitReached, Worker, drive, drive_async
from tests.worker.support import KINDS, error_of, events, finish, last, limited, new, of_kind, until

MAKES: dict[str, Callable[[Context], Outcome]] = {
    "fail": lambda ctx: ctx.fail("rate_limit_exceeded", "slow down"),
    "require_action": lambda ctx: ctx.require_action([ctx.tool_call("weather", city="Paris")]),
    "mark_incomplete": lambda ctx: ctx.mark_incomplete("max_prompt_tokens"),
    "complete": lambda ctx: ctx.complete(),
}
SLIPS = [name for name in MAKES if name != "complete"]


@pytest.fixture(autouse=True)
def listening(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "runstate.worker")


def done(store: Store, handler: Any, by: str = "worker", **given: Any) -> StoredRun:
    """Create a run, drive it by a worker or by its id, and return it."""
    run = store.create(**new(**given))
    if by == "worker":
        finish(store, handler)
    else:
        drive(store, run.id, handler)
    return store.get(run.id)


def check_mistake(store: Store, run: StoredRun, caplog: pytest.LogCaptureFixture, *told: str) -> None:
    """The run failed with a sentence, which is in the log once, with the run's id."""
    error = error_of(run)
    assert "server_error" == error["code"]
    for words in told:
        assert words in error["message"]
    assert [None, "start", "fail"] == events(store, run.id)
    lines = [record.getMessage() for record in caplog.records]
    assert [f"run {run.id} failed: {error['message']}"] == lines
    caplog.clear()


# --- made and not returned --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["worker", "drive"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("event", SLIPS)
def test_made_and_not_returned(event: str, kind: str, by: str, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """The `return` was forgotten: the run must not be completed, and what is meant cannot be known for certain."""

    def forget(ctx: Context) -> None:
        ctx.add_usage(3, 4)
        MAKES[event](ctx)

    run = done(store, of_kind(kind, forget), by)
    check_mistake(store, run, caplog, f"called ctx.{event}(...) and returned nothing", f"expected `return ctx.{event}(")
    assert 7 == run.to_dict()["usage"]["total_tokens"], "what it used is kept"


@pytest.mark.parametrize("kind", KINDS)
def test_completing_without_return_completes(kind: str, store: Store) -> None:
    """Nothing is lost by it: returning nothing does the same."""
    run = done(store, of_kind(kind, lambda ctx: bool(ctx.complete()) and None))
    assert ("completed", [None, "start", "complete"]) == (run.status, events(store, run.id))


def test_made_in_a_helper(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """It counts wherever it is made: in a helper of a helper, or in a thread of the handler's own."""

    def helper(ctx: Context) -> Outcome:
        return MAKES["fail"](ctx)

    def caller(ctx: Context) -> None:
        helper(ctx)

    async def in_thread(ctx: Context) -> None:
        await asyncio.to_thread(caller, ctx)

    for handler in (lambda ctx: caller(ctx), in_thread):
        check_mistake(store, done(store, handler), caplog, "called ctx.fail(...) and returned nothing")
    assert "failed" == done(store, helper).status
    assert "slow down" == error_of(done(store, lambda ctx: helper(ctx)))["message"]


def test_something_else_is_returned(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """An outcome that was made does not make up for a dict."""

    def answer(ctx: Context) -> Any:
        ctx.fail("server_error", "it broke")
        return {"status": "failed"}

    check_mistake(store, done(store, answer), caplog, "called ctx.fail(...) and returned a dict")


# --- not called, or not awaited ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("event", MAKES)
def test_a_method_of_the_context_is_returned(
    event: str, kind: str, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """The brackets were forgotten, and the sentence names the method."""
    run = done(store, of_kind(kind, lambda ctx: getattr(ctx, event)))
    check_mistake(store, run, caplog, f"returned the method ctx.{event}; expected its result")


@pytest.mark.parametrize("by", ["worker", "drive"])
@pytest.mark.parametrize("ends", ["completes", "returns nothing", "requires tools"])
def test_a_step_that_is_not_awaited(ends: str, by: str, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Its function is not called, so the run must not go on as if it had been, and Python has no warning to print."""
    called: list[int] = []

    async def answer(ctx: Context) -> Outcome | None:
        await ctx.step("first", called.append, 1)
        ctx.step("charge", called.append, 2)
        if ends == "requires tools":
            return MAKES["require_action"](ctx)
        return ctx.complete() if ends == "completes" else None

    run = done(store, answer, by)
    told = "called ctx.step('charge', ...) and did not await it; expected `await ctx.step('charge', ...)`"
    check_mistake(store, run, caplog, told)
    assert [1] == called
    assert ["first"] == [step.name for step in store.steps(run.id)]
    gc.collect()  # a warning about a coroutine is an error in these tests


def test_one_of_many_steps_is_not_awaited(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """It is noticed among hundreds that were."""

    async def answer(ctx: Context) -> None:
        for number in range(100):
            step = ctx.step("page", int, key=str(number))
            if number != 7:
                await step

    check_mistake(store, done(store, answer), caplog, "called ctx.step('page', ...) and did not await it")


def test_a_step_whose_task_was_cancelled_is_no_mistake(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A group of tasks cancels those that have not begun, when another fails."""

    async def answer(ctx: Context) -> Outcome:
        late = asyncio.create_task(ctx.step("late", int))
        late.cancel()
        await asyncio.wait([late])
        return ctx.complete()

    assert "completed" == done(store, answer).status
    assert [] == caplog.records


# --- made twice -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("returned", ["the first", "the second", "nothing"])
@pytest.mark.parametrize("kind", KINDS)
def test_two_outcomes(kind: str, returned: str, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Of two that contradict each other neither is taken, whichever is returned."""
    pairs = [(one, two) for one in MAKES for two in MAKES if (one, two) != ("complete", "complete")]
    for one, two in pairs:

        def answer(ctx: Context) -> Outcome | None:
            made = {"the first": MAKES[one](ctx), "the second": MAKES[two](ctx)}  # noqa: B023
            return made.get(returned)

        run = done(store, of_kind(kind, answer))
        check_mistake(store, run, caplog, f"made 2 outcomes, ctx.{one}(...), ctx.{two}(...); expected one")


def test_many_outcomes(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """The sentence names a few."""

    def answer(ctx: Context) -> Any:
        return [ctx.fail("server_error", "") for _ in range(9)].pop()

    check_mistake(store, done(store, answer), caplog, "made 9 outcomes", "and 4 more")


def test_to_complete_twice_is_to_complete(store: Store) -> None:
    def answer(ctx: Context) -> Outcome:
        ctx.complete()
        return ctx.complete()

    assert "completed" == done(store, answer).status


def test_a_finally_that_makes_another(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """One outcome on the way and one on the way out are two; one alone counts, also where it replaces an exception."""

    def two(ctx: Context) -> Outcome:
        try:
            return ctx.complete()
        finally:
            ctx.fail("server_error", "on the way out")

    def instead(ctx: Context) -> Outcome:
        try:
            raise ValueError("it broke")
        finally:
            return ctx.fail("rate_limit_exceeded", "on the way out")  # noqa: B012

    check_mistake(store, done(store, two), caplog, "made 2 outcomes, ctx.complete(...), ctx.fail(...)")
    assert {"code": "rate_limit_exceeded", "message": "on the way out"} == error_of(done(store, instead))


# --- another's --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", MAKES)
def test_an_outcome_of_another_run(event: str, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """What one run's context made is no outcome of another's, which fails; so does the one that gave it away."""
    made: list[Outcome] = []

    def answer(ctx: Context) -> Outcome | None:
        if not made:
            made.append(MAKES[event](ctx))
            return made[0]
        return made[0]

    first, second = store.create(**new()), store.create(**new())
    finish(store, answer, concurrency=1)
    assert "in_progress" != store.get(first.id).status
    caplog.clear()
    caplog.set_level(logging.WARNING, "runstate.worker")
    error = error_of(store.get(second.id))
    assert f"an outcome, {event}, that its context did not make" in error["message"]


def test_an_outcome_made_by_hand(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Outcomes are made by the context: one by hand is refused, though nothing is wrong with it but that."""
    for outcome in (Outcome(RunEvent.COMPLETE), Outcome(RunEvent.FAIL, LastError("server_error", "by hand"))):
        run = done(store, lambda ctx: outcome)  # noqa: B023
        check_mistake(store, run, caplog, "did not make", "expected an outcome, such as")


def test_both_at_once(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A handler that made one and returns another's fails, and so told."""
    made: list[Outcome] = []

    def answer(ctx: Context) -> Outcome | None:
        made.append(ctx.fail("server_error", str(len(made))))
        return made[0]

    runs = [store.create(**new()) for _ in range(2)]
    finish(store, answer, concurrency=1)
    assert "0" == error_of(store.get(runs[0].id))["message"]
    check_mistake(store, store.get(runs[1].id), caplog, "called ctx.fail(...) and returned an outcome, fail, that")


# --- what counts before it --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_exception_wins(kind: str, store: Store) -> None:
    """What was raised after an outcome was made is what happened."""

    def broken(ctx: Context) -> None:
        MAKES["require_action"](ctx)
        raise ValueError("it broke")

    def chosen(ctx: Context) -> None:
        MAKES["fail"](ctx)
        raise RunFailed("invalid_prompt", "no such city")

    assert "ValueError: it broke" == error_of(done(store, of_kind(kind, broken)))["message"]
    assert "invalid_prompt" == error_of(done(store, of_kind(kind, chosen)))["code"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_limit_wins(kind: str, store: Store) -> None:
    """A run past its limit is incomplete, also where the handler caught that and made another outcome."""

    def answer(ctx: Context) -> None:
        with suppress(TokenLimitReached):
            ctx.add_usage(100, 0)
        ctx.fail("server_error", "too many")

    run = done(store, of_kind(kind, answer), max_prompt_tokens=10)
    assert ("incomplete", {"reason": "max_prompt_tokens"}) == (run.status, run.to_dict()["incomplete_details"])


@limited
async def test_a_cancel_that_passes_wins(store: Store) -> None:
    """An async handler that is cancelled after it made an outcome is cancelled."""
    begun = asyncio.Event()

    async def answer(ctx: Context) -> Outcome:
        outcome = MAKES["require_action"](ctx)
        begun.set()
        await asyncio.sleep(60)
        return outcome

    run = store.create(**new())
    driving = asyncio.create_task(drive_async(store, run.id, answer))
    await begun.wait()
    await store.aio.request_cancel(run.id)
    driven = await driving
    assert driven is not None
    assert "cancelled" == driven.status


@pytest.mark.parametrize("event", MAKES)
@limited
async def test_a_cancel_that_was_read_is_no_excuse(event: str, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A plain handler that read the cancel, made an outcome and returned nothing says two things: it has failed."""
    begun: list[str] = []

    def answer(ctx: Context) -> None:
        begun.append(ctx.run_id)
        while not ctx.cancelling:
            pass
        MAKES[event](ctx)

    run = store.create(**new())
    async with Worker(store, answer):
        await until(lambda: begun == [run.id], "the handler")
        await store.aio.request_cancel(run.id)
        while not (await store.aio.get(run.id)).is_terminal:
            await asyncio.sleep(0.01)
    assert f"called ctx.{event}(...) and returned nothing" in error_of(store.get(run.id))["message"]
    assert [None, "start", "request_cancel", "fail"] == events(store, run.id)


@pytest.mark.parametrize("kind", KINDS)
def test_each_call_of_the_handler_makes_its_own(kind: str, store: Store) -> None:
    """What was made before a tool round does not count after it."""

    def answer(ctx: Context) -> Outcome | None:
        return None if ctx.tool_outputs else MAKES["require_action"](ctx)

    run = done(store, of_kind(kind, answer))
    assert run.required_action is not None
    store.submit_tool_outputs(run.id, dict.fromkeys(run.required_action.call_ids, "sunny"))
    finish(store, of_kind(kind, answer))
    assert "completed" == store.get(run.id).status


# --- one line in the log for each -------------------------------------------------------------------------------------


def returning(value: object) -> Callable[[Context], Any]:
    return lambda ctx: value


def raising(error: BaseException) -> Callable[[Context], Any]:
    def handler(ctx: Context) -> None:
        raise error

    return handler


def refused(ctx: Context) -> None:
    ctx.fail("no such code", "it broke")  # type: ignore[arg-type]


LOGGED: dict[str, tuple[Callable[[Context], Any], str]] = {
    "a dict": (returning({"status": "completed"}), "returned a dict"),
    "a text": (returning("completed"), "returned a str"),
    "a list": (returning([]), "returned a list"),
    "a set": (returning({1}), "returned a set"),
    "false": (returning(False), "returned a bool"),
    "ValueError": (raising(ValueError("it broke")), "raised a ValueError"),
    "AssertionError": (raising(AssertionError()), "raised an AssertionError"),
    "SystemExit": (raising(SystemExit(3)), "raised a SystemExit"),
    "InvalidRun": (raising(InvalidRun([])), "raised an InvalidRun"),
    "InvalidRun of the context": (refused, "raised an InvalidRun"),
    "RunNotFound": (raising(RunNotFound("run_1")), "raised a RunNotFound"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOGGED)
def test_a_failure_that_was_not_chosen_is_logged(
    name: str, kind: str, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """One line, with the run's id and what its handler did; what an exception says is not in it."""
    handler, told = LOGGED[name]
    run = done(store, of_kind(kind, handler))
    assert "failed" == run.status
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"run {run.id} failed: ")
    assert told in line
    assert "it broke" not in line


@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_that_was_chosen_is_not(kind: str, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Who says `fail`, or raises `RunFailed`, or goes past a limit, has said it; the history has it."""
    for handler in (
        MAKES["fail"],
        raising(RunFailed("invalid_prompt", "no such city")),
        lambda ctx: ctx.add_usage(100, 0),
    ):
        run = done(store, of_kind(kind, handler), max_prompt_tokens=10)
        assert run.status in ("failed", "incomplete")
    assert [] == caplog.records
    assert last(store, run.id).event == "mark_incomplete"
