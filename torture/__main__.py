"""Hold a storm: callers and workers over one store, harm drawn from a seed, and witnesses who do not ask the engine.

    python -m torture [--minutes N] [--store postgres|sqlite|URL] [--pooler] [--seed S] [--bug NAME]
        [--keep FOLDER] [--json]

Processes create, cancel, submit, sweep and work; they are killed, stopped past their lease, cut off and misled about
the time, and the store is killed or filled under them. Then plain SQL checks every history by a copy of the transition
table, each reply to a client, and each call of a handler. The exit status is 1 if anything was lost, done twice or
illegal. The same seed draws the same harm; processes still meet at other moments.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest

from torture.bugs import BUGS
from torture.counts import more_than_none
from torture.ground import Ground
from torture.storm.conductor import storm
from torture.storm.stage import OWN, NotHeld
from torture.verdict import Verdict


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m torture", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=more_than_none, default=1.0, help="for how long harm is done (default: 1)")
    parser.add_argument(
        "--store",
        default="postgres",
        help="`postgres` or `sqlite`, of our own, which may be killed and filled; or the URL of an empty store",
    )
    parser.add_argument("--pooler", action="store_true", help="reach PostgreSQL through a PgBouncer of transactions")
    parser.add_argument("--seed", type=int, default=1, help="what chance begins with (default: 1)")
    parser.add_argument("--bug", choices=sorted(BUGS), help="a fault to put into the engine, which is to be found")
    parser.add_argument("--quick", action="store_true", help="a server that does not wait for the disk")
    parser.add_argument("--keep", type=Path, help="where all logs are kept if something is found")
    parser.add_argument("--json", action="store_true", help="print one object")
    return parser.parse_args(arguments)


def show(seconds: float, verdict: Verdict) -> None:
    """Tell how far it is, to people."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{seconds:6.0f} s, {verdict.trials} harms\033[K")
        sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Hold the storm that was asked for."""
    given = parsed(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is cleaned up
    logging.getLogger("runstate").addHandler(logging.NullHandler())
    with Ground(given.seed, given.quick) as ground:
        try:
            verdict = storm(ground, given.store, given.minutes, bug=given.bug, progress=show, pooler=given.pooler)
        except (pytest.skip.Exception, NotHeld) as missing:
            print(f"not held: {missing}", file=sys.stderr)
            return 2
        if not verdict.is_good and given.keep is not None:
            shutil.copytree(ground.scratch, given.keep, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.image"))
    if given.json:
        print(json.dumps(attrs.asdict(verdict), indent=1))
    else:
        tell(verdict, given)
    return 0 if verdict.is_good else 1


def tell(verdict: Verdict, given: argparse.Namespace) -> None:
    """Print the verdict, and how to hold the same storm again if something is wrong."""
    print(verdict)
    for sentence in verdict.wrong[:20]:
        print(f"    {sentence}")
    if len(verdict.wrong) > 20:
        print(f"    and {len(verdict.wrong) - 20} more")
    if not verdict.is_good:
        bug = (" --pooler" if given.pooler else "") + (f" --bug {given.bug}" if given.bug else "")
        store = given.store if given.store in OWN else "URL"  # which may have a password in it
        print(f"again: python -m torture --minutes {given.minutes:g} --store {store} --seed {given.seed}{bug}")


if __name__ == "__main__":
    sys.exit(main())
