"""What a durable run costs, compared with a hand-written baseline and with task queues.

    python -m benchmarks.durable [--quick] [--only create|drain|start] [--dialect sqlite|postgres]
        [--rounds N] [--seconds S] [--without-peers] [--json]

The lifecycle is create (queued), claim (in_progress), complete. fsync is on. Every run has its stamps, a version, the
token of its worker, and a history row for each of its three entries. The baselines keep exactly that; what the peers
keep is printed beside their names.

Every round measures each contestant once for each measure, in a rotated order, so that a slow moment of the machine
affects all alike; the tables are new each time. A ratio is the median over the rounds of (contestant / fused baseline
of the same database) in that round: on a shared machine the rates vary, and the ratios less. No figure decides
anything, and the exit status is 0.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from statistics import median, quantiles
from typing import Any, Final, TypeAlias, cast

import attrs

from benchmarks.durable.baseline import PostgresFused, PostgresOneByOne, SqliteFused, SqliteOneByOne
from benchmarks.durable.contestant import Contestant, Dialect
from benchmarks.durable.peers import Celery, Huey, PgQueuer, Procrastinate
from benchmarks.durable.runstate_store import RunstateStore
from benchmarks.durable.task_baseline import PostgresTasks
from benchmarks.machine import machine
from benchmarks.postgres import postgres
from benchmarks.rounds import measure_in_turns

MEASURES: Final = ("create", "drain", "start")
BASELINE: Final[Mapping[Dialect, str]] = {"sqlite": SqliteFused.name, "postgres": PostgresFused.name}
START_INTERVAL_S: Final = 0.02
"""The seconds between two creates, for `start`."""
MAX_RUNS: Final = 40_000

Rounds: TypeAlias = list[float | None]
"""One value a round; None if the measurement failed."""


@attrs.frozen
class Candidate:
    """A class of contestants, and how to make one."""

    kind: type[Contestant]
    make: Callable[[], Contestant]


def runstate_candidates(dialect: Dialect, fresh_database: Callable[[], str]) -> Iterator[Candidate]:
    """Yield runstate's contestants on this database. `fresh_database` makes one and returns its URL, on PostgreSQL."""
    yield Candidate(RunstateStore, lambda: RunstateStore(dialect, fresh_database() if dialect == "postgres" else ""))


def candidates(dialect: Dialect, fresh_database: Callable[[], str]) -> Iterator[Candidate]:
    """Yield all contestants on one database, in the order of the tables."""
    if dialect == "sqlite":
        yield Candidate(SqliteFused, SqliteFused)
        yield Candidate(SqliteOneByOne, SqliteOneByOne)
        yield from runstate_candidates(dialect, fresh_database)
        yield Candidate(Huey, Huey)
    elif dialect == "postgres":
        yield Candidate(PostgresFused, lambda: PostgresFused(fresh_database()))
        yield Candidate(PostgresTasks, lambda: PostgresTasks(fresh_database()))
        yield Candidate(PostgresOneByOne, lambda: PostgresOneByOne(fresh_database()))
        yield from runstate_candidates(dialect, fresh_database)
        yield Candidate(PgQueuer, lambda: PgQueuer(fresh_database()))
        yield Candidate(Procrastinate, lambda: Procrastinate(fresh_database()))
    else:
        yield Candidate(Celery, Celery)


# -- measuring --------------------------------------------------------------------------------------------------------


@attrs.define
class Column:
    """A measure and its setting. `run_once` measures once and returns the seconds, or the waits."""

    measure: str
    label: str
    takes_part: Callable[[Contestant], bool]
    run_once: Callable[[Contestant, int], list[float]]


def columns(measures: Sequence[str]) -> list[Column]:
    """Return what is measured, in the order of the tables."""
    columns = []
    if "create" in measures:
        columns += [_create_column(in_flight) for in_flight in (1, 100)]
    if "drain" in measures:
        columns += [_drain_column(slots, processes) for processes in (1, 2) for slots in (1, 10, 100)]
    if "start" in measures:
        columns.append(Column("start", "", lambda contestant: contestant.measures_start, _start_once))
    return columns


def _create_column(in_flight: int) -> Column:
    def run_once(contestant: Contestant, count: int) -> list[float]:
        contestant.prepare()
        return [contestant.create(count, in_flight)]

    label = "one caller" if in_flight == 1 else f"{in_flight} at once"
    return Column("create", label, lambda contestant: in_flight in contestant.creates_at_once, run_once)


