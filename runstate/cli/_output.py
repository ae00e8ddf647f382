"""What the commands show with: the screen as it is, lanes that suit it, aligned columns, and JSON for programs.

The pencils are imported where something is drawn, for most commands draw nothing and all of them import this module.
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

    from runstate.diagram import Standing

__all__ = [
    "emit_json",
    "has_colors",
    "has_unicode",
    "lanes",
    "progress_bar",
    "screen",
    "sentence",
    "standing_of",
]


def screen() -> Console:
    """Return stdout as rich sees it: a terminal or not, with colors or not (NO_COLOR, TERM). A pipe has no width."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = sys.maxsize
    return console


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


def lanes(console: Console, standing: Standing | None = None) -> str:
    """Return the lanes as they suit the terminal, or wide and plain for a pipe."""
    from runstate.diagram import draw

    width = console.width if console.is_terminal else None
    return draw(RUN_LIFECYCLE, "lanes" if has_unicode(console) else "ascii", standing, width, has_colors(console))


def standing_of(run: RunSnapshot) -> Standing:
    """Return where a run stands, to be drawn."""
    from runstate.diagram import Standing

    return Standing(run.status, run.stamps(), run.id)


def sentence(text: str) -> None:
    """Print a sentence: whole in a pipe, and broken between words on a terminal."""
    console = screen()
    console.print(Text(text), soft_wrap=not console.is_terminal)


def emit_json(value: object) -> None:
    """Print a value for programs."""
    click.echo(json.dumps(value, indent=2))
