"""What a run costs in memory, compared with a hand-written baseline and three libraries.

    python -m benchmarks.memory [--quick] [--rounds N] [--moves] [--json]

One process. Every round measures each contestant once at each exercise, in a rotated order, so that a slow moment of
the machine affects all alike. CPU time; the garbage collector is off meanwhile. A ratio is the median over
the rounds of (contestant / baseline) in that round. No figure decides a test.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from statistics import mean, median
from time import process_time_ns
from typing import Any, Final, TypeAlias

import attrs

from benchmarks.memory.contestants import (
    BASELINE,
    RUNSTATE,
    TOOL_ROUND,
    Contestant,
    check,
    compile_names,
    contestants,
    statement,
    statements_to,
)
from runstate.lifecycle import RUN_LIFECYCLE, RunEvent, RunStatus

Timings: TypeAlias = dict[str, list[float]]
"""Nanoseconds of one repetition in each round, by contestant."""

CREATE: Final = "create"
CREATE_SET: Final = "create with settings"
WHOLE_RUN: Final = "whole run"
REFUSAL: Final = "refusal"
REFUSAL_AT_END: Final = "refusal in a terminal status"
CREATING: Final = (CREATE, WHOLE_RUN)  # exercises that make a run, and so an id

# Where each event is asked when it is timed alone: the first row of the table that has it.
_FIRST: Final = {row.event: row.source for row in reversed(RUN_LIFECYCLE.transitions)}
SOURCES: Final[Mapping[RunEvent, RunStatus]] = {event: _FIRST[event] for event in RUN_LIFECYCLE.events}


@attrs.frozen
class Exercise:
    """A name, the status of its runs before the clock starts (None: it makes them), and the statements to time."""

    name: str
    source: RunStatus | None
    body: str


def exercises() -> list[Exercise]:
    """Return everything that is timed."""
    whole = "run = {create}\n        " + "\n        ".join(statement(event) for event in TOOL_ROUND)
    refused = f"try: {statement(RunEvent.START)}\n        except Refused: pass"
    return [
        Exercise(CREATE, None, "{create}"),
        Exercise(CREATE_SET, None, "{create_set}"),
        Exercise(WHOLE_RUN, None, whole),
        Exercise(REFUSAL, RunStatus.IN_PROGRESS, refused),
        Exercise(REFUSAL_AT_END, RunStatus.COMPLETED, refused),
        *(Exercise(event.value, source, statement(event)) for event, source in SOURCES.items()),
    ]


@attrs.frozen
class Stopwatch:
    """One contestant at one exercise: prepares runs untimed, then times the loop over them, subtracting nothing."""

    prepare: Callable[[int], Sequence[Any]]
    loop: Callable[[Sequence[Any]], None]

    @classmethod
    def of(cls, contestant: Contestant, exercise: Exercise) -> Stopwatch:
        steps = statements_to(exercise.source or RunStatus.QUEUED)
        make = f"def make():\n    run = {contestant.create}\n{steps}    return run\n"
        makes = {"create": contestant.create, "create_set": contestant.create_set}
        body = exercise.body.format_map(makes) if exercise.source is None else exercise.body
        space = compile_names(contestant, f"{make}def loop(runs):\n    for run in runs:\n        {body}\n")
        made: Callable[[], Any] = space["make"]
        prepare = range if exercise.source is None else lambda n: [made() for _ in range(n)]
        return cls(prepare, space["loop"])

    def nanoseconds(self, n: int) -> float:
        """Return the CPU time of one of `n` repetitions."""
        runs = self.prepare(n)
        gc.disable()
        try:
            before = process_time_ns()
            self.loop(runs)
            return (process_time_ns() - before) / n
        finally:
            gc.enable()

    def repetitions(self, least_ns: int, most: int) -> int:
        """Return how often to repeat, so that one timing lasts `least_ns`; at most `most` times."""
        n = 8
        while n < most and self.nanoseconds(n) * n < least_ns:
            n *= 2
        return n


def _has_exercise(contestant: Contestant, exercise: Exercise) -> bool:
    if exercise.name == CREATE_SET:
        return bool(contestant.create_set)
    return not contestant.makes_id or exercise.name in CREATING


def time_all(present: Sequence[Contestant], rounds: int, *, quick: bool) -> dict[str, Timings]:
    """Return the timings of every exercise, rounds interleaved contestant by contestant."""
    entries: list[tuple[str, str, Stopwatch, int]] = []
    for exercise in exercises():
        for contestant in present:
            if _has_exercise(contestant, exercise):
                watch = Stopwatch.of(contestant, exercise)
                n = watch.repetitions(100_000 if quick else 400_000, 512 if quick else 2048)
                entries.append((exercise.name, contestant.name, watch, n))
    timings: dict[str, Timings] = {name: {} for name, *_ in entries}
    for number in range(rounds):
        gc.collect()
        for name, laps in timings.items():
            lap = [entry for entry in entries if entry[0] == name]
            first = number % len(lap)
            for _, contestant_name, watch, n in lap[first:] + lap[:first]:
                laps.setdefault(contestant_name, []).append(watch.nanoseconds(n))
    return timings


def mean_of(timings: Mapping[str, Timings], events: Sequence[RunEvent]) -> Timings:
    """Return the mean over `events` of one move, round by round."""
    names = timings[events[0]]
    return {
        name: [mean(laps) for laps in zip(*(timings[event][name] for event in events), strict=True)] for name in names
    }


def ratio(timings: Timings, name: str) -> float:
    """Return the median over the rounds of (contestant / baseline)."""
    return median(own / least for own, least in zip(timings[name], timings[BASELINE], strict=True))


def bytes_per_run(contestant: Contestant, *, given: bool, quick: bool) -> float:
    """Return the bytes of a queued run, with its id and time given, or made by it where it can."""
    count = min(contestant.live_runs, 2_000 if quick else contestant.live_runs)
    expression = contestant.create_at if given else contestant.create
    space = compile_names(
        contestant, f"def fill(ids, runs):\n    for i, ID in enumerate(ids): runs[i] = {expression}\n"
    )
    ids = [f"run_{number:024}" for number in range(count)]
    runs: list[Any] = [None] * count
    space["fill"](ids[:8], runs)
    runs[:8] = [None] * 8
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        space["fill"](ids, runs)
        return (tracemalloc.get_traced_memory()[0] - before) / count
    finally:
        tracemalloc.stop()


def import_ms(rounds: int) -> dict[str, float]:
    """Return the CPU milliseconds (user + system) of a fresh interpreter for each import, medians, interleaved.

    All import from compiled files, as after an installation: the first round, not counted, writes them.
    """
    statements = {"nothing": "pass", "attrs": "import attrs", "runstate": "import runstate"}
    spent: dict[str, list[float]] = {name: [] for name in statements}
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": folder}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for number in range(rounds + 1):
            for name, statement in statements.items():
                ms = _cpu_ms(statement, environment)
                if number:
                    spent[name].append(ms)
    return {name: median(values) for name, values in spent.items()}


def _cpu_ms(statement: str, environment: Mapping[str, str]) -> float:
    process = os.posix_spawn(sys.executable, [sys.executable, "-c", statement], environment)
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"{statement!r} failed")
    return (usage.ru_utime + usage.ru_stime) * 1000


def about() -> dict[str, str]:
    """Return what the figures depend on."""
    packages = ("attrs", "transitions")
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {platform.system()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        **{package: version(package) for package in packages},
    }


def measure(rounds: int, *, quick: bool) -> dict[str, Any]:
    """Check, then measure everything; return it as plain JSON values."""
    everyone = list(contestants())
    present = [contestant for contestant in everyone if not contestant.missing]
    for contestant in present:
        check(contestant)
    timings = time_all(present, rounds, quick=quick)
    figures = {
        "create": timings[CREATE],
        "transition (tool round)": mean_of(timings, TOOL_ROUND),
        "transition (all nine)": mean_of(timings, tuple(SOURCES)),
        "refusal": timings[REFUSAL],
        "whole run": timings[WHOLE_RUN],
    }
    moves = {name: laps for name, laps in timings.items() if name not in figures}
    return {
        "about": {**about(), "rounds": rounds},
        "missing": {contestant.name: contestant.missing for contestant in everyone if contestant.missing},
        "figures": {name: _summary(laps) for name, laps in figures.items()},
        "moves": {name: _summary(laps) for name, laps in moves.items()},
        "bytes": {
            contestant.name: {
                "given": None if contestant.makes_id else bytes_per_run(contestant, given=True, quick=quick),
                "made": bytes_per_run(contestant, given=False, quick=quick),
            }
            for contestant in present
        },
        "import_ms": import_ms(rounds),
    }


def _summary(timings: Timings) -> dict[str, dict[str, float]]:
    return {name: {"ns": median(laps), "ratio": ratio(timings, name)} for name, laps in timings.items()}


def _cell(summary: Mapping[str, Mapping[str, float]], name: str) -> str:
    if name not in summary:
        return f"{'as above':>21}"
    return f"{summary[name]['ns']:>12,.0f}{summary[name]['ratio']:>8,.2f}x"


def _table(rows: Sequence[str], columns: Mapping[str, Mapping[str, Mapping[str, float]]], width: int = 38) -> None:
    print(" " * width + "".join(f"{column:>21}" for column in columns))
    for name in rows:
        print(f"{name:<{width}}" + "".join(_cell(summary, name) for summary in columns.values()))
    print()


def print_result(result: Mapping[str, Any], *, moves: bool) -> None:
    """Print the figures as tables."""
    print("; ".join(f"{name} {value}" for name, value in result["about"].items()), "\n")
    print(
        "CPU ns of one, and the ratio to the baseline: medians over the rounds; ids given unless the row says otherwise"
    )
    names = list(result["bytes"])
    figures = {name.replace("transition ", "move "): summary for name, summary in result["figures"].items()}
    _table(names, figures)
    for name, reason in result["missing"].items():
        print(f"{name}: {reason}\n")
    print(
        f"move (tool round): the mean of {', '.join(TOOL_ROUND)}, each timed alone from its first source.\n"
        f"move (all nine): the mean of {', '.join(f'{event} in {source}' for event, source in SOURCES.items())}.\n"
        "refusal: start in in_progress, raised and caught. whole run: create, then the tool round's five moves.\n"
    )
    if moves:
        ours = [name for name in (BASELINE, RUNSTATE) if name in names]
        print("Each move alone, and what else only these two can do; settings: instructions, a tool, metadata, a limit")
        print(" " * 38 + "".join(f"{name:>21}" for name in ours))
        for move, summary in result["moves"].items():
            print(f"{move:<38}" + "".join(_cell(summary, name) for name in ours))
        print()
    print(f"Bytes a live run: {'id and time given':>33}{'id and time made':>22}")
    for name, sizes in result["bytes"].items():
        given = f"{sizes['given']:,.0f}" if sizes["given"] is not None else "-"
        print(f"{name:<38}{given:>13}{sizes['made']:>22,.0f}")
    spent = result["import_ms"]
    print("\nImport, CPU ms of a fresh interpreter: " + ", ".join(f"{name} {ms:.1f}" for name, ms in spent.items()))
    print(f"import runstate = import attrs {spent['runstate'] - spent['attrs']:+.1f} ms")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What a run costs in memory.")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions and 5 rounds: a trial, not a result")
    parser.add_argument("--rounds", type=int, help="rounds (21; 5 with --quick)")
    parser.add_argument("--moves", action="store_true", help="print each move by itself")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    options = parser.parse_args()
    result = measure(options.rounds or (5 if options.quick else 21), quick=options.quick)
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        print_result(result, moves=options.moves)


if __name__ == "__main__":
    main()
