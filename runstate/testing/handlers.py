"""Call a handler once, as a worker does, and look at what it does to its run.

def test_it_asks_for_the_weather():
    handled = handle(answer)
    assert handled.event == "require_action"
    assert [call.name for call in handled.tool_calls] == ["weather"]

def test_it_completes_with_the_weather():
    assert handle(answer, tool_outputs={"call_1": "sunny"}).event == "complete"
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any, Final, TypeAlias, cast

import attrs

from runstate.clock import ManualClock, monotonic, time_us, use_clock
from runstate.lifecycle import RunEvent, RunStatus
from runstate.run import validators
from runstate.run.ids import new_run_id
from runstate.run.values import NO_USAGE, LastError, ToolCall, Usage, raise_if_invalid
from runstate.store import Checkpoint, Claim, Event, Lease, NewRun, Settle, StepRecord, Store, StoredRun, open_store
from runstate.worker import Context, Handler, Middleware, RetryLater, TokenLimitReached
from runstate.worker._arguments import check_handler, is_async_function, outside_of_loops
from runstate.worker._execution import RunExecution
from runstate.worker._handlers import HandlerError
from runstate.worker._middleware import with_middleware

__all__ = ["Handled", "StepName", "handle", "handle_async"]

StepName: TypeAlias = str | tuple[str, str]
"""The name of a step, or its name and its key."""

_ACTOR: Final = "handle"
_ATTEMPTS: Final = 1_000_000
_COUNT: Final = validators.integer(least=0)
_SECONDS: Final = validators.number(0, validators.YEAR_10000)


@attrs.frozen
class Handled:
    """What a handler has done."""

    run: StoredRun
    """The run after the call."""
    event: RunEvent | None
    """The event that the handler led to, such as `complete`. None if it is to be called again: see `retry_after_s`."""
    retry_after_s: float | None
    """After how many seconds it is to be called again. None if it is not."""
    usage: Usage
    """The tokens that the run has used."""
    checkpoint: Any
    """The last checkpoint. None if there is none."""
    steps: tuple[StepRecord, ...]
    """The steps that are kept, in their order."""
    events: tuple[Event, ...]
    """The output that the handler has emitted."""
    progress: str | None
    """The last progress text."""

    @property
    def status(self) -> RunStatus:
        """The status of the run after the call."""
        return self.run.status

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls that the run waits for. Empty if it waits for none."""
        action = self.run.required_action
        return () if action is None else tuple(action.tool_calls)

    @property
    def error(self) -> LastError | None:
        """The error with which the run failed. None if it did not."""
        return self.run.last_error


@attrs.frozen
class _Scene:
    """What a handler finds."""

    tool_outputs: Mapping[str, str]
    checkpoint: object
    usage: Usage
    steps: Mapping[StepName, Any]
    attempt: int
    failed: int
    cancelled: bool
    seconds_left: float

    def check(self) -> None:
        """Raise `InvalidRun` for wrong values."""
        raise_if_invalid(
            _COUNT("attempt", self.attempt)
            + _COUNT("failed", self.failed)
            + _SECONDS("seconds_left", self.seconds_left)
        )
        if self.attempt <= self.failed:
            raise ValueError(f"attempt: {self.failed} attempts have failed before, so it is {self.failed + 1} at least")

    def claim(self, store: Store, lease: Lease, settings: Mapping[str, Any]) -> Claim:
        """Create the run, bring it to where the handler finds it, and claim it."""
        names = {"thread_id": "thread_test", "assistant_id": "asst_test", "model": "model_test", "id": new_run_id()}
        run = store.create(**cast("NewRun", {**names, **settings}))
        claim = _claimed(store, lease, run)
        if self.tool_outputs:
            calls = [ToolCall(call_id, "tool", "{}") for call_id in self.tool_outputs]
            store.require_action(run.id, calls)
            store.submit_tool_outputs(run.id, self.tool_outputs)
            claim = _claimed(store, lease, run)
        self._keep(store, lease, claim.run)
        for number in range(1, self.attempt):
            if number <= self.failed:
                error = LastError("server_error", "an earlier attempt failed")
                store.settle(lease, [Settle.retry_later(claim.run, error, after_s=0.0)])
            else:
                store.release(lease, claim.run)
            claim = _claimed(store, lease, run)
        if not any((self.steps, self.checkpoint is not None, self.usage != NO_USAGE)):
            return claim
        return attrs.evolve(claim, checkpoint=self.checkpoint, usage=self.usage)

    def _keep(self, store: Store, lease: Lease, run: StoredRun) -> None:
        for number, (place, result) in enumerate(self.steps.items(), 1):
            name, key = (place, "") if isinstance(place, str) else place
            store.save_step(lease, run, name, key, number=number, result=Checkpoint(result, f"steps[{name!r}]"))
        if self.checkpoint is not None or self.usage != NO_USAGE:
            kept = None if self.checkpoint is None else Checkpoint(self.checkpoint)
            store.save_checkpoint(lease, run, checkpoint=kept, usage=self.usage)


def _claimed(store: Store, lease: Lease, run: StoredRun) -> Claim:
    claim = store.claim_id(lease, run.id) or _taken_over(store, lease, run)
    if claim is not None:
        return claim
    # A retry is due a microsecond after its run was started. The clock of a test may stand still, and is ahead here.
    with use_clock(ManualClock((time_us() + 2) / 1_000_000)):
        claim = _taken_over(store, lease, run)
    if claim is None:
        raise RuntimeError(f"handle cannot claim run {run.id}, which is {store.get(run.id).status}")
    return claim


def _taken_over(store: Store, lease: Lease, run: StoredRun) -> Claim | None:
    claims = store.take_over(lease, run_id=run.id, queues=(run.queue,), max_attempts=_ATTEMPTS)
    return claims[0] if claims else None


