"""The lifecycle as a graph in the DOT language, for tools that lay out graphs.

The live statuses are in a dashed box. An event that is allowed in all of them and leads out of the box is drawn once,
from the box itself. That saves six arrows and shows the rule behind them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from runstate.diagram.model import DiagramModel, Lane, StatusColumn
from runstate.diagram.palette import LIGHT
from runstate.lifecycle import INITIAL_STATUS

__all__ = ["dot"]

_HEADER: Final = """\
digraph run {
    graph [compound=true, rankdir=LR, bgcolor="white", fontname="Helvetica", nodesep=0.35, ranksep=0.7]
    node [shape=box, style="rounded,filled", fontname="Helvetica"]
    edge [fontname="Helvetica", fontsize=10]"""


def dot(model: DiagramModel) -> str:
    """Return a `digraph`. The names of statuses and events are words, so they need no quotes."""
    return "\n".join((_HEADER, *(f"    {line}" for line in _lines(model)), "}"))


def _lines(model: DiagramModel) -> Iterator[str]:
    if model.live:
        yield "subgraph cluster_live {"
        yield '    label="live"; labeljust=l; style="dashed,rounded"; color="#9aa0a6"; fontcolor="#5f6368"'
        yield from (f"    {_node(column)}" for column in model.live)
        yield "}"
    yield from map(_node, model.terminal)
    if any(column.status is INITIAL_STATUS for column in model.columns):
        yield 'birth [label="", shape=circle, style=filled, fillcolor="#5f6368", color="#5f6368", width=0.15]'
        yield f'birth -> {INITIAL_STATUS} [color="#5f6368"]'
    for lane in model.lanes:
        yield from _edges(lane, model)


def _node(column: StatusColumn) -> str:
    colors = LIGHT[column.role]
    fill, text = (colors.current_fill, "white") if column.is_current else (colors.fill, colors.text)
    border = "2" if column.is_terminal else "1"
    width = "3" if column.is_current else "1"
    return (
        f'{column.status} [fillcolor="{fill}", color="{colors.outline}", fontcolor="{text}", '
        f"peripheries={border}, penwidth={width}]"
    )


def _edges(lane: Lane, model: DiagramModel) -> Iterator[str]:
    colors = LIGHT[lane.role]
    attributes = f'label="{lane.event}", color="{colors.outline}", fontcolor="{colors.text}"'
    live = tuple(column.status for column in model.live)
    if lane.sources == live and len(live) > 1 and lane.target not in live:
        yield f"{live[-1]} -> {lane.target} [{attributes}, ltail=cluster_live, penwidth=2]"
    else:
        yield from (f"{source} -> {lane.target} [{attributes}]" for source in lane.sources)
