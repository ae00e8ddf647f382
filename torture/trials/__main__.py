"""What the store and the worker do when everything around them fails.

    python -m torture.trials [TRIAL...] [--count N] [--seed S] [--quick] [--json]

Each trial does one kind of harm, on a PostgreSQL and SQLite files of its own, while runs are created, cancelled and
worked on. Then the history is judged by plain SQL (`tests.support.judge`), and held against what callers were told and
what handlers wrote down in a file of their own. Nothing may be lost, done twice, or illegal; else the exit status is 1.
The same seed makes the same choices, but not the same moments.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Final, NamedTuple, TypeAlias

import attrs
import pytest

from torture.counts import at_least_one
from torture.ground import Ground
from torture.trials.answers import answers
from torture.trials.races import races
from torture.trials.soak import soak
from torture.trials.sqlite import busy, full, readonly
from torture.trials.steps import steps
from torture.trials.stops import clock, stops
from torture.verdict import Verdict

Trial: TypeAlias = Callable[[Ground, int], Verdict]


class Size(NamedTuple):
    """How often a trial does its harm."""

    trial: Trial
    full: int
    quick: int


TRIALS: Final[Mapping[str, Sequence[Size]]] = {
    "answers": (Size(answers, 500, 20),),
    "sqlite": (Size(busy, 20, 1), Size(full, 5, 1), Size(readonly, 10, 5)),
    "races": (Size(races, 10_000, 300),),
    "soak": (
        Size(partial(soak, dialect="postgres"), 500_000, 3000),
        Size(partial(soak, dialect="sqlite"), 100_000, 3000),
    ),
    "steps-postgres": (Size(partial(steps, dialect="postgres"), 200, 8),),
    "steps-sqlite": (Size(partial(steps, dialect="sqlite"), 200, 8),),
    "stops": (Size(stops, 100, 4),),
    "clock": (Size(clock, 40, 2),),
}


def attempt(ground: Ground, name: str, size: Size, count: int) -> Verdict:
    """Hold one trial; what goes wrong with the trial itself is a finding as well."""
    began = monotonic()
    try:
        verdict = size.trial(ground, count)
    except pytest.skip.Exception as missing:  # there is no PostgreSQL that may be killed
        verdict = Verdict(name, notes={"not held": str(missing)})
    except Exception as error:
        verdict = Verdict(name, trials=count, wrong=[f"the trial broke off: {type(error).__name__}: {error}"])
    verdict.seconds = monotonic() - began
    return verdict


def show(verdict: Verdict) -> None:
    """Print a verdict, and what is wrong."""
    print(verdict, flush=True)
    for sentence in verdict.wrong[:20]:
        print(f"    {sentence}", flush=True)
    if len(verdict.wrong) > 20:
        print(f"    and {len(verdict.wrong) - 20} more", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Hold the trials that were asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("trials", nargs="*", metavar="TRIAL", help=f"of {', '.join(TRIALS)}; all if none is named")
    parser.add_argument(
        "--count", type=at_least_one, help="how often the harm is done, instead of each trial's own number"
    )
    parser.add_argument("--seed", type=int, default=1, help="what chance begins with")
    parser.add_argument("--quick", action="store_true", help="only show that the trials work")
    parser.add_argument("--json", action="store_true", help="print one object instead of lines")
    given = parser.parse_args(arguments)
    unknown = set(given.trials) - TRIALS.keys()
    if unknown:
        parser.error(f"no such trial: {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is cleaned up
    logging.getLogger("runstate").addHandler(logging.NullHandler())  # a worker of this process warns as it should
    verdicts = []
    with Ground(given.seed, given.quick) as ground:
        for name in given.trials or TRIALS:
            for size in TRIALS[name]:
                count = given.count or (size.quick if given.quick else size.full)
                verdict = attempt(ground, name, size, count)
                verdicts.append(verdict)
                if not given.json:
                    show(verdict)
    if given.json:
        print(json.dumps([attrs.asdict(verdict) for verdict in verdicts], indent=1))
    return 0 if all(verdict.is_good for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
