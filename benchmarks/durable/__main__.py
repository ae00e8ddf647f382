"""What a durable run costs, beside a hand-written floor and other people's queues.

    python -m benchmarks.durable [--quick] [--only create|drain|start] [--dialect sqlite|postgres]
        [--rounds N] [--seconds S] [--without-peers] [--json]

The lifecycle is create (queued), claim (in_progress), complete; fsync is on; every run has its stamps, a version, the
token of the worker that has it, and a history row for each of its three entries. The floors keep exactly that; what the
others keep is said beside their names.

In every round each contestant has its turn at each measure, beginning with another one each time, so that a slow moment
of the machine hits all alike; fresh tables every time. A ratio is the median over the rounds of (contestant / fused
floor of the same database) in that round: on a shared machine the rates wander, and the ratios less. No figure here
decides anything, and the exit status is 0.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from statistics import median, quantiles
from typing import Any, Final, TypeAlias, cast

import attrs

from benchmarks.durable.floor import PostgresFused, PostgresOneByOne, SqliteFused, SqliteOneByOne
from benchmarks.durable.ours import Ours
from benchmarks.durable.peers import Celery, Huey, PgQueuer, Procrastinate
from benchmarks.durable.server import Contestant, Dialect, fdatasync_us, machine, postgres

MEASURES: Final = ("create", "drain", "start")
FLOOR: Final[Mapping[Dialect, str]] = {"sqlite": SqliteFused.name, "postgres": PostgresFused.name}
EVERY_S: Final = 0.02
"""What lies between two creates where `start` is measured."""
MOST: Final = 40_000

Laps: TypeAlias = list[float | None]
"""One value a round; None where it did not come to its end."""


@attrs.frozen
class Candidate:
    """Somebody to measure, or the reason why not."""

    kind: type[Contestant]
    make: Callable[[], Contestant]


def ours(dialect: Dialect, fresh: Callable[[], str]) -> Iterator[Candidate]:
    """Yield runstate's own contestants on this database; `fresh` makes one and gives its address, on PostgreSQL."""
    yield Candidate(Ours, lambda: Ours(dialect, fresh() if dialect == "postgres" else ""))


def candidates(dialect: Dialect, fresh: Callable[[], str]) -> Iterator[Candidate]:
    """Yield all that take part on one database, in the order of the tables."""
    if dialect == "sqlite":
        yield Candidate(SqliteFused, SqliteFused)
        yield Candidate(SqliteOneByOne, SqliteOneByOne)
        yield from ours(dialect, fresh)
        yield Candidate(Huey, Huey)
    elif dialect == "postgres":
        yield Candidate(PostgresFused, lambda: PostgresFused(fresh()))
        yield Candidate(PostgresOneByOne, lambda: PostgresOneByOne(fresh()))
        yield from ours(dialect, fresh)
        yield Candidate(PgQueuer, lambda: PgQueuer(fresh()))
        yield Candidate(Procrastinate, lambda: Procrastinate(fresh()))
    else:
        yield Candidate(Celery, Celery)


# -- measuring --------------------------------------------------------------------------------------------------------


@attrs.define
class Column:
    """One thing to measure: a measure and its setting; `once` does it and returns the seconds, or the waits."""

    measure: str
    label: str
    takes_part: Callable[[Contestant], bool]
    once: Callable[[Contestant, int], list[float]]


def columns(wanted: Sequence[str]) -> list[Column]:
    """Return what is measured, in the order of the tables."""
    found = []
    if "create" in wanted:
        found += [_creating(in_flight) for in_flight in (1, 100)]
    if "drain" in wanted:
        found += [_draining(slots, processes) for processes in (1, 2) for slots in (1, 10, 100)]
    if "start" in wanted:
        found.append(Column("start", "", lambda contestant: contestant.starts, _started))
    return found


def _creating(in_flight: int) -> Column:
    def once(contestant: Contestant, count: int) -> list[float]:
        contestant.prepare()
        return [contestant.create(count, in_flight)]

    label = "one caller" if in_flight == 1 else f"{in_flight} at once"
    return Column("create", label, lambda contestant: in_flight in contestant.creates, once)


def _draining(slots: int, processes: int) -> Column:
    def once(contestant: Contestant, count: int) -> list[float]:
        contestant.prepare()
        contestant.create(count, 100)
        contestant.settle()
        return [contestant.drain(count, slots, processes)]

    label = f"{slots} slot{'s' if slots > 1 else ''}{' x 2' if processes > 1 else ''}"
    return Column("drain", label, lambda contestant: slots in contestant.slots, once)


