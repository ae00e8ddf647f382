"""Latencies of a durable run: claims as the tables grow, a cancel, an expiry among many live runs; and an idle worker.

    python -m benchmarks.durable.latency [growth] [idle] [cancel] [expiry] [--dialect sqlite|postgres] [--quick]
    [--json]

Growth: how long one claim takes with 10^4 and 10^6 terminal runs, and with 10^4 and 10^6 queued ones, measured
in one run, so that the ratio counts. Idle: the CPU time that a worker process without runs uses, as a part of one core.
Cancel: from `request_cancel` in one process to CancelledError in a handler of another. Expiry: how late the stamp of a
passed deadline is, beside 10^5 live runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, sleep, time
from typing import Any, Final

from benchmarks.machine import machine
from benchmarks.postgres import postgres, vacuum_tables
from runstate.lifecycle import RunEvent
from runstate.store import NewRun, Settle, Store, open_store
from runstate.worker import Context, Worker

NEW_RUN: Final[NewRun] = {"thread_id": "thread_1", "assistant_id": "asst_1", "model": "gpt-4o"}
NO_USAGE: Final = '{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}'
BATCH: Final = 5000


@contextmanager
def fresh_database(dialect: str) -> Iterator[str]:
    """Yield the URL of an empty database."""
    if dialect == "sqlite":
        with tempfile.TemporaryDirectory(prefix="runstate-") as folder:
            yield f"sqlite:///{Path(folder) / 'runs.db'}"
        return
    with postgres() as server, server.fresh_database() as url:
        yield url


def create(store: Store, count: int, **given: Any) -> None:
    """Create many queued runs."""
    wanted: NewRun = {**NEW_RUN, **given}  # type: ignore[typeddict-item]
    for first in range(0, count, BATCH):
        store.create_many([wanted] * min(BATCH, count - first))


def complete(store: Store, count: int) -> None:
    """Claim and complete that many."""
    lease = store.open_lease("filler", lease_s=600)
    left = count
    while left:
        claims = store.claim(lease, min(BATCH, left))
        store.settle(lease, [Settle(claim.run, RunEvent.COMPLETE, NO_USAGE) for claim in claims])
        left -= len(claims)


def percentiles(waits: Sequence[float]) -> dict[str, float]:
    """Return the median and the 99th percentile, in milliseconds."""
    return {"p50_ms": median(waits) * 1000, "p99_ms": quantiles(waits, n=100)[98] * 1000}


# -- growth -----------------------------------------------------------------------------------------------------------


def claim_waits(store: Store, count: int) -> dict[str, float]:
    """Return how long one claim takes. Each run is then completed, which is not timed."""
    lease = store.open_lease("claimer", lease_s=600)
    waits: list[float] = []
    for number in range(count + 20):
        began = perf_counter()
        (claim,) = store.claim(lease)
        if number >= 20:
            waits.append(perf_counter() - began)
        store.settle(lease, [Settle(claim.run, RunEvent.COMPLETE, NO_USAGE)])
    return percentiles(waits)


def growth(dialect: str, quick: bool) -> dict[str, Any]:
    """Return how long a claim takes at each size, and the ratios of the large to the small."""
    small, large, count = (1000, 20_000, 200) if quick else (10_000, 1_000_000, 1000)
    found: dict[str, Any] = {}
    for kind, fill in (("terminal", complete), ("queued", None)):
        with fresh_database(dialect) as url, open_store(url, migrate=True) as store:
            done = 0
            for size in (small, large):
                create(store, size - done)
                if fill is not None:
                    fill(store, size - done)
                    create(store, 2 * count)
                done = size
                if dialect == "postgres":
                    vacuum_tables(url, ("runstate_run", "runstate_history"))
                found[f"{size} {kind}"] = claim_waits(store, count)
        ratio = {name: found[f"{large} {kind}"][name] / found[f"{small} {kind}"][name] for name in ("p50_ms", "p99_ms")}
        found[f"ratio {kind}"] = ratio
    return found


# -- an idle worker ---------------------------------------------------------------------------------------------------

IDLE_PROGRAM: Final = """
import sys, time
from runstate.store import open_store
from runstate.worker import Worker
import asyncio
async def nothing(ctx): pass
async def main(url):
    with open_store(url) as store:
        async with Worker(store, nothing):
            await asyncio.sleep(2)
            before, began = time.process_time(), time.perf_counter()
            await asyncio.sleep(float(sys.argv[2]))
            print((time.process_time() - before) / (time.perf_counter() - began))
