"""Middleware around a handler, the log lines of a worker, and texts that are redacted before they are stored."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from runstate.store import Store
from runstate.worker import Context, Outcome, RetryPolicy, Worker, drive
from tests.worker.support import KINDS, error_of, events, finish, new, of_kind

Plain = Callable[[Context], Outcome | None]
Async = Callable[[Context], Awaitable[Outcome | None]]


def around(kind: str, name: str, seen: list[str]) -> Any:
    """Return a middleware that writes down when it is entered and left."""

    def plain(ctx: Context, call: Plain) -> Outcome | None:
        seen.append(f"{name} in")
        try:
            return call(ctx)
        finally:
            seen.append(f"{name} out")

    async def asynchronous(ctx: Context, call: Async) -> Outcome | None:
        seen.append(f"{name} in")
        try:
            return await call(ctx)
        finally:
            seen.append(f"{name} out")

    return plain if kind == "plain" else asynchronous


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ["worker", "drive"])
def test_the_first_middleware_is_the_outermost(engine: str, kind: str, store: Store) -> None:
    seen: list[str] = []
    run = store.create(**new())
    handler = of_kind(kind, lambda ctx: seen.append("handler"))
    middleware = [around(kind, "a", seen), around(kind, "b", seen)]
    if engine == "worker":
        finish(store, handler, middleware=middleware)
    else:
        drive(store, run.id, handler, middleware=middleware)
    assert ["a in", "b in", "handler", "b out", "a out"] == seen
    assert "completed" == store.get(run.id).status


@pytest.mark.parametrize("kind", KINDS)
def test_a_middleware_may_answer_itself_and_sees_what_the_handler_raises(kind: str, store: Store) -> None:
    told: list[str] = []

    def plain(ctx: Context, call: Plain) -> Outcome | None:
        try:
            return call(ctx)
        except KeyError as error:
            told.append(repr(error))
            return ctx.fail("invalid_prompt", "told by the middleware")

    async def asynchronous(ctx: Context, call: Async) -> Outcome | None:
        try:
            return await call(ctx)
        except KeyError as error:
            told.append(repr(error))
            return ctx.fail("invalid_prompt", "told by the middleware")

    def answer(ctx: Context) -> None:
        raise KeyError("x")

    run = store.create(**new())
    finish(store, of_kind(kind, answer), middleware=[plain if kind == "plain" else asynchronous])
    assert "told by the middleware" == error_of(store.get(run.id))["message"]
    assert ["KeyError('x')"] == told


@pytest.mark.parametrize("kind", KINDS)
def test_a_middleware_of_the_other_kind_is_refused_at_once(kind: str, store: Store) -> None:
    """A plain one around an async handler would return before the handler has begun."""
    other = around("async" if kind == "plain" else "plain", "a", [])
    with pytest.raises(TypeError, match=f"and the handler is {kind}: write"):
        Worker(store, of_kind(kind, lambda ctx: None), middleware=[other])
    with pytest.raises(TypeError, match="middleware\\[0\\]: a middleware is a function"):
        Worker(store, of_kind(kind, lambda ctx: None), middleware=[3])  # type: ignore[list-item]


def test_redact_sees_each_text_of_an_exception_before_it_is_stored(store: Store) -> None:
    """In the error that clients read, in the traceback of the history, and in those of attempts."""

    def answer(ctx: Context) -> None:
        raise ValueError("the key is sk-123")

    def redact(text: str) -> str:
        return text.replace("sk-123", "***")

    failed, retried = store.create(**new()), store.create(**new(queue="retried"))
    finish(store, answer, redact=redact)
    finish(store, answer, redact=redact, queues=["retried"], retry=RetryPolicy(backoff=100.0))
    assert "ValueError: the key is ***" == error_of(store.get(failed.id))["message"]
    (attempt,) = store.attempts(retried.id)
    everything = repr([*store.history(failed.id), attempt])
    assert "sk-123" not in everything.replace('raise ValueError("the key is sk-123")', "")
    assert "the key is ***" in (attempt.error or {})["message"]


@pytest.mark.parametrize("told", ["raised", "returned"])
def test_a_redact_that_fails_stores_no_text_and_the_run_ends(
    told: str, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """The handler is called once. What was not redacted is stored nowhere."""
    calls: list[str] = []
    run = store.create(**new())

    def answer(ctx: Context) -> None:
        calls.append(ctx.run_id)
        raise ValueError("a secret")

    def redact(text: str) -> Any:
        if told == "raised":
            raise KeyError(3)
        return None

    finish(store, answer, redact=redact)
    error = store.get(run.id).last_error
    assert error is not None
    assert f"the text was left out: redact {told}" in error.message
    assert [run.id] == calls
    assert "failed" == store.get(run.id).status
    assert "a secret" not in str([entry.detail for entry in store.history(run.id)])
    assert "a text is not stored" in caplog.text


async def later(text: str) -> str:
    return text


def of_one(ctx: Context) -> None:
    """Lack the second argument."""


def one_by_one(ctx: Context, call: Any) -> Any:
    yield call(ctx)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"redact": later}, "redact: later is async"),
        ({"redact": lambda: ""}, "redact: .* cannot be called with one argument"),
        ({"redact": 3}, "redact: `redact` is a function of a text, got an int"),
        ({"middleware": of_one}, "middleware: expected a list of functions, got a function"),
        ({"middleware": None}, "middleware: expected a list of functions, got a NoneType"),
        ({"middleware": [of_one]}, r"middleware\[0\]: of_one\(.*\) cannot be called with two arguments"),
        ({"middleware": [Worker]}, r"middleware\[0\]: .* is a class"),
        ({"middleware": [one_by_one]}, r"middleware\[0\]: one_by_one is a generator function"),
    ],
    ids=["async", "no argument", "number", "no list", "None", "one argument", "class", "generator"],
)
def test_functions_that_cannot_work_are_refused_before_a_run_is_claimed(
    given: dict[str, Any], sentence: str, store: Store
) -> None:
    with pytest.raises(TypeError, match=sentence):
        Worker(store, lambda ctx: None, **given)


def test_a_worker_logs_a_line_for_each_run_and_for_its_own_start_and_end(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    run = store.create(**new())
    with caplog.at_level(logging.INFO, "runstate.worker"):
        finish(store, lambda ctx: None)
    first, line, last = (record for record in caplog.records if record.name == "runstate.worker")
    assert first.getMessage().startswith("worker w1 has started on ")
    assert "worker w1 has ended; 1 outcome committed" == last.getMessage()
    assert line.getMessage().startswith(f"run {run.id} of thread {run.thread_id}: complete after 0.")
    fields = {name: getattr(line, name) for name in ("run_id", "thread_id", "event", "attempt")}
    assert {"run_id": run.id, "thread_id": run.thread_id, "event": "complete", "attempt": 1} == fields
    assert 0 <= vars(line)["seconds"] < 60


def test_nothing_is_logged_of_runs_that_go_well_unless_asked(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    run = store.create(**new())
    with caplog.at_level(logging.WARNING, "runstate.worker"):
        finish(store, lambda ctx: None)
    assert [] == caplog.records
    assert [None, "start", "complete"] == events(store, run.id)
