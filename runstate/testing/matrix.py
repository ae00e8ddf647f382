"""The state space of the lifecycle: 81 pairs of a status and an event, and every legal walk up to a length.

Each has a stable name, which pytest uses as its id:

    @pytest.mark.parametrize("cell", refusals())
    def test_refusals(cell): ...  # test_refusals[completed-fail], ...
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import attrs

from runstate.lifecycle import INITIAL_STATUS, RUN_LIFECYCLE, Lifecycle, RunEvent, RunStatus

__all__ = ["Cell", "CellKey", "Walk", "cells", "moves", "refusals", "walks"]

CellKey: TypeAlias = tuple[RunStatus, RunEvent]
"""The status and the event of a cell."""


@attrs.frozen
class Cell:
    """A status and an event, with the status that the event leads to."""

    status: RunStatus
    event: RunEvent
    target: RunStatus | None
    """The status it leads to; None if it is refused."""

    @property
    def __name__(self) -> str:
        """The id for pytest: `in_progress-complete`."""
        return f"{self.status}-{self.event}"

    def __str__(self) -> str:
        if self.target is None:
            return f"{self.status} refuses {self.event}"
        return f"{self.status} -> {self.event} -> {self.target}"


@attrs.frozen
class Walk:
    """A legal path from the initial status: the events, and the status before the first and after each."""

    events: tuple[RunEvent, ...]
    statuses: tuple[RunStatus, ...]
    """One more than the events."""

    @property
    def __name__(self) -> str:
        """The id for pytest: `start-complete`; `creation` for the walk without events."""
        return "-".join(self.events) or "creation"

    @property
    def end(self) -> RunStatus:
        """The last status."""
        return self.statuses[-1]

    @property
    def steps(self) -> tuple[Cell, ...]:
        """Its moves, in order."""
        return tuple(map(Cell, self.statuses, self.events, self.statuses[1:]))


def cells(lifecycle: Lifecycle = RUN_LIFECYCLE) -> tuple[Cell, ...]:
    """Return all 81 pairs of a status and an event, in the order of `RunStatus`, then of `RunEvent`.

    >>> len(cells()), len(moves()), len(refusals())
    (81, 19, 62)
    """

    def target(status: RunStatus, event: RunEvent) -> RunStatus | None:
        row = lifecycle.find(status, event)
        return None if row is None else row.target

    return tuple(Cell(status, event, target(status, event)) for status in RunStatus for event in RunEvent)


def moves(lifecycle: Lifecycle = RUN_LIFECYCLE) -> tuple[Cell, ...]:
    """Return the 19 cells that have a transition."""
    return tuple(cell for cell in cells(lifecycle) if cell.target is not None)


def refusals(lifecycle: Lifecycle = RUN_LIFECYCLE) -> tuple[Cell, ...]:
    """Return the 62 cells that have no transition: the event is refused, and nothing changes."""
    return tuple(cell for cell in cells(lifecycle) if cell.target is None)


def walks(max_events: int = 6, lifecycle: Lifecycle = RUN_LIFECYCLE) -> tuple[Walk, ...]:
    """Return every legal walk of up to `max_events` events, shorter ones first.

    >>> [len(walks(most)) for most in (0, 1, 2, 6)]
    [1, 5, 16, 54]
    """

    def continuations(walk: Walk) -> Iterator[Walk]:
        for event in lifecycle.allowed_events(walk.end):
            yield Walk((*walk.events, event), (*walk.statuses, lifecycle.target_of(event)))

    found = [Walk((), (INITIAL_STATUS,))]
    longest = found
    for _ in range(max_events):
        longest = [further for walk in longest for further in continuations(walk)]
        found += longest
    return tuple(found)
