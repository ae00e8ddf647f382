"""What the steps of a run cost, compared with libraries for durable execution.

    python -m benchmarks.durable.steps [--case 200x20000 300x100] [--dialect sqlite|postgres]
        [--rounds N] [--quick] [--without-peers] [--json]

One run, in one worker process, keeps the given number of steps, one after the other, each with a result of the given
number of characters. The text is random, so that compression does not make it smaller. Two figures are measured. The
steps a second are timed inside the handler, from the call of the first step to the return of the last one. The WAL is
what the server wrote from before the run was created until it was completed: the difference of two values of
`pg_current_wal_insert_lsn()`. SQLite has no such figure.

Each measurement has a new database and a new worker process. A vacuum, a checkpoint and a run of a few steps come
first. So the connections, prepared statements and pages are there when the measured run is created, and less is left
for autovacuum. What other processes of the server write meanwhile is counted too: compare the rounds (`laps` of
`--json`). The benchmark then checks that the database has every step in its full size. Every round measures each
contestant once for each case, in a rotated order. A ratio is the median over the rounds of (contestant / runstate with
a plain handler, in the same database) in that round. No figure decides anything, and the exit status is 0.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from statistics import median
from time import monotonic, sleep
from typing import Any, Final, NamedTuple, TypeAlias

import attrs

from benchmarks.durable.contestant import Dialect, MeasurementFailed
from benchmarks.durable.processes import TIMEOUT_S, WorkerProcesses
from benchmarks.durable.step_contestants import RunstateAsync, RunstatePlain, StepContestant
from benchmarks.durable.step_peers import AbsurdAsync, AbsurdPlain, DbosAsync, DbosPlain, PgTask
from benchmarks.machine import machine
from benchmarks.postgres import postgres
from benchmarks.rounds import measure_in_turns
from runstate.store._sqlite.connection import SqliteDatabase

RUNSTATE: Final = (RunstatePlain, RunstateAsync)
PEERS: Final = (AbsurdPlain, AbsurdAsync, PgTask, DbosPlain, DbosAsync)
WARM_UP_STEPS: Final = 20
SETTLE_S: Final = 0.5
"""The seconds between the first run and the measured one, in which the worker becomes idle."""

FreshDatabase: TypeAlias = Callable[[], AbstractContextManager[str]]
"""Creates a database, yields its URL, and drops it."""


class Case(NamedTuple):
    """How many steps a run keeps, and the size of each."""

    steps: int
    size: int

    @classmethod
    def parse(cls, text: str) -> Case:
        """Parse "200x20000". Raises `ArgumentTypeError` for anything else."""
        found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
        if found is None:
            raise argparse.ArgumentTypeError(f"{text!r} is not STEPSxSIZE, such as 200x20000")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        size = f"{self.size // 1000} kB" if self.size % 1000 == 0 else f"{self.size} B"
        return f"{self.steps} steps of {size}"


class Measured(NamedTuple):
    """One measurement."""

    per_s: float
    wal_bytes: int | None
    """None on SQLite."""


# -- measuring --------------------------------------------------------------------------------------------------------


def measure_once(kind: type[StepContestant], dialect: Dialect, fresh_database: FreshDatabase, case: Case) -> Measured:
    """Measure a contestant once, in a new database."""
    with fresh_database() as url, closing(kind(url)) as contestant:
        contestant.prepare()
        with contestant.worker() as worker, _wal_position(url, dialect) as wal_position:
            worker.start()
            _complete_run(contestant, worker, Case(WARM_UP_STEPS, case.size), 1)
            sleep(SETTLE_S)
            before = wal_position()
            seconds = _complete_run(contestant, worker, case, 2)
            wal_bytes = wal_position() - before
        kept = contestant.kept(case.size)
        if kept != case.steps + WARM_UP_STEPS:
            raise MeasurementFailed(f"{kept} steps kept of {case.steps + WARM_UP_STEPS}")
    return Measured(case.steps / seconds, wal_bytes if dialect == "postgres" else None)


def _complete_run(contestant: StepContestant, worker: WorkerProcesses, case: Case, runs: int) -> float:
    """Create a run, and wait until so many are completed; return the seconds that its steps took."""
    contestant.create(*case)
    seconds = worker.wait_for_reports(case.steps)
    end = monotonic() + TIMEOUT_S
    while contestant.completed() < runs:
        if monotonic() > end:
            raise MeasurementFailed(f"a run was not completed within {TIMEOUT_S:.0f} s after its last step")
        sleep(0.02)
    return seconds


@contextmanager
def _wal_position(url: str, dialect: Dialect) -> Iterator[Callable[[], int]]:
    """Yield a function that returns how much WAL the server has written.

    First do what autovacuum would do in the background, because it writes WAL too, and make a checkpoint if this role
    may.
    """
    if dialect != "postgres":
        yield int
        return
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE)")
        with suppress(psycopg.errors.InsufficientPrivilege):
            connection.execute("CHECKPOINT")

        def position() -> int:
            row = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
            return int(row[0]) if row else 0

        yield position


@attrs.define
class Series:
    """A contestant at a case, and the result of each round: None if the measurement failed."""

    kind: type[StepContestant]
    dialect: Dialect
    case: Case
    fresh_database: FreshDatabase
    rounds: list[Measured | None] = attrs.field(factory=list)
    error: str = ""

    def measure_round(self) -> None:
        """Measure once. A contestant that has failed is not measured again."""
        if self.error:
            self.rounds.append(None)
            return
        try:
            self.rounds.append(measure_once(self.kind, self.dialect, self.fresh_database, self.case))
        except Exception as error:  # an error of one contestant does not end the others
            self.error = f"{type(error).__name__}: {error}"
            print(f"{self.kind.name} ({self.dialect}), {self.case}: {self.error}", file=sys.stderr)
            self.rounds.append(None)


def measure(
    present: Sequence[tuple[type[StepContestant], Dialect, FreshDatabase]], cases: Sequence[Case], rounds: int
) -> tuple[list[Series], list[float]]:
    """Return every series, measured in interleaved rounds, and the microseconds of a sync in each round."""
    groups = [
        [Series(kind, dialect, case, fresh_database) for kind, dialect, fresh_database in present] for case in cases
    ]
    return measure_in_turns(groups, rounds)


def summary(series: Series, every: Sequence[Series]) -> dict[str, Any]:
    """Return the medians of a series as JSON values."""
    reference = next(
        other.rounds for other in every if (other.kind, *_place(other)) == (RunstatePlain, *_place(series))
    )
    both = [(mine, its) for mine, its in zip(series.rounds, reference, strict=True) if mine and its]
    found = [measured for measured in series.rounds if measured]
    wal = [measured.wal_bytes for measured in found if measured.wal_bytes is not None]
    return {
        "dialect": series.dialect,
        "contestant": series.kind.name,
        "case": str(series.case),
        "steps": series.case.steps,
        "size": series.case.size,
        "per_s": _median([measured.per_s for measured in found]),
        "ratio": _median([mine.per_s / its.per_s for mine, its in both]),
        "wal_bytes": _median(wal),
        "wal_ratio": _median(
            [mine.wal_bytes / its.wal_bytes for mine, its in both if mine.wal_bytes and its.wal_bytes]
        ),
        "laps": [measured._asdict() for measured in found],
        "trouble": series.error,
    }


def _place(series: Series) -> tuple[Dialect, Case]:
    return series.dialect, series.case


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None


# -- showing ----------------------------------------------------------------------------------------------------------


def _cells(row: Mapping[str, Any] | None) -> str:
    if row is None or row["per_s"] is None:
        return f"{'failed':>12}{'':>27}"
    rate = f"{row['per_s']:>12,.0f}{row['ratio'] or 0:>8.2f}x"
    return rate + (f"{row['wal_bytes'] / 1e6:>10.2f}{row['wal_ratio']:>7.2f}x" if row["wal_bytes"] else f"{'':>18}")


def print_result(result: Mapping[str, Any]) -> None:
    """Print the figures as a table."""
    print("; ".join(f"{name} {value}" for name, value in result["about"].items()), "\n")
    for name, about in result["contestants"].items():
        print(f"{name}: {about}")
    for reason in result["absent"]:
        print(f"not measured: {reason}")
    rows = result["figures"]
    cells = {(row["dialect"], row["contestant"], row["case"]): row for row in rows}
    cases = list(dict.fromkeys(row["case"] for row in rows))
    print("\nSTEPS, a second, and the WAL of the whole run in MB, each with the ratio to the plain handler of runstate")
    print(f"{'':<40}" + "".join(f"{case:>39}" for case in cases))
    print(f"{'':<40}" + f"{'steps/s':>12}{'':>9}{'WAL, MB':>10}{'':>8}" * len(cases))
    for dialect, name in dict.fromkeys((row["dialect"], row["contestant"]) for row in rows):
        print(f"{dialect:<10}{name:<30}" + "".join(_cells(cells.get((dialect, name, case))) for case in cases))


# -- the command ------------------------------------------------------------------------------------------------------


def set_up(
    stack: ExitStack, dialects: Sequence[Dialect], kinds: Sequence[type[StepContestant]], about: dict[str, str]
) -> tuple[list[tuple[type[StepContestant], Dialect, FreshDatabase]], list[str]]:
    """Return what can be measured, and a line for each that cannot be."""
    present: list[tuple[type[StepContestant], Dialect, FreshDatabase]] = []
    absent: list[str] = []
    for dialect in dialects:
        try:
            fresh_database = _database_factory(stack, dialect, about)
        except ImportError as error:
            absent.append(f"PostgreSQL: {error}")
            continue
        for kind in kinds:
            if dialect not in kind.dialects:
                continue
            if kind.missing:
                absent.append(f"{kind.name}: {kind.missing}")
            else:
                present.append((kind, dialect, fresh_database))
    return present, absent


def _database_factory(stack: ExitStack, dialect: Dialect, about: dict[str, str]) -> FreshDatabase:
    if dialect == "postgres":
        server = stack.enter_context(postgres())
        about["postgresql"] = server.about()
        return server.fresh_database
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runstate-")))
    about["sqlite file"] = _sqlite_settings(folder / "settings.db")
    return partial(_fresh_file, folder)


@contextmanager
def _fresh_file(folder: Path) -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir=folder) as own:
        yield f"sqlite:///{Path(own) / 'runs.db'}"


def _sqlite_settings(path: Path) -> str:
    """Return the settings with which the store writes to a file, as SQLite reports them."""
    connection = SqliteDatabase(str(path)).open()
    try:
        mode = connection.execute("PRAGMA journal_mode", {})[0][0]
        level = connection.execute("PRAGMA synchronous", {})[0][0]
    finally:
        connection.close()
    return f"on disk, journal_mode={mode}, synchronous={('OFF', 'NORMAL', 'FULL', 'EXTRA')[level]}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What the steps of a run cost.")
    parser.add_argument(
        "--case", type=Case.parse, nargs="+", metavar="STEPSxSIZE", help="the steps of a run, and the size of each"
    )
    parser.add_argument("--dialect", choices=["sqlite", "postgres"], help="measure this database alone")
    parser.add_argument("--rounds", type=int, help="rounds (3; 1 with --quick)")
    parser.add_argument(
        "--quick", action="store_true", help="one round with a tenth of the steps: a trial, not a result"
    )
    parser.add_argument("--without-peers", action="store_true", help="only runstate")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    dialects: list[Dialect] = [options.dialect] if options.dialect else ["postgres", "sqlite"]
    rounds = options.rounds or (1 if options.quick else 3)
    cases = options.case or (
        [Case(20, 20_000), Case(30, 100)] if options.quick else [Case(200, 20_000), Case(300, 100)]
    )
    about = {**machine(), "rounds": str(rounds)}
    with ExitStack() as stack:
        present, absent = set_up(stack, dialects, RUNSTATE if options.without_peers else RUNSTATE + PEERS, about)
        every, syncs = measure(present, cases, rounds)
    about["a page written and synced"] = (
        f"{median(syncs):.0f} us ({min(syncs):.0f} to {max(syncs):.0f} over the rounds)"
    )
    result = {
        "about": about,
        "contestants": {f"{dialect} {kind.name}": kind.about for kind, dialect, _ in present},
        "absent": absent,
        "figures": [summary(series, every) for series in every],
    }
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        print_result(result)


if __name__ == "__main__":
    main()
