"""runstate in the durable benchmark: a store, and a `Worker` whose async handler does nothing."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Final

from benchmarks.durable.contestant import Contestant, Dialect, MeasurementFailed
from benchmarks.durable.processes import Reporter, WorkerProcesses
from benchmarks.postgres import empty_database, vacuum_tables
from runstate.store import NewRun, Store, open_store
from runstate.worker import Context, Worker

NEW_RUN: Final[NewRun] = {"thread_id": "thread_1", "assistant_id": "asst_1", "model": "gpt-4o"}
TABLES: Final = ("runstate_run", "runstate_history")


class RunstateStore(Contestant):
    """runstate, used as in its README."""

    name = "runstate"

    def __init__(self, dialect: Dialect, url: str = "") -> None:
        self.dialect: Dialect = dialect
        self._postgres = url
        self._folder = Path(tempfile.mkdtemp(prefix="runstate-"))
        self._number = 0
        self._store: Store | None = None

    @property
    def url(self) -> str:
        return self._postgres or f"sqlite:///{self._folder / f'{self._number}.db'}"

    @property
    def store(self) -> Store:
        if self._store is None:
            raise MeasurementFailed("not prepared")
        return self._store

    def prepare(self) -> None:
        self._close_store()
        if self._postgres:
            empty_database(self._postgres)
        else:
            for path in self._folder.iterdir():
                path.unlink()
            self._number += 1
        self._store = open_store(self.url, migrate=True)

    def create(self, count: int, in_flight: int) -> float:
        before = perf_counter()
        if in_flight == 1:
            for _ in range(count):
                self.store.create(**NEW_RUN)
        else:
            asyncio.run(_create(self.store, count, in_flight))
        return perf_counter() - before

    def vacuum(self) -> None:
        if self._postgres:
            vacuum_tables(self._postgres, TABLES)

    def drain(self, count: int, slots: int, processes: int) -> float:
        with WorkerProcesses(drain, self.url, slots, processes=processes) as workers:
            workers.start()
            seconds = workers.wait_for_reports(count)
        counts = self.store.counts()
        if sum(counts.values()) != count or counts["completed"] != count:  # type: ignore[index]
            raise MeasurementFailed(f"not all completed: {counts}")
        return seconds

    def start(self, count: int, every: float) -> list[float]:
        self.prepare()
        with WorkerProcesses(record_starts, self.url, starts=count) as workers:
            workers.start()
            sleep(0.5)
            created_at = []
            for number in range(count):
                sleep(every)
                created_at.append(monotonic())
                wanted: NewRun = {**NEW_RUN, "metadata": {"number": str(number)}}
                self.store.create(**wanted)
            return [began - before for began, before in zip(workers.start_times(), created_at, strict=True)]

    def close(self) -> None:
        self._close_store()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _close_store(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None


async def _create(store: Store, count: int, in_flight: int) -> None:
    each, more = divmod(count, in_flight)

    async def caller(runs: int) -> None:
        for _ in range(runs):
            await store.aio.create(**NEW_RUN)

    await asyncio.gather(*(caller(each + (number < more)) for number in range(in_flight)))


async def no_op(ctx: Context) -> None:
    """Do nothing; the handler."""


def drain(reporter: Reporter, url: str, slots: int) -> None:
    """Drive runs until none is left."""
    with open_store(url) as store:
        worker = Worker(store, no_op, concurrency=slots)
        reporter.wait_for_start()
        began = monotonic()
        worker.run(until_idle=True)
        reporter.report(began, monotonic(), worker.settled)


def record_starts(reporter: Reporter, url: str) -> None:
    """Start new runs, and record when."""

    async def note(ctx: Context) -> None:
        reporter.record_start(int(ctx.run.metadata["number"]))

    with open_store(url) as store:
        reporter.wait_for_start()
        Worker(store, note).run()
        sys.exit("the worker ended")


_ABOUT: Final = "open_store and Worker, an async handler; the database refuses what is illegal, also to plain SQL"
RunstateStore.about = _ABOUT
