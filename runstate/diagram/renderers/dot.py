"""The law as a graph in the DOT language, for tools that lay out graphs.

The live statuses stand in a dashed box. An event that leads out of it from every one of them is drawn once, from the
box itself: six arrows fewer, and the rule behind them can be seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from runstate.diagram.model import Lane, Picture, StatusColumn
from runstate.diagram.palette import LIGHT
from runstate.lifecycle import INITIAL_STATUS

__all__ = ["dot"]

_HEADER: Final = """\
digraph run {
    graph [compound=true, rankdir=LR, bgcolor="white", fontname="Helvetica", nodesep=0.35, ranksep=0.7]
    node [shape=box, style="rounded,filled", fontname="Helvetica"]
    edge [fontname="Helvetica", fontsize=10]"""


def dot(picture: Picture) -> str:
    """Return a `digraph`. Statuses and events need no quotes: their names are words."""
    return "\n".join((_HEADER, *(f"    {line}" for line in _lines(picture)), "}"))


def _lines(picture: Picture) -> Iterator[str]:
    if picture.live:
        yield "subgraph cluster_live {"
        yield '    label="live"; labeljust=l; style="dashed,rounded"; color="#9aa0a6"; fontcolor="#5f6368"'
        yield from (f"    {_node(column)}" for column in picture.live)
        yield "}"
    yield from map(_node, picture.terminal)
    if any(column.status is INITIAL_STATUS for column in picture.columns):
        yield 'birth [label="", shape=circle, style=filled, fillcolor="#5f6368", color="#5f6368", width=0.15]'
        yield f'birth -> {INITIAL_STATUS} [color="#5f6368"]'
    for lane in picture.lanes:
        yield from _edges(lane, picture)


def _node(column: StatusColumn) -> str:
    paint = LIGHT[column.tone]
    fill, ink = (paint.solid, "white") if column.here else (paint.fill, paint.ink)
    border = "2" if column.terminal else "1"
    width = "3" if column.here else "1"
    return (
        f'{column.status} [fillcolor="{fill}", color="{paint.edge}", fontcolor="{ink}", '
        f"peripheries={border}, penwidth={width}]"
    )


def _edges(lane: Lane, picture: Picture) -> Iterator[str]:
    paint = LIGHT[lane.tone]
    look = f'label="{lane.event}", color="{paint.edge}", fontcolor="{paint.ink}"'
    live = tuple(column.status for column in picture.live)
    if lane.sources == live and len(live) > 1 and lane.target not in live:
        yield f"{live[-1]} -> {lane.target} [{look}, ltail=cluster_live, penwidth=2]"
    else:
        yield from (f"{source} -> {lane.target} [{look}]" for source in lane.sources)