asyncio.run(main(sys.argv[1]))
"""


def idle(dialect: str, quick: bool) -> dict[str, Any]:
    """Return the part of a core that an idle worker uses."""
    with fresh_database(dialect) as url:
        open_store(url, migrate=True).close()
        seconds = "3" if quick else "15"
        done = subprocess.run(
            [sys.executable, "-c", IDLE_PROGRAM, url, seconds], capture_output=True, text=True, timeout=120, check=True
        )
        return {"core": float(done.stdout)}


# -- a cancel ---------------------------------------------------------------------------------------------------------

WORKER_PROGRAM: Final = """
import sys, time, asyncio
from runstate.store import open_store
from runstate.worker import Worker
async def wait(ctx):
    try:
        await asyncio.sleep(60)
    finally:
        print(ctx.run_id, time.time(), flush=True)
with open_store(sys.argv[1]) as store:
    Worker(store, wait, concurrency=50).run()
"""


def cancel(dialect: str, quick: bool) -> dict[str, Any]:
    """Return how long a cancel takes to reach a handler in another process."""
    count = 50 if quick else 300
    with fresh_database(dialect) as url, open_store(url, migrate=True) as store:
        worker = subprocess.Popen([sys.executable, "-c", WORKER_PROGRAM, url], stdout=subprocess.PIPE, text=True)
        assert worker.stdout is not None
        waits: list[float] = []
        try:
            for _ in range(count):
                run = store.create(**NEW_RUN)
                while store.get(run.id).status != "in_progress":
                    sleep(0.005)
                sleep(0.02)
                asked = time()
                store.request_cancel(run.id)
                run_id, reached = worker.stdout.readline().split()
                assert run_id == run.id
                waits.append(float(reached) - asked)
        finally:
            worker.kill()
            worker.wait()
            worker.stdout.close()
        return percentiles(waits)


# -- an expiry --------------------------------------------------------------------------------------------------------


async def no_op(ctx: Context) -> None:
    """Do nothing; the handler of a worker that only sweeps."""


def expiry(dialect: str, quick: bool) -> dict[str, Any]:
    """Return how late deadlines are stamped beside many live runs, in seconds after the deadline."""
    live, count = (2000, 20) if quick else (100_000, 100)
    with fresh_database(dialect) as url, open_store(url, migrate=True) as store:
        create(store, live, queue="elsewhere", expires_in_s=86_400)

        async def work() -> list[float]:
            late: list[float] = []
            async with Worker(store, no_op, queues=("empty",)):
                for number in range(count):
                    wanted: NewRun = {**NEW_RUN, "queue": "elsewhere", "expires_in_s": 1}
                    run = await store.aio.create(**wanted)
                    entries = store.aio.watch(run.id, after=1)
                    async with asyncio.timeout(30):
                        entry = await anext(entries)
                    late.append(entry.at_us / 1_000_000 - (run.expires_at or 0))
                    await asyncio.sleep(0.01 * (number % 10))
            return late

        late = asyncio.run(work())
        return {"p50_s": median(late), "p99_s": quantiles(late, n=100)[98], "most_s": max(late)}


MEASUREMENTS: Final[dict[str, Callable[[str, bool], dict[str, Any]]]] = {
    "growth": growth,
    "idle": idle,
    "cancel": cancel,
    "expiry": expiry,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Latencies of a durable run.")
    parser.add_argument("measurements", nargs="*", choices=[[], *MEASUREMENTS], help="all if none is named")
    parser.add_argument("--dialect", choices=["sqlite", "postgres"])
    parser.add_argument("--quick", action="store_true", help="small sizes: a trial, not a result")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, Any] = {"about": machine()}
    for dialect in [options.dialect] if options.dialect else ["sqlite", "postgres"]:
        for name in options.measurements or MEASUREMENTS:
            found[f"{dialect} {name}"] = MEASUREMENTS[name](dialect, options.quick)
            if not options.json:
                print(f"{dialect} {name}: {json.dumps(found[f'{dialect} {name}'])}", flush=True)
    if options.json:
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
