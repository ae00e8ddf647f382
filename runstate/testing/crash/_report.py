"""The report of `crash_test`, and the error that it raises."""

from __future__ import annotations

from typing import Final

import attrs

from runstate.run.validators import pluralize

__all__ = ["CrashFinding", "CrashReport", "CrashTestError"]

_LABEL: Final = 12


@attrs.frozen
class CrashFinding:
    """Something that a death of the worker changes, or may change."""

    kind: str
    """What it is, such as `"effect outside a step"`."""
    subject: str
    """The step, effect or value that it is about."""
    problem: str
    """One sentence about what happened."""
    point: str | None
    """Where the worker died, in words. None if it needs no death."""
    expected: str
    found: str
    advice: str
    """What to do about it."""
    points: int = 1
    """At how many points of death it was found, also for other keys of the same step or effect."""

    def __str__(self) -> str:
        rows = [("death", self.point or "none: the undisturbed run shows it"), ("expected", self.expected)]
        rows += [("found", self.found), ("what to do", self.advice)]
        if self.points > 1:
            rows.append(("also at", f"{pluralize(self.points - 1, 'other point')} of death"))
        return "\n".join([self.problem, *(f"  {label:<{_LABEL}}{text}" for label, text in rows)])


@attrs.frozen
class CrashReport:
    """The result of `crash_test`."""

    points: tuple[str, ...]
    """The points of death that were tried, in words."""
    findings: tuple[CrashFinding, ...]
    notes: tuple[str, ...]
    """What happened after a death and is allowed, and what could not be compared."""
    untried: int = 0
    """How many points were left out, because there were more than `max_points`."""

    def __str__(self) -> str:
        count = pluralize(len(self.points), "point")
        lines = [f"{pluralize(len(self.findings), 'finding')} at {count} of death"]
        for number, finding in enumerate(self.findings, 1):
            first, *rest = str(finding).splitlines()
            lines += ["", f"{number}. {first}", *(f" {line}" for line in rest)]
        lines += [""] if self.notes or self.untried else []
        lines += [f"note: {note}" for note in self.notes]
        if self.untried:
            told = f"{pluralize(self.untried, 'point')} of death were not tried"
            lines.append(f"note: {told}: there are more than max_points={len(self.points)}, and each n-th was taken")
        return "\n".join(lines)

    def raise_for_findings(self) -> None:
        """Raise `CrashTestError` if there are findings."""
        if self.findings:
            raise CrashTestError(self)


class CrashTestError(AssertionError):
    """A death of the worker changes what a handler does. The message has all findings of the `report`."""

    def __init__(self, report: CrashReport) -> None:
        super().__init__(str(report))
        self.report: CrashReport = report

    def __reduce__(self) -> tuple[type[CrashTestError], tuple[CrashReport]]:
        return type(self), (self.report,)
