"""What a handler may be, and what comes of what it returns or raises."""

from __future__ import annotations

import asyncio
import functools
import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from runstate import InvalidRun, RequiredAction, ToolCall
from runstate.lifecycle import RunEvent
from runstate.run import validators
from runstate.store import Store, open_store
from runstate.worker import Context, Handler, Outcome, RunFailed, Worker
from tests.worker.support import KINDS, LIMIT, error_of, events, finish, finished, last, new, of_kind

NOTHING_USED = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


# --- what a handler may be --------------------------------------------------------------------------------------------


def plain(ctx: Context) -> None:
    assert ctx.attempt == 1


async def later(ctx: Context) -> None:
    await asyncio.sleep(0)


async def awaitable(ctx: Context) -> Outcome | None:
    return ctx.complete()


class Plain:
    def __call__(self, ctx: Context) -> None:
        plain(ctx)

    def method(self, ctx: Context) -> None:
        plain(ctx)

    @classmethod
    def of_class(cls, ctx: Context) -> None:
        plain(ctx)

    @staticmethod
    def of_none(ctx: Context) -> None:
        plain(ctx)


class Later:
    async def __call__(self, ctx: Context) -> None:
        await later(ctx)

    async def method(self, ctx: Context) -> None:
        await later(ctx)


def with_more(more: int, ctx: Context) -> None:
    assert more == 7


async def with_more_later(more: int, ctx: Context) -> None:
    assert more == 7


HANDLERS: dict[str, Handler] = {
    "function": plain,
    "lambda": lambda ctx: None,
    "callable": Plain(),
    "method": Plain().method,
    "class method": Plain.of_class,
    "static method": Plain.of_none,
    "partial": functools.partial(with_more, 7),
    "partial of a callable": functools.partial(Plain()),
    "async function": later,
    "async callable": Later(),
    "async method": Later().method,
    "async partial": functools.partial(with_more_later, 7),
    "partial of an async callable": functools.partial(Later()),
    "partial of a partial": functools.partial(functools.partial(with_more_later), 7),
}


@pytest.mark.parametrize("name", HANDLERS)
def test_a_handler_may_be_anything_that_is_called(name: str) -> None:
    """Functions, methods, partials and objects, plain and async: returning nothing completes."""
    with open_store("sqlite:///:memory:") as store:
        run = finished(store, HANDLERS[name])
        assert [None, "start", "complete"] == events(store, run.id)


@pytest.mark.parametrize("kind", KINDS)
def test_returning_nothing_completes(kind: str, any_store: Store) -> None:
    """The run is completed under the worker's name, and has used nothing."""
    run = finished(any_store, of_kind(kind, plain))
    assert ("completed", NOTHING_USED) == (run.status, run.to_dict()["usage"])
    assert [None, "start", "complete"] == events(any_store, run.id)
    assert [None, "w1", "w1"] == [entry.actor for entry in any_store.history(run.id)]
    assert [None] * 3 == [entry.detail for entry in any_store.history(run.id)]


def test_a_worker_that_is_not_named_is_known_by_its_process(store: Store) -> None:
    """Its name stands in the history, and says which process it was."""
    run = store.create(**new())
    worker = finish(store, plain, name=None)
    assert worker.name == last(store, run.id).actor
    assert worker.name.endswith(f":{os.getpid()}")
    assert worker.name in repr(worker)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"handler": "no function"}, "a handler is a function"),
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": True}, "concurrency"),
        ({"concurrency": 10_001}, "concurrency"),
        ({"concurrency": 2.0}, "concurrency"),
        ({"queues": "default"}, "queues"),
        ({"queues": ()}, "queues"),
        ({"queues": ("a\0b",)}, "queues"),
        ({"queues": (5,)}, "queues"),
        ({"name": "a\0b"}, "name"),
        ({"name": 5}, "name"),
        ({"lease_s": 0}, "lease_s"),
        ({"lease_s": "30"}, "lease_s"),
        ({"lease_s": float("nan")}, "lease_s"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": "3"}, "max_attempts"),
        ({"drain_s": -1}, "drain_s"),
        ({"drain_s": "1"}, "drain_s"),
    ],
    ids=str,
)
def test_a_worker_that_cannot_be(given: dict[str, Any], told: str) -> None:
    """What a worker cannot work with is refused when it is made, and not when it works."""
    with open_store("sqlite:///:memory:") as store, pytest.raises((TypeError, ValueError), match=told):
        Worker(store, **{"handler": plain, **given})


