"""Runs all benchmarks and the torture side by side, and writes what they found.

    python -m benchmarks.report [NAME...] [--quick] [--render] [--check]

Each measurement is a command that prints JSON; what it printed is kept in `benchmarks/results/NAME.json` with the
command, the day and the machine. From all that is kept, BENCHMARKS.md, docs/benchmarks.svg and the tables of the README
are written. With names, only those run anew; with `--render`, none. `--quick` shows that everything works and writes
nothing; `--check` tells whether anything that was written is not what is kept.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any, Final, NamedTuple

from benchmarks.durable.server import machine
from benchmarks.report.page import chart_of, page
from benchmarks.report.readme import refreshed

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / "benchmarks" / "results"


class Measurement(NamedTuple):
    """A command that prints JSON."""

    command: Sequence[str]
    quick: Sequence[str]
    """What is added, or put in the place of the same options, for a look."""
    finds_by_failing: bool = False
    """Its exit status says what it found, and not whether it worked."""


def _module(name: str, *rest: str) -> Sequence[str]:
    return ("-m", name, *rest, "--json")


MEASUREMENTS: Final[Mapping[str, Measurement]] = {
    "in_memory": Measurement(_module("benchmarks.memory"), ("--quick",)),
    "durable": Measurement(_module("benchmarks.durable"), ("--quick", "--seconds", "0.1", "--rounds", "1")),
    "durable_more": Measurement(_module("benchmarks.durable.more"), ("--quick",)),
    "python_cost": Measurement(_module("benchmarks.durable.python_cost"), ("--quick",)),
    "storm_postgres": Measurement(
        _module("torture", "--store", "postgres", "--minutes", "24", "--seed", "1"), ("--minutes", "0.1"), True
    ),
    "storm_sqlite": Measurement(
        _module("torture", "--store", "sqlite", "--minutes", "12", "--seed", "1"), ("--minutes", "0.1"), True
    ),
    "simulation": Measurement(
        _module("torture.simulation", "--seed", "300000", "--steps", "10000000", "--processes", "2"),
        ("--steps", "20000"),
        True,
    ),
    "power_cuts": Measurement(_module("torture.powercuts", "--cuts", "50"), ("--cuts", "1"), True),
    "trials": Measurement(_module("torture.trials"), ("--quick",), True),
    "bugs": Measurement(_module("torture.hunt"), ("--seconds", "5"), True),
}


def take(name: str, *, quick: bool) -> Mapping[str, Any]:
    """Run a measurement; return what it printed, with what a reader must know beside it."""
    measurement = MEASUREMENTS[name]
    command = [*measurement.command, *(measurement.quick if quick else ())]
    print(f"{name}: python {' '.join(command)}", file=sys.stderr, flush=True)
    began = monotonic()
    done = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode and not (measurement.finds_by_failing and done.stdout.strip()):
        raise SystemExit(f"{name} ended with {done.returncode}")
    return {
        "command": f"python {' '.join(measurement.command)}",
        "taken": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
        "seconds": round(monotonic() - began),
        "result": json.loads(done.stdout),
    }


def kept() -> Mapping[str, Mapping[str, Any]]:
    """Return everything that is kept, by name, in the order of the page."""
    return {
        name: json.loads(path.read_text(encoding="utf-8"))
        for name in MEASUREMENTS
        if (path := RESULTS / f"{name}.json").exists()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MEASUREMENTS)}; all if none is named")
    parser.add_argument("--quick", action="store_true", help="only show that everything works; nothing is written")
    parser.add_argument("--render", action="store_true", help="write the page from what is kept")
    parser.add_argument("--check", action="store_true", help="run and write nothing; tell what is stale")
    given = parser.parse_args(arguments)
    if unknown := set(given.names) - MEASUREMENTS.keys():
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}")
    RESULTS.mkdir(exist_ok=True)
    found: dict[str, Mapping[str, Any]] = {}
    for name in () if given.render or given.check else given.names or MEASUREMENTS:
        found[name] = take(name, quick=given.quick)
        if not given.quick:
            (RESULTS / f"{name}.json").write_text(json.dumps(found[name], indent=1) + "\n", encoding="utf-8")
    if given.quick:
        print(page(found))
        return 0
    stale = [path for path, text in written(kept()).items() if not path.exists() or path.read_text("utf-8") != text]
    if given.check:
        print(*(f"{path.relative_to(ROOT)} is stale: python -m benchmarks.report --render" for path in stale), sep="\n")
        return 1 if stale else 0
    for path, text in written(kept()).items():
        path.write_text(text, encoding="utf-8")
    return 0


def written(taken: Mapping[str, Mapping[str, Any]]) -> Mapping[Path, str]:
    """Return what is to stand in each file that tells of measurements."""
    readme = ROOT / "README.md"
    files = {ROOT / "BENCHMARKS.md": page(taken), readme: refreshed(readme.read_text(encoding="utf-8"), taken)}
    if "durable" in taken:
        files[ROOT / "docs" / "benchmarks.svg"] = chart_of(taken["durable"])
    return files


if __name__ == "__main__":
    sys.exit(main())
