"""What the tests of the worker share: workers with a limit, handlers of every kind, and ways to wait."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final, ParamSpec, TypeVar

from runstate.store import Entry, Lease, NewRun, Store, StoredRun
from runstate.worker import Context, Handler, Outcome, Worker
from tests.store.support import names
from tests.support.lifecycle import TERMINAL

LIMIT: Final = 60.0
"""How many seconds anything may take."""

KINDS: Final = ("plain", "async")

P = ParamSpec("P")
T = TypeVar("T")


def limited(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test in an event loop of its own, and not for ever."""

    @functools.wraps(test)
    def in_a_loop(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), LIMIT))

    return in_a_loop


def of_kind(kind: str, handler: Callable[[Context], Any]) -> Handler:
    """Return a handler that does what a plain function does, as a plain or an async one."""
    if kind == "plain":
        return handler

    async def later(ctx: Context) -> Outcome | None:
        done: Outcome | None = handler(ctx)
        return done

    return later


def new(**other: Any) -> NewRun:
    """Return what a run is created with here, and what a test gives besides."""
    return names(**other)


def finish(store: Store, handler: Handler, **given: Any) -> Worker:
    """Work until there is nothing to do; return the worker."""
    worker = Worker(store, handler, **{"name": "w1", **given})

    async def work() -> None:
        async with asyncio.timeout(LIMIT):
            await worker.work(until_idle=True)

    asyncio.run(work())
    return worker


def finished(store: Store, handler: Handler, **given: Any) -> StoredRun:
    """Create a run, work until it rests, and return it."""
    run = store.create(**new(**given))
    finish(store, handler)
    return store.get(run.id)


def error_of(run: StoredRun) -> dict[str, str]:
    """Return the last error of a failed run as the wire has it."""
    assert "failed" == run.status
    error: dict[str, str] = run.to_dict()["last_error"]
    return error


def leave(store: Store, lease: Lease, run: StoredRun, status: str) -> None:
    """Bring a run that a lease holds into a status, or release it; one that is in progress stays so."""
    match status:
        case "completed":
            store.complete(run.id)
        case "requires_action":
            call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            store.require_action(run.id, [call])
        case "released":
            store.release(lease, run)
        case _:
            assert status == run.status


@asynccontextmanager
async def at_work(store: Store, handler: Handler, **given: Any) -> AsyncIterator[Worker]:
    """A worker beside the test, in its loop."""
    async with Worker(store, handler, **{"name": "w1", "drain_s": LIMIT, **given}) as worker:
        try:
            yield worker
        except BaseException:
            worker.stop()
            worker.stop()  # at once
            raise


async def until(condition: Callable[[], bool], what: str, limit: float = LIMIT) -> None:
    """Wait for a condition, but not for ever; the loop goes on meanwhile."""
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {limit:g} seconds for {what}")
        await asyncio.sleep(0.005)


async def ended(store: Store, run_id: str) -> StoredRun:
    """Return a run when it has ended."""
    async with asyncio.timeout(LIMIT):
        while (run := await store.aio.get(run_id)).status not in TERMINAL:
            await asyncio.sleep(0.01)
    return run


def events(store: Store, run_id: str) -> list[str | None]:
    """Return what was asked of a run, in order; None for its birth."""
    return [entry.event for entry in store.history(run_id)]


def last(store: Store, run_id: str) -> Entry:
    """Return the last entry of a run's history."""
    return store.history(run_id)[-1]


class Bench:
    """Where handlers wait until the test lets them go on, and tell what befell them."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.cancelled: list[tuple[str, float]] = []
        """Who was cancelled, and when by the machine's clock."""
        self.at_once = self.most_at_once = 0
        self.gate = threading.Event()
        self._counting = threading.Lock()

    def _enter(self, ctx: Context) -> None:
        with self._counting:
            self.begun.append(ctx.run_id)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)

    def _leave(self, ctx: Context) -> None:
        with self._counting:
            self.ended.append(ctx.run_id)
            self.at_once -= 1

    async def wait(self, ctx: Context) -> None:
        """An async handler that waits for the gate."""
        self._enter(ctx)
        try:
            end = time.monotonic() + LIMIT
            while not self.gate.is_set():
                assert time.monotonic() < end, "the gate stayed shut"
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            self.cancelled.append((ctx.run_id, time.time()))
            raise
        finally:
            self._leave(ctx)

    def stand(self, ctx: Context) -> None:
        """A plain handler that waits for the gate, and asks nobody whether it should."""
        self._enter(ctx)
        try:
            assert self.gate.wait(LIMIT), "the gate stayed shut"
        finally:
            self._leave(ctx)

    def of(self, kind: str) -> Handler:
        return self.stand if kind == "plain" else self.wait


def left_behind(store: Store, *, name: str = "w0", **noted: Any) -> None:
    """Claim the next run as a worker that dies: what it noted stays, and its lease has ended when this returns."""
    lease = store.open_lease(name)
    (claim,) = store.claim(lease) or store.take_over(lease)
    if noted:
        assert store.save_checkpoint(lease, claim.run, **noted)
    store.close_lease(lease)  # as the sweep does with one that lapsed: no test need wait for that
    assert 1 == store.sweep().orphaned


def new_threads(before: Iterable[threading.Thread]) -> list[threading.Thread]:
    """Return the threads that were not there before; those that were may end at any moment."""
    return [thread for thread in threading.enumerate() if thread not in before]
