"""python -m torture.simulation: play many worlds, or one of them again."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence

from torture.bugs import BUGS
from torture.counts import at_least_one
from torture.simulation.campaign import KINDS, Tally, play, play_many, told

_USUAL = 100_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Play, and print what came of it; 1 if anything went wrong."""
    parser = argparse.ArgumentParser(prog="python -m torture.simulation", description=__doc__)
    parser.add_argument("--steps", type=at_least_one, help=f"How many in all, {_USUAL:,} if no seed is given.")
    parser.add_argument("--seed", type=int, help="The first world; the only one if no steps are given.")
    parser.add_argument("--bug", choices=[*BUGS], help="Have this bug in the library, to see it found.")
    parser.add_argument("--processes", type=at_least_one, default=1, help="How many worlds at once.")
    parser.add_argument("--show", action="store_true", help="Show every step of the only world.")
    parser.add_argument("--json", action="store_true", help="Print the counts as JSON.")
    asked = parser.parse_args(arguments)
    if asked.steps is None and asked.seed is not None:
        tally = _only(asked.seed, asked.bug, asked.show)
    else:
        tally = play_many(1 if asked.seed is None else asked.seed, asked.steps or _USUAL, asked.processes, asked.bug)
    if asked.json:
        wrong = [{"seed": each.seed, "found": each.found} for each in tally.wrong]
        zero = dict.fromkeys(KINDS, 0)
        print(json.dumps({**zero, **tally.counts, "seconds": round(tally.seconds, 1), "wrong": wrong}, indent=2))
    else:
        for verdict in tally.wrong:
            print(told(verdict, asked.bug), end="\n\n")
        print(tally)
    return 1 if tally.wrong else 0


def _only(seed: int, bug: str | None, show: bool) -> Tally:
    tally = Tally()
    began = time.perf_counter()
    for verdict in play([seed], bug=bug, traced=show):
        tally.add(verdict)
        print(*verdict.trace, sep="\n", end="\n" if show else "")
    tally.seconds = time.perf_counter() - began
    return tally


if __name__ == "__main__":
    sys.exit(main())