def _drain_column(slots: int, processes: int) -> Column:
    def run_once(contestant: Contestant, count: int) -> list[float]:
        contestant.prepare()
        contestant.create(count, 100)
        contestant.vacuum()
        return [contestant.drain(count, slots, processes)]

    label = f"{slots} slot{'s' if slots > 1 else ''}{' x 2' if processes > 1 else ''}"
    return Column("drain", label, lambda contestant: slots in contestant.slots, run_once)


def _start_once(contestant: Contestant, count: int) -> list[float]:
    contestant.prepare()
    return contestant.start(count, START_INTERVAL_S)


@attrs.define
class Series:
    """A contestant at a column: how many runs it gets, and the result of each round."""

    contestant: Contestant
    column: Column
    count: int = 0
    rounds: Rounds = attrs.field(factory=list)
    """Runs a second; the median wait in seconds for `start`."""
    waits: list[float] = attrs.field(factory=list)
    error: str = ""

    def calibrate(self, min_s: float) -> None:
        """Find how many runs take about `min_s` seconds. It warms up, too."""
        if self.column.measure == "start":
            self.count = 100 if min_s > 0.5 else 40
            return
        count = 200
        seconds = self._once(count)
        while seconds and seconds < min_s / 8 and count < MAX_RUNS:
            count *= 5
            seconds = self._once(count)
        if seconds:
            self.count = max(200, min(MAX_RUNS, round(count / seconds * min_s / 100) * 100))

    def measure_round(self) -> None:
        """Measure once."""
        seconds = self._once(self.count) if self.count else None
        if self.column.measure == "start":
            self.rounds.append(seconds)
        else:
            self.rounds.append(self.count / seconds if seconds else None)

    def _once(self, count: int) -> float | None:
        if self.error:
            return None
        try:
            got = self.column.run_once(self.contestant, count)
        except Exception as error:  # an error of one contestant does not end the others
            self.error = f"{type(error).__name__}: {error}"
            where = f"{self.contestant.name} ({self.contestant.dialect}), {self.column.measure} {self.column.label}"
            print(f"{where}: {self.error}", file=sys.stderr)
            return None
        if self.column.measure == "start":
            self.waits += got
        return median(got)


def measure(
    present: Sequence[Contestant], measures: Sequence[str], rounds: int, min_s: float
) -> tuple[list[Series], list[float]]:
    """Return every series, measured in interleaved rounds, and the microseconds of a sync in each round."""
    groups = [
        [Series(contestant, column) for contestant in present if column.takes_part(contestant)]
        for column in columns(measures)
    ]
    for group in groups:
        for entry in group:
            entry.calibrate(min_s)
    return measure_in_turns(groups, rounds)


def summary(entry: Series, entries: Sequence[Series], place: int) -> dict[str, Any]:
    """Return the medians of one series as JSON values; `place` is its row in the tables."""
    contestant, column = entry.contestant, entry.column
    laps = [lap for lap in entry.rounds if lap is not None]
    name, dialect = BASELINE.get(contestant.dialect), contestant.dialect
    baseline = next(
        (
            other.rounds
            for other in entries
            if other.column is column and (other.contestant.name, other.contestant.dialect) == (name, dialect)
        ),
        (),
    )
    ratios = [lap / least for lap, least in zip(entry.rounds, baseline, strict=False) if lap and least]
    found: dict[str, Any] = {
        "measure": column.measure,
        "column": column.label,
        "dialect": dialect,
        "contestant": contestant.name,
        "place": place,
        "runs": entry.count,
        "laps": laps,
        "ratio": median(ratios) if ratios else None,
        "trouble": entry.error,
    }
    if column.measure == "start":
        found["p50_ms"] = median(laps) * 1000 if laps else None
        found["p99_ms"] = quantiles(entry.waits, n=100)[98] * 1000 if len(entry.waits) > 1 else None
    else:
        found["per_s"] = median(laps) if laps else None
    return found


# -- showing ----------------------------------------------------------------------------------------------------------

TITLES: Final = {
    "create": "CREATE, runs a second, and the ratio to the baseline",
    "drain": "DRAIN (claim, complete), runs a second, and the ratio to the fused baseline; x 2: two processes",
    "start": f"START, ms from create to the handler's first line; an idle worker, one run in {START_INTERVAL_S:.2f} s",
}


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['dialect']:<9}{row['contestant']}"


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None or row.get("per_s") is None:
        return f"{'-' if row is None else 'failed':>15}"
    ratio = f"{row['ratio']:>6.2f}x" if row["ratio"] is not None else " " * 7
    return f"{row['per_s']:>8,.0f}{ratio}"


