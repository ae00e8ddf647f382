"""What an examination finds: findings, each with what to do about it, and as many of one kind as a person reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final, TypeAlias

import attrs

from runstate.traces import Severity

__all__ = ["Diagnosis", "Finding", "Progress", "Severity", "Sheet"]

Progress: TypeAlias = Callable[[str, int, int], None]
"""Is told what is looked at, how much of it was seen, and how much there is."""


@attrs.frozen
class Finding:
    """One thing that is wrong (`error`), or that somebody should look after (`warning`)."""

    severity: Severity
    what: str
    """Its kind in a word or two, for programs: `guard`, `broken`, `stuck`."""
    run_id: str | None
    """The run it is about, if it is about one."""
    thing: str | None
    """The table, guard, session ... it is about otherwise."""
    sentence: str
    remedy: str
    """What to do about it."""

    def __str__(self) -> str:
        return f"{self.severity}: {self.sentence} ({self.remedy})"


@attrs.frozen
class Diagnosis:
    """What became of an examination."""

    shown: str
    """The address of the database, without its password."""
    schema: int
    """The number of the last migration that the database has taken."""
    runs: int
    """How many runs were looked at."""
    entries: int
    """How many entries of their histories."""
    findings: tuple[Finding, ...]
    """The errors first."""
    unseen: tuple[str, ...] = ()
    """What could not be looked at, and why."""

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What is wrong."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What somebody should look after."""
        return tuple(finding for finding in self.findings if finding.severity == "warning")


class Sheet:
    """Where findings are written down: of each kind so many, and of the others how many they are."""

    def __init__(self, most: int) -> None:
        self.most: Final = most
        self.unseen: Final[list[str]] = []
        self._findings: list[Finding] = []
        self._told: Counter[tuple[Severity, str]] = Counter()
        self._more: Counter[tuple[Severity, str]] = Counter()

    def add(
        self,
        severity: Severity,
        what: str,
        sentence: str,
        remedy: str,
        *,
        run_id: str | None = None,
        thing: str | None = None,
    ) -> None:
        """Note a finding, or only that there is one more of its kind."""
        if self._told[severity, what] < self.most:
            self._told[severity, what] += 1
            self._findings.append(Finding(severity, what, run_id, thing, sentence, remedy))
        else:
            self._more[severity, what] += 1

    def add_uncounted(self, severity: Severity, what: str, number: int) -> None:
        """Note that there are so many more of a kind, which nobody looked at one by one."""
        self._more[severity, what] += number

    def findings(self) -> tuple[Finding, ...]:
        """Return all that was noted, the errors first, after each kind how many more of it there are."""
        more = [
            Finding(severity, what, None, None, f"{number} more of the kind {what!r}", "examine with a larger `most`")
            for (severity, what), number in self._more.items()
            if number
        ]
        kinds = {finding.what: None for finding in self._findings}
        ordered = [finding for kind in kinds for finding in (*self._findings, *more) if finding.what == kind]
        return tuple(sorted(ordered, key=lambda finding: finding.severity))
