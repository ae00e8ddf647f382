"""Put each fault into the engine, one after the other, and see how soon the torture finds it.

    python -m torture.hunt [BUG...] [--seconds N] [--json]

A harness that finds nothing for so long has missed the fault, and the exit status is 1. What is found must be a
finding of the harness itself: that it breaks off is none.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Any, Final, NamedTuple, TypeAlias

from torture.bugs import BUGS
from torture.counts import more_than_none

ROOT: Final = Path(__file__).parents[1]
SECONDS: Final = 60.0
MOST_S: Final = 300.0
"""Longer than any single try takes."""
STORM_MINUTES: Final = "0.1"
"""Short: where the sweep ignores leases, what has begun takes a while to end when the storm is over."""

Words: TypeAlias = Sequence[str]


class Harness(NamedTuple):
    """What may find a fault: a command, for a bug and a seed, that prints a verdict or several."""

    name: str
    command: Callable[[str, int], Words]


STORM_POSTGRES: Final = Harness(
    "storm on PostgreSQL",
    lambda bug, seed: ("torture", "--minutes", STORM_MINUTES, "--bug", bug, "--seed", str(seed)),
)
STORM_SQLITE: Final = Harness(
    "storm on SQLite",
    lambda bug, seed: (
        "torture",
        "--minutes",
        STORM_MINUTES,
        "--store",
        "sqlite",
        "--bug",
        bug,
        "--seed",
        str(seed),
    ),
)
SIMULATION: Final = Harness(
    "simulation",
    lambda bug, seed: ("torture.simulation", "--steps", "300000", "--bug", bug, "--seed", str(seed)),
)
POWER_CUTS: Final = Harness(
    "power cuts",
    lambda bug, seed: ("torture.powercuts", "--cuts", "3", "--synchronous", "OFF", "--seed", str(seed)),
)
HUNTED: Final[Mapping[str, Sequence[Harness]]] = {
    "no_fence": (SIMULATION, STORM_POSTGRES, STORM_SQLITE),
    "no_version": (SIMULATION, STORM_POSTGRES, STORM_SQLITE),
    "early_answer": (SIMULATION, STORM_POSTGRES, STORM_SQLITE),
    "sweep_ignores_leases": (SIMULATION, STORM_POSTGRES, STORM_SQLITE),
    "stops_at_a_bad_row": (STORM_POSTGRES, STORM_SQLITE),
    "fences_by_no_attempt": (STORM_POSTGRES, STORM_SQLITE),
    "keeps_no_small_table": (STORM_POSTGRES,),
    "keeps_late_steps": (SIMULATION,),
    "keeps_usage_later": (SIMULATION, STORM_POSTGRES, STORM_SQLITE),
    "no_sync": (POWER_CUTS, STORM_POSTGRES),
}
"""Who is to find which fault."""


def findings(printed: str) -> Sequence[str]:
    """Return what a harness found wrong, in what it printed."""
    said: Any = json.loads(printed)
    wrong = [found for one in (said if isinstance(said, list) else [said]) for found in one["wrong"]]
    return [found if isinstance(found, str) else f"seed {found['seed']}: {found['found'][0]}" for found in wrong]


def hunt(bug: str, harness: Harness, seconds: float) -> Mapping[str, Any]:
    """Let a harness look for a fault, with one seed after the other; return how it went."""
    began = monotonic()
    found: Sequence[str] = ()
    for seed in count(1):
        command = [sys.executable, "-m", *harness.command(bug, seed), "--json"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=MOST_S, check=False)
        if done.returncode == 2 or not done.stdout:
            told = done.stderr.strip().splitlines() or ["it said nothing"]
            return {"bug": bug, "harness": harness.name, "found": False, "seconds": 0.0, "first": told[-1]}
        found = findings(done.stdout)
        if found or monotonic() > began + seconds:
            break
    took = monotonic() - began
    first = found[0] if found else "nothing"
    return {"bug": bug, "harness": harness.name, "found": bool(found), "seconds": took, "first": first}


def main(arguments: Sequence[str] | None = None) -> int:
    """Hunt, and tell how it went."""
    parser = argparse.ArgumentParser(prog="python -m torture.hunt", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bugs", nargs="*", metavar="BUG", help=f"of {', '.join(HUNTED)}; all if none is named")
    parser.add_argument(
        "--seconds", type=more_than_none, default=SECONDS, help="how long a harness looks (default: 60)"
    )
    parser.add_argument("--json", action="store_true", help="print one object")
    given = parser.parse_args(arguments)
    if unknown := set(given.bugs) - HUNTED.keys():
        parser.error(f"no such bug: {', '.join(sorted(unknown))}")
    hunts = []
    for bug in given.bugs or HUNTED:
        for harness in HUNTED[bug]:
            hunts.append(hunt(bug, harness, given.seconds))
            if not given.json:
                print("{bug}, {harness}: {seconds:.1f} s: {first}".format(**hunts[-1]), flush=True)
    if given.json:
        sentences = {one["bug"]: BUGS[str(one["bug"])].sentence for one in hunts}
        print(json.dumps({"hunts": hunts, "bugs": sentences}, indent=1))
    return 0 if all(one["found"] and one["seconds"] <= given.seconds for one in hunts) else 1


if __name__ == "__main__":
    sys.exit(main())
