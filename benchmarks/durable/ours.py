"""runstate in the durable benchmark: a store, and a `Worker` whose async handler does nothing."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Final

from benchmarks.durable.server import Contestant, Crew, Dialect, GaveUp, Seat, emptied, vacuumed
from runstate.store import NewRun, Store, open_store
from runstate.worker import Context, Worker

WANTED: Final[NewRun] = {"thread_id": "thread_1", "assistant_id": "asst_1", "model": "gpt-4o"}
TABLES: Final = ("runstate_run", "runstate_history")


class Ours(Contestant):
    """runstate, as its README has it."""

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
            raise GaveUp("not prepared")
        return self._store

    def prepare(self) -> None:
        self._shut()
        if self._postgres:
            emptied(self._postgres)
        else:
            for path in self._folder.iterdir():
                path.unlink()
            self._number += 1
        self._store = open_store(self.url, migrate=True)

    def create(self, count: int, in_flight: int) -> float:
        before = perf_counter()
        if in_flight == 1:
            for _ in range(count):
                self.store.create(**WANTED)
        else:
            asyncio.run(_create(self.store, count, in_flight))
        return perf_counter() - before

    def settle(self) -> None:
        if self._postgres:
            vacuumed(self._postgres, TABLES)

    def drain(self, count: int, slots: int, processes: int) -> float:
        with Crew(drain, self.url, slots, processes=processes) as crew:
            crew.go()
            seconds = crew.measured(count)
        counts = self.store.counts()
        if sum(counts.values()) != count or counts["completed"] != count:  # type: ignore[index]
            raise GaveUp(f"not all completed: {counts}")
        return seconds

    def start(self, count: int, every: float) -> list[float]:
        self.prepare()
        with Crew(watch, self.url, moments=count) as crew:
            crew.go()
            sleep(0.5)
            asked = []
            for number in range(count):
                sleep(every)
                asked.append(monotonic())
                wanted: NewRun = {**WANTED, "metadata": {"number": str(number)}}
                self.store.create(**wanted)
            return [began - before for began, before in zip(crew.moments(), asked, strict=True)]

    def close(self) -> None:
        self._shut()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _shut(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None


async def _create(store: Store, count: int, in_flight: int) -> None:
    each, more = divmod(count, in_flight)

    async def caller(runs: int) -> None:
        for _ in range(runs):
            await store.aio.create(**WANTED)

    await asyncio.gather(*(caller(each + (number < more)) for number in range(in_flight)))


async def nothing(ctx: Context) -> None:
    """Be the handler."""


def drain(seat: Seat, url: str, slots: int) -> None:
    """Drive runs until nothing is left."""
    with open_store(url) as store:
        worker = Worker(store, nothing, concurrency=slots)
        seat.ready()
        began = monotonic()
        worker.run(until_idle=True)
        seat.tell(began, monotonic(), worker.settled)


def watch(seat: Seat, url: str) -> None:
    """Start what comes."""

    async def note(ctx: Context) -> None:
        seat.started(int(ctx.run.metadata["number"]))

    with open_store(url) as store:
        seat.ready()
        Worker(store, note).run()
        sys.exit("the worker ended")


OURS_ABOUT: Final = "open_store and Worker, an async handler; the database refuses what is illegal, also to plain SQL"
Ours.about = OURS_ABOUT
