"""Asked by a person: `python -m torture.fuzz`."""

from __future__ import annotations

import argparse
import random
import sys

from runstate.run.json_values import escape
from torture.counts import at_least_one
from torture.fuzz.growth import growth
from torture.fuzz.loop import TARGETS, fuzz
from torture.fuzz.telling import Tally


def _tell(tally: Tally) -> None:
    sys.stderr.write(f"\r{tally}")
    sys.stderr.flush()


def main() -> int:
    """Fuzz, and print what came of it; 1 if anything crashed."""
    parser = argparse.ArgumentParser(prog="python -m torture.fuzz", description="Fuzz what reads.")
    parser.add_argument("--target", choices=[*TARGETS], action="append", help="All if none is given.")
    parser.add_argument("--inputs", type=at_least_one, default=10_000, help="Of each target.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, help="Only this input, shown whole.")
    parser.add_argument("--growth", action="store_true", help="Measure the worst shapes at doubling sizes instead.")
    parser.add_argument("--least", type=int, default=4_000, help="The smallest of these sizes, in parts.")
    asked = parser.parse_args()
    if asked.growth:
        for line in growth(asked.least, 4):
            print(line, flush=True)
        return 0
    crashed = 0
    for target in asked.target or TARGETS:
        if asked.number is not None:
            print(escape(repr(TARGETS[target].make(random.Random(f"{target}/{asked.seed}/{asked.number}")))))
        first, inputs = (0, asked.inputs) if asked.number is None else (asked.number, 1)
        tally = fuzz(target, inputs, asked.seed, first, _tell if sys.stderr.isatty() else None)
        for crash in tally.crashes[:20]:
            print(crash)
        print(f"\r{tally}", flush=True)
        crashed += len(tally.crashes)
    return 1 if crashed else 0


if __name__ == "__main__":
    sys.exit(main())
