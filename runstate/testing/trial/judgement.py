"""What a trial found: which cells hold, which are wrong and how, each with the shortest way to see it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import attrs

from runstate.lifecycle import Law, RunEvent, RunStatus

__all__ = ["Challenge", "Charge", "Judgement", "Verdict"]

Verdict: TypeAlias = Literal["holds", "wrong", "not offered", "not reached"]
"""What came of a cell."""

Challenge: TypeAlias = Literal["birth", "cell", "walk", "repeat", "stale", "race", "lease"]
"""How a fault was found: by one event, on a longer way, by asking twice, by a copy gone stale, by two at once, by a
worker whose lease had lapsed."""

_SIGNS: Final[Mapping[Verdict, str]] = {"holds": "+", "wrong": "X", "not offered": ".", "not reached": "?"}
_MOST: Final = 20


@attrs.frozen
class Charge:
    """One thing that an implementation does otherwise than the law says."""

    challenge: Challenge
    status: RunStatus
    """Where the run stood."""
    event: RunEvent | None
    """What was asked; None of a birth."""
    expected: str
    found: str
    reproduction: tuple[str, ...]
    """The calls that show it, a line each."""

    def __str__(self) -> str:
        where = "a new run" if self.event is None else f"{self.event} in {self.status}"
        return f"{where}: expected {self.expected}; found {self.found}"


@attrs.frozen
class Judgement:
    """The outcome of a trial."""

    subject: str
    law: Law = attrs.field(repr=False)
    cells: Mapping[tuple[RunStatus, RunEvent], Verdict] = attrs.field(repr=False)
    charges: tuple[Charge, ...]
    tried: Mapping[Challenge, int]
    """How many of each challenge were put to it; those it does not offer are not among them."""

    @property
    def holds(self) -> bool:
        """Whether nothing was found wrong."""
        return not self.charges

    def count(self, verdict: Verdict) -> int:
        """Return how many cells came to a verdict."""
        return sum(found == verdict for found in self.cells.values())

    @property
    def summary(self) -> str:
        """One sentence: `TaskTable: 79 of 81 cells hold, 2 are wrong; 31 faults in all`."""
        told = [f"{self.count('holds')} of {len(self.cells)} cells hold"]
        verbs: tuple[tuple[Verdict, str], ...] = (
            ("wrong", "wrong"),
            ("not offered", "not offered"),
            ("not reached", "not reached"),
        )
        told += [f"{self.count(verdict)} are {word}" for verdict, word in verbs if self.count(verdict)]
        faults = f"; {len(self.charges)} fault{'s' * (len(self.charges) != 1)} in all" if self.charges else ""
        return f"{self.subject}: {', '.join(told)}{faults}"

    def matrix(self) -> str:
        """Return the cells as text: a line an event, a column a status."""
        statuses, events = _axes(self.cells)
        gutter = max(map(len, events)) + 2
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
        """Return everything as JSON takes it."""
        return {
            "subject": self.subject,
            "holds": self.holds,
            "cells": [
                {"status": status.value, "event": event.value, "verdict": verdict}
                for (status, event), verdict in self.cells.items()
            ],
            "tried": dict(self.tried),
            "faults": [
                {
                    "challenge": charge.challenge,
                    "status": charge.status.value,
                    "event": None if charge.event is None else charge.event.value,
                    "expected": charge.expected,
                    "found": charge.found,
                    "reproduction": list(charge.reproduction),
                }
                for charge in self.charges
            ],
        }

    def __str__(self) -> str:
        return "\n".join((self.summary, "", self.matrix(), *_listed(self.charges)))


def _axes(cells: Mapping[tuple[RunStatus, RunEvent], Verdict]) -> tuple[list[RunStatus], list[RunEvent]]:
    """Return the statuses and events of some cells, in the order of the law."""
    return (
        [status for status in RunStatus if any(status is key[0] for key in cells)],
        [event for event in RunEvent if any(event is key[1] for key in cells)],
    )


def _listed(charges: Sequence[Charge]) -> Iterator[str]:
    for number, charge in enumerate(charges[:_MOST], start=1):
        yield ""
        yield f"{number}. {charge}"
        yield from (f"     {line}" for line in charge.reproduction)
    if len(charges) > _MOST:
        yield f"\n... and {len(charges) - _MOST} more in .charges"
