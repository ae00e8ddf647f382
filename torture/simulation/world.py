"""A world: a database, some processes, what befalls them, and how it comes to rest. All of it follows from the seed.

A step is one call of the database by a process: a transaction with all its statements, a read, or a connection that is
opened; each is a place where the seed decides who goes on. A call that fails is one, too.
"""

from __future__ import annotations

import gc
import hashlib
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any, Final, TypeVar

import attrs

from runstate.store._notifier import ALL_CHANGES
from runstate.store._types import StoredRun
from runstate.worker import Worker
from torture.simulation import clients
from torture.simulation.clients import Client
from torture.simulation.database import Connected, Session, SharedDatabase, connect, rows
from torture.simulation.judge import judge
from torture.simulation.ledger import Ask, Ledger
from torture.simulation.primitives import pause
from torture.simulation.process import Process
from torture.simulation.scheduler import BEGIN_US, Scheduler, play
from torture.simulation.trace import Trace

__all__ = ["Verdict", "World", "play_world"]

T = TypeVar("T")
_MOST_STEPS: Final = 20_000
_REST_S: Final = 60.0
"""So long after the last trouble nothing may be left to do."""


@attrs.frozen
class Verdict:
    """What came of a world."""

    seed: int
    steps: int
    counts: Counter[str]
    found: Sequence[str]
    digest: str
    """Of all rows and of all that was told: the same seed gives the same."""
    trace: Sequence[str] = ()