def handle(
    handler: Handler,
    *,
    tool_outputs: Mapping[str, str] | None = None,
    checkpoint: object = None,
    usage: Usage = NO_USAGE,
    steps: Mapping[StepName, Any] | None = None,
    attempt: int = 1,
    failed: int = 0,
    cancelled: bool = False,
    seconds_left: float = 600.0,
    middleware: Sequence[Middleware] = (),
    **settings: Any,
) -> Handled:
    """Call a handler once, plain or async, and return what it has done. Raises what the handler raised.

    The run, the context and the store are real; the store is a new one in memory. Nothing else is faked: give the
    handler fakes of the models and tools that it calls. It returns what a worker would commit; so a handler that
    returns rubbish, or that makes an outcome and does not return it, leads to `fail`, with a sentence in `error`.

    `tool_outputs` are the outputs that were submitted, by call id: with them, this is the call after a tool round.
    `checkpoint` and `usage` are what earlier calls have saved. `steps` are the results of steps that earlier calls have
    kept, by name, or by name and key. `attempt` is the attempt of this call, and `failed` how many before it failed.
    With `cancelled`, the run is being cancelled: a plain handler sees `ctx.cancelling`, an async one is cancelled where
    it first waits. `seconds_left` is the time until the deadline. `middleware` is that of the worker. `settings` are
    the arguments of `Store.create`.

    An exception of the handler passes through, also `RunFailed`. `RetryLater` does not: it leads to `retry_after_s`.
    Neither does a token limit, which ends the run as incomplete. Raises `RuntimeError` in an event loop, where
    `handle_async` does the same, `TypeError` for a wrong handler, and `InvalidRun` or `ValueError` for wrong values.
    """
    outside_of_loops("await handle_async(...)")
    scene = _Scene(tool_outputs or {}, checkpoint, usage, steps or {}, attempt, failed, cancelled, seconds_left)
    return asyncio.run(_handled(handler, scene, middleware, settings))


async def handle_async(
    handler: Handler,
    *,
    tool_outputs: Mapping[str, str] | None = None,
    checkpoint: object = None,
    usage: Usage = NO_USAGE,
    steps: Mapping[StepName, Any] | None = None,
    attempt: int = 1,
    failed: int = 0,
    cancelled: bool = False,
    seconds_left: float = 600.0,
    middleware: Sequence[Middleware] = (),
    **settings: Any,
) -> Handled:
    """Do the same as `handle`, inside an event loop."""
    scene = _Scene(tool_outputs or {}, checkpoint, usage, steps or {}, attempt, failed, cancelled, seconds_left)
    return await _handled(handler, scene, middleware, settings)


async def _handled(
    handler: Handler, scene: _Scene, middleware: Sequence[Middleware], settings: Mapping[str, Any]
) -> Handled:
    check_handler(handler)
    scene.check()
    wrapped = with_middleware(handler, middleware)
    with closing(open_store("sqlite:///:memory:")) as store:
        lease = store.open_lease(_ACTOR, lease_s=86_400.0)
        claim = scene.claim(store, lease, settings)
        if scene.cancelled:
            store.request_cancel(claim.run.id, actor=_ACTOR)
        left = (claim.run.expires_at or 0) - claim.claimed_at_us / 1_000_000
        ctx = Context(
            store, lease, claim, monotonic() + scene.seconds_left - left, asynchronous=is_async_function(handler)
        )
        settle = await _settle_of(wrapped, ctx, scene.cancelled)
        for refused in store.settle(lease, [settle]).refused.values():
            raise refused
        return _report(store, settle, ctx)


async def _settle_of(handler: Handler, ctx: Context, cancelled: bool) -> Settle:
    """Call the handler. Return what a worker would commit, or raise what the handler raised."""
    if cancelled:
        ctx.ask_to_cancel()
    taken: list[object] = []
    execution = RunExecution(ctx, monotonic(), lambda _, returned: taken.append(returned))
    try:
        await _call(execution, handler, cancelled)
        returned = taken[0]
        if isinstance(returned, HandlerError) and not isinstance(returned.error, RetryLater | TokenLimitReached):
            raise returned.error
    finally:
        ctx.is_over = True
    settle = execution.conclude(returned, ctx.store.availability, None)
    if settle is None:
        raise AssertionError("only an outage of the store lets a worker call a handler again, and it was raised")
    return settle


async def _call(execution: RunExecution, handler: Handler, cancelled: bool) -> None:
    """Call a handler, plain or async, as a worker awaits an async one. Cancel it where it first waits."""

    async def called(ctx: Context) -> Any:
        returned: object = handler(ctx)
        if not execution.is_awaitable(returned):
            return returned
        ctx.await_from_now_on()
        return await returned

    loop = asyncio.get_running_loop()
    execution.begin(called, lambda coroutine, name: loop.create_task(coroutine, name=name), lambda _: True)
    if cancelled:
        await asyncio.sleep(0)
        execution.stop()
    if execution.future is not None:
        current = asyncio.current_task()
        try:
            await execution.future
        except asyncio.CancelledError:
            if not cancelled or (current is not None and current.cancelling()):
                raise  # the handler cancelled itself, or the caller is cancelled, and the handler with it


def _report(store: Store, settle: Settle, ctx: Context) -> Handled:
    run = store.get(ctx.run_id)
    waits = settle.retry is not None and not run.is_terminal
    return Handled(
        run,
        None if waits else run.event,
        settle.retry.after_us / 1_000_000 if waits and settle.retry is not None else None,
        ctx.usage,
        ctx.checkpoint_value,
        store.steps(run.id),
        tuple(store.events_page(run.id)),
        store.progress(run.id),
    )
