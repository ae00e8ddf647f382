"""Create, drain and prune at one rate for a long time: how tables, dead rows and waits are at its beginning and end.

    python -m benchmarks.durable.steady [--rate N] [--minutes M] [--dialect sqlite|postgres] [--json]

One process creates N runs a second, another works on them, and runs that ended a minute ago are deleted every five
seconds. Every minute is a sample: the runs created and drained, how long a create took, the size of the tables, the
dead rows, and how often they were vacuumed. PostgreSQL has its own settings.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import quantiles
from time import monotonic, sleep
from typing import Any, Final

import psycopg

from benchmarks.durable.latency import NEW_RUN, fresh_database
from benchmarks.machine import machine
from runstate.lifecycle import RunStatus
from runstate.store import open_store
from runstate.worker import Context, Worker

KEPT_S: Final = 60.0
PRUNE_EVERY_S: Final = 5.0
SAMPLE_S: Final = 60.0
PER_TICK_S: Final = 0.05


async def nothing(ctx: Context) -> None:
    """Handle a run."""


def work(url: str) -> None:
    """Be the worker."""
    with open_store(url) as store:
        Worker(store, nothing, concurrency=100).run()


def tables(url: str) -> dict[str, Any]:
    """Return the size of the database, and of PostgreSQL the dead rows and the vacuums of the tables."""
    if url.startswith("sqlite:///"):
        path = Path(url.removeprefix("sqlite:///"))
        return {"database_mb": round(path.stat().st_size / 2**20, 1)}
    found: dict[str, Any] = {}
    with psycopg.connect(url, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT relname, pg_total_relation_size(relid), n_dead_tup, n_live_tup, autovacuum_count"
            " FROM pg_stat_user_tables WHERE relname LIKE 'runstate_%' ORDER BY relname"
        )
        for name, size, dead, live, vacuums in rows:
            short = name.removeprefix("runstate_")
            found[short] = {"mb": round(size / 2**20, 1), "dead": dead, "live": live, "vacuums": vacuums}
    return {"database_mb": round(sum(table["mb"] for table in found.values()), 1), "tables": found}


def steady(url: str, rate: float, minutes: float) -> list[dict[str, Any]]:
    """Create at a rate for so many minutes; return a sample for each minute."""
    samples: list[dict[str, Any]] = []
    worker = multiprocessing.get_context("spawn").Process(target=work, args=(url,))
    with open_store(url, migrate=True) as store:
        worker.start()
        try:
            began = sampled = pruned_at = monotonic()
            created = pruned = 0
            before = 0
            waits: list[float] = []
            while (now := monotonic()) < began + 60 * minutes:
                due = int((now - began) * rate) - created
                if due > 0:
                    asked = monotonic()
                    store.create_many([NEW_RUN] * min(due, 500))
                    waits.append(monotonic() - asked)
                    created += min(due, 500)
                if now > pruned_at + PRUNE_EVERY_S:
                    pruned_at = now
                    while gone := store.prune(KEPT_S, limit=5000):
                        pruned += gone
                if now > sampled + SAMPLE_S:
                    counts = store.counts()
                    drained = counts.get(RunStatus.COMPLETED, 0) + pruned
                    spent = monotonic() - sampled
                    sampled = monotonic()
                    samples.append(
                        {
                            "minute": round((sampled - began) / 60, 1),
                            "created": created,
                            "drained_per_s": round((drained - before) / spent, 1),
                            "waiting": created - drained,
                            "create_p50_ms": round(quantiles(waits, n=2)[0] * 1000, 2),
                            "create_p99_ms": round(quantiles(waits, n=100)[98] * 1000, 2),
                            **tables(url),
                        }
                    )
                    before = drained
                    waits.clear()
                    if sys.stderr.isatty():
                        sys.stderr.write(f"\r{samples[-1]['minute']} min, {samples[-1]['drained_per_s']} runs/s\033[K")
                sleep(PER_TICK_S)
        finally:
            worker.terminate()
            worker.join()
    return samples


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the samples."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", type=float, default=300.0, help="runs a second (default: 300)")
    parser.add_argument("--minutes", type=float, default=60.0, help="for how long (default: 60)")
    parser.add_argument("--dialect", choices=("sqlite", "postgres"), default="postgres")
    parser.add_argument("--json", action="store_true", help="print one object")
    given = parser.parse_args(arguments)
    with fresh_database(given.dialect) as url:
        samples = steady(url, given.rate, given.minutes)
    if given.json:
        print(json.dumps({"machine": machine(), "rate": given.rate, "samples": samples}))
        return 0
    for sample in samples:
        dead = sum(table["dead"] for table in sample.get("tables", {}).values())
        vacuums = sum(table["vacuums"] for table in sample.get("tables", {}).values())
        print(
            "{minute:6.1f} min: {drained_per_s:7.1f} drained/s, {waiting:6} waiting, create p50 {create_p50_ms:.1f} ms"
            " p99 {create_p99_ms:.1f} ms, {database_mb:.1f} MB".format(**sample)
            + (f", {dead} dead rows, {vacuums} vacuums" if "tables" in sample else "")
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