def _started(contestant: Contestant, count: int) -> list[float]:
    contestant.prepare()
    return contestant.start(count, EVERY_S)


@attrs.define
class Entry:
    """A contestant at a column: how many runs it gets, and what came out, round by round."""

    contestant: Contestant
    column: Column
    count: int = 0
    laps: Laps = attrs.field(factory=list)
    """Runs a second; the median wait in seconds for `start`."""
    waits: list[float] = attrs.field(factory=list)
    trouble: str = ""

    def calibrate(self, least: float) -> None:
        """Find how many runs take about `least` seconds; this is the warming up, too."""
        if self.column.measure == "start":
            self.count = 100 if least > 0.5 else 40
            return
        count = 200
        seconds = self._once(count)
        while seconds and seconds < least / 8 and count < MOST:
            count *= 5
            seconds = self._once(count)
        if seconds:
            self.count = max(200, min(MOST, round(count / seconds * least / 100) * 100))

    def lap(self) -> None:
        """Measure once."""
        seconds = self._once(self.count) if self.count else None
        if self.column.measure == "start":
            self.laps.append(seconds)
        else:
            self.laps.append(self.count / seconds if seconds else None)

    def _once(self, count: int) -> float | None:
        if self.trouble:
            return None
        try:
            got = self.column.once(self.contestant, count)
        except Exception as error:  # whatever a peer raises ends its part and nobody else's
            self.trouble = f"{type(error).__name__}: {error}"
            where = f"{self.contestant.name} ({self.contestant.dialect}), {self.column.measure} {self.column.label}"
            print(f"{where}: {self.trouble}", file=sys.stderr)
            return None
        if self.column.measure == "start":
            self.waits += got
        return median(got)


def measure(
    present: Sequence[Contestant], wanted: Sequence[str], rounds: int, least: float
) -> tuple[list[Entry], list[float]]:
    """Return every entry with its laps, interleaved contestant by contestant, and what a sync cost in each round."""
    lanes = [
        [Entry(contestant, column) for contestant in present if column.takes_part(contestant)]
        for column in columns(wanted)
    ]
    for lane in lanes:
        for entry in lane:
            entry.calibrate(least)
    syncs: list[float] = []
    for number in range(rounds):
        syncs.append(fdatasync_us(tempfile.gettempdir()))
        print(f"round {number + 1} of {rounds}: fdatasync {syncs[-1]:.0f} us", file=sys.stderr)
        for lane in lanes:
            first = number % len(lane) if lane else 0
            for entry in lane[first:] + lane[:first]:
                entry.lap()
    return [entry for lane in lanes for entry in lane], syncs


def summary(entry: Entry, entries: Sequence[Entry], place: int) -> dict[str, Any]:
    """Return the medians of one entry, as plain JSON values; `place` is the row it gets in the tables."""
    contestant, column = entry.contestant, entry.column
    laps = [lap for lap in entry.laps if lap is not None]
    name, dialect = FLOOR.get(contestant.dialect), contestant.dialect
    floor = next(
        (
            other.laps
            for other in entries
            if other.column is column and (other.contestant.name, other.contestant.dialect) == (name, dialect)
        ),
        (),
    )
    ratios = [lap / least for lap, least in zip(entry.laps, floor, strict=False) if lap and least]
    found: dict[str, Any] = {
        "measure": column.measure,
        "column": column.label,
        "dialect": dialect,
        "contestant": contestant.name,
        "place": place,
        "runs": entry.count,
        "laps": laps,
        "ratio": median(ratios) if ratios else None,
        "trouble": entry.trouble,
    }
    if column.measure == "start":
        found["p50_ms"] = median(laps) * 1000 if laps else None
        found["p99_ms"] = quantiles(entry.waits, n=100)[98] * 1000 if len(entry.waits) > 1 else None
    else:
        found["per_s"] = median(laps) if laps else None
    return found


# -- showing ----------------------------------------------------------------------------------------------------------

