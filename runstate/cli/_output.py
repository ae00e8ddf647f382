"""What the commands show with: the screen as it is, lanes that suit it, aligned columns, and JSON for programs.

The renderers are imported where something is drawn: most commands draw nothing, and all of them import this module.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final

import click
from rich.console import Console
from rich.text import Text

from runstate.lifecycle import RUN_LIFECYCLE
from runstate.run.snapshot import RunSnapshot

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

    from runstate.diagram import RunPosition

__all__ = [
    "columns",
    "emit_json",
    "has_colors",
    "has_unicode",
    "lanes",
    "position_of",
    "progress_bar",
    "screen",
    "sentence",
]

_BETWEEN: Final = "  "
_INDENT: Final = 4


def screen() -> Console:
    """Return stdout as rich sees it: a terminal or not, with colours or not (NO_COLOR, TERM)."""
    return Console(highlight=False, soft_wrap=True)


def progress_bar(*parts: ProgressColumn) -> AbstractContextManager[Progress]:
    """Return a bar that shows on stderr how far something is, if a person is looking."""
    from rich.progress import Progress

    talk = Console(stderr=True)
    bar = Progress(*parts, console=talk, disable=not talk.is_terminal, transient=True)
    # One that is not shown is not started: rich before 14.3 would end it with an empty line.
    return nullcontext(bar) if bar.disable else bar


def has_colors(console: Console) -> bool:
    """Tell whether colours may be sent there."""
    return console.is_terminal and console.color_system is not None and not console.no_color


def has_unicode(console: Console | None = None) -> bool:
    """Tell whether stdout can take the characters of the lanes."""
    try:
        "●─▶┊".encode((console or screen()).encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def lanes(console: Console, position: RunPosition | None = None) -> str:
    """Return the lanes as they suit the terminal, or wide and plain for a pipe."""
    from runstate.diagram import draw

    width = console.width if console.is_terminal else None
    return draw(RUN_LIFECYCLE, "lanes" if has_unicode(console) else "ascii", position, width, has_colors(console))


def position_of(run: RunSnapshot) -> RunPosition:
    """Return where a run stands, to be drawn."""
    from runstate.diagram import RunPosition

    return RunPosition(run.status, run.stamps(), run.id)


def columns(header: tuple[str, ...], cells: Sequence[tuple[str, ...]]) -> None:
    """Print rows of cells aligned under their header.

    On a terminal that is too narrow, the last cell of each row stands on lines of its own, broken between words.
    """
    rows = (header, *cells)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    console = screen()
    room = console.width if console.is_terminal else None
    fits = room is None or sum(widths) + len(_BETWEEN) * (len(widths) - 1) <= room
    for number, row in enumerate(rows):
        style = "bold" if number == 0 else ""
        shown = row if fits else row[:-1]
        line = _BETWEEN.join(cell.ljust(width) for cell, width in zip(shown, widths, strict=False)).rstrip()
        console.print(Text(line, style=style))
        if not fits:
            for part in Text(row[-1], style=style or "dim").wrap(console, max(console.width - _INDENT, _INDENT)):
                console.print(Text(" " * _INDENT) + part)


def sentence(text: str) -> None:
    """Print a sentence: whole in a pipe, and broken between words on a terminal."""
    console = screen()
    console.print(Text(text), soft_wrap=not console.is_terminal)


def emit_json(value: object) -> None:
    """Print a value for programs."""
    click.echo(json.dumps(value, indent=2))
