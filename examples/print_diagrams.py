"""Prints every picture: the table as lanes, the lanes of one run, and the first line of each other format.

Run it: python examples/print_diagrams.py
"""

from __future__ import annotations

from runstate.diagram import FORMATS, RunPosition, draw
from runstate.lifecycle import RUN_LIFECYCLE, RunStatus


def main() -> None:
    """Print them all."""
    print(draw(RUN_LIFECYCLE, "lanes", width=100))
    print()

    created_at = 1_700_000_000
    stamps = {"created_at": created_at, "started_at": created_at + 2, "expires_at": created_at + 600}
    position = RunPosition(RunStatus.IN_PROGRESS, stamps, run_id="run_abc123")
    print(draw(RUN_LIFECYCLE, "lanes", position, width=100))
    print()

    for name in FORMATS:
        first, *more = draw(RUN_LIFECYCLE, name, position).splitlines()
        print(f"{name:8} {first[:60]:60} and {len(more)} lines more")


if __name__ == "__main__":
    main()
