"""Findings: what the judge reports on records, traces and recordings."""

from __future__ import annotations

from typing import Literal, TypeAlias

import attrs

from runstate.run.json_values import escape
from runstate.traces._snapshots import Location

__all__ = ["Severity", "TraceFinding"]

Severity: TypeAlias = Literal["error", "warning"]


@attrs.frozen
class TraceFinding:
    """A value that no legal history can leave (`error`), or that old recordings have for a known reason (`warning`)."""

    severity: Severity
    run_id: str | None
    """The id of the run; None if the record cannot be read as a run."""
    index: int
    """The index of the snapshot in the trace, counted from 0."""
    field: str
    """The name of the attribute; "" if the finding is about the whole record."""
    message: str
    hint: str = ""
    """The values that a legal history could have left, or the known reason of a warning."""
    location: Location | None = None
    """The location of the snapshot in its recording; None for a record that was given as a value."""

    @property
    def place(self) -> str:
        """The location as text: `12`, `1[3]`, `interaction 3 line 7`; "" without one."""
        return "" if self.location is None else str(self.location)

    def __str__(self) -> str:
        # The text of a recording is not trusted: a line break in an id must not look like another finding.
        run = "" if self.run_id is None else f"run {self.run_id}: "
        hint = f" ({self.hint})" if self.hint else ""
        where = "" if self.location is None else f"{self.location}: {self.severity}: "
        return escape(f"{where}{run}{self.message}{hint}")
