"""The report on an implementation: which cells hold, which are wrong and how, each with its shortest reproduction."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, Literal, TypeAlias, get_args

import attrs

from runstate.lifecycle import Lifecycle, RunEvent, RunStatus, Stamp
from runstate.run.validators import pluralize
from runstate.testing.matrix import CellKey

__all__ = ["ConformanceReport", "Requirement", "Verdict", "Violation"]

Verdict: TypeAlias = Literal["holds", "wrong", "not offered", "not reached"]
"""The result of a cell."""

Requirement: TypeAlias = Literal["creation", "cell", "walk", "repeat", "stale", "race", "lease"]
"""What is checked: a new run, one event, a longer walk, a repeated event, an event by a stale copy, two events at once,
or an event by a worker whose lease has lapsed."""

_SIGNS: Final[Mapping[Verdict, str]] = {"holds": "+", "wrong": "X", "not offered": ".", "not reached": "?"}
_WRONG_ANSWERS: Final = ("accepted", "refused; and yet", "it broke", "refused")
_ID_OR_NUMBER: Final = re.compile(r"\b\w*\d[\w.:+-]*")
_NAMES: Final = re.compile(rf"\b({'|'.join((*RunStatus, *RunEvent, *get_args(Stamp)))})\b")
_SUFFIXES: Final[Mapping[Requirement, str]] = {
    "creation": "",
    "cell": "",
    "walk": ", on a longer way",
    "repeat": ", asked twice",
    "stale": ", by an old copy",
    "race": ", by two at once",
    "lease": ", by a worker whose lease had lapsed",
}
_MAX_LISTED: Final = 12
_MAX_ALIKE: Final = 6


@attrs.frozen
class Violation:
    """A difference between an implementation and the table of transitions."""

    requirement: Requirement
    status: RunStatus
    """The status of the run before."""
    event: RunEvent | None
    """The event that was sent; None for the creation."""
    expected: str
    found: str
    reproduction: tuple[str, ...]
    """The calls that reproduce it, a line each."""
    other_event: RunEvent | None = None
    """The event of the other actor: in a race at the same moment, else after the stale copy was read."""

    @property
    def where(self) -> str:
        """The event and the status of the run, in words."""
        other = f"{self.other_event} and " if self.requirement == "race" else ""
        return "a new run" if self.event is None else f"{other}{self.event} in {self.status}"

    @property
    def kind(self) -> tuple[str, str, str]:
        """The requirement and the difference, without ids and times: equal for the same violation found twice."""
        return self.requirement, _ID_OR_NUMBER.sub("#", self.expected), _ID_OR_NUMBER.sub("#", self.found)

    @property
    def is_wrong_answer(self) -> bool:
        """Whether the result itself was wrong, and not only the fields of the run afterwards."""
        return self.found.startswith(_WRONG_ANSWERS)

    def sort_key(self, lifecycle: Lifecycle) -> tuple[bool, int, bool]:
        """Return the sort key that puts the clearest violations first: creation, then events wrongly accepted."""
        places = [place for place, word in enumerate(_WRONG_ANSWERS) if self.found.startswith(word)]
        return self.event is not None, min(places, default=len(_WRONG_ANSWERS)), not lifecycle.is_terminal(self.status)

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}; found {self.found}"


@attrs.frozen
class ConformanceReport:
    """The result of `check_conformance`: the verdict on each cell, and the violations."""

    system: str
    lifecycle: Lifecycle = attrs.field(repr=False)
    cells: Mapping[CellKey, Verdict] = attrs.field(repr=False)
    violations: tuple[Violation, ...]
    checked: Mapping[Requirement, int]
    """How many checks of each requirement were made; requirements that the system does not support are left out."""

    @property
    def conforms(self) -> bool:
        """Whether at least one cell holds and there is no violation."""
        return not self.violations and self.count("holds") > 0

    def assert_conforms(self) -> None:
        """Raise `AssertionError` with the violations and the matrix unless the system conforms."""
        __tracebackhide__ = True
        if not self.conforms:
            raise AssertionError(str(self))

    def count(self, verdict: Verdict) -> int:
        """Return how many cells have a verdict."""
        return sum(found == verdict for found in self.cells.values())

    @property
    def summary(self) -> str:
        """One sentence: `TaskTable: 79 of 81 cells hold, 2 are wrong; 5 violations in all`."""
        parts = [f"{self.count('holds')} of {len(self.cells)} cells hold"]
        others: tuple[Verdict, ...] = ("wrong", "not offered", "not reached")
        counts = [(verdict, self.count(verdict)) for verdict in others]
        parts += [f"{count} {'is' if count == 1 else 'are'} {verdict}" for verdict, count in counts if count]
        total = f"; {pluralize(len(self.violations), 'violation')} in all" if self.violations else ""
        return f"{self.system}: {', '.join(parts)}{total}"

    def matrix(self) -> str:
        """Return the cells as text: a line an event, a column a status."""
        statuses, events = _axes(self.cells)
        gutter = max(map(len, events), default=0) + 2
        heads = [f"{'':<{gutter}}{'  '.join(statuses)}".rstrip()]
        for event in events:
            signs = [_SIGNS[self.cells[status, event]].center(len(status)) for status in statuses]
            heads.append(f"{event:<{gutter}}{'  '.join(signs)}".rstrip())
        used = [f"{sign} {verdict}" for verdict, sign in _SIGNS.items() if verdict in self.cells.values()]
        return "\n".join((*heads, "   ".join(used)))

    def markdown(self) -> str:
        """Return the cells as a Markdown table."""
        statuses, events = _axes(self.cells)
        lines = [f"| | {' | '.join(statuses)} |", f"|---|{'---|' * len(statuses)}"]
        for event in events:
            row = " | ".join(self.cells[status, event] for status in statuses)
            lines.append(f"| {event} | {row} |")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return {
            "system": self.system,
            "conforms": self.conforms,
            "cells": [
                {"status": status.value, "event": event.value, "verdict": verdict}
                for (status, event), verdict in self.cells.items()
            ],
            "checked": dict(self.checked),
            "violations": [
                {
                    "requirement": violation.requirement,
                    "status": violation.status.value,
                    "event": None if violation.event is None else violation.event.value,
                    "other_event": None if violation.other_event is None else violation.other_event.value,
                    "expected": violation.expected,
                    "found": violation.found,
                    "reproduction": list(violation.reproduction),
                }
                for violation in self.violations
            ],
        }

    def __str__(self) -> str:
        return "\n".join((self.summary, *_format_violations(self.violations), "", self.matrix()))


def _axes(cells: Mapping[CellKey, Verdict]) -> tuple[list[RunStatus], list[RunEvent]]:
    """Return the statuses and events of some cells, in the order of their enumerations."""
    return (
        [status for status in RunStatus if any(status is key[0] for key in cells)],
        [event for event in RunEvent if any(event is key[1] for key in cells)],
    )


def _format_violations(violations: Sequence[Violation]) -> Iterator[str]:
    """Yield the violations as text; those that differ only in the names of events and statuses as one."""
    alike: dict[tuple[str, ...], list[Violation]] = {}
    for violation in violations:
        alike.setdefault(tuple(_NAMES.sub("#", part.partition(" (with ")[0]) for part in violation.kind), []).append(
            violation
        )
    for number, (first, *others) in enumerate(islice(alike.values(), _MAX_LISTED), start=1):
        yield ""
        yield f"{number}. {first.where}{_SUFFIXES[first.requirement]}"
        yield f"   expected  {first.expected}"
        yield f"   found     {first.found}"
        yield from (f"     {line}" for line in first.reproduction)
        if others:
            shown = ", ".join(violation.where for violation in others[:_MAX_ALIKE])
            more = f" and {len(others) - _MAX_ALIKE} more" if len(others) > _MAX_ALIKE else ""
            yield f"   and so {shown}{more}"
    if len(alike) > _MAX_LISTED:
        yield ""
        yield f"... and {len(alike) - _MAX_LISTED} more kinds of violation in .violations"
