"""Spans of handlers, linked over the calls of a run, and metrics; by the exporters in memory of the SDK."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from runstate.errors import StoreUnavailable
from runstate.integrations.otel import Telemetry, trace_context
from runstate.store import Store, open_store
from runstate.worker import Context, Outcome, RetryLater, RetryPolicy, RunFailed, Worker
from tests.store.support import names

LIMIT = 30


class Seen:
    """Telemetry whose spans and metrics stay in memory."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.telemetry = Telemetry(
            tracer_provider=self.tracer_provider, meter_provider=MeterProvider(metric_readers=[self.reader])
        )

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def metrics(self) -> dict[str, list[tuple[dict[str, Any], Any]]]:
        """Return the points of each metric: their attributes, and their count or value."""
        data = self.reader.get_metrics_data()
        found: dict[str, list[tuple[dict[str, Any], Any]]] = {}
        for metric in (m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics) if data else ():
            for point in metric.data.data_points:
                value = point.count if hasattr(point, "count") else point.value
                found.setdefault(metric.name, []).append((dict(point.attributes or {}), value))
        return found


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def store(tmp_path: Any) -> Iterator[Store]:
    with open_store(tmp_path / "runs.db") as store:
        yield store


def work(store: Store, handler: Any, seen: Seen, **given: Any) -> None:
    is_async = asyncio.iscoroutinefunction(handler)
    middleware = seen.telemetry.async_middleware if is_async else seen.telemetry.middleware

    async def until_idle() -> None:
        await asyncio.wait_for(Worker(store, handler, middleware=[middleware], **given).work(until_idle=True), LIMIT)

    asyncio.run(until_idle())


def answer(ctx: Context) -> Outcome | None:
    """Fail once, require a tool, then complete."""
    ctx.add_usage(10, 5)
    if ctx.tool_outputs:
        return ctx.complete()
    if not ctx.run.failed:
        raise TimeoutError("the model does not answer")
    return ctx.require_action([ctx.tool_call("weather")])


async def answer_later(ctx: Context) -> Outcome | None:
    await asyncio.sleep(0)
    return answer(ctx)


@pytest.mark.parametrize("handler", [answer, answer_later], ids=["plain", "async"])
def test_the_calls_of_a_run_are_one_trace_linked_from_call_to_call(handler: Any, store: Store, seen: Seen) -> None:
    """Over a retry, a tool round and two workers. The creator's span is the parent of all."""
    tracer = seen.tracer_provider.get_tracer("client")
    with tracer.start_as_current_span("request") as request:
        run = store.create(**names(trace_context=trace_context()))
        assert request.get_span_context().trace_id
    policy = RetryPolicy(backoff=0.0, retry_on=TimeoutError)
    while store.get(run.id).status != "requires_action":
        work(store, handler, seen, retry=policy, name="w1")
    action = store.get(run.id).required_action
    assert action is not None
    store.submit_tool_outputs(run.id, {action.call_ids[0]: "sunny"})
    work(store, handler, seen, retry=policy, name="w2")
    client, *calls = seen.spans
    assert ("request", 3) == (client.name, len(calls))
    assert client.context is not None
    assert {client.context.trace_id} == {call.context.trace_id for call in calls if call.context}
    assert [client.context.span_id] * 3 == [call.parent.span_id for call in calls if call.parent]
    links = [[link.context.span_id for link in call.links] for call in calls]
    ids = [call.context.span_id for call in calls if call.context]
    assert [[], [ids[0]], [ids[1]]] == links
    told = [dict(call.attributes or {}) for call in calls]
    assert ["error", "requires_action", "success"] == [each["runstate.event"] for each in told]
    assert "TimeoutError" == told[0]["error.type"]
    assert [StatusCode.ERROR, StatusCode.UNSET, StatusCode.UNSET] == [call.status.status_code for call in calls]
    wanted = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.id": run.assistant_id,
        "gen_ai.conversation.id": run.thread_id,
        "gen_ai.request.model": run.model,
        "runstate.run.id": run.id,
    }
    assert [wanted] * 3 == [{name: each[name] for name in wanted} for each in told]
    assert [10, 20, 30] == [each["gen_ai.usage.input_tokens"] for each in told]
    assert f"invoke_agent {run.assistant_id}" == calls[0].name


def test_a_run_without_a_creators_span_has_a_trace_of_its_own(store: Store, seen: Seen) -> None:
    store.create(**names())
    work(store, lambda ctx: None, seen)
    (call,) = seen.spans
    assert call.parent is None
    assert () == tuple(call.links)