# --- what it may return -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_handler_says_what_came_of_the_run(kind: str, store: Store) -> None:
    """Completed, incomplete with its reason, failed with its code: as the handler says."""

    def answer(ctx: Context) -> Outcome | None:
        match ctx.run.metadata["end"]:
            case "complete":
                return ctx.complete()
            case "max_prompt_tokens":
                return ctx.mark_incomplete("max_prompt_tokens")
            case "max_completion_tokens":
                return ctx.mark_incomplete("max_completion_tokens")
            case "rate_limit_exceeded":
                return ctx.fail("rate_limit_exceeded", "slow down")
            case "invalid_prompt":
                return ctx.fail("invalid_prompt", "x" * 5000)
            case _:
                return ctx.fail("server_error", "")

    ends = ("complete", "max_prompt_tokens", "max_completion_tokens", "rate_limit_exceeded", "invalid_prompt", "error")
    runs = {end: store.create(**new(metadata={"end": end})).id for end in ends}
    worker = finish(store, of_kind(kind, answer))
    ended = {end: store.get(run_id).to_dict() for end, run_id in runs.items()}
    assert ["completed", "incomplete", "incomplete", "failed", "failed", "failed"] == [
        run["status"] for run in ended.values()
    ]
    assert {"reason": "max_prompt_tokens"} == ended["max_prompt_tokens"]["incomplete_details"]
    assert {"reason": "max_completion_tokens"} == ended["max_completion_tokens"]["incomplete_details"]
    assert {"code": "rate_limit_exceeded", "message": "slow down"} == ended["rate_limit_exceeded"]["last_error"]
    assert {"code": "invalid_prompt", "message": "x" * 5000} == ended["invalid_prompt"]["last_error"]
    assert {"code": "server_error", "message": ""} == ended["error"]["last_error"]
    assert all(NOTHING_USED == run["usage"] for run in ended.values())
    assert 6 == worker.settled


@pytest.mark.parametrize("kind", KINDS)
def test_tool_rounds(kind: str, store: Store) -> None:
    """A run waits for its tools without a worker, and the handler goes on with their outputs, round after round."""
    seen: list[dict[str, str]] = []

    def answer(ctx: Context) -> Outcome | None:
        seen.append(dict(ctx.tool_outputs))
        if len(seen) == 1:
            return ctx.require_action([ctx.tool_call("weather", city="Paris"), ctx.tool_call("time", zone="CET")])
        if len(seen) == 2:
            return ctx.require_action(RequiredAction((ToolCall("call_own", "sum", "[1, 2]"),)))
        return ctx.complete()

    run = store.create(**new())
    finish(store, of_kind(kind, answer))
    waiting = store.get(run.id)
    assert ("requires_action", None) == (waiting.status, waiting.usage)
    assert waiting.required_action is not None
    calls = waiting.required_action.tool_calls
    assert [("weather", {"city": "Paris"}), ("time", {"zone": "CET"})] == [
        (call.name, json.loads(call.arguments)) for call in calls
    ]
    assert 2 == len({call.id for call in calls})
    assert {"required_action": waiting.to_dict()["required_action"]} == last(store, run.id).detail
    finish(store, of_kind(kind, answer))
    assert 1 == len(seen), "nobody works on a run that waits for its tools"

    first = {calls[0].id: "sunny", calls[1].id: "noon \N{SUN WITH FACE}"}
    store.submit_tool_outputs(run.id, first, actor="web")
    finish(store, of_kind(kind, answer))
    store.submit_tool_outputs(run.id, {"call_own": "3"}, actor="web")
    finish(store, of_kind(kind, answer))
    assert [{}, first, {"call_own": "3"}] == seen
    assert "completed" == store.get(run.id).status
    rounds = ["start", "require_action", "submit_tool_outputs"]
    assert [None, *rounds, *rounds, "start", "complete"] == events(store, run.id)


NONSENSE: tuple[tuple[object, str], ...] = (
    ("done", "returned a str"),
    (True, "returned a bool"),
    ({"status": "completed"}, "returned a dict"),
    (Outcome, "returned a type"),
    (Outcome(RunEvent.START), "start"),
    (Outcome(RunEvent.EXPIRE), "expire"),
    (Outcome(RunEvent.REQUEST_CANCEL), "request_cancel"),
    (Outcome(RunEvent.CONFIRM_CANCEL), "confirm_cancel"),
    (Outcome(RunEvent.SUBMIT_TOOL_OUTPUTS), "submit_tool_outputs"),
    (Outcome(RunEvent.REQUIRE_ACTION), "require_action"),
    (Outcome(RunEvent.REQUIRE_ACTION, "weather"), "require_action"),
    (Outcome(RunEvent.FAIL), "fail"),
    (Outcome(RunEvent.MARK_INCOMPLETE, "tired"), "mark_incomplete"),
    (Outcome(RunEvent.COMPLETE, "well"), "complete"),
    (Outcome("nonsense"), "nonsense"),  # type: ignore[arg-type]
)