class World:
    """One seed, played from beginning to end."""

    def __init__(self, seed: int, connected: Connected, trace: Trace | None = None, *, watchful: bool = False) -> None:
        chance = Random(seed)
        self.random: Final = chance.random
        self.connected: Final = connected
        self.trace: Final = trace
        self._watchful = watchful
        self.found: Sequence[str] = ()
        """What is wrong at this step; only if every step is judged."""
        self.scheduler: Final = Scheduler(chance)
        self.ledger: Final = Ledger()
        self.database: Final = SharedDatabase(self, connected)
        self.seen: Final[dict[str, StoredRun]] = {}
        """Runs as some client saw them last."""
        self.processes: Final[list[Process]] = []
        self.buried: Final[list[object]] = []
        self.workers: Final[list[tuple[Process, Worker]]] = []
        self.asking: Final[list[Process]] = []
        """The processes of clients that are not at their end."""
        self.steps = self._count = self._ended_well = 0
        self.befell: Final[Counter[str]] = Counter()
        """What befell connections, by name."""
        self.calm = self.is_closing = self.is_over = False
        self.lease_s: Final[float] = self.choose(0.6, 1.0, 2.0)
        self.max_attempts: Final[int] = self.choose(1, 2, 3)
        self.wait_s: Final[float] = self.choose(0.2, 1.0, 3.0)
        self.haste_s: Final[float] = self.choose(0.02, 0.1, 0.3)
        self.plain: Final[float] = self.choose(0.0, 0.2)
        """How often a worker's handlers are plain."""
        self._tempo_us: Final[int] = self.choose(400, 2_000, 2_000, 20_000)
        self._faults: Final[float] = self.choose(0.0, 0.01, 0.03, 0.08)
        self._slow: Final[float] = self.choose(0.0, 0.02, 0.1)
        self._deaf: Final[float] = self.choose(0.0, 0.5, 1.0)
        """How many hints from other processes are lost."""
        self._crashes: int = self.choose(0, 1, 2)
        self._lasts_s: Final[float] = self.choose(1.0, 3.0, 6.0)

    # --- chance ---------------------------------------------------------------------------------------------------

    def choose(self, *among: T) -> T:
        """Return one of these."""
        return among[int(self.random() * len(among))]

    def count(self) -> int:
        """Return a number that nobody has yet."""
        self._count += 1
        return self._count

    def fault(self) -> bool:
        """Tell whether something goes wrong now."""
        if self.random() >= self._faults or self.calm:
            return False
        self.befell["faults of connections"] += 1
        return True

    def is_slow(self) -> bool:
        """Tell whether a process is held up in the middle of a transaction."""
        return self.random() < self._slow and not self.calm

    def takes_long(self) -> bool:
        """Tell whether it takes a while to connect."""
        return not self.calm and self.random() < 0.3

    def may_crash(self) -> bool:
        """Tell whether a process crashes that could; another takes its place."""
        if self.calm or self._crashes <= 0:
            return False
        self._crashes -= 1
        self.scheduler.after(self.random(), self._replace)
        return True

    def is_away(self, process: Process) -> bool:
        """Tell whether the database cannot be reached from a process."""
        return process.away_until > self.scheduler.now and not self.calm

    # --- what happens ---------------------------------------------------------------------------------------------

    def step(self, process: Process, what: str) -> None:
        """Count a call of the database; a moment passes."""
        self.steps += 1
        self.scheduler.now += 1 + int(self.random() * self._tempo_us)
        if self.trace is not None:
            self.trace.step(self.steps, process, what)
            if self._watchful and self.database.writer is None:
                self.found, _ = judge(self, resting=False)

    def asks(self, session: Session, statement: str) -> None:
        """Hear of a statement."""
        if self.trace is not None:
            self.trace.statement(session, statement)

    def told(self, what: str) -> None:
        """Hear how the database answered."""
        if self.trace is not None:
            self.trace.tell(self.scheduler.who, what)

    def note(self, process: Process, what: str) -> None:
        """Hear of what befell a process."""
        if self.trace is not None:
            self.trace.note(process, what)

    def heard(self, process: Process, ask: Ask) -> None:
        """Hear what a client was told."""
        if self.trace is not None:
            about = ask.run_id or ", ".join(run.id for run in ask.runs)
            self.trace.note(process, f"{ask.actor} {ask.method} {about}: {', '.join(ask.tells)} {ask.error}")

    def begun(self, process: Process, run: StoredRun, token: int, who: str, checkpoint: Any) -> None:
        """Hear of a handler that is called."""
        self.ledger.begin(run, token, who, self.scheduler.now, checkpoint)
        if self.trace is not None:
            self.trace.note(process, f"{who} begins run number {run.seq} at {run.version}, attempt {run.attempt}")

    def changed(self, process: Process) -> None:
        """Let others hear of a commit, perhaps."""
        for other in self.processes:
            if other is not process and other.alive and not other.hinted and self.random() >= self._deaf:
                other.hinted = True
                self.scheduler.after(0.002 + self.random() * 0.01, self._hint, other)

    def _hint(self, process: Any) -> None:
        process.hinted = False
        if process.alive:
            before, self.scheduler.process = self.scheduler.process, process
            process.hear(ALL_CHANGES)
            self.scheduler.process = before

    def send(self, run_id: str) -> None:
        """Bring a run to some process, perhaps twice."""
        for _ in range(self.choose(1, 1, 2)):
            self.scheduler.after(self.random() * 0.1, self._deliver, run_id)

    def _deliver(self, run_id: Any) -> None:
        alive = [process for process in self.processes if process.alive]
        if alive and not self.is_closing:
            process = self.choose(*alive)
            process.task(clients.deliver(process, run_id))

    # --- processes ------------------------------------------------------------------------------------------------

    def _replace(self, _: object) -> None:
        self._new_process()

    def _new_process(self, *, working: bool = True) -> Process:
        process = Process(self, f"p{len(self.processes) + 1}")
        self.processes.append(process)
        self.note(process, "begins")
        if working and not self.is_closing:
            process.task(clients.keep_working(process, f"{process.name}.w", ("default",)))
        return process

    def _populate(self) -> None:
        for place in range(self.choose(2, 2, 3)):
            process = self._new_process(working=place == 0 or self.random() < 0.8)
            for number in range(self.choose(0, 1, 1, 2)):
                client = Client(process, f"{process.name}.c{number}", 20 + int(self.random() * 40))
                process.begin(client.name, client.live)
            if place == 0 or self.random() < 0.4:
                client = Client(process, f"{process.name}.a", 20 + int(self.random() * 40))
                process.task(client.live_later())
            if self.random() < 0.4:
                name = f"{process.name}.h"
                process.begin(name, lambda process=process, name=name: clients.work_by_hand(process, name))  # type: ignore[misc]
        process = self.choose(*self.processes)
        process.begin("dispatcher", lambda: clients.dispatch(process))
        for _ in range(self.choose(0, 2, 4, 8)):
            self.scheduler.after(self.random() * self._lasts_s, self._trouble)

    def _trouble(self, _: object) -> None:
        """Let something befall a process."""
        process = self.choose(*self.processes)
        if self.calm or not process.alive:
            return
        chance = self.random()
        if chance < 0.4:
            seconds = self.random() * self.choose(0.2, self.lease_s, 2 * self.lease_s)
            self.note(process, f"stands still for {seconds:.3f} s")
            process.stand_still(seconds)
        elif chance < 0.65:
            seconds = self.random() * 1.5 * self.lease_s
            self.note(process, f"cannot reach the database for {seconds:.3f} s")
            process.away_until = self.scheduler.now + int(seconds * 1_000_000)
        elif chance < 0.85:
            if self.may_crash():
                self.note(process, "crashes")
                process.alive = False
                process.bury()
        else:
            self._stop_workers(process)

    def _stop_workers(self, process: Process) -> None:
        before, self.scheduler.process = self.scheduler.process, process
        for of, worker in self.workers:
            if of is process and process.alive:
                self.note(process, "is stopped")
                worker.stop()
        self.scheduler.process = before

    # --- the end --------------------------------------------------------------------------------------------------

    def play(self) -> None:
        """Let it go its way until all runs have ended and all workers have stopped."""
        self._populate()
        self.scheduler.run(self._is_tired)
        if not self.found:
            self._come_to_rest()
        self._bury_all()

    def _come_to_rest(self) -> None:
        self.calm = True
        last = self._new_process()
        self.note(last, "all goes well from here")
        last.begin("janitor", lambda: self._tidy(last))
        last.begin("dispatcher", lambda: clients.dispatch(last))
        self.scheduler.run(self._is_done)

    def _is_tired(self) -> bool:
        """Tell whether the clients have had their say, or those who have not died."""
        past_s = (self.scheduler.now - BEGIN_US) / 1_000_000
        return past_s > self._lasts_s or self.steps > _MOST_STEPS or bool(self.found)

    def _is_done(self) -> bool:
        if self.steps > _MOST_STEPS:
            self.scheduler.faults.append(f"no rest after {self.steps} steps")
            return True
        return self.is_over or bool(self.found)

    def _tidy(self, process: Process) -> None:
        """End by hand what waits for somebody's hand; then stop the workers."""
        until = self.scheduler.now + int(_REST_S * 1_000_000)
        while self.scheduler.now < until:
            pause(0.25)
            by_hand = "worker IS NULL AND status <> 'queued' AND NOT (status = 'in_progress' AND attempt > 0)"
            left = rows(self.connected, f"SELECT id, {by_hand} FROM runstate_run WHERE expires_at IS NOT NULL")
            if not left and not any(each.alive for each in self.asking):
                break
            for run_id, is_left_to_others in left:
                if is_left_to_others:
                    self._end(process, run_id)
        self.is_closing = True
        for each in self.processes:
            self._stop_workers(each)
        while self.scheduler.now < until and self._holds_something():
            pause(0.25)
        self.is_over = True

    def _holds_something(self) -> bool:
        alive = [each.name for each in self.processes if each.alive]
        names = rows(self.connected, "SELECT name FROM runstate_worker_session WHERE closed = 0")
        return any(name.split(".")[0] in alive and not name.endswith(".h") for (name,) in names)

    @staticmethod
    def _end(process: Process, run_id: str) -> None:
        from runstate.errors import RunstateError

        try:
            process.store.fail(run_id, "server_error", "nobody came", actor="janitor")
        except RunstateError:
            return

    def _bury_all(self) -> None:
        self._ended_well = sum(process.alive for process in self.processes)
        for process in self.processes:
            if process.alive:
                process.alive = False
                process.bury()

    def verdict(self, seed: int) -> Verdict:
        """Judge what came of it."""
        found, counts = judge(self, resting=not self.found)
        counts.update(self._told())
        entries = rows(self.connected, "SELECT * FROM runstate_history ORDER BY id")
        runs = rows(self.connected, "SELECT * FROM runstate_run ORDER BY seq")
        counts.update(
            steps=self.steps, runs=len(runs), entries=len(entries), crashes=len(self.buried) - self._ended_well
        )
        told = [(ask.actor, ask.method, ask.tells) for ask in self.ledger.asks]
        all_of_it = repr((self.steps, self.scheduler.now, runs, entries, told, self.ledger.began))
        lines = () if self.trace is None else self.trace.lines
        digest = hashlib.sha256(all_of_it.encode()).hexdigest()
        return Verdict(seed, self.steps, counts, found, digest, lines)

    def _told(self) -> Counter[str]:
        tells = [tell for ask in self.ledger.asks for tell in ask.tells]
        tells += [tell for outcome in self.ledger.outcomes.values() for tell in outcome if tell != "asked"]
        late = sum(tells[-1] == "refused" for tells in self.ledger.outcomes.values())
        counts = Counter(tells)
        counts.update(self.befell)
        counts.update({"handlers": len(self.ledger.began), "late settles refused": late})
        questions = {
            "taken over": "SELECT count(*) FROM given WHERE before IS NOT NULL AND token <> 0",
            "leases lapsed": "SELECT count(*) FROM closing WHERE lease_until_us <= at",
        }
        counts.update({name: rows(self.connected, question)[0][0] for name, question in questions.items()})
        return counts


def play_world(seed: int, *, traced: bool = False, watchful: bool = False) -> Verdict:
    """Play the world of a seed, and judge it. Only inside `replaced()`.

    If `watchful`, every step is judged, and the first after which something is wrong is the last.
    """
    try:
        with connect() as connected:
            return _play(World(seed, connected, Trace() if traced or watchful else None, watchful=watchful), seed)
    finally:
        _let_go()


def _play(world: World, seed: int) -> Verdict:
    play(world.scheduler)
    try:
        world.play()
        return world.verdict(seed)
    finally:
        play(None)


def _let_go() -> None:
    """Drop what a world left behind: coroutines of crashed processes, which Python ends in the middle, and says so."""
    before, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()
    finally:
        sys.unraisablehook = before
