"""One worker for a long time: what it holds and what the database holds must not grow with the runs that have ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, linear_regression
from time import monotonic, sleep
from typing import Any, Final

import psutil  # type: ignore[import-untyped]
import psycopg

from runstate.store import Store
from runstate.worker import Context, Worker
from tests.support.judge import Ask, asking, judge
from tests.support.postgres import OwnServer, Server
from torture.fleet.settings import opened
from torture.ground import Dialect, GaveUp, Ground
from torture.processes import Processes
from torture.verdict import Verdict

_IN_FLIGHT: Final = 50
_BACKLOG: Final = 3000
_PRUNE_EVERY_S: Final = 8.0
_PART: Final = 2000
_FEWEST: Final = 20
_STEADY: Final = ("threads", "files", "connections")
_MEGABYTE: Final = 1024 * 1024
_QUICKER: Final = (
    # A minute between two vacuums, and a gigabyte of WAL between two checkpoints, are for days; this is minutes.
    *("autovacuum_naptime = '3s'", "max_wal_size = '96MB'", "autovacuum_vacuum_cost_delay = 0"),
)


def work_quietly(name: str, url: str, log: Path) -> None:
    """Be a worker whose handlers do nothing."""
    logging.basicConfig(filename=log, level=logging.WARNING)

    async def handler(ctx: Context) -> None:
        return None

    with opened(url, 30.0) as store:
        Worker(store, handler, concurrency=100, name=name, lease_s=10.0).run()


def create_quietly(name: str, url: str, count: int, log: Path) -> None:
    """Create so many runs, but never more than the worker can soon take."""
    logging.basicConfig(filename=log, level=logging.WARNING)
    with opened(url, 30.0) as store, asking(url) as ask:
        asyncio.run(_create(store, ask, count))


async def _create(store: Store, ask: Ask, count: int) -> None:
    numbers = iter(range(count))
    go = asyncio.Event()
    go.set()

    async def caller() -> None:
        for number in numbers:
            await go.wait()
            await store.aio.create(id=f"run_{number}", thread_id="t", assistant_id="a", model="m")

    async def hold_back() -> None:
        while True:
            claimable = "status = 'queued' AND claimable_at_us IS NOT NULL"
            ((waiting,),) = ask(f"SELECT count(*) FROM runstate_run WHERE {claimable}")
            (go.set if waiting < _BACKLOG else go.clear)()
            await asyncio.sleep(0.1)

    holding = asyncio.create_task(hold_back())
    await asyncio.gather(*(caller() for _ in range(_IN_FLIGHT)))
    holding.cancel()


class Sampler:
    """Looks at a process and a database now and then."""

    def __init__(self, pid: int, url: str) -> None:
        self._process = psutil.Process(pid)
        self._url = url
        self.samples: list[dict[str, float]] = []

    def look(self, done: int) -> None:
        """Add a sample, at so many runs done."""
        process = self._process
        with process.oneshot():
            sample: dict[str, float] = {
                "done": done,
                "rss_mb": process.memory_info().rss / _MEGABYTE,
                "threads": process.num_threads(),
                "files": process.num_fds(),
            }
        self.samples.append({**sample, **self._of_database()})

    def _of_database(self) -> Mapping[str, float]:
        if self._url.startswith("sqlite:///"):
            path = Path(self._url.removeprefix("sqlite:///"))
            wal = path.with_name(path.name + "-wal")
            sizes = [one.stat().st_size if one.exists() else 0 for one in (path, wal)]
            return {"database_mb": sizes[0] / _MEGABYTE, "wal_mb": sizes[1] / _MEGABYTE}
        with asking(self._url) as ask:
            ((size, wal_size, connections),) = ask(
                "SELECT pg_database_size(current_database()), (SELECT sum(size) FROM pg_ls_waldir()),"
                " (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid())"
            )
        return {"database_mb": size / _MEGABYTE, "wal_mb": float(wal_size) / _MEGABYTE, "connections": connections}

    def report(self) -> Mapping[str, Any]:
        """Return for each figure its mean in the first and the last quarter, and the slope from there on."""
        quarter = max(1, len(self.samples) // 4)
        found: dict[str, Any] = {}
        for name in self.samples[0].keys() - {"done"}:
            values = [sample[name] for sample in self.samples]
            found[name] = {
                "first": round(fmean(values[:quarter]), 1),
                "last": round(fmean(values[-quarter:]), 1),
                "per 100,000": round(self._slope(self.samples[quarter:], name), 2),
            }
        return dict(sorted(found.items()))

    @staticmethod
    def _slope(samples: Sequence[Mapping[str, float]], name: str) -> float:
        done = [sample["done"] for sample in samples]
        if len(set(done)) < 2:
            return 0.0
        return linear_regression(done, [sample[name] for sample in samples]).slope * 100_000


class Ledger:
    """Where the runs of a soak have gone."""

    def __init__(self, verdict: Verdict, url: str, store: Store) -> None:
        self._verdict = verdict
        self._url = url
        self._store = store
        self.pruned = 0

    def done(self) -> int:
        """Return how many runs have ended, those that were pruned too."""
        with asking(self._url) as ask:
            ((count,),) = ask("SELECT count(*) FROM runstate_run WHERE status = 'completed'")
        return self.pruned + int(count)

    def prune(self) -> None:
        """Judge all that is there, then prune what had ended before that."""
        began = monotonic()
        found = judge(self._url)
        self._verdict.gaps += found.gaps
        self._verdict.doubled += found.doubled
        self._verdict.illegal += found.illegal
        self._verdict.wrong += found.wrong
        self._verdict.count(judged_before_pruning=1)
        while gone := self._store.prune(monotonic() - began + 0.1, limit=_PART):
            self.pruned += gone


def soak(ground: Ground, count: int, dialect: Dialect) -> Verdict:
    """Create and complete runs through one worker, prune what has ended, and look how everything grows."""
    verdict = Verdict(f"soak/{dialect}", trials=count)
    if dialect == "postgres" and isinstance(ground.server(), OwnServer):
        quicken(ground.server())
    url = ground.store(dialect)
    log = ground.path("soak.log")
    with Processes() as processes, opened(url, 30.0) as store:
        worker = processes.start(work_quietly, url, log)
        processes.start(create_quietly, url, count, log, name="c")
        sampler = Sampler(processes.members[worker].pid or 0, url)
        ledger = Ledger(verdict, url, store)
        began = prune_at = monotonic()
        while (done := ledger.done()) < count:
            if monotonic() - began > 60 + count / 400:
                raise GaveUp(f"only {done} of {count} runs have ended")
            if done > count / 50:  # what it opens and loads at first is no growth
                sampler.look(done)
            if monotonic() > prune_at + (_PRUNE_EVERY_S if not ground.quick else 1.0):
                prune_at = monotonic()
                ledger.prune()
            verdict.wrong += [fallen for fallen in processes.fallen() if not fallen.endswith("with 0")]
            sleep(1.0 if not ground.quick else 0.2)
        verdict.notes["runs a second"] = round(count / (monotonic() - began))
        processes.kill(worker)
    _conclude(verdict, url, count, ledger, sampler)
    ground.drop(url)
    return verdict


def quicken(server: Server) -> None:
    """Let the server do in minutes what it else does in hours."""
    with psycopg.connect(server.address, autocommit=True) as connection:
        for setting in _QUICKER:
            connection.execute(f"ALTER SYSTEM SET {setting}".encode())
        connection.execute("SELECT pg_reload_conf()")


def _conclude(verdict: Verdict, url: str, count: int, ledger: Ledger, sampler: Sampler) -> None:
    verdict.judge(url)
    verdict.acknowledged = count
    with asking(url) as ask:
        ((left,),) = ask("SELECT count(*) FROM runstate_run")
    verdict.lost += abs(count - ledger.pruned - int(left))
    verdict.notes["pruned"] = ledger.pruned
    verdict.notes["samples"] = len(sampler.samples)
    if len(sampler.samples) < _FEWEST:
        return  # too short to see anything grow
    report = sampler.report()
    verdict.notes.update(report)
    for name in _STEADY:
        if name in report:
            steady = report[name]["last"] <= report[name]["first"] + 2
            verdict.expect(steady, f"{name} grew from {report[name]['first']} to {report[name]['last']}")
    rss = report["rss_mb"]
    verdict.expect(rss["last"] <= rss["first"] * 1.1 + 10, f"the worker grew from {rss['first']} to {rss['last']} MB")