@pytest.mark.parametrize("kind", KINDS)
def test_nonsense_fails(kind: str, store: Store) -> None:
    """What no method of the context returns fails the run with a sentence that says so, and harms no other."""
    runs = [store.create(**new(metadata={"odd": str(place)})).id for place in range(len(NONSENSE))]
    other = store.create(**new())

    def answer(ctx: Context) -> Any:
        return NONSENSE[int(ctx.run.metadata["odd"])][0] if ctx.run.metadata else None

    finish(store, of_kind(kind, answer))
    for run_id, (_, told) in zip(runs, NONSENSE, strict=True):
        error = error_of(store.get(run_id))
        assert "server_error" == error["code"]
        assert told in error["message"]
        assert "expected an outcome, such as `return ctx.complete()`, or nothing" in error["message"]
    assert "completed" == store.get(other.id).status


@pytest.mark.parametrize("kind", KINDS)
def test_an_outcome_that_breaks_the_worker_fails(kind: str, store: Store) -> None:
    """Even what cannot be looked at ends its run."""
    error = error_of(finished(store, of_kind(kind, lambda ctx: Outcome([]))))  # type: ignore[arg-type]
    assert "server_error" == error["code"]


def test_a_plain_handler_that_returns_something_to_await(store: Store) -> None:
    """What a plain function around an async one returns is awaited."""
    run = finished(store, lambda ctx: awaitable(ctx))
    assert ("completed", [None, "start", "complete"]) == (run.status, events(store, run.id))


# --- what it may raise ------------------------------------------------------------------------------------------------


class OwnError(Exception):
    """An error whose sentence is broken, too."""

    def __str__(self) -> str:
        raise ValueError("no sentence")


class NoError(BaseException):
    """Something that `except Exception` does not catch."""


@pytest.mark.parametrize("kind", KINDS)
def test_raising_fails(kind: str, store: Store) -> None:
    """An exception becomes the last error; its traceback is kept in the history, and nowhere on the wire."""

    def broken(ctx: Context) -> None:
        raise ValueError("it broke")

    run = finished(store, of_kind(kind, broken))
    assert {"code": "server_error", "message": "ValueError: it broke"} == error_of(run)
    entry = last(store, run.id)
    assert entry.detail is not None
    assert {"traceback"} == set(entry.detail)
    assert "in broken" in entry.detail["traceback"]
    assert entry.detail["traceback"].endswith("ValueError: it broke\n")
    assert "broken" not in json.dumps(run.to_dict())
    assert "Traceback" not in json.dumps(run.to_dict())


