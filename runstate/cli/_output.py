"""Output to terminals and pipes: the console, progress bars, lanes, text and JSON.

All commands import this module and most draw no diagram, so the renderers are imported when they are used.
"""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.text import Text

from runstate.lifecycle import RUN_LIFECYCLE
from runstate.run.snapshot import RunSnapshot

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

    from runstate.diagram import RunPosition

__all__ = [
    "draw_lanes",
    "has_colors",
    "has_unicode",
    "position_of",
    "print_json",
    "print_text",
    "progress_bar",
    "stdout_console",
]


def stdout_console() -> Console:
    """Return stdout as rich sees it: a terminal or not, with colors or not (NO_COLOR, TERM). A pipe fits any line."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = sys.maxsize
    return console


def progress_bar(*parts: ProgressColumn) -> AbstractContextManager[Progress]:
    """Return a progress bar on stderr, which is shown if that is a terminal."""
    from rich.progress import Progress

    console = Console(stderr=True)
    bar = Progress(*parts, console=console, disable=not console.is_terminal, transient=True)
    # A disabled bar is not started, because rich before 14.3 would print an empty line at its end.
    return nullcontext(bar) if bar.disable else bar


def has_colors(console: Console) -> bool:
    """Return whether the console takes colors."""
    return console.is_terminal and console.color_system is not None and not console.no_color


def has_unicode(console: Console | None = None) -> bool:
    """Return whether the encoding of a console, or of stdout, has the characters of the lanes."""
    try:
        "●─▶┊".encode((console or stdout_console()).encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def draw_lanes(console: Console, position: RunPosition | None = None) -> str:
    """Return the lanes as the terminal can show them, or wide and plain for a pipe."""
    from runstate.diagram import draw

    width = console.width if console.is_terminal else None
    return draw(RUN_LIFECYCLE, "lanes" if has_unicode(console) else "ascii", position, width, has_colors(console))


def position_of(run: RunSnapshot) -> RunPosition:
    """Return the position of a run in a diagram."""
    from runstate.diagram import RunPosition

    return RunPosition(run.status, run.stamps(), run.id)


def print_text(text: str) -> None:
    """Print a text: one line in a pipe, wrapped between words on a terminal."""
    console = stdout_console()
    console.print(Text(text), soft_wrap=not console.is_terminal)


def print_json(value: object) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, indent=2))
