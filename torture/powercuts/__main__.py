"""Cut the power under a store in SQLite, again and again, and see what is left.

    python -m torture.powercuts [--cuts N] [--seed S] [--synchronous FULL|NORMAL|OFF]
                                      [--disk cached|plain] [--lying] [--json]

A small disk is mounted. Processes create, cancel, claim and settle runs on it, a worker works, somebody watches; each
notes what it is told in a file that is not on that disk, the moment it is told. Then the power goes. What is left of
the disk is mounted anew, the store opened, and held against the notes: what anybody was told must be there. So must
what was seen by watching. The law's judge is asked as well, SQLite's own check, and whether the store goes on working.

A disk lives five cuts: each after the first is made to what the cut before left, not touched since, so it may also
come while the file system and SQLite mend themselves. At FULL, as the library has it, nothing may be lost: else the
exit status is 1. NORMAL and OFF are put into the processes to show that losses are seen, and so is `--lying`, a disk
that answers flushes without doing them. The same seed makes the same choices, but not the same moments.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from functools import partial
from typing import get_args

import attrs

from torture.counts import at_least_one
from torture.disks import why_not
from torture.powercuts.cuts import Kind, Plan, keep_quiet, power_cuts
from torture.powercuts.disk import why_no_cache
from torture.powercuts.load import Synchronous


def main(arguments: Sequence[str] | None = None) -> int:
    """Cut the power, and print what came of it; 1 if anything was lost, 2 where no disk can be mounted."""
    parser = argparse.ArgumentParser(prog="python -m torture.powercuts", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cuts", type=at_least_one, default=50, help="how often (default: 50)")
    parser.add_argument("--seed", type=int, default=1, help="what chance begins with (default: 1)")
    parser.add_argument(
        "--synchronous", choices=get_args(Synchronous), default="FULL", help="what SQLite is told (default: FULL)"
    )
    parser.add_argument(
        "--disk",
        choices=get_args(Kind),
        help="`cached` loses writes that were not flushed; `plain` is a file (default: cached, where it can be made)",
    )
    parser.add_argument("--lying", action="store_true", help="let the cached disk not do its flushes")
    parser.add_argument("--json", action="store_true", help="print one object")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is unmounted
    if missing := why_not():
        print(f"not held: {missing}", file=sys.stderr)
        return 2
    no_cache = why_no_cache()
    if no_cache and (given.lying or given.disk == "cached"):
        print(f"not held: {no_cache}", file=sys.stderr)
        return 2
    kind: Kind = given.disk or ("plain" if no_cache else "cached")
    plan = Plan(given.seed, given.synchronous, kind, given.lying)
    verdict = power_cuts(given.cuts, plan, keep_quiet if given.json else partial(print, flush=True))
    if given.json:
        print(json.dumps(attrs.asdict(verdict), indent=1))
    else:
        print(verdict)
        for sentence in verdict.wrong[:20]:
            print(f"    {sentence}")
    return 0 if verdict.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
