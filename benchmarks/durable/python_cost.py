"""What a drained run costs in Python, apart from what the database's driver does in C.

    python -m benchmarks.durable.python_cost [--rounds N] [--slots 1 10 100] [--dialect sqlite postgres]
        [--quick] [--json]

A drained run is claimed, its handler called, its outcome committed. The CPU time of this whole process is counted, of
all threads and the system's share in it; a server is another process. `store` is a loop in one thread: each round trip
settles all claimed runs and claims the next; `async` and `plain` are a `Worker` with a handler that does nothing, from
`run()` to its end.

The driver's part is the CPU time that threads spend in its C code: in the calls of sqlite3's cursor, in those of libpq,
in the wait for the server, in the loading of rows. Python's part is the rest, with what these timers take: half a
microsecond a call, half a dozen calls a round trip. Medians over the rounds, in microseconds a run; beside them the
least and the most of Python's. No figure here decides anything.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from time import process_time, thread_time
from typing import Any, Final, NamedTuple, TypeAlias
from unittest.mock import patch

from benchmarks.durable.runstate_store import NEW_RUN, TABLES, no_op
from benchmarks.machine import machine
from benchmarks.postgres import empty_database, postgres, vacuum_tables
from runstate.lifecycle import RunEvent
from runstate.store import Store, open_store
from runstate.store._worker_types import Settle
from runstate.worker import Context, Handler, Worker

RUNS: Final = {1: 1_000, 10: 4_000, 100: 10_000}
"""How many runs are drained with so many slots: enough that the cost of starting a worker does not count."""
NO_USAGE: Final = '{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}'

Drain: TypeAlias = Callable[[Store, int], int]
"""Drains a store with so many slots; returns how many runs it settled."""


def plain_no_op(ctx: Context) -> None:
    """Do nothing; the plain handler."""


def drain_by_store(store: Store, slots: int) -> int:
    """Drain without a worker."""
    lease = store.open_lease("store")
    done = 0
    settles: list[Settle] = []
    while True:
        result = store.settle_and_claim(lease, settles, slots)
        done += len(settles) - len(result.refused)
        settles = [Settle.ended(claim.run, RunEvent.COMPLETE) for claim in result.claims]
        if not settles:
            return done


def drain_by_worker(handler: Handler, store: Store, slots: int) -> int:
    """Drain with a worker."""
    (worker := Worker(store, handler, concurrency=slots)).run(until_idle=True)
    return worker.settled


HANDLERS: Final[Mapping[str, Handler]] = {"async": no_op, "plain": plain_no_op}
DRAINS: Final[Mapping[str, Drain]] = {
    "store": drain_by_store,
    **{way: partial(drain_by_worker, handler) for way, handler in HANDLERS.items()},
}


class Timer:
    """The CPU time that threads have spent in the functions it wraps."""

    def __init__(self) -> None:
        self.spent = 0.0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            before = thread_time()
            found = function(*args)
            self.spent += thread_time() - before
            return found

        return timed


class TimedMethods:
    """A proxy whose methods are timed."""

    def __init__(self, timer: Timer, inner: Any) -> None:
        self._timer = timer
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found):
            return found
        self.__dict__[name] = timed = self._timer.wrap(found)
        return timed


@contextmanager
def driver_timed(timer: Timer, dialect: str) -> Iterator[None]:
    """Time the driver's C code, for stores that are opened inside the block."""
    if dialect == "sqlite":
        timed = {name: timer.wrap(getattr(sqlite3.Cursor, name)) for name in ("execute", "fetchall")}
        cursor: Any = type("Cursor", (sqlite3.Cursor,), timed)
        own = {"cursor": lambda self: sqlite3.Connection.cursor(self, cursor)}
        with patch("sqlite3.connect", partial(sqlite3.connect, factory=type("Own", (sqlite3.Connection,), own))):
            yield
        return
    from runstate.store._postgres.prepared import Prepared

    class Timed(Prepared):
        def __init__(self, connection: Any, **given: Any) -> None:
            super().__init__(connection, **given)
            inner: Any = self
            for part in ("_pgconn", "_transformer"):
                setattr(inner, part, TimedMethods(timer, getattr(inner, part)))
            inner._wait = timer.wrap(inner._wait)

    with patch("runstate.store._postgres.connection.Prepared", Timed):
        yield


