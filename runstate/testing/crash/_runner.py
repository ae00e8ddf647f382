"""Executes one run of a handler to its end: claims, deaths, take-overs and tool rounds, by the methods of the store."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import copy_context
from threading import Event, Thread, get_ident
from typing import Any, Final, TypeAlias

import attrs

from runstate.clock import monotonic, sleep
from runstate.lifecycle import RUN_LIFECYCLE, RunStatus
from runstate.run.ids import new_run_id
from runstate.run.values import ToolCall
from runstate.store import Claim, Lease, Settle, Store, StoredRun
from runstate.testing.crash._context import CrashContext
from runstate.testing.crash._log import HandlerCall, KeptStep, PlannedDeath, RunLog, WorkerDied, has_died
from runstate.testing.crash._probe import Probe
from runstate.worker import Handler, RetryLater

__all__ = ["RunRunner", "ToolOutputs"]

ToolOutputs: TypeAlias = Mapping[str, str] | Callable[[Sequence[ToolCall]], Mapping[str, str]]
"""The output of each tool by the name of its function, or a function of the calls that returns outputs by call id."""

_ATTEMPTS: Final = 1_000_000
_MOST_CALLS: Final = 100  # of the handler, in one run
_LOOK_S: Final = 0.1
_ACTOR: Final = "crash_test"


@attrs.define
class _Ended:
    """How a call of the handler ended."""

    returned: object = None
    error: BaseException | None = None
    is_over: bool = False


@attrs.frozen
class RunRunner:
    """Executes runs of one handler, all with the same settings."""

    store: Store
    handler: Handler
    probe: Probe
    settings: Mapping[str, Any]
    tool_outputs: ToolOutputs
    timeout_s: float
    restart: Callable[[], object]
    """Called before each attempt in a new process: it forgets what a process forgets."""

    def execute(self, death: PlannedDeath | None = None, *, wait_s: float = 0.0) -> RunLog:
        """Execute a new run to its end. Its worker dies once if `death` is given, and another one takes over.

        `wait_s` is how long the other worker waits. Raises `RuntimeError` if the run cannot be executed.
        """
        settings = {**self.settings}
        settings.setdefault("thread_id", f"thread_{new_run_id()[4:]}")
        run = self.store.create(**settings)
        log = RunLog(death)
        log.names = {run.id: "<run>"}
        if "thread_id" not in self.settings:
            log.names[str(run.thread_id)] = "<thread>"
        self.restart()
        leg = 0
        try:
            while not run.is_terminal and log.hung is None:
                if len(log.calls) >= _MOST_CALLS:
                    raise RuntimeError(f"crash_test called the handler {_MOST_CALLS} times, and the run has not ended")
                if run.status is RunStatus.REQUIRES_ACTION:
                    leg += 1
                    self._submit(log, run, leg)
                if self._attempt(log, run, leg):
                    sleep(wait_s)
                    self.restart()
                run = self.store.get(run.id)
        finally:
            self.probe.follow(None)
            if not run.is_terminal:
                self._cancel(run)
        log.run = self.store.get(run.id)
        log.kept = self._steps(log)
        return log

    def _cancel(self, run: StoredRun) -> None:
        """End a run whose handler does not end, so that its thread is free for the next run."""
        if not self.store.request_cancel(run.id, actor=_ACTOR).is_terminal:
            self.store.sweep(max_attempts=_ATTEMPTS)

    def _submit(self, log: RunLog, run: StoredRun, leg: int) -> None:
        action = run.required_action
        calls = () if action is None else action.tool_calls
        for place, call in enumerate(calls, 1):
            log.names[call.id] = f"<call {leg}.{place}>"
        if callable(self.tool_outputs):
            outputs = dict(self.tool_outputs(calls))
        else:
            missing = sorted({call.name for call in calls} - self.tool_outputs.keys())
            if missing:
                told = f"the handler requires the tools {', '.join(missing)}"
                raise RuntimeError(f"{told}: give their outputs as crash_test(tool_outputs={{{missing[0]!r}: ...}})")
            outputs = {call.id: self.tool_outputs[call.name] for call in calls}
        self.store.submit_tool_outputs(run.id, outputs, actor=_ACTOR)

    def _attempt(self, log: RunLog, run: StoredRun, leg: int) -> bool:
        """Claim the run, call the handler and commit its outcome. Return whether the worker died."""
        lease = self.store.open_lease(_ACTOR)
        try:
            claim = self._claim(lease, run)
            call = log.call(leg, claim.run.attempt)
            try:
                self._work(log, call, lease, claim)
            except WorkerDied:
                return True
            return call.is_dead
        finally:
            self.store.close_lease(lease)  # as the sweep does with one that lapsed
            self.store.sweep(max_attempts=_ATTEMPTS)

    def _claim(self, lease: Lease, run: StoredRun) -> Claim:
        claim = self.store.claim_id(lease, run.id)
        if claim is not None:
            return claim
        for claim in self.store.take_over(lease, run_id=run.id, queues=(run.queue,), max_attempts=_ATTEMPTS):
            return claim
        found = self.store.get(run.id)
        raise RuntimeError(f"crash_test cannot claim run {run.id}, which is {found.status}: is another worker at work?")

    def _work(self, log: RunLog, call: HandlerCall, lease: Lease, claim: Claim) -> None:
        which = f"claim after tool round {call.leg}" if call.leg else "claim of the run"
        call.commit(call.begin("claim", f"the {which}"))
        self.probe.follow(call)
        ctx = CrashContext(self.store, lease, claim, call)
        ended = self._call(ctx, call)
        self.probe.follow(None)
        if not ended.is_over and not call.is_hopeless.is_set():
            log.hung = f"the handler did not end within {self.timeout_s:g} seconds"
            call.is_dead = True
            return
        if call.is_dead:
            error = ended.error
            if error is None or (error.__cause__ is not None and has_died(error.__cause__)):
                call.has_swallowed = True
            return
        if ctx.emitter is not None:
            ctx.emitter.flush()
        settle = _settle_of(ctx, ended)
        status = repr(str(RUN_LIFECYCLE.target_of(settle.event))) if settle.retry is None else "of a retry"
        operation = call.begin("outcome", f"the outcome {status}")
        refused = self.store.settle(lease, [settle]).refused
        for error in refused.values():
            raise RuntimeError(f"crash_test cannot commit the outcome of run {claim.run.id}") from error
        call.commit(operation)

    def _call(self, ctx: CrashContext, call: HandlerCall) -> _Ended:
        """Call the handler in a thread of its own, as a worker does. A call that does not end is left behind."""
        ended, is_over = _Ended(), Event()

        def work() -> None:
            call.thread = get_ident()
            try:
                returned: Any = self.handler(ctx)
                if inspect.isawaitable(returned):
                    ctx.await_from_now_on()
                    returned = asyncio.run(_wait(returned))
                ended.returned = returned
            except BaseException as error:
                ended.error = error
            ended.is_over = True
            is_over.set()

        Thread(target=copy_context().run, args=(work,), name=f"crash_test {ctx.run_id}", daemon=True).start()
        until = monotonic() + self.timeout_s
        while not is_over.wait(_LOOK_S) and not call.is_hopeless.is_set() and monotonic() < until:
            pass
        return ended

    def _steps(self, log: RunLog) -> dict[tuple[str, str], KeptStep]:
        return {
            log.neutral_place((step.name, step.key)): KeptStep(
                log.neutral(json.dumps(step.result)), step.ended_at_us is not None, step.usage
            )
            for step in self.store.steps(log.run.id)
        }


def _settle_of(ctx: CrashContext, ended: _Ended) -> Settle:
    """Return what to commit at the end of a call. A retry is due at once: nothing is gained by waiting."""
    if ended.error is None:
        settle = ctx.settle(ended.returned)
    elif isinstance(ended.error, RetryLater):
        settle = ctx.settle_retry(ended.error.code, ended.error.reason, 0.0)
    else:
        settle = ctx.settle_error(ended.error, skipped=2)
    if settle.retry is not None:
        settle.retry = attrs.evolve(settle.retry, after_us=0)
    return settle


async def _wait(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
