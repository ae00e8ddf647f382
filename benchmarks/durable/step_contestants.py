"""The interface of a contestant in the benchmark of durable steps, what all of them measure, and runstate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Awaitable, Callable
from random import Random
from time import monotonic
from typing import Final, Literal, TypeAlias

from benchmarks.durable.contestant import Dialect, MeasurementFailed
from benchmarks.durable.processes import Reporter, WorkerProcesses
from benchmarks.durable.runstate_store import NEW_RUN
from runstate.lifecycle import RunStatus
from runstate.store import NewRun, Store, open_store
from runstate.worker import Context, Worker

HandlerKind: TypeAlias = Literal["plain", "async"]
STEP: Final = "turn"


def random_texts(count: int, size: int) -> list[str]:
    """Return so many texts of so many characters, which no compression makes much smaller."""
    source = Random(count * size)
    return [b64encode(source.randbytes(size))[:size].decode() for _ in range(count)]


def keep_steps(reporter: Reporter, count: int, size: int, keep: Callable[[int, str], object]) -> None:
    """Keep so many steps, one after the other, and report how long it took. A handler calls this."""
    texts = random_texts(count, size)
    began = monotonic()
    for number, text in enumerate(texts):
        keep(number, text)
    reporter.report(began, monotonic(), count)


async def keep_steps_async(
    reporter: Reporter, count: int, size: int, keep: Callable[[int, str], Awaitable[object]]
) -> None:
    """Keep so many steps, one after the other, and report how long it took. An async handler awaits this."""
    texts = random_texts(count, size)
    began = monotonic()
    for number, text in enumerate(texts):
        await keep(number, text)
    reporter.report(began, monotonic(), count)


class StepContestant(ABC):
    """A way to keep steps, in one new database: runs are created here, and handled in a worker process."""

    name: str
    about: str
    """What it does, for the reader of the table."""
    missing: str = ""
    """Why it cannot be measured here; empty if it can."""
    dialects: tuple[Dialect, ...] = ("postgres",)
    kind: HandlerKind

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    def prepare(self) -> None:
        """Create the tables."""

    @abstractmethod
    def worker(self) -> WorkerProcesses:
        """Return the worker process. It reports each run whose last step is kept."""

    @abstractmethod
    def create(self, steps: int, size: int) -> None:
        """Create a run whose handler keeps so many steps of so many characters."""

    @abstractmethod
    def completed(self) -> int:
        """Return how many runs are completed."""

    @abstractmethod
    def kept(self, size: int) -> int:
        """Return how many steps have a result of at least so many characters."""

    def close(self) -> None:  # noqa: B027  (optional)
        """Release all resources."""


# -- runstate ---------------------------------------------------------------------------------------------------------


class _Runstate(StepContestant):
    dialects = ("postgres", "sqlite")

    _store: Store | None = None

    @property
    def store(self) -> Store:
        if self._store is None:
            raise MeasurementFailed("not prepared")
        return self._store

    def prepare(self) -> None:
        self._store = open_store(self.url, migrate=True)

    def worker(self) -> WorkerProcesses:
        return WorkerProcesses(runstate_worker, self.url, self.kind)

    def create(self, steps: int, size: int) -> None:
        wanted: NewRun = {**NEW_RUN, "metadata": {"steps": str(steps), "size": str(size)}}
        self.store.create(**wanted)

    def completed(self) -> int:
        return self.store.counts().get(RunStatus.COMPLETED, 0)

    def kept(self, size: int) -> int:
        runs = self.store.list(thread_id=NEW_RUN["thread_id"])
        return sum(len(step.result) >= size for run in runs for step in self.store.steps(run.id))

    def close(self) -> None:
        if self._store is not None:
            self._store.close()


class RunstatePlain(_Runstate):
    """A plain handler, in a thread of the worker."""

    name = "runstate, plain handler"
    about = "open_store and Worker; ctx.step with a key; the write checks lease, version and attempt of the claim"
    kind = "plain"


class RunstateAsync(_Runstate):
    """An async handler, on the event loop of the worker."""

    name = "runstate, async handler"
    about = "the same, each step awaited"
    kind = "async"


def same_text(text: str) -> str:
    """Return the text; a step."""
    return text


def runstate_worker(reporter: Reporter, url: str, kind: HandlerKind) -> None:
    """Work until killed."""

    def sizes(ctx: Context) -> tuple[int, int]:
        return int(ctx.run.metadata["steps"]), int(ctx.run.metadata["size"])

    def plain(ctx: Context) -> None:
        keep_steps(reporter, *sizes(ctx), lambda number, text: ctx.step(STEP, same_text, text, key=str(number)))

    async def awaited(ctx: Context) -> None:
        def keep(number: int, text: str) -> Awaitable[object]:
            step: Awaitable[object] = ctx.step(STEP, same_text, text, key=str(number))
            return step

        await keep_steps_async(reporter, *sizes(ctx), keep)

    with open_store(url) as store:
        reporter.wait_for_start()
        Worker(store, plain if kind == "plain" else awaited).run()
