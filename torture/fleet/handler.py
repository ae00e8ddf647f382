"""What the handlers of the workers do: a run says what it wants in its `assistant_id`."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Final

from runstate.errors import RunstateError
from runstate.store import NewRun
from runstate.worker import Context, Outcome
from torture.fleet.handler_log import SideLog

PLANS: Final = {
    "complete": 55,
    "slow": 10,
    "tools": 15,
    "fail": 4,
    "raise": 4,
    "incomplete": 4,
    "checkpoint": 6,
    "steps": 8,
    "deadline": 2,
    "retry": 6,
}
"""What a run's handler is to do, and how often. A run says so in its `assistant_id`."""

DEADLINE_S: Final = 1


RETRY_S: Final = 0.3
_NOT_YET: Final = 2  # attempts


class Again(Exception):
    """What a handler raises to be called again by the policy of its worker."""


def new_run(run_id: str, plan: str) -> NewRun:
    """Return what a run with this plan is created with."""
    wanted: NewRun = {"id": run_id, "thread_id": f"thread_{run_id}", "assistant_id": plan, "model": "none"}
    if plan == "incomplete":
        wanted["max_completion_tokens"] = 300
    if plan == "deadline":
        wanted["expires_in_s"] = DEADLINE_S
    return wanted


def steps_of(ctx: Context) -> tuple[str, ...]:
    """Return the names of the steps of the plan of that name: each attempt has one of its own, and the others."""
    return (f"attempt{ctx.attempt}", "one", "two", "three")


class Handling:
    """The handlers: one for coroutines, one for threads, over the same plans."""

    def __init__(self, side: SideLog, slow_s: float) -> None:
        self._side = side
        self._slow_s = slow_s

    async def later(self, ctx: Context) -> Outcome | None:
        """Do what the run's plan says, as a coroutine."""
        self._side.write("begun", ctx)
        try:
            await asyncio.sleep(self._seconds(ctx))
            if ctx.run.assistant_id == "checkpoint":
                with suppress(RunstateError):  # the lease may be gone by now, or the database
                    await ctx.checkpoint({"attempt": ctx.attempt})
            if ctx.run.assistant_id == "steps":
                for name in steps_of(ctx):
                    ctx.emit(name)
                    await ctx.step(name, self._called, ctx, name)
                    self._side.write(f"kept-{name}", ctx)
                    await asyncio.sleep(self._seconds(ctx))
        except asyncio.CancelledError:
            self._side.write("cut", ctx)
            raise
        return self._outcome(ctx)

    def now(self, ctx: Context) -> Outcome | None:
        """Do what the run's plan says, in a thread."""
        self._side.write("begun", ctx)
        end = time.monotonic() + self._seconds(ctx)
        while (left := end - time.monotonic()) > 0:
            if ctx.cancelling:
                self._side.write("cut", ctx)
                return None
            time.sleep(min(left, 0.05))
        if ctx.run.assistant_id == "checkpoint":
            with suppress(RunstateError):
                ctx.checkpoint({"attempt": ctx.attempt})
        if ctx.run.assistant_id == "steps":
            for name in steps_of(ctx):
                ctx.emit(name)
                ctx.step(name, self._called, ctx, name)
                self._side.write(f"kept-{name}", ctx)
        return self._outcome(ctx)

    def _called(self, ctx: Context, name: str) -> int:
        """Be the function of a step."""
        self._side.write(f"called-{name}", ctx)
        ctx.add_usage(1, 0)
        return ctx.attempt

    def _seconds(self, ctx: Context) -> float:
        if ctx.run.assistant_id == "deadline":
            return 5.0
        return self._slow_s if ctx.run.assistant_id == "slow" else (ctx.run.seq % 10) * self._slow_s / 50

    def _outcome(self, ctx: Context) -> Outcome | None:
        match ctx.run.assistant_id:
            case "tools" if not ctx.tool_outputs:
                self._side.write("ended-require_action", ctx)
                return ctx.require_action([ctx.tool_call("weather", city="Paris")])
            case "fail":
                self._side.write("ended-fail", ctx)
                return ctx.fail("rate_limit_exceeded", "asked to fail")
            case "raise":
                self._side.write("ended-fail", ctx)
                raise ValueError("asked to raise")
            case "retry" if ctx.run.seq % 2 and ctx.run.failed == 0:
                self._side.write("retried", ctx)
                raise Again
            case "retry" if ctx.run.seq % 2 == 0 and not ctx.run.failed and ctx.attempt <= _NOT_YET:
                self._side.write("retried", ctx)
                return ctx.retry(after_s=RETRY_S, reason="not yet")
            case "incomplete":
                self._side.write("ended-mark_incomplete", ctx)
                ctx.add_usage(completion_tokens=1000)
                return None
            case _:
                self._side.write("ended-complete", ctx)
                return ctx.complete()
