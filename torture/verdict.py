"""What a test program did, and what it found wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import attrs

from tests.support.judge import judge


@attrs.define
class Verdict:
    """What a trial did, and what of it was found wrong."""

    trial: str
    trials: int = 0
    faults: Counter[str] = attrs.Factory(Counter)
    """What was done to the store or its users, by kind."""
    acknowledged: int = 0
    """How many writes somebody was told of."""
    lost: int = 0
    doubled: int = 0
    illegal: int = 0
    gaps: int = 0
    notes: dict[str, Any] = attrs.Factory(dict)
    wrong: list[str] = attrs.Factory(list)
    """A sentence for each thing that should not be."""
    seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        """Whether nothing was found."""
        return not (self.lost or self.doubled or self.illegal or self.gaps or self.wrong)

    def judge(self, url: str, *, may_live: bool = False) -> None:
        """Judge all that a database holds by SQL, and take what is wrong with it into the account."""
        found = judge(url)
        self.gaps += found.gaps
        self.doubled += found.doubled
        self.illegal += found.illegal
        self.wrong += found.wrong
        self.count(runs=found.runs, entries=found.entries)
        if found.live and not may_live:
            self.lost += found.live
            self.wrong.append(f"{found.live} runs have not ended")

    def count(self, **counts: int) -> None:
        """Add to the notes."""
        for name, count in counts.items():
            self.notes[name] = self.notes.get(name, 0) + count

    def lose(self, what: str, some: object) -> None:
        """Note something acknowledged that is not there."""
        self.lost += 1
        self.wrong.append(f"{what}: {some}")

    def double(self, what: str, some: object) -> None:
        """Note something that was done twice."""
        self.doubled += 1
        self.wrong.append(f"{what}: {some}")

    def expect(self, holds: bool, sentence: str) -> None:
        """Note a sentence unless it holds."""
        if not holds:
            self.wrong.append(sentence)

    def __str__(self) -> str:
        faults = " + ".join(f"{count} {kind}" for kind, count in self.faults.items()) or "no fault"
        found = f"lost {self.lost}, doubled {self.doubled}, illegal {self.illegal}, gaps {self.gaps}"
        notes = ", ".join(f"{name} {_shown(value)}" for name, value in self.notes.items())
        head = f"{self.trial}: {self.trials} trials, {faults}, acknowledged {self.acknowledged}"
        return f"{head}, {found} ({notes}; {self.seconds:.0f} s)"


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{name}={_shown(inner)}" for name, inner in value.items()) or "none"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
