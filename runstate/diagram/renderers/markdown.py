"""The lifecycle as two Markdown tables: the transitions, and the meaning of each status."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from runstate.diagram.model import DiagramModel, Lane, StatusColumn
from runstate.lifecycle import Basis, Transition

__all__ = ["markdown"]

_TRANSITION_HEAD: Final = ("event", "from", "to", "until", "stamp", "basis")
_STATUS_HEAD: Final = ("status", "meaning", "kind", "stamp")


def markdown(model: DiagramModel) -> str:
    """Return the table of transitions, an empty line, and the table of statuses."""
    transitions = (cells for lane in model.lanes for cells in _transition_rows(lane))
    statuses = map(_status_row, model.columns)
    return "\n".join((*_table(_TRANSITION_HEAD, transitions), "", *_table(_STATUS_HEAD, statuses)))


def _transition_rows(lane: Lane) -> Iterator[tuple[str, ...]]:
    """Yield one line for all transitions of an event with the same stamp and basis, documented ones first."""
    groups: dict[tuple[Basis, str | None], list[Transition]] = {}
    for row in sorted(lane.rows, key=lambda row: row.basis is not Basis.DOCUMENTED):
        groups.setdefault((row.basis, row.stamp), []).append(row)
    for (basis, stamp), rows in groups.items():
        evidence = "; ".join(dict.fromkeys(row.evidence for row in rows if row.evidence))
        sources = ", ".join(f"`{row.source}`" for row in rows)
        yield (
            f"`{lane.event}`",
            sources,
            f"`{lane.target}`",
            "the deadline" if all(row.until_deadline for row in rows) else "",
            f"`{stamp}`" if stamp else "",
            f"{basis}: {_cell(evidence)}" if evidence else str(basis),
        )


def _status_row(column: StatusColumn) -> tuple[str, ...]:
    name = f"**`{column.status}`** ◀" if column.is_current else f"`{column.status}`"
    written = "/".join(column.times or (f"`{stamp}`" for stamp in column.stamps))
    return name, _cell(column.status.meaning), "terminal" if column.is_terminal else "live", written


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for cells in (head, ("---",) * len(head), *rows):
        yield f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
