"""Tables that suit where they are shown: whole in a pipe, and on a terminal as much of them as there is room for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from runstate.cli._output import has_unicode, screen
from runstate.lifecycle import RUN_LIFECYCLE, RunStatus
from runstate.run.json_values import escape

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["fitted", "pairs", "status_style"]

_GAP: Final = 2
_FAIR: Final = 30  # characters of a cell beside others
_LEAST: Final = 8


def status_style(status: str) -> str:
    """Return the colour of a status, as the pictures have it; none for what is no status."""
    from runstate.diagram.model import DiagramModel
    from runstate.diagram.palette import ANSI_STYLES

    paint = {str(column.status): ANSI_STYLES[column.role] for column in DiagramModel.of(RUN_LIFECYCLE).columns}
    return f"color({paint[status].rpartition(';')[2]})" if status in paint else ""


def _cell(console: Console, text: str, width: int) -> str:
    if cell_len(text) <= width:
        return text
    end = "…" if has_unicode(console) else "~"
    return set_cell_size(text, max(width - 1, 0)) + end if console.is_terminal else text


def _total(widths: Mapping[str, int]) -> int:
    return sum(widths.values()) + _GAP * (len(widths) - 1)


def _fit(widths: Mapping[str, int], room: int, spared: Sequence[str]) -> dict[str, int]:
    """Return the columns that there is room for, and their widths.

    Where there is too little, what is wider than fair is cut, then the `spared` are left out in that order, then the
    widest but the first is cut further.
    """
    kept = dict(widths)
    for name in ("", *spared):
        kept.pop(name, None)
        if _total(kept) <= room:
            return kept
        fair = {name: min(width, _FAIR) for name, width in kept.items()}
        if _total(fair) <= room:
            return fair
    first, *others = kept  # it names the row, and a name that is cut is none
    while _total(kept) > room:
        widest = max(others, key=lambda name: kept[name], default=first)
        if widest == first or kept[widest] <= _LEAST:
            break
        kept[widest] -= 1
    return kept


def fitted(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    spared: Sequence[str] = (),
    style_of: Callable[[str, str], str] = lambda column, cell: "",
) -> None:
    """Print rows under their header. Where a terminal is too narrow, columns are left out, then the widest is cut."""
    console = screen()
    cells = [dict(zip(header, map(escape, row), strict=True)) for row in rows]
    head = dict(zip(header, header, strict=True))
    widths = {name: max(cell_len(row[name]) for row in (head, *cells)) for name in header}
    if console.is_terminal:
        widths = _fit(widths, console.width, spared)
    for row in (head, *cells):
        line = Text(style="bold" if row is head else "")
        for name, width in widths.items():
            text = _cell(console, row[name], width)
            line.append(text, "" if row is head else style_of(name, row[name]))
            line.append(" " * (width - cell_len(text) + _GAP))
        line.rstrip()
        console.print(line, no_wrap=True, overflow="ignore", crop=False)


def pairs(rows: Sequence[tuple[str, str]]) -> None:
    """Print names and what they hold, one a line, without those that hold nothing; long ones fold on a terminal."""
    console = screen()
    shown = [(name, escape(text)) for name, text in rows if text]
    left = max((len(name) for name, _ in shown), default=0) + _GAP
    for name, text in shown:
        line = Text(name.ljust(left), style="bold")
        style = status_style(text) if text in set(RunStatus) else ""
        body = Text(text, style=style or "not bold")
        if not console.is_terminal:
            console.print(line + body)
            continue
        folded = body.wrap(console, max(console.width - left, _LEAST))
        for number, part in enumerate(folded):
            console.print((line if number == 0 else Text(" " * left)) + part, no_wrap=True, crop=False)
