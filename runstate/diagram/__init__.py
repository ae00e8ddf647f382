"""Pictures of the law, and of one run inside it, drawn from the rows.

One neutral model (`model.py`), and a pencil for each place a picture is looked at: lanes for a terminal, an SVG for a
page, Mermaid and DOT for tools that lay out graphs, Markdown tables for a README.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

from runstate.diagram.model import Picture, Standing
from runstate.diagram.renderers.dot import dot
from runstate.diagram.renderers.lanes_svg import lanes_svg
from runstate.diagram.renderers.lanes_text import lanes_text
from runstate.diagram.renderers.markdown import markdown
from runstate.diagram.renderers.mermaid import mermaid
from runstate.lifecycle import RUN_LIFECYCLE, Lifecycle

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FORMATS", "Format", "Standing", "draw"]

Format: TypeAlias = Literal["lanes", "ascii", "svg", "mermaid", "dot", "table"]
"""The name of a way to draw."""

FORMATS: Final[tuple[Format, ...]] = get_args(Format)
"""Every way to draw: `lanes` (Unicode text), `ascii`, `svg`, `mermaid`, `dot`, `table` (Markdown)."""

_PENCILS: Final[Mapping[str, Callable[[Picture], str]]] = {
    "svg": lanes_svg,
    "mermaid": mermaid,
    "dot": dot,
    "table": markdown,
}


def draw(
    lifecycle: Lifecycle = RUN_LIFECYCLE,
    format: Format = "lanes",  # noqa: A002 - the word a caller looks for
    standing: Standing | None = None,
    width: int | None = None,
    color: bool = False,
) -> str:
    """Return a picture of `law`, without a newline at its end; the same arguments always draw the same picture.

    `standing` puts a run into it: its status is marked, its times replace the names of the stamps, and what cannot be
    asked of it now is dimmed. `width` (characters; None for no limit) and `color` (ANSI) are for `lanes` and `ascii`;
    the other formats do without. When narrow, the names climb a staircase, and below that the lanes become a list.

    Raises `ValueError` for an unknown format.

    >>> from runstate.lifecycle import Basis, RunEvent, RunStatus, Transition
    >>> start = Transition(RunEvent.START, RunStatus.QUEUED, RunStatus.IN_PROGRESS, "started_at", Basis.DOCUMENTED)
    >>> print(draw(Lifecycle((start,)), "ascii"))
             live       - terminal
             queued     in_progress
           created_at   started_at
    start       o------------>
    o may be asked   > leads to
    """
    picture = Picture.of(lifecycle, standing)
    if format in ("lanes", "ascii"):
        return lanes_text(picture, ascii_only=format == "ascii", width=width, color=color)
    pencil = _PENCILS.get(format)
    if pencil is None:
        raise ValueError(f"{format!r} is no format; a picture can be drawn as {', '.join(FORMATS)}")
    return pencil(picture)
