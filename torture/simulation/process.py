"""A simulated process: a store, an event loop, threads; it can stand still, and it can crash."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from runstate.errors import OutcomeUnknown, RunstateError, StoreUnavailable
from runstate.store import Store
from runstate.store._engine.commands import Command, SettleAndClaim
from runstate.store._notifier import Change
from runstate.store._sql.connection import Database
from runstate.worker._last_attempts import LastAttempts
from torture.simulation.database import DatabaseHere
from torture.simulation.primitives import Loop
from torture.simulation.scheduler import Runnable, Scheduler, Strand

if TYPE_CHECKING:
    from torture.simulation.world import World

__all__ = ["Process", "ToldStore"]


class ToldStore(Store):
    """A store that notes what a worker is told of its outcomes."""

    world: World

    def __init__(self, database: Database, wait_s: float) -> None:
        super().__init__(database, wait_s)
        self._submit = self._committer.submit
        self._committer.submit = self._noted  # type: ignore[method-assign]

    def _noted(self, command: Command[Any]) -> asyncio.Future[Any]:
        future = self._submit(command)
        if isinstance(command, SettleAndClaim) and command.settles:
            self.world.ledger.settling(command.worker, command.settles)
            future.add_done_callback(lambda done: self._note(command, done))
        return future

    def _note(self, turn: SettleAndClaim[Any], done: asyncio.Future[Any]) -> None:
        if done.cancelled():
            return
        error = done.exception()
        self.world.ledger.settled(turn.worker, turn.settles, error or done.result())


class Process:
    """One process, from its start to its crash or the world's end."""

    def __init__(self, world: World, name: str) -> None:
        self.world: Final = world
        self.scheduler: Final[Scheduler] = world.scheduler
        self.name: Final = name
        self.alive = True
        self.doomed = False
        self.stands_until = 0
        """When it goes on after standing still, in microseconds."""
        self.parked: list[Runnable] = []
        """What would go on if it did not stand still."""
        self.booted_at: Final = world.scheduler.now / 1_000_000 - world.choose(0, 50_000)
        self.wrong_by_s: Final = world.choose(-3600, 0, 0, 3600)
        self.away_until = 0
        self.strands: list[Strand] = []
        self.loop: Final = Loop(world.scheduler, self)
        self.hear: Callable[[Change], None] = _deaf
        """Takes hints that come from other processes."""
        self.last_attempts: Final = LastAttempts()
        self.hinted = False
        """Whether one is under way to it."""
        before, world.scheduler.process = world.scheduler.process, self
        self.store: Final = ToldStore(DatabaseHere(self), world.wait_s)
        self.store.world = world
        world.scheduler.process = before

    def strand(self, name: str, function: Callable[[], object]) -> Strand:
        """Return a new thread, which has not begun."""
        strand = Strand(self, name, function)
        self.strands.append(strand)
        return strand

    def begin(self, name: str, function: Callable[[], object]) -> None:
        """Begin a thread."""
        self.strand(name, function).wake()

    def task(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin a task of its loop."""
        task = self.loop.create_task(coroutine)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.scheduler.faults.append(f"{self.name}: a task died of {error!r}")

    def doom(self) -> None:
        """Let it crash as soon as the strand under way is at its end."""
        self.doomed = True
        self.alive = False

    def stand_still(self, seconds: float) -> None:
        """Let nothing of it go on for so long."""
        self.stands_until = self.scheduler.now + int(seconds * 1_000_000)
        self.scheduler.after(seconds, self._go_on)

    def _go_on(self, _: object) -> None:
        if self.stands_until <= self.scheduler.now and self.alive:
            self.scheduler.ready.extend(self.parked)
            self.parked.clear()

    def bury(self) -> None:
        """End what is left of it: nothing more is asked of anybody. Its objects stay as long as the world."""
        self.doomed = False
        self.alive = False
        before, self.scheduler.process = self.scheduler.process, self
        for strand in self.strands:
            if strand.begun and not strand.ended:
                strand.go_on()
        self.scheduler.process = before
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        self.world.buried.append((self, tasks))


def _deaf(_: Change) -> None:
    return


def told_of(error: BaseException) -> str:
    """Return what an error tells of what was asked: unknown; or, so nothing was changed, unavailable or refused."""
    if isinstance(error, OutcomeUnknown):
        return "unknown"
    if isinstance(error, StoreUnavailable):
        return "unavailable"
    return "refused" if isinstance(error, RunstateError) else "died"
