"""The data of transition coverage: how often each cell was covered, and by which test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

import attrs

from runstate.lifecycle import RunEvent, RunStatus
from runstate.testing.matrix import Cell, cells

__all__ = ["CoverageData", "Tally"]

CountKey: TypeAlias = tuple[str, RunStatus, RunEvent]
_CELLS: Final = cells()
_BY_KEY: Final = {(cell.status, cell.event): cell for cell in _CELLS}


@attrs.frozen
class Tally:
    """How many of some cells are covered."""

    covered: int
    total: int

    @property
    def percent(self) -> float:
        """From 0 to 100."""
        return 100.0 * self.covered / self.total if self.total else 100.0

    def __str__(self) -> str:
        return f"{self.covered} of {self.total}, {self.percent:.0f} %"


@attrs.define
class CoverageData:
    """How often each cell was covered, by test; the test "" has the events between tests."""

    counts: Counter[CountKey] = attrs.field(factory=Counter[CountKey])

    def add(self, other: CoverageData) -> None:
        """Add the counts of another process."""
        self.counts.update(other.counts)

    def count(self, cell: Cell) -> int:
        """Return how often a cell was covered."""
        return sum(n for (_, status, event), n in self.counts.items() if (status, event) == (cell.status, cell.event))

    def tests_of(self, cell: Cell) -> tuple[str, ...]:
        """Return the tests that cover a cell."""
        return tuple(sorted({test for test, *key in self.counts if tuple(key) == (cell.status, cell.event)}))

    def by_test(self) -> Mapping[str, tuple[Cell, ...]]:
        """Return the cells of each test, in the order of `cells()`."""
        found: dict[str, set[Cell]] = {}
        for test, status, event in self.counts:
            found.setdefault(test, set()).add(_BY_KEY[status, event])
        return {test: tuple(cell for cell in _CELLS if cell in covered) for test, covered in sorted(found.items())}

    def covered(self) -> frozenset[Cell]:
        """Return the covered cells."""
        return frozenset(_BY_KEY[status, event] for _, status, event in self.counts)

    def tally(self, of: Iterable[Cell] = _CELLS) -> Tally:
        """Return how many of the cells are covered, by default of all 81."""
        wanted = tuple(of)
        covered = self.covered()
        return Tally(sum(cell in covered for cell in wanted), len(wanted))

    def to_list(self) -> list[list[Any]]:
        """Return the counts as JSON values, for another process to add."""
        return [[test, status.value, event.value, n] for (test, status, event), n in sorted(self.counts.items())]

    @classmethod
    def from_list(cls, rows: Iterable[Iterable[Any]]) -> CoverageData:
        """Return the data that `to_list` wrote."""
        read = ((str(test), RunStatus(status), RunEvent(event), int(n)) for test, status, event, n in rows)
        return cls(Counter({(test, status, event): n for test, status, event, n in read}))
