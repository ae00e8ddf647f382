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

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final

try:
    from opentelemetry import metrics, trace
    from opentelemetry.propagate import extract, inject
    from opentelemetry.trace import Link, Span, SpanKind, StatusCode
except ImportError as _missing:
    raise ImportError(
        "runstate.integrations.otel needs OpenTelemetry: pip install 'opentelemetry-api>=1.28'"
    ) from _missing

from runstate.clock import time_us
from runstate.lifecycle import RunEvent
from runstate.lifecycle.errors import RunstateError
from runstate.run.values import LastError
from runstate.store.errors import OutcomeUnknown, StoreUnavailable
from runstate.worker import Context, Outcome, RetryLater, RunFailed, TokenLimitReached

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
    from opentelemetry.trace import TracerProvider

    from runstate.store import Store, TraceContexts

__all__ = ["Telemetry", "trace_context"]

_log: Final = logging.getLogger("runstate.integrations.otel")

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
_RETRY: Final = "retry"
_PAST_LIMIT: Final = "token_limit"  # the `error.type` of a run that has exceeded a token limit
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
        before: TraceContexts | None = None
        with _logged(ctx):
            before = ctx.store.trace_contexts(ctx.run)
        with self._span(ctx, before) as returned:
            with _logged(ctx):
                parent = trace_context()
                if parent is not None:
                    ctx.store.save_trace_context(ctx.lease, ctx.run, parent)
            returned.append(call(ctx))
        return returned[0]

    async def async_middleware(
        self, ctx: Context, call: Callable[[Context], Awaitable[Outcome | None]]
    ) -> Outcome | None:
        """Await an async handler inside a span."""
        before: TraceContexts | None = None
        with _logged(ctx):
            before = await ctx.store.aio.trace_contexts(ctx.run)
        with self._span(ctx, before) as returned:
            with _logged(ctx):
                parent = trace_context()
                if parent is not None:
                    await ctx.store.aio.save_trace_context(ctx.lease, ctx.run, parent)
            returned.append(await call(ctx))
        return returned[0]

    @contextmanager
    def _span(self, ctx: Context, before: TraceContexts | None) -> Generator[list[Outcome | None], None, None]:
        """Begin the span of a call, and end it after the block. The block puts the handler's return value in the list.

        Whatever fails here, the block is executed, and its exception passes through.
        """
        began = time_us()
        returned: list[Outcome | None] = []
        error: BaseException | None = None
        stack = ExitStack()
        span: Span = trace.INVALID_SPAN
        with _logged(ctx):
            span = stack.enter_context(self._begin(ctx, before))
        try:
            yield returned
        except BaseException as raised:
            error = raised
            raise
        finally:
            with _logged(ctx), stack:
                self._end(ctx, span, returned, error, (time_us() - began) / 1e6)

    def _begin(self, ctx: Context, before: TraceContexts | None) -> AbstractContextManager[Span]:
        """Record how long the run waited, and return what begins and ends the span."""
        run = ctx.run
        if run.attempt == 1 and not ctx.tool_outputs:
            self._queue_time.record(max(0, run.changed_at_us - run.created_at * 1_000_000) / 1e6, {_QUEUE: run.queue})
        creator, last_call = (None, None) if before is None else (before.creator, before.last_call)
        return self._tracer.start_as_current_span(
            f"{_OPERATION} {run.assistant_id}",
            context=None if creator is None else extract({_PARENT: creator}),
            kind=SpanKind.CONSUMER,
            attributes=self._attributes(ctx),
            links=_links(last_call),
            record_exception=False,
            set_status_on_exception=False,
        )

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
        self, ctx: Context, span: Span, returned: Sequence[Outcome | None], error: BaseException | None, seconds: float
    ) -> None:
        """Record how a call ended."""
        usage = ctx.usage
        span.set_attribute(_INPUT, usage.prompt_tokens)
        span.set_attribute(_OUTPUT, usage.completion_tokens)
        if error is None and isawaitable(returned[0]):
            return  # the worker awaits it: a decorator hides that the handler is async, and the call goes on
        result, kind = _result_of_return(ctx, returned[0]) if error is None else _result_of_error(ctx, error)
        span.set_attribute(_EVENT, result)
        if kind is not None:
            span.set_attribute(_ERROR, kind)
            span.set_status(StatusCode.ERROR, kind)
        attributes = {"runstate.result": result, _QUEUE: ctx.run.queue}
        self._calls.add(1, attributes)
        self._duration.record(seconds, attributes)


@contextmanager
def _logged(ctx: Context) -> Generator[None, None, None]:
    """Log an exception of the block, and go on: telemetry changes nothing of a run."""
    try:
        yield
    except Exception:
        _log.warning("the telemetry of run %s is incomplete", ctx.run_id, exc_info=True)


def _links(last_call: str | None) -> Sequence[Link]:
    if last_call is None:
        return ()
    context = trace.get_current_span(extract({_PARENT: last_call})).get_span_context()
    return [Link(context)] if context.is_valid else ()


def _result_of_return(ctx: Context, returned: object) -> tuple[str, str | None]:
    """Return the result of a call that returned, and its error if it is one."""
    outcome = ctx.outcome_of(returned)
    if ctx.is_past_limit:
        return _RESULTS[outcome.event], _PAST_LIMIT
    if outcome.retry_after_s is not None:
        return _RETRY, None
    code = outcome.value.code if isinstance(outcome.value, LastError) else None
    if code is not None and outcome is not returned:
        return "error", code  # a mistake of the handler, which did not return the one outcome that it made
    return _RESULTS[outcome.event], code


def _result_of_error(ctx: Context, error: BaseException) -> tuple[str, str | None]:
    """Return the result of a call that raised, and its error if it is one."""
    if ctx.is_cancelling and isinstance(error, asyncio.CancelledError | StoreUnavailable | OutcomeUnknown):
        return _RESULTS[RunEvent.CONFIRM_CANCEL], None
    if isinstance(error, TokenLimitReached) or ctx.is_past_limit:
        return _RESULTS[RunEvent.MARK_INCOMPLETE], _PAST_LIMIT
    if isinstance(error, RetryLater):
        return (_RESULTS[RunEvent.CONFIRM_CANCEL] if ctx.is_cancelling else _RETRY), None
    if isinstance(error, RunFailed):
        return _RESULTS[RunEvent.FAIL], error.code
    return "error", type(error).__qualname__
