"""The trace of a run with a tool round and a retry, over two workers, as OpenTelemetry exports it.

    python examples/trace_of_a_run.py

Each call of a handler is a span of its own. The spans have one trace, that of the request that created the run, and
each links to the call before it. Instead of the exporter in memory, a program of yours has one for its collector.
"""

import asyncio
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from runstate.integrations.otel import Telemetry, trace_context
from runstate.store import Store, open_store
from runstate.worker import Context, Outcome, RetryPolicy, Worker

COLUMNS = 36
EXPORTER = InMemorySpanExporter()


def provider(name: str) -> TracerProvider:
    """Return what makes the spans of one process."""
    made = TracerProvider(resource=Resource.create({"service.instance.id": name}))
    made.add_span_processor(SimpleSpanProcessor(EXPORTER))
    return made


async def answer(ctx: Context) -> Outcome | None:
    """Ask for the weather. The model breaks once after the tool round."""
    await asyncio.sleep(0.05)
    ctx.add_usage(prompt_tokens=100, completion_tokens=20)
    if not ctx.tool_outputs:
        return ctx.require_action([ctx.tool_call("weather", city="Paris")])
    if ctx.run.failed == 0:
        raise ConnectionError("the model hung up")
    return ctx.complete()


def worker(store: Store, name: str) -> Worker:
    """Return a worker with telemetry of its own."""
    telemetry = Telemetry(tracer_provider=provider(name), meter_provider=MeterProvider())
    retry = RetryPolicy(backoff=0.1, jitter=0.0)
    return Worker(store, answer, name=name, retry=retry, middleware=[telemetry.async_middleware])


async def drive(store: Store) -> None:
    """Create a run inside a span, and let two workers drive it, one after the other."""
    with provider("api").get_tracer("api").start_as_current_span("POST /runs"):
        run = await store.aio.create(
            thread_id="thread_1", assistant_id="asst_1", model="gpt-4o", trace_context=trace_context()
        )
    await worker(store, "worker-1").work(until_idle=True)
    waiting = await store.aio.get(run.id)
    assert waiting.required_action is not None
    await asyncio.sleep(0.1)  # the tool
    outputs = {call.id: "sunny" for call in waiting.required_action.tool_calls}
    await store.aio.submit_tool_outputs(run.id, outputs)
    async with worker(store, "worker-2"):
        async for _ in store.aio.watch(run.id):
            pass


def draw(spans: Sequence[ReadableSpan]) -> None:
    """Print a line for each span: who made it, when it was open, how it ended, and to which span it links."""
    spans = sorted(spans, key=lambda span: span.start_time or 0)
    first = spans[0].start_time or 0
    whole = max(span.end_time or 0 for span in spans) - first
    numbers = {span.context.span_id: number for number, span in enumerate(spans, 1) if span.context}
    for number, span in enumerate(spans, 1):
        left = round(((span.start_time or 0) - first) / whole * COLUMNS)
        width = max(1, round(((span.end_time or 0) - (span.start_time or 0)) / whole * COLUMNS))
        bar = (" " * left + "=" * width)[:COLUMNS].ljust(COLUMNS)
        known = dict(span.attributes or {})
        parent = f"in {numbers[span.parent.span_id]}" if span.parent else ""
        after = " ".join(f"after {numbers[link.context.span_id]}" for link in span.links)
        told = " ".join(str(known[name]) for name in ("runstate.event", "error.type") if name in known)
        instance = str(span.resource.attributes["service.instance.id"])
        print(f"{number} {span.name:19} {instance:8} |{bar}| {told:22} {parent:4} {after}".rstrip())


async def main() -> None:
    """Drive a run and draw its trace."""
    with tempfile.TemporaryDirectory() as folder, open_store(Path(folder) / "runs.db") as store:
        await drive(store)
    spans = EXPORTER.get_finished_spans()
    print(f"{len({span.context.trace_id for span in spans if span.context})} trace, {len(spans)} spans:")
    draw(spans)


logging.basicConfig(stream=sys.stdout, format="%(levelname)s: %(message)s")
asyncio.run(main())
