"""What the workers of the trials do, and the side log in which their handlers write down what they did.

A line of the side log is one write to a file opened for appending. A process that is killed in the middle of it may
leave a part of a line: each begins with a new one, and ends with a word by which it is known to be whole. It says what
happened, to which run, started at which version, in which attempt, by whom, and when.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import attrs

from runstate import clock
from runstate.errors import OutcomeUnknown, RunstateError, StoreError
from runstate.store import NewRun, Store, open_store
from runstate.worker import Context, Outcome, Worker

TRUE_TIME: Final = time.clock_gettime
"""The machine's clock, whatever a trial does to `time.time`."""

PLANS: Final = {
    "complete": 55,
    "slow": 10,
    "tools": 15,
    "fail": 4,
    "raise": 4,
    "incomplete": 4,
    "checkpoint": 6,
    "deadline": 2,
}
"""What a run's handler is to do, and how often. A run says so in its `assistant_id`."""

DEADLINE_S: Final = 1
END: Final = "."
"""The last word of a line that is whole."""


def new_run(run_id: str, plan: str) -> NewRun:
    """Return what a run with this plan is created with."""
    wanted: NewRun = {"id": run_id, "thread_id": f"thread_{run_id}", "assistant_id": plan, "model": "none"}
    if plan == "incomplete":
        wanted["max_completion_tokens"] = 300
    if plan == "deadline":
        wanted["expires_in_s"] = DEADLINE_S
    return wanted


class Line(NamedTuple):
    """A line of the side log."""

    what: str
    """`begun`, `cut`, or `ended-` and the event that the handler asked for."""
    run_id: str
    version: int
    """The version that the run was started at."""
    attempt: int
    worker: str
    at: float
    """Unix seconds, by the machine's own clock."""
    token: int
    """The lease under which the handler worked; 0 where it is not known."""


class SideLog:
    """An append-only file beside the database."""

    def __init__(self, path: Path, worker: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self._worker = worker

    def write(self, what: str, ctx: Context) -> None:
        """Write a line down."""
        self.note(what, ctx.run.id, ctx.run.version, ctx.run.attempt, ctx._lease.token)

    def note(self, what: str, run_id: str, version: int, attempt: int, token: int = 0) -> None:
        """Write a line down of a run that no context is at hand of."""
        at = TRUE_TIME(time.CLOCK_REALTIME)
        os.write(self._file, f"\n{what} {run_id} {version} {attempt} {self._worker} {at:.6f} {token} {END}\n".encode())


def read_side_log(path: Path) -> Iterator[Line]:
    """Yield the lines of a side log."""
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            words = text.split()
            if not words or words[-1] != END:
                continue
            what, run_id, version, attempt, worker, at, token, _ = words
            yield Line(what, run_id, int(version), int(attempt), worker, float(at), int(token))


@attrs.frozen
class Setting:
    """How a worker of a trial works."""

    url: str
    side: Path
    log: Path
    """Where the warnings go."""
    lease_s: float = 1.5
    concurrency: int = 8
    wait_s: float = 10.0
    asynchronous: bool = True
    slow_s: float = 0.3
    skew_s: float = 0.0
    """How far this process's clock is off."""
    max_attempts: int = 20


def serve(name: str, setting: Setting) -> None:
    """Be a worker until somebody kills this process."""
    logging.basicConfig(filename=setting.log, level=logging.WARNING, format=f"%(asctime)s {name} %(message)s")
    if setting.skew_s:
        skew(setting.skew_s)
    side = SideLog(setting.side, name)
    try:
        with opened(setting.url, setting.wait_s) as store:
            handler = Handling(side, setting.slow_s)
            Worker(
                store,
                handler.later if setting.asynchronous else handler.now,
                concurrency=setting.concurrency,
                name=name,
                lease_s=setting.lease_s,
                max_attempts=setting.max_attempts,
            ).run()
    except BaseException:
        logging.exception("the worker fell")
        raise


def skew(seconds: float) -> None:
    """Put the clock of this process wrong, as a machine's that nobody sets."""

    def wrong() -> float:
        return TRUE_TIME(time.CLOCK_REALTIME) + seconds

    time.time = wrong
    # The reader has the function itself, and this process had loaded it already. A wrong clock is not a test's clock.
    clock.current.time = wrong
    assert "_REAL_CLOCKS" in vars(clock)
    vars(clock)["_REAL_CLOCKS"] = (wrong,)


def opened(url: str, wait_s: float) -> Store:
    """Open a store, also where its database is away for the moment."""
    end = time.monotonic() + 60.0
    while True:
        try:
            return open_store(url, wait_s=wait_s)
        except StoreError as error:
            if time.monotonic() > end or not (error.retryable or isinstance(error, OutcomeUnknown)):
                raise
            time.sleep(0.05)


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
        return self._outcome(ctx)

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
            case "incomplete":
                self._side.write("ended-mark_incomplete", ctx)
                ctx.add_usage(completion_tokens=1000)
                return None
            case _:
                self._side.write("ended-complete", ctx)
                return ctx.complete()
