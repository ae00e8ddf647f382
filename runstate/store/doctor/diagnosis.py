"""The findings of an examination, each with a remedy, and with a limit on findings of one kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import attrs

from runstate.traces import Severity

__all__ = ["Diagnosis", "Finding", "Progress", "Severity", "Sheet"]

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with the name of a part, how much of it was examined, and how much there is."""


@attrs.frozen
class Finding:
    """One thing that is wrong (`error`), or that needs attention (`warning`)."""

    severity: Severity
    what: str
    """The kind in a word or two, for programs: `guard`, `broken`, `stuck`."""
    run_id: str | None
    """The id of the run, if the finding is about one."""
    thing: str | None
    """The table, guard or session that the finding is about, if it is not about a run."""
    sentence: str
    """The finding in words."""
    remedy: str
    """What to do about it."""

    def __str__(self) -> str:
        return f"{self.severity}: {self.sentence} ({self.remedy})"


@attrs.frozen
class Diagnosis:
    """The result of an examination."""

    shown: str
    """The address of the database, without its password."""
    schema: Mapping[str, int]
    """The number of the last migration of each component that the database has taken."""
    runs: int
    """How many runs were examined."""
    entries: int
    """How many entries of their histories were examined."""
    findings: tuple[Finding, ...]
    """All findings, the errors first."""
    unseen: tuple[str, ...] = ()
    """What could not be examined, and why."""

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that are errors."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that are warnings."""
        return tuple(finding for finding in self.findings if finding.severity == "warning")


class Sheet:
    """Collects findings: up to a limit of each kind, and the number of the others."""

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
        """Add a finding. Past the limit of its kind, only count it."""
        if self._told[severity, what] < self.most:
            self._told[severity, what] += 1
            self._findings.append(Finding(severity, what, run_id, thing, sentence, remedy))
        else:
            self._more[severity, what] += 1

    def add_uncounted(self, severity: Severity, what: str, number: int) -> None:
        """Add a number of findings of a kind that were not read individually."""
        self._more[severity, what] += number

    def findings(self) -> tuple[Finding, ...]:
        """Return all findings, the errors first, and after each kind how many more there are."""
        more = [
            Finding(severity, what, None, None, f"{number} more of the kind {what!r}", "examine with a larger `most`")
            for (severity, what), number in self._more.items()
            if number
        ]
        kinds = {finding.what: None for finding in self._findings}
        ordered = [finding for kind in kinds for finding in (*self._findings, *more) if finding.what == kind]
        return tuple(sorted(ordered, key=lambda finding: finding.severity))
