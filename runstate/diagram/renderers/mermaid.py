"""The law as a Mermaid state diagram, for pages that render Mermaid by themselves."""

from __future__ import annotations

from collections.abc import Iterator

from runstate.diagram.model import Picture
from runstate.diagram.palette import LIGHT
from runstate.lifecycle import INITIAL_STATUS

__all__ = ["mermaid"]


def mermaid(picture: Picture) -> str:
    """Return a `stateDiagram-v2`: every status in the order of its life, then every move, one a line."""
    return "\n".join(("stateDiagram-v2", *(f"    {line}" for line in _lines(picture))))


def _lines(picture: Picture) -> Iterator[str]:
    yield "direction LR"  # top-down, the labels of nineteen moves lie on each other
    yield "accTitle: Run lifecycle"
    yield from (str(column.status) for column in picture.columns)
    yield from (f"[*] --> {column.status}" for column in picture.columns if column.status is INITIAL_STATUS)
    for lane in picture.lanes:
        yield from (f"{source} --> {lane.target}: {lane.event}" for source in lane.sources)
    yield from (f"{column.status} --> [*]" for column in picture.terminal)
    for tone, paint in LIGHT.items():  # a box brings its fill and its text along, so it can be read on any page
        members = ", ".join(column.status for column in picture.columns if column.tone == tone)
        if members:
            yield f"classDef {tone} fill:{paint.fill},stroke:{paint.edge},color:{paint.ink}"
            yield f"class {members} {tone}"
    for column in picture.columns:
        if column.here:
            paint = LIGHT[column.tone]
            yield f"classDef active fill:{paint.solid},stroke:{paint.ink},color:#fff,stroke-width:3px,font-weight:bold"
            yield f"class {column.status} active"
