"""The lifecycle as a Mermaid state diagram, for pages that render Mermaid."""

from __future__ import annotations

from collections.abc import Iterator

from runstate.diagram.model import DiagramModel
from runstate.diagram.palette import LIGHT
from runstate.lifecycle import INITIAL_STATUS

__all__ = ["mermaid"]


def mermaid(model: DiagramModel) -> str:
    """Return a `stateDiagram-v2`: every status in order, then every transition, one a line."""
    return "\n".join(("stateDiagram-v2", *(f"    {line}" for line in _lines(model))))


def _lines(model: DiagramModel) -> Iterator[str]:
    yield "direction LR"  # top-down, the labels of the nineteen transitions overlap
    yield "accTitle: Run lifecycle"
    yield from (str(column.status) for column in model.columns)
    yield from (f"[*] --> {column.status}" for column in model.columns if column.status is INITIAL_STATUS)
    for lane in model.lanes:
        yield from (f"{source} --> {lane.target}: {lane.event}" for source in lane.sources)
    yield from (f"{column.status} --> [*]" for column in model.terminal)
    for role, colors in LIGHT.items():  # a box has its own fill and text colour, so it can be read on any page
        members = ", ".join(column.status for column in model.columns if column.role == role)
        if members:
            yield f"classDef {role} fill:{colors.fill},stroke:{colors.outline},color:{colors.text}"
            yield f"class {members} {role}"
    for column in model.columns:
        if column.is_current:
            colors = LIGHT[column.role]
            style = f"fill:{colors.current_fill},stroke:{colors.text},color:#fff,stroke-width:3px,font-weight:bold"
            yield f"classDef active {style}"
            yield f"class {column.status} active"
