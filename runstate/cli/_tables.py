"""Tables on stdout: whole and one line a row in a pipe, no wider than the terminal on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from runstate.cli._output import has_unicode, stdout_console
from runstate.lifecycle import RUN_LIFECYCLE, RunStatus
from runstate.run.json_values import escape

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["print_folded_table", "print_pairs", "print_table", "status_style"]

_GAP: Final = 2
_PADDING: Final = (0, _GAP, 0, 0)
_INDENT: Final = 4
_READABLE: Final = 30
"""A column keeps so many characters of a cell before other columns are left out."""


def status_style(status: str) -> str:
    """Return the color of a status, as in the diagrams; an empty style for any other text."""
    from runstate.diagram.model import DiagramModel
    from runstate.diagram.palette import ANSI_STYLES

    paint = {str(column.status): ANSI_STYLES[column.role] for column in DiagramModel.of(RUN_LIFECYCLE).columns}
    return f"color({paint[status].rpartition(';')[2]})" if status in paint else ""


def print_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    optional: Sequence[str] = (),
    style_of: Callable[[str, str], str] = lambda column, cell: "",
) -> None:
    """Print rows under their header, one line each. `style_of` returns the style of a cell of a column.

    Where a terminal is too narrow, the `optional` columns are left out in that order, and then the widest cells are
    cut. The first column names the row, and is cut last.
    """
    console = stdout_console()
    cells = [dict(zip(header, map(escape, row), strict=True)) for row in rows]
    names = _columns_with_room(header, cells, console.width, optional)
    table = Table(box=None, pad_edge=False, padding=_PADDING)
    for name in names:
        table.add_column(_one_line(console, name), no_wrap=name == header[0])  # rich narrows the other columns first
    for row in cells:
        table.add_row(*(_one_line(console, row[name], style_of(name, row[name])) for name in names))
    _print(console, table)


def _one_line(console: Console, text: str, style: str = "") -> Text:
    """Return a text that is cut where it is too long, with an ellipsis if the encoding has one."""
    return Text(text, style, no_wrap=True, overflow="ellipsis" if has_unicode(console) else "crop")


def _columns_with_room(
    header: Sequence[str], rows: Sequence[dict[str, str]], width: int, optional: Sequence[str]
) -> list[str]:
    """Return the columns that fit in a width once their cells are cut to what is readable."""
    widths = {name: min(_READABLE, max(cell_len(row[name]) for row in ({name: name}, *rows))) for name in header}
    for name in optional:
        if _total(widths.values()) <= width:
            break
        del widths[name]
    return list(widths)


def _total(widths: Iterable[int]) -> int:
    return sum(width + _GAP for width in widths) - _GAP


def print_folded_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their header. Nothing is cut or left out.

    Where a terminal is too narrow, the last columns are folded onto lines of their own, under the row they belong to.
    """
    console = stdout_console()
    widths = [max(map(cell_len, column)) for column in zip(header, *rows, strict=True)]
    beside = len(widths)
    while beside > 1 and _total(widths[:beside]) > console.width:
        beside -= 1
    for row in (header, *rows):
        style = "bold" if row is header else ""
        line = Table.grid(*(Column(width=width, no_wrap=True) for width in widths[:beside]), padding=_PADDING)
        line.add_row(*map(Text, row[:beside]), style=style)
        _print(console, line)
        if folded := "  ".join(filter(None, row[beside:])):
            _print(console, Padding(Text(folded, style or "dim"), (0, 0, 0, _INDENT), expand=False))


def print_pairs(rows: Sequence[tuple[str, str]]) -> None:
    """Print names and values, one pair a line, without empty values. On a terminal, long values are folded."""
    console = stdout_console()
    grid = Table.grid(Column(style="bold", no_wrap=True), Column(overflow="fold"), padding=_PADDING)
    for name, value in rows:
        if value:
            grid.add_row(Text(name), Text(escape(value), status_style(value) if value in set(RunStatus) else ""))
    _print(console, grid)


def _print(console: Console, renderable: RenderableType) -> None:
    """Print a table; in a pipe without the spaces that rich fills its lines with."""
    if console.is_terminal:
        console.print(renderable, soft_wrap=False)
        return
    with console.capture() as captured:
        console.print(renderable, soft_wrap=False)
    console.file.write("\n".join(line.rstrip(" ") for line in captured.get().split("\n")))
