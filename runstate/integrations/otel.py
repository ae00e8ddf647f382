"""OpenTelemetry for workers: a span for each call of a handler, linked over the calls of a run, and metrics.

    telemetry = Telemetry()
    Worker(store, answer, middleware=[telemetry.async_middleware]).run()

Each call of a handler is a span of its own: a run may wait for days, and no span stays open meanwhile. The span is a
child of the one in which the run was created, if the creator gave `trace_context=trace_context()`, and it links to the
span of the call before. What is not installed costs nothing: without the middleware nothing is recorded or stored.

The names of attributes and metrics are written down in `runstate.integrations.otel` alone, because the conventions
for generative AI still change.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

try:
    from opentelemetry import metrics, trace
    from opentelemetry.propagate import extract, inject
    from opentelemetry.trace import Link, Span, SpanKind, StatusCode
except ImportError as _missing:
    raise ImportError(
        "runstate.integrations.otel needs opentelemetry-api 1.28 or newer: pip install 'runstate[otel]'"
    ) from _missing

from runstate.clock import time_us
from runstate.lifecycle import RunEvent
from runstate.lifecycle.errors import RunstateError
from runstate.worker import Context, Outcome, RunFailed, TokenLimitReached

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
    from opentelemetry.trace import TracerProvider

    from runstate.store import Store, TraceContexts

__all__ = ["Telemetry", "trace_context"]

_NAME: Final = "runstate"
_PARENT: Final = "traceparent"

# Spans, by the conventions for generative AI.
_OPERATION: Final = "invoke_agent"
_OF_RUN: Final = "gen_ai.operation.name"
_AGENT: Final = "gen_ai.agent.id"
_CONVERSATION: Final = "gen_ai.conversation.id"
_MODEL: Final = "gen_ai.request.model"
_INPUT: Final = "gen_ai.usage.input_tokens"
_OUTPUT: Final = "gen_ai.usage.output_tokens"
_ERROR: Final = "error.type"
_RUN: Final = "runstate.run.id"
_ATTEMPT: Final = "runstate.run.attempt"
_QUEUE: Final = "runstate.queue"
_EVENT: Final = "runstate.event"

# Metrics, in the shape of the conventions for runs of pipelines.
_DURATION: Final = "runstate.run.duration"
_QUEUE_TIME: Final = "runstate.run.queue_time"
_CALLS: Final = "runstate.run.attempts"
_LIVE: Final = "runstate.run.active"
_RESULTS: Final = {
    RunEvent.COMPLETE: "success",
    RunEvent.FAIL: "failure",
    RunEvent.MARK_INCOMPLETE: "failure",
    RunEvent.CONFIRM_CANCEL: "cancellation",
    RunEvent.REQUIRE_ACTION: "requires_action",
}


def trace_context() -> str | None:
    """Return the W3C `traceparent` of the current span, for `store.create(trace_context=...)`. None without a span."""
    carrier: dict[str, str] = {}
    inject(carrier)
    return carrier.get(_PARENT)


class Telemetry:
    """Records spans and metrics of the handlers of workers.

    Pass `middleware` to a worker with a plain handler, and `async_middleware` to one with an async handler. One object
    may serve several workers. `tracer_provider` and `meter_provider` are the global ones by default.
    """

    def __init__(
        self, *, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        self._tracer: Final = trace.get_tracer(_NAME, tracer_provider=tracer_provider)
        meter = metrics.get_meter(_NAME, meter_provider=meter_provider)
        self._meter: Final = meter
        self._duration: Final = meter.create_histogram(_DURATION, "s", "How long a handler was called, by result.")
        self._queue_time: Final = meter.create_histogram(
            _QUEUE_TIME, "s", "How long a run waited from its creation to the first call of its handler."
        )
        self._calls: Final = meter.create_counter(_CALLS, "{call}", "How many handlers were called, by result.")

    def watch(self, store: Store) -> None:
        """Also report how many runs are in each status of a store, whenever metrics are collected."""
        from opentelemetry.metrics import Observation

        def count(_: CallbackOptions) -> Iterable[Observation]:
            try:
                counts = store.counts()
            except RunstateError:
                return ()
            return [Observation(number, {"runstate.status": str(status)}) for status, number in counts.items()]

        self._meter.create_observable_gauge(_LIVE, [count], "{run}", "How many runs are in each status.")

    def middleware(self, ctx: Context, call: Callable[[Context], Outcome | None]) -> Outcome | None:
        """Call a plain handler inside a span."""
        before = ctx.store.trace_contexts(ctx.run)
        with self._span(ctx, before) as record:
            parent = trace_context()
            if parent is not None:
                ctx.store.save_trace_context(ctx.lease, ctx.run, parent)
            return record(call(ctx))

    async def async_middleware(
        self, ctx: Context, call: Callable[[Context], Awaitable[Outcome | None]]
    ) -> Outcome | None:
        """Await an async handler inside a span."""
        before = await ctx.store.aio.trace_contexts(ctx.run)
        with self._span(ctx, before) as record:
            parent = trace_context()
            if parent is not None:
                await ctx.store.aio.save_trace_context(ctx.lease, ctx.run, parent)
            return record(await call(ctx))

    @contextmanager
    def _span(
        self, ctx: Context, before: TraceContexts
    ) -> Generator[Callable[[Outcome | None], Outcome | None], None, None]:
        """Begin the span of a call. The block passes the handler's outcome on through what this yields."""
        run = ctx.run
        began = time_us()
        if run.attempt == 1 and not ctx.tool_outputs:
            self._queue_time.record(max(0, run.changed_at_us - run.created_at * 1_000_000) / 1e6, {_QUEUE: run.queue})
        parent = None if before.creator is None else extract({_PARENT: before.creator})
        made: list[Outcome | None] = []

        def record(outcome: Outcome | None) -> Outcome | None:
            made.append(outcome)
            return outcome

        with self._tracer.start_as_current_span(
            f"{_OPERATION} {run.assistant_id}",
            context=parent,
            kind=SpanKind.CONSUMER,
            attributes=self._attributes(ctx),
            links=_links(before.last_call),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            error: BaseException | None = None
            try:
                yield record
            except BaseException as raised:
                error = raised
                raise
            finally:
                self._end(ctx, span, made, error, (time_us() - began) / 1e6)

    @staticmethod
    def _attributes(ctx: Context) -> dict[str, Any]:
        run = ctx.run
        known = {
            _OF_RUN: _OPERATION,
            _AGENT: run.assistant_id,
            _CONVERSATION: run.thread_id,
            _RUN: run.id,
            _ATTEMPT: run.attempt,
            _QUEUE: run.queue,
        }
        return known if run.model is None else {**known, _MODEL: run.model}

    def _end(
        self, ctx: Context, span: Span, made: Sequence[Outcome | None], error: BaseException | None, seconds: float
    ) -> None:
        """Record how a call ended."""
        usage = ctx.usage
        span.set_attribute(_INPUT, usage.prompt_tokens)
        span.set_attribute(_OUTPUT, usage.completion_tokens)
        result, kind = _result_of(ctx, made, error)
        span.set_attribute(_EVENT, result)
        if kind is not None:
            span.set_attribute(_ERROR, kind)
            span.set_status(StatusCode.ERROR, kind)
        attributes = {"runstate.result": result, _QUEUE: ctx.run.queue}
        self._duration.record(seconds, attributes)
        self._calls.add(1, attributes)


def _links(last_call: str | None) -> Sequence[Link]:
    if last_call is None:
        return ()
    context = trace.get_current_span(extract({_PARENT: last_call})).get_span_context()
    return [Link(context)] if context.is_valid else ()


def _result_of(ctx: Context, made: Sequence[Outcome | None], error: BaseException | None) -> tuple[str, str | None]:
    """Return the result of a call, and the type of its error if it is one."""
    if isinstance(error, TokenLimitReached) or ctx.is_past_limit:
        return _RESULTS[RunEvent.MARK_INCOMPLETE], "token_limit"
    if error is not None:
        if ctx.is_cancelling:
            return _RESULTS[RunEvent.CONFIRM_CANCEL], None
        return "error", error.code if isinstance(error, RunFailed) else type(error).__qualname__
    outcome = made[0] if made else None
    if outcome is None:
        return _RESULTS[RunEvent.COMPLETE], None
    if outcome.retry_after_s is not None:
        return "retry", None
    code = getattr(outcome.value, "code", None)
    return _RESULTS.get(outcome.event, str(outcome.event)), code if isinstance(code, str) else None
