"""What a trial found: which cells hold, which are wrong and how, each with the shortest way to see it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, Literal, TypeAlias, get_args

import attrs

from runstate.lifecycle import Lifecycle, RunEvent, RunStatus, Stamp
from runstate.testing.matrix import CellKey

__all__ = ["Challenge", "Charge", "Judgement", "Verdict"]

Verdict: TypeAlias = Literal["holds", "wrong", "not offered", "not reached"]
"""What came of a cell."""

Challenge: TypeAlias = Literal["birth", "cell", "walk", "repeat", "stale", "race", "lease"]
"""How a fault was found: by one event, on a longer way, by asking twice, by a copy gone stale, by two at once, by a
worker whose lease had lapsed."""

_SIGNS: Final[Mapping[Verdict, str]] = {"holds": "+", "wrong": "X", "not offered": ".", "not reached": "?"}
_GRAVE: Final = ("accepted", "refused; and yet", "it broke", "refused")
_NUMBERED: Final = re.compile(r"\b\w*\d[\w.:+-]*")
_NAMES: Final = re.compile(rf"\b({'|'.join((*RunStatus, *RunEvent, *get_args(Stamp)))})\b")
_HOW: Final[Mapping[Challenge, str]] = {
    "birth": "",
    "cell": "",
    "walk": ", on a longer way",
    "repeat": ", asked twice",
    "stale": ", by an old copy",
    "race": ", by two at once",
    "lease": ", by a worker whose lease had lapsed",
}
_MOST: Final = 12
_MOST_ALIKE: Final = 6


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
    beside: RunEvent | None = None
    """What somebody else asked: in a race at the same moment, after an old copy was read."""

    @property
    def where(self) -> str:
        """What was asked, and where the run stood."""
        both = f"{self.beside} and " if self.challenge == "race" else ""
        return "a new run" if self.event is None else f"{both}{self.event} in {self.status}"

    @property
    def kind(self) -> tuple[str, str, str]:
        """How it was found and what is wrong, without ids and times: the same fault is so each time it is found."""
        return self.challenge, _NUMBERED.sub("#", self.expected), _NUMBERED.sub("#", self.found)

    @property
    def is_grave(self) -> bool:
        """Whether the answer itself was wrong, and not only what it left behind."""
        return self.found.startswith(_GRAVE)

    def weight(self, law: Lifecycle) -> tuple[bool, int, bool]:
        """Return what puts the most telling charges of a kind first: births, then what was stored and should not be."""
        grave = [place for place, word in enumerate(_GRAVE) if self.found.startswith(word)]
        return self.event is not None, min(grave, default=len(_GRAVE)), not law.is_terminal(self.status)

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}; found {self.found}"


@attrs.frozen
class Judgement:
    """The outcome of a trial."""

    subject: str
    law: Lifecycle = attrs.field(repr=False)
    cells: Mapping[CellKey, Verdict] = attrs.field(repr=False)
    charges: tuple[Charge, ...]
    tried: Mapping[Challenge, int]
    """How many of each challenge were put to it; those it does not offer are not among them."""

    @property
    def holds(self) -> bool:
        """Whether something was asked and nothing was found wrong."""
        return not self.charges and self.count("holds") > 0

    def assert_holds(self) -> None:
        """Raise `AssertionError`, with all that was found and the matrix, unless nothing was found wrong."""
        __tracebackhide__ = True
        if not self.holds:
            raise AssertionError(str(self))

    def count(self, verdict: Verdict) -> int:
        """Return how many cells came to a verdict."""
        return sum(found == verdict for found in self.cells.values())

    @property
    def summary(self) -> str:
        """One sentence: `TaskTable: 79 of 81 cells hold, 2 are wrong; 5 faults in all`."""
        told = [f"{self.count('holds')} of {len(self.cells)} cells hold"]
        others: tuple[Verdict, ...] = ("wrong", "not offered", "not reached")
        counts = [(verdict, self.count(verdict)) for verdict in others]
        told += [f"{count} {'is' if count == 1 else 'are'} {verdict}" for verdict, count in counts if count]
        faults = f"; {len(self.charges)} fault{'s' * (len(self.charges) != 1)} in all" if self.charges else ""
        return f"{self.subject}: {', '.join(told)}{faults}"

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
                    "beside": None if charge.beside is None else charge.beside.value,
                    "expected": charge.expected,
                    "found": charge.found,
                    "reproduction": list(charge.reproduction),
                }
                for charge in self.charges
            ],
        }

    def __str__(self) -> str:
        return "\n".join((self.summary, *_listed(self.charges), "", self.matrix()))


def _axes(cells: Mapping[CellKey, Verdict]) -> tuple[list[RunStatus], list[RunEvent]]:
    """Return the statuses and events of some cells, in the order of the law."""
    return (
        [status for status in RunStatus if any(status is key[0] for key in cells)],
        [event for event in RunEvent if any(event is key[1] for key in cells)],
    )


def _listed(charges: Sequence[Charge]) -> Iterator[str]:
    """Yield the charges as text, those that differ in the names of events and statuses alone as one."""
    alike: dict[tuple[str, ...], list[Charge]] = {}
    for charge in charges:
        alike.setdefault(tuple(_NAMES.sub("#", part.partition(" (with ")[0]) for part in charge.kind), []).append(
            charge
        )
    for number, (first, *others) in enumerate(islice(alike.values(), _MOST), start=1):
        yield ""
        yield f"{number}. {first.where}{_HOW[first.challenge]}"
        yield f"   expected  {first.expected}"
        yield f"   found     {first.found}"
        yield from (f"     {line}" for line in first.reproduction)
        if others:
            shown = ", ".join(charge.where for charge in others[:_MOST_ALIKE])
            more = f" and {len(others) - _MOST_ALIKE} more" if len(others) > _MOST_ALIKE else ""
            yield f"   and so {shown}{more}"
    if len(alike) > _MOST:
        yield ""
        yield f"... and {len(alike) - _MOST} more kinds of fault in .charges"