class Setup(NamedTuple):
    """A database, and the stores that are made in it."""

    dialect: str
    url: str
    folder: Path

    @contextmanager
    def filled_store(self, runs: int) -> Iterator[Store]:
        """Yield a new store with so many queued runs."""
        if self.dialect == "postgres":
            empty_database(self.url)
        for path in self.folder.iterdir():
            path.unlink()  # SQLite's
        with open_store(self.url, migrate=True) as store:
            for done in range(0, runs, 1000):
                store.create_many([NEW_RUN] * min(runs - done, 1000))
            if self.dialect == "postgres":
                vacuum_tables(self.url, TABLES)
            yield store

    def measure_drain(self, drain: Drain, slots: int, runs: int) -> tuple[float, float]:
        """Drain so many runs; return the microseconds that one takes, in all and in the driver."""
        timer = Timer()
        with driver_timed(timer, self.dialect), self.filled_store(runs) as store:
            timer.spent = 0.0
            before = process_time()
            drained = drain(store, slots)
            total = process_time() - before
        if drained != runs:
            sys.exit(f"{drained} runs drained of {runs}")
        return total / runs * 1e6, timer.spent / runs * 1e6


class Cost(NamedTuple):
    """The CPU time of a drained run in microseconds, medians."""

    dialect: str
    slots: int
    how: str
    total_us: float
    driver_us: float
    python_us: float
    least_us: float
    """The least and the most that Python took in a round."""
    most_us: float

    def __str__(self) -> str:
        costs = "".join(f"{part:8.1f}" for part in (self.total_us, self.driver_us, self.python_us))
        return f"{self.dialect:10}{self.slots:6} {self.how:8}{costs}   {self.least_us:.1f} to {self.most_us:.1f}"


def measure(place: Setup, rounds: int, slots: list[int], runs: Mapping[int, int]) -> Iterator[Cost]:
    """Yield the cost for each number of slots and way to drain."""
    spent: dict[tuple[int, str], list[tuple[float, float]]] = {(each, way): [] for each in slots for way in DRAINS}
    cases = list(spent)
    for _ in range(rounds):
        cases.append(cases.pop(0))  # another one is first
        for case in cases:
            spent[case].append(place.measure_drain(DRAINS[case[1]], case[0], runs[case[0]]))
    for (each, way), found in spent.items():
        python = sorted(total - driver for total, driver in found)
        total, driver = (median(part) for part in zip(*found, strict=True))
        yield Cost(place.dialect, each, way, total, driver, median(python), python[0], python[-1])


def measure_all(dialects: list[str], rounds: int, slots: list[int], runs: Mapping[int, int]) -> Iterator[Cost]:
    """Yield the costs on each database."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runstate-")))
        for dialect in dialects:
            url = f"sqlite:///{folder / 'runs.db'}"
            if dialect == "postgres":
                url = stack.enter_context(stack.enter_context(postgres()).fresh_database())
            yield from measure(Setup(dialect, url, folder), rounds, slots, runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--slots", type=int, choices=RUNS, nargs="+", default=list(RUNS))
    parser.add_argument("--dialect", choices=("sqlite", "postgres"), nargs="+", default=["sqlite", "postgres"])
    parser.add_argument("--quick", action="store_true", help="a trial: one round, a tenth of the runs")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    asked = parser.parse_args()
    rounds = 1 if asked.quick else asked.rounds
    runs = {slots: most // 10 for slots, most in RUNS.items()} if asked.quick else RUNS
    costs = measure_all(asked.dialect, rounds, asked.slots, runs)
    if asked.json:
        figures = [cost._asdict() for cost in costs]
        print(json.dumps({"about": {**machine(), "rounds": rounds}, "figures": figures}, indent=1))
        return
    print(f"microseconds of CPU time a drained run, medians of {rounds}; {machine()}")
    print(f"{'':10}{'slots':>6} {'by':8}{'total':>8}{'driver':>8}{'python':>8}   least to most")
    for cost in costs:
        print(cost, flush=True)


if __name__ == "__main__":
    main()