def test_metrics_tell_how_many_calls_ended_how_and_how_long_they_took(store: Store, seen: Seen) -> None:
    seen.telemetry.watch(store)
    for _ in range(3):
        store.create(**names())
    store.create(**names(queue="later"))
    work(store, lambda ctx: ctx.fail("server_error", "no") if ctx.run.seq == 1 else None, seen)
    found = seen.metrics()
    results = {point["runstate.result"]: value for point, value in found["runstate.run.attempts"]}
    assert {"success": 2, "failure": 1} == results
    assert 3 == sum(count for _, count in found["runstate.run.duration"])
    assert 3 == sum(count for _, count in found["runstate.run.queue_time"])
    active = {point["runstate.status"]: value for point, value in found["runstate.run.active"]}
    assert (1, 2, 1) == (active["queued"], active["completed"], active["failed"])


def test_the_trace_context_is_not_compared_when_a_key_is_used_again(store: Store) -> None:
    first = store.create(**names(idempotency_key="k", trace_context="00-1-2-01"))
    again = store.create(**names(idempotency_key="k", trace_context="00-3-4-01"))
    assert first.id == again.id
    assert ("00-1-2-01", None) == store.trace_contexts(again)


def test_without_the_middleware_nothing_is_stored(store: Store) -> None:
    run = store.create(**names())
    asyncio.run(asyncio.wait_for(Worker(store, lambda ctx: None).work(until_idle=True), LIMIT))
    assert (None, None) == store.trace_contexts(store.get(run.id))


def raises(error: BaseException) -> Callable[[Context], Any]:
    """Return a handler that raises an exception."""

    def handler(ctx: Context) -> None:
        raise error

    return handler


def forgets_to_return(ctx: Context) -> None:
    ctx.fail("invalid_prompt", "no")


def past_the_limit(ctx: Context) -> None:
    try:
        ctx.add_usage(prompt_tokens=100)
    finally:
        raise RetryLater(5, "busy")


RESULTS: dict[str, tuple[Callable[[Context], Any], tuple[str, str, str | None]]] = {
    "nothing": (lambda ctx: None, ("completed", "success", None)),
    "retry": (lambda ctx: ctx.retry(after_s=60, reason="busy"), ("in_progress", "retry", None)),
    "RetryLater": (raises(RetryLater(60, "busy")), ("in_progress", "retry", None)),
    "fail": (lambda ctx: ctx.fail("invalid_prompt", "no"), ("failed", "failure", "invalid_prompt")),
    "RunFailed": (raises(RunFailed("invalid_prompt", "no")), ("failed", "failure", "invalid_prompt")),
    "an exception": (raises(ValueError("no")), ("failed", "error", "ValueError")),
    "rubbish": (lambda ctx: 42, ("failed", "error", "server_error")),
    "not returned": (forgets_to_return, ("failed", "error", "server_error")),
    "two": (lambda ctx: [ctx.complete(), ctx.fail("invalid_prompt", "no")][1], ("failed", "error", "server_error")),
    "of nobody": (lambda ctx: Outcome("x"), ("failed", "error", "server_error")),  # type: ignore[arg-type]
    "a limit": (past_the_limit, ("incomplete", "failure", "token_limit")),
    "incomplete": (lambda ctx: ctx.mark_incomplete("max_prompt_tokens"), ("incomplete", "failure", None)),
}


def told_of(seen: Seen) -> tuple[str, str | None]:
    """Return the event and the error of the only span. Its status, and the metrics, must agree with them."""
    (span,) = seen.spans
    told = dict(span.attributes or {})
    event, error = told["runstate.event"], told.get("error.type")
    assert (StatusCode.UNSET if error is None else StatusCode.ERROR) == span.status.status_code
    found = seen.metrics()
    for name in ("runstate.run.attempts", "runstate.run.duration"):
        assert [({"runstate.result": event, "runstate.queue": "default"}, 1)] == found[name]
    return str(event), None if error is None else str(error)


@pytest.mark.parametrize("kind", ["plain", "async"])
@pytest.mark.parametrize("name", RESULTS)
def test_a_span_tells_what_the_run_becomes(name: str, kind: str, store: Store, seen: Seen) -> None:
    plain, (status, *expected) = RESULTS[name]

    async def later(ctx: Context) -> Any:
        return plain(ctx)

    run = store.create(**names(max_prompt_tokens=50))
    work(store, plain if kind == "plain" else later, seen)
    assert (status, *expected) == (store.get(run.id).status, *told_of(seen))


def test_telemetry_leaves_the_message_about_rubbish_alone(store: Store, seen: Seen) -> None:
    messages = []
    for given in ({}, {"middleware": [seen.telemetry.middleware]}):
        run = store.create(**names())

        async def until_idle(given: Any = given) -> None:
            await asyncio.wait_for(Worker(store, lambda ctx: 42, **given).work(until_idle=True), LIMIT)  # type: ignore[arg-type]

        asyncio.run(until_idle())
        error = store.get(run.id).last_error
        messages.append(error and error.message)
    assert messages[0] == messages[1]
    assert str(messages[0]).startswith("the handler returned an int")