HEADS: Final = {
    "create": "CREATE, runs a second, and the ratio to the floor",
    "drain": "DRAIN (claim, complete), runs a second, and the ratio to the fused floor at the same; x 2: two processes",
    "start": f"START, ms from asking for a run until the handler's first line; an idle worker, one in {EVERY_S:.2f} s",
}


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['dialect']:<9}{row['contestant']}"


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None or row.get("per_s") is None:
        return f"{'-' if row is None else 'failed':>15}"
    ratio = f"{row['ratio']:>6.2f}x" if row["ratio"] is not None else " " * 7
    return f"{row['per_s']:>8,.0f}{ratio}"


def _table(rows: Sequence[Mapping[str, Any]]) -> None:
    labels = list(dict.fromkeys(row["column"] for row in rows))
    cells = {(_name(row), row["column"]): row for row in rows}
    print(f"{'':<30}" + "".join(f"{label:>15}" for label in labels))
    for name in dict.fromkeys(_name(row) for row in sorted(rows, key=lambda row: cast("int", row["place"]))):
        print(f"{name:<30}" + "".join(_cell(cells.get((name, label))) for label in labels))


def _waits(rows: Sequence[Mapping[str, Any]]) -> None:
    print(f"{'':<30}{'median':>9}{'':>7}{'p99':>9}")
    for row in rows:
        if row["p50_ms"] is None:
            print(f"{_name(row):<30}{'failed':>9}")
            continue
        ratio = f"{row['ratio']:>6.2f}x" if row["ratio"] is not None else " " * 7
        print(f"{_name(row):<30}{row['p50_ms']:>9.1f}{ratio}{row['p99_ms']:>9.1f}")


def show(result: Mapping[str, Any]) -> None:
    """Print the figures for people."""
    print("; ".join(f"{name} {value}" for name, value in result["about"].items()), "\n")
    for name, about in result["contestants"].items():
        print(f"{name}: {about}")
    for reason in result["absent"]:
        print(f"not here: {reason}")
    print("\nDrains of the floors count from the word to begin to the last commit, of the peers from the first handler")
    print("until nothing is left. Ids are made before the clock starts.")
    for name in MEASURES:
        rows = [row for row in result["figures"] if row["measure"] == name]
        if rows:
            print(f"\n{HEADS[name]}")
            (_waits if name == "start" else _table)(rows)


# -- the command ------------------------------------------------------------------------------------------------------


def gather(stack: ExitStack, dialects: Sequence[Dialect], about: dict[str, str]) -> tuple[list[Contestant], list[str]]:
    """Return who takes part, everything entered on the stack, and a line for each who does not."""
    present: list[Contestant] = []
    absent: list[str] = []
    for dialect in dialects:
        try:
            fresh = _fresh(stack, dialect, about)
        except ImportError as error:
            absent.append(f"PostgreSQL: {error}")
            continue
        for candidate in candidates(dialect, fresh):
            if candidate.kind.missing:
                absent.append(f"{candidate.kind.name}: {candidate.kind.missing}")
                continue
            contestant = candidate.make()
            stack.callback(contestant.close)
            present.append(contestant)
    return present, absent


def _fresh(stack: ExitStack, dialect: Dialect, about: dict[str, str]) -> Callable[[], str]:
    if dialect != "postgres":
        return str
    server = stack.enter_context(postgres())
    about["postgresql"] = server.about()
    return lambda: stack.enter_context(server.fresh())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What a durable run costs.")
    parser.add_argument("--quick", action="store_true", help="shorter measurements and 3 rounds: a look, not a result")
    parser.add_argument("--only", choices=MEASURES, help="one measure")
    parser.add_argument("--dialect", choices=["sqlite", "postgres"], help="one database")
    parser.add_argument("--without-peers", action="store_true", help="only the floors and runstate")
    parser.add_argument("--rounds", type=int, help="rounds (7; 3 with --quick)")
    parser.add_argument("--seconds", type=float, help="how long a measurement takes, about (0.8; 0.3 with --quick)")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    dialects: list[Dialect] = [options.dialect] if options.dialect else ["sqlite", "postgres", "redis"]
    rounds = options.rounds or (3 if options.quick else 7)
    about = {**machine(), "rounds": str(rounds)}
    with ExitStack() as stack:
        present, absent = gather(stack, dialects, about)
        if options.without_peers:
            present = [contestant for contestant in present if contestant.name.startswith(("floor", "runstate"))]
        wanted = [options.only] if options.only else MEASURES
        entries, syncs = measure(present, wanted, rounds, options.seconds or (0.3 if options.quick else 0.8))
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
        show(result)


if __name__ == "__main__":
    main()
