"""The law as two Markdown tables: what may be asked where, and what each status means."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from runstate.diagram.model import Lane, Picture, StatusColumn
from runstate.lifecycle import Basis, Transition

__all__ = ["markdown"]

_LAW_HEAD: Final = ("event", "from", "to", "until", "stamp", "basis")
_STATUS_HEAD: Final = ("status", "meaning", "kind", "stamp")


def markdown(picture: Picture) -> str:
    """Return the table of the law, an empty line, and the table of the statuses."""
    lifecycle = (cells for lane in picture.lanes for cells in _law_rows(lane))
    statuses = map(_status_row, picture.columns)
    return "\n".join((*_table(_LAW_HEAD, lifecycle), "", *_table(_STATUS_HEAD, statuses)))


def _law_rows(lane: Lane) -> Iterator[tuple[str, ...]]:
    """Yield one line for all rows of an event that share stamp and basis, documented ones first."""
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
    name = f"**`{column.status}`** ◀" if column.here else f"`{column.status}`"
    written = "/".join(column.times or (f"`{stamp}`" for stamp in column.stamps))
    return name, _cell(column.status.meaning), "terminal" if column.terminal else "live", written


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for cells in (head, ("---",) * len(head), *rows):
        yield f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
