"""Runs the benchmarks and the torture programs, and renders their results.

    python -m benchmarks.report [NAME...] [--quick] [--render] [--check]

Each measurement is a command that prints JSON. Its output is stored in `benchmarks/results/NAME.json` with the command,
the day and the machine. BENCHMARKS.md, docs/benchmarks.svg and the tables of the README are rendered from all stored
results. With names, only those measurements run; with `--render`, none. `--quick` tries that everything works and
writes nothing. `--check` reports rendered files that differ from the stored results.
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

from benchmarks.machine import machine
from benchmarks.report.page import chart_of, page
from benchmarks.report.readme import refresh

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / "benchmarks" / "results"


class Measurement(NamedTuple):
    """A command that prints JSON."""

    command: Sequence[str]
    quick: Sequence[str]
    """Arguments that are added, or replace the same options, with --quick."""
    exits_nonzero_on_findings: bool = False
    """A non-zero exit status means findings, not a failure."""


def _command(name: str, *rest: str) -> Sequence[str]:
    return ("-m", name, *rest, "--json")


MEASUREMENTS: Final[Mapping[str, Measurement]] = {
    "memory": Measurement(_command("benchmarks.memory"), ("--quick",)),
    "durable": Measurement(_command("benchmarks.durable"), ("--quick", "--seconds", "0.1", "--rounds", "1")),
    "steps": Measurement(_command("benchmarks.durable.steps"), ("--quick",)),
    "latency": Measurement(_command("benchmarks.durable.latency"), ("--quick",)),
    "python_cost": Measurement(_command("benchmarks.durable.python_cost"), ("--quick",)),
    "storm_postgres": Measurement(
        _command("torture", "--store", "postgres", "--minutes", "24", "--seed", "1"), ("--minutes", "0.1"), True
    ),
    "storm_sqlite": Measurement(
        _command("torture", "--store", "sqlite", "--minutes", "12", "--seed", "1"), ("--minutes", "0.1"), True
    ),
    "simulation": Measurement(
        _command("torture.simulation", "--seed", "300000", "--steps", "10000000", "--processes", "2"),
        ("--steps", "20000"),
        True,
    ),
    "power_cuts": Measurement(_command("torture.powercuts", "--cuts", "50"), ("--cuts", "1"), True),
    "trials": Measurement(_command("torture.trials"), ("--quick",), True),
    "bugs": Measurement(_command("torture.hunt"), ("--seconds", "5"), True),
}


def run_measurement(name: str, *, quick: bool) -> Mapping[str, Any]:
    """Run a measurement; return its output, with the command, the day and the machine."""
    measurement = MEASUREMENTS[name]
    command = [*measurement.command, *(measurement.quick if quick else ())]
    print(f"{name}: python {' '.join(command)}", file=sys.stderr, flush=True)
    began = monotonic()
    done = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode and not (measurement.exits_nonzero_on_findings and done.stdout.strip()):
        raise SystemExit(f"{name} ended with {done.returncode}")
    return {
        "command": f"python {' '.join(measurement.command)}",
        "taken": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
        "seconds": round(monotonic() - began),
        "result": json.loads(done.stdout),
    }


def load_results() -> Mapping[str, Mapping[str, Any]]:
    """Return the stored results by name, in the order of the page."""
    return {
        name: json.loads(path.read_text(encoding="utf-8"))
        for name in MEASUREMENTS
        if (path := RESULTS / f"{name}.json").exists()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run measurements, and render the pages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MEASUREMENTS)}; all if none is named")
    parser.add_argument("--quick", action="store_true", help="only try that everything works; write nothing")
    parser.add_argument("--render", action="store_true", help="render from the stored results, and run nothing")
    parser.add_argument("--check", action="store_true", help="run and write nothing; report stale files")
    given = parser.parse_args(arguments)
    if unknown := set(given.names) - MEASUREMENTS.keys():
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}")
    RESULTS.mkdir(exist_ok=True)
    found: dict[str, Mapping[str, Any]] = {}
    for name in () if given.render or given.check else given.names or MEASUREMENTS:
        found[name] = run_measurement(name, quick=given.quick)
        if not given.quick:
            (RESULTS / f"{name}.json").write_text(json.dumps(found[name], indent=1) + "\n", encoding="utf-8")
    if given.quick:
        print(page(found))
        return 0
    stale = [
        path
        for path, text in rendered_files(load_results()).items()
        if not path.exists() or path.read_text("utf-8") != text
    ]
    if given.check:
        print(*(f"{path.relative_to(ROOT)} is stale: python -m benchmarks.report --render" for path in stale), sep="\n")
        return 1 if stale else 0
    for path, text in rendered_files(load_results()).items():
        path.write_text(text, encoding="utf-8")
    return 0


def rendered_files(records: Mapping[str, Mapping[str, Any]]) -> Mapping[Path, str]:
    """Return the contents of each file that shows results."""
    readme = ROOT / "README.md"
    files = {ROOT / "BENCHMARKS.md": page(records), readme: refresh(readme.read_text(encoding="utf-8"), records)}
    if "durable" in records:
        files[ROOT / "docs" / "benchmarks.svg"] = chart_of(records["durable"])
    return files


if __name__ == "__main__":
    sys.exit(main())
