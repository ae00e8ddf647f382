"""Spans of handlers, linked over the calls of a run, and metrics; by the exporters in memory of the SDK."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from runstate.integrations.otel import Telemetry, trace_context
from runstate.store import Store, open_store
from runstate.worker import Context, Outcome, RetryPolicy, Worker
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
