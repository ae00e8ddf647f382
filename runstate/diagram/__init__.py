"""Diagrams of the lifecycle, and of the position of one run in it, drawn from the table of transitions.

There is one neutral model (`model.py`) and a renderer for each format: lanes for a terminal, SVG for a page, Mermaid
and DOT for tools that lay out graphs, Markdown tables for a README.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

from runstate.diagram.model import DiagramModel, RunPosition
from runstate.diagram.renderers.dot import dot
from runstate.diagram.renderers.lanes_svg import lanes_svg
from runstate.diagram.renderers.lanes_text import lanes_text
from runstate.diagram.renderers.markdown import markdown
from runstate.diagram.renderers.mermaid import mermaid
from runstate.lifecycle import RUN_LIFECYCLE, Lifecycle

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FORMATS", "Format", "RunPosition", "draw"]

Format: TypeAlias = Literal["lanes", "ascii", "svg", "mermaid", "dot", "table"]
"""The name of a format."""

FORMATS: Final[tuple[Format, ...]] = get_args(Format)
"""Every format: `lanes` (Unicode text), `ascii`, `svg`, `mermaid`, `dot`, `table` (Markdown)."""

_RENDERERS: Final[Mapping[str, Callable[[DiagramModel], str]]] = {
    "svg": lanes_svg,
    "mermaid": mermaid,
    "dot": dot,
    "table": markdown,
}


def draw(
    lifecycle: Lifecycle = RUN_LIFECYCLE,
    format: Format = "lanes",  # noqa: A002 - the name that callers expect
    position: RunPosition | None = None,
    width: int | None = None,
    color: bool = False,
) -> str:
    """Return a diagram of `lifecycle` without a trailing newline; equal arguments always give the same text.

    `position` adds a run: its status is marked, its times replace the names of the stamps, and the events that are not
    allowed in its status are dimmed. `width` (characters; None for no limit) and `color` (ANSI) apply to `lanes` and
    `ascii`, and the other formats ignore them. In a narrow width the names form a staircase, and below that the lanes
    become a list.

    Raises `ValueError` for an unknown format, and `TypeError` for what is no lifecycle.

    >>> from runstate.lifecycle import Basis, RunEvent, RunStatus, Transition
    >>> start = Transition(RunEvent.START, RunStatus.QUEUED, RunStatus.IN_PROGRESS, "started_at", Basis.DOCUMENTED)
    >>> print(draw(Lifecycle((start,)), "ascii"))
             live       - terminal
             queued     in_progress
           created_at   started_at
    start       o------------>
    o allowed here   > leads to
    """
    _check_lifecycle(lifecycle)
    model = DiagramModel.of(lifecycle, position)
    if format in ("lanes", "ascii"):
        return lanes_text(model, ascii_only=format == "ascii", width=width, color=color)
    renderer = _RENDERERS.get(format)
    if renderer is None:
        raise ValueError(f"{format!r} is no format; a picture can be drawn as {', '.join(FORMATS)}")
    return renderer(model)


def _check_lifecycle(given: object) -> None:
    if not isinstance(given, Lifecycle):
        hint = f": write draw(format={given!r})" if given in FORMATS else ""
        raise TypeError(f"lifecycle: expected a Lifecycle, got {type(given).__name__}{hint}")