def wait_for_cancel(ctx: Context) -> None:
    """Cancel the run, and wait until the worker knows it."""
    ctx.store.request_cancel(ctx.run_id)
    until = time.monotonic() + LIMIT
    while not ctx.is_cancelling and time.monotonic() < until:
        time.sleep(0.005)


CANCELLED: dict[str, tuple[Callable[[Context], Any], tuple[str, str, str | None]]] = {
    "read": (lambda ctx: None if ctx.cancelling else 42, ("cancelled", "cancellation", None)),
    "not read": (lambda ctx: None, ("completed", "success", None)),
    "read, and complete": (lambda ctx: [ctx.cancelling] and ctx.complete(), ("completed", "success", None)),
    "tools": (lambda ctx: ctx.require_action([ctx.tool_call("x")]), ("cancelled", "cancellation", None)),
    "retry": (lambda ctx: ctx.retry(after_s=60, reason="busy"), ("cancelled", "cancellation", None)),
    "RetryLater": (raises(RetryLater(60, "busy")), ("cancelled", "cancellation", None)),
    "an outage": (raises(StoreUnavailable("away")), ("cancelled", "cancellation", None)),
    "an exception": (raises(ValueError("no")), ("failed", "error", "ValueError")),
}


@pytest.mark.parametrize("name", CANCELLED)
def test_a_span_tells_of_a_cancel_if_the_run_is_cancelled(name: str, store: Store, seen: Seen) -> None:
    handler, (status, *expected) = CANCELLED[name]

    def cancelled(ctx: Context) -> Any:
        wait_for_cancel(ctx)
        return handler(ctx)

    run = store.create(**names())
    work(store, cancelled, seen)
    assert (status, *expected) == (store.get(run.id).status, *told_of(seen))


def test_a_cancelled_task_is_a_cancellation(store: Store, seen: Seen) -> None:
    async def waits(ctx: Context) -> None:
        await ctx.store.aio.request_cancel(ctx.run_id)
        await asyncio.sleep(LIMIT)

    run = store.create(**names())
    work(store, waits, seen)
    assert ("cancelled", "cancellation", None) == (store.get(run.id).status, *told_of(seen))


def test_an_awaitable_of_a_plain_handler_is_awaited_by_the_worker(store: Store, seen: Seen) -> None:
    """A decorator may hide that a handler is async. The call goes on after its span, which says nothing of its end."""

    async def later(ctx: Context) -> Outcome:
        return ctx.fail("invalid_prompt", "no")

    run = store.create(**names())
    work(store, lambda ctx: later(ctx), seen)
    error = store.get(run.id).last_error
    assert ("failed", "invalid_prompt") == (store.get(run.id).status, error and error.code)
    (span,) = seen.spans
    assert "runstate.event" not in (span.attributes or {})


class Broken(SpanProcessor):
    """A processor that raises at the beginning or at the end of a span."""

    def __init__(self, at: str) -> None:
        self.at = at

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if self.at == "start":
            raise RuntimeError("broken at the start")

    def on_end(self, span: Any) -> None:
        if self.at == "end":
            raise RuntimeError("broken at the end")


@pytest.mark.parametrize("kind", ["plain", "async"])
@pytest.mark.parametrize("at", ["start", "end", "reads", "saves", "metrics"])
@pytest.mark.parametrize("name", ["nothing", "fail", "an exception", "RetryLater"])
def test_broken_telemetry_changes_nothing_of_a_run(
    name: str, at: str, kind: str, store: Store, seen: Seen, monkeypatch: Any, caplog: Any
) -> None:
    plain, (status, *_) = RESULTS[name]
    calls: list[int] = []

    def handler(ctx: Context) -> Any:
        calls.append(ctx.attempt)
        return plain(ctx)

    async def later(ctx: Context) -> Any:
        return handler(ctx)

    def refuse(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("away")

    seen.tracer_provider.add_span_processor(Broken(at))
    broken = {"reads": "trace_contexts", "saves": "save_trace_context"}
    if at in broken:
        monkeypatch.setattr(type(store), broken[at], refuse)
        monkeypatch.setattr(type(store.aio), broken[at], refuse)
    if at == "metrics":
        monkeypatch.setattr(seen.telemetry, "_duration", None)
        monkeypatch.setattr(seen.telemetry, "_queue_time", None)
    run = store.create(**names())
    work(store, handler if kind == "plain" else later, seen)
    assert (status, [1]) == (store.get(run.id).status, calls)
    assert {"runstate.integrations.otel"} <= {record.name for record in caplog.records}