MESSAGES: tuple[tuple[Exception, str], ...] = (
    (RunFailed("rate_limit_exceeded", "slow down"), "slow down"),
    (RunFailed("invalid_prompt", "m" * 9000), "m" * 1000),
    (RunFailed("server_error", "a\0b"), "ab"),
    (ValueError("v" * 9000), "ValueError: " + "v" * 988),
    (ValueError("a\0b"), "ValueError: ab"),
    (ValueError("half \ud800"), "ValueError: half \ud800"),
    (ValueError(), "ValueError"),
    (OwnError(), "OwnError: its text cannot be shown, for `str` raised a ValueError"),
    (KeyError("k"), "KeyError: 'k'"),
    (ExceptionGroup("many", [ValueError("one")]), "ExceptionGroup: many (1 sub-exception)"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_messages(kind: str, store: Store) -> None:
    """Whatever an exception says fits into a message, and no run is lost because of what it says."""
    runs = [store.create(**new(metadata={"place": str(place)})).id for place in range(len(MESSAGES))]

    def broken(ctx: Context) -> None:
        raise MESSAGES[int(ctx.run.metadata["place"])][0]

    finish(store, of_kind(kind, broken))
    for run_id, (error, message) in zip(runs, MESSAGES, strict=True):
        found = error_of(store.get(run_id))
        assert (getattr(error, "code", "server_error"), message) == (found["code"], found["message"])
        assert last(store, run_id).detail is not None


def test_a_failure_that_nobody_can_have(store: Store) -> None:
    """A code that is none, and a message that is none, fail the run as errors of its handler."""
    wrong: list[Callable[[Context], Any]] = [
        lambda ctx: ctx.fail("nonsense", "it broke"),  # type: ignore[arg-type]
        lambda ctx: ctx.fail("server_error", 5),  # type: ignore[arg-type]
        lambda ctx: ctx.mark_incomplete("tired"),  # type: ignore[arg-type]
        lambda ctx: ctx.require_action([]),
        lambda ctx: ctx.require_action([ToolCall("a", "x"), ToolCall("a", "y")]),
        lambda ctx: ctx.require_action(5),  # type: ignore[arg-type]
        lambda ctx: RunFailed("nonsense", "it broke"),  # type: ignore[arg-type]
        lambda ctx: RunFailed("server_error", 5),  # type: ignore[arg-type]
    ]
    for handler in wrong:
        error = error_of(finished(store, handler))
        assert ("server_error", "InvalidRun") == (error["code"], error["message"].partition(":")[0])


@pytest.mark.parametrize("wrong", ["oops", "", None, 5, ["server_error"], {"server_error"}], ids=repr)
def test_a_word_that_is_none_of_those_is_quoted(wrong: Any) -> None:
    """The sentence says which words there are, and which came."""
    codes = "expected one of server_error, rate_limit_exceeded, invalid_prompt"
    limits = "expected one of max_completion_tokens, max_prompt_tokens"
    with pytest.raises(InvalidRun) as refused:
        RunFailed(wrong, "it broke")
    assert f"code: {codes}, got {validators.preview(wrong)}" == str(refused.value)

    def handler(ctx: Context) -> None:
        with pytest.raises(InvalidRun) as refused:
            ctx.fail(wrong, "it broke")
        assert f"code: {codes}, got {validators.preview(wrong)}" == str(refused.value)
        with pytest.raises(InvalidRun) as refused:
            ctx.mark_incomplete(wrong)
        assert f"reason: {limits}, got {validators.preview(wrong)}" == str(refused.value)

    with open_store("sqlite:///:memory:") as store:
        assert "completed" == finished(store, handler).status


def test_both_a_code_and_a_message_that_are_none_are_told() -> None:
    with pytest.raises(InvalidRun) as refused:
        RunFailed("oops", 5)  # type: ignore[arg-type]
    assert ["code", "message"] == [fault.path for fault in refused.value.errors]


def test_a_very_deep_traceback_is_cut(store: Store) -> None:
    """Of a traceback the end is kept."""

    def deep(depth: int) -> None:
        if depth == 0:
            raise ValueError("x" * 30_000)
        deep(depth - 1)

    run = finished(store, lambda ctx: deep(200))
    entry = last(store, run.id)
    assert entry.detail is not None
    assert 20_000 == len(entry.detail["traceback"])
    assert entry.detail["traceback"].endswith("xxx\n")


NO_EXCEPTIONS: tuple[BaseException, ...] = (
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    asyncio.CancelledError(),
    StopIteration(),
    StopAsyncIteration(),
    NoError("odd"),
    BaseExceptionGroup("many", [NoError("odd")]),
)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_raised_ends_the_worker(kind: str, store: Store) -> None:
    """What is not even an Exception fails its run like any other, and the worker goes on to the next."""
    runs = [store.create(**new(metadata={"place": str(place)})).id for place in range(len(NO_EXCEPTIONS))]
    other = store.create(**new())

    def broken(ctx: Context) -> None:
        if ctx.run.metadata:
            raise NO_EXCEPTIONS[int(ctx.run.metadata["place"])]

    finish(store, of_kind(kind, broken), concurrency=1)
    for run_id, error in zip(runs, NO_EXCEPTIONS, strict=True):
        found = error_of(store.get(run_id))
        assert "server_error" == found["code"]
        # A coroutine cannot raise StopIteration: Python makes it a RuntimeError.
        assert type(error).__name__ in found["message"]
        assert [None, "start", "fail"] == events(store, run_id)
    assert "completed" == store.get(other.id).status


def test_a_handler_cancelled_by_itself_is_not_cancelled(store: Store) -> None:
    """A run whose handler awaited something that was cancelled has failed: nobody asked to cancel the run."""

    async def answer(ctx: Context) -> None:
        inner = asyncio.create_task(asyncio.sleep(LIMIT))
        asyncio.get_running_loop().call_soon(inner.cancel)
        await inner

    run = finished(store, answer)
    assert "CancelledError" in error_of(run)["message"]
    assert [None, "start", "fail"] == events(store, run.id)
    entry = last(store, run.id)
    assert entry.detail is not None
    assert "await inner" in entry.detail["traceback"]


def test_a_handler_that_cancels_itself_is_not_cancelled(store: Store) -> None:
    """Nor is one that cancels its own task."""

    async def answer(ctx: Context) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(LIMIT)

    assert "CancelledError" in error_of(finished(store, answer))["message"]