def _rate_table(rows: Sequence[Mapping[str, Any]]) -> None:
    labels = list(dict.fromkeys(row["column"] for row in rows))
    cells = {(_name(row), row["column"]): row for row in rows}
    print(f"{'':<30}" + "".join(f"{label:>15}" for label in labels))
    for name in dict.fromkeys(_name(row) for row in sorted(rows, key=lambda row: cast("int", row["place"]))):
        print(f"{name:<30}" + "".join(_cell(cells.get((name, label))) for label in labels))


def _start_table(rows: Sequence[Mapping[str, Any]]) -> None:
    print(f"{'':<30}{'median':>9}{'':>7}{'p99':>9}")
    for row in rows:
        if row["p50_ms"] is None:
            print(f"{_name(row):<30}{'failed':>9}")
            continue
        ratio = f"{row['ratio']:>6.2f}x" if row["ratio"] is not None else " " * 7
        print(f"{_name(row):<30}{row['p50_ms']:>9.1f}{ratio}{row['p99_ms']:>9.1f}")


def print_result(result: Mapping[str, Any]) -> None:
    """Print the figures as tables."""
    print("; ".join(f"{name} {value}" for name, value in result["about"].items()), "\n")
    for name, about in result["contestants"].items():
        print(f"{name}: {about}")
    for reason in result["absent"]:
        print(f"not measured: {reason}")
    print("\nThe drain of a baseline is timed from the start signal to the last commit, that of a peer from the first")
    print("handler until no run is left. Ids are made before the clock starts.")
    for name in MEASURES:
        rows = [row for row in result["figures"] if row["measure"] == name]
        if rows:
            print(f"\n{TITLES[name]}")
            (_start_table if name == "start" else _rate_table)(rows)


# -- the command ------------------------------------------------------------------------------------------------------


def set_up(stack: ExitStack, dialects: Sequence[Dialect], about: dict[str, str]) -> tuple[list[Contestant], list[str]]:
    """Return the contestants, with their resources on the stack, and a line for each that cannot be measured."""
    present: list[Contestant] = []
    absent: list[str] = []
    for dialect in dialects:
        try:
            fresh_database = _database_factory(stack, dialect, about)
        except ImportError as error:
            absent.append(f"PostgreSQL: {error}")
            continue
        for candidate in candidates(dialect, fresh_database):
            if candidate.kind.missing:
                absent.append(f"{candidate.kind.name}: {candidate.kind.missing}")
                continue
            contestant = candidate.make()
            stack.callback(contestant.close)
            present.append(contestant)
    return present, absent


def _database_factory(stack: ExitStack, dialect: Dialect, about: dict[str, str]) -> Callable[[], str]:
    if dialect != "postgres":
        return str
    server = stack.enter_context(postgres())
    about["postgresql"] = server.about()
    return lambda: stack.enter_context(server.fresh_database())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What a durable run costs.")
    parser.add_argument("--quick", action="store_true", help="shorter measurements and 3 rounds: a trial, not a result")
    parser.add_argument("--only", choices=MEASURES, help="measure this alone")
    parser.add_argument("--dialect", choices=["sqlite", "postgres"], help="measure this database alone")
    parser.add_argument("--without-peers", action="store_true", help="only the baselines and runstate")
    parser.add_argument("--rounds", type=int, help="rounds (7; 3 with --quick)")
    parser.add_argument("--seconds", type=float, help="how long a measurement takes, about (0.8; 0.3 with --quick)")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    dialects: list[Dialect] = [options.dialect] if options.dialect else ["sqlite", "postgres", "redis"]
    rounds = options.rounds or (3 if options.quick else 7)
    about = {**machine(), "rounds": str(rounds)}
    with ExitStack() as stack:
        present, absent = set_up(stack, dialects, about)
        if options.without_peers:
            present = [contestant for contestant in present if contestant.name.startswith(("baseline", "runstate"))]
        measures = [options.only] if options.only else MEASURES
        entries, syncs = measure(present, measures, rounds, options.seconds or (0.3 if options.quick else 0.8))
    about["a page written and synced"] = (
        f"{median(syncs):.0f} us ({min(syncs):.0f} to {max(syncs):.0f} over the rounds)"
    )
    result = {
        "about": about,
        "contestants": {f"{contestant.dialect} {contestant.name}": contestant.about for contestant in present},
        "absent": absent,
        "figures": [summary(entry, entries, present.index(entry.contestant)) for entry in entries],
    }
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        print_result(result)


if __name__ == "__main__":
    main()
