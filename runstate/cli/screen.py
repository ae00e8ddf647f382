"""What the commands show with: the screen as it is, lanes that suit it, aligned columns, and JSON for programs.

The pencils are imported where something is drawn, for most commands draw nothing and all of them import this module.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.text import Text

from runstate.lifecycle import LAW
from runstate.snapshot import RunSnapshot

if TYPE_CHECKING:
    from runstate.diagram import Standing

__all__ = ["columns", "emit_json", "has_colors", "has_unicode", "lanes", "screen", "standing_of"]


def screen() -> Console:
    """Return stdout as rich sees it: a terminal or not, with colours or not (NO_COLOR, TERM)."""
    return Console(highlight=False, soft_wrap=True)


def has_colors(console: Console) -> bool:
    """Tell whether colours may be sent there."""
    return console.is_terminal and console.color_system is not None and not console.no_color


def has_unicode() -> bool:
    """Tell whether stdout can take the characters of the lanes."""
    try:
        "●─▶┊".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def lanes(console: Console, standing: Standing | None = None) -> str:
    """Return the lanes as they suit the terminal, or wide and plain for a pipe."""
    from runstate.diagram import draw

    width = console.width if console.is_terminal else None
    return draw(LAW, "lanes" if has_unicode() else "ascii", standing, width, has_colors(console))


def standing_of(run: RunSnapshot) -> Standing:
    """Return where a run stands, to be drawn."""
    from runstate.diagram import Standing

    return Standing(run.status, run.stamps(), run.id)


def columns(header: tuple[str, ...], cells: Sequence[tuple[str, ...]]) -> None:
    """Print rows of cells aligned under their header."""
    rows = (header, *cells)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    console = screen()
    for number, row in enumerate(rows):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        console.print(Text(line, style="bold" if number == 0 else ""))


def emit_json(value: object) -> None:
    """Print a value for programs."""
    click.echo(json.dumps(value, indent=2))
