"""The order in which contestants are measured: in turns, so that no one has the machine's best minutes alone."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from typing import Protocol, TypeVar

from benchmarks.machine import fdatasync_us

__all__ = ["measure_in_turns"]


class Measured(Protocol):
    """A series of measurements."""

    def measure_round(self) -> None:
        """Measure once more."""
        ...


M = TypeVar("M", bound=Measured)


def measure_in_turns(groups: Sequence[Sequence[M]], rounds: int) -> tuple[list[M], list[float]]:
    """Measure each series once a round; each round begins with another one.

    Return all series, and the microseconds of a sync in each round.
    """
    syncs: list[float] = []
    for number in range(rounds):
        syncs.append(fdatasync_us(tempfile.gettempdir()))
        print(f"round {number + 1} of {rounds}: fdatasync {syncs[-1]:.0f} us", file=sys.stderr)
        for group in groups:
            first = number % len(group) if group else 0
            for series in [*group[first:], *group[:first]]:
                series.measure_round()
    return [series for group in groups for series in group], syncs
