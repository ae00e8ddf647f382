"""Coverage as lanes: a column for a status, a line for an event, and a symbol for each of the 81 cells."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from runstate.diagram.canvas import ASCII, BOLD, FAINT, PLAIN, UNICODE, Canvas, Glyphs
from runstate.diagram.model import DiagramModel, Lane
from runstate.diagram.palette import ANSI_STYLES
from runstate.lifecycle import RUN_LIFECYCLE, RunStatus
from runstate.testing.coverage._data import CoverageData
from runstate.testing.matrix import CellKey

__all__ = ["covered_lanes"]

_PITCH: Final = 6
_GAP: Final = 2
_STAIRS: Final = 2
"""Characters between the corner of a stair and its name."""


def covered_lanes(
    data: CoverageData, *, width: int | None = None, color: bool = False, ascii_only: bool = False
) -> str:
    """Return the lanes with their coverage, at most `width` characters wide if that is 70 or more."""
    model = DiagramModel.of(RUN_LIFECYCLE)
    glyphs = ASCII if ascii_only else UNICODE
    canvas = Canvas()
    centers = _draw_names(canvas, model, glyphs, width)
    covered = {(cell.status, cell.event) for cell in data.covered()}
    for lane in model.lanes:
        _draw_lane(canvas, lane, dict(zip((c.status for c in model.columns), centers, strict=True)), glyphs, covered)
    signs = _symbols(glyphs)
    legend = (f"{signs[True, True]} move asked", f"{signs[True, False]} move not asked")
    refused = (f"{signs[False, True]} refusal asked", f"{signs[False, False]} refusal not asked")
    canvas.put(canvas.height, 0, "   ".join((*legend, *refused)), FAINT)
    return canvas.text(color=color)


def _symbols(glyphs: Glyphs) -> dict[tuple[bool, bool], str]:
    """Return the symbols of cells by whether a cell is a move and whether it is covered."""
    if glyphs is ASCII:
        return {(True, True): "O", (True, False): "o", (False, True): "x", (False, False): "."}
    solid, dashed = glyphs.solid.ring, glyphs.dashed.ring
    return {(True, True): solid, (True, False): dashed, (False, True): "×", (False, False): glyphs.grid}


def _draw_names(canvas: Canvas, model: DiagramModel, glyphs: Glyphs, width: int | None) -> list[int]:
    """Write the statuses side by side if there is room, else as a staircase; return the centre of each column."""
    gutter = max(len(lane.event) for lane in model.lanes) + _GAP
    left, centers = gutter, list[int]()
    for column in model.columns:
        centers.append(left + len(column.status) // 2)
        left += len(column.status) + _GAP
    if width is None or left - _GAP <= width:
        for column, center in zip(model.columns, centers, strict=True):
            canvas.put(0, center - len(column.status) // 2, str(column.status), ANSI_STYLES[column.role])
        return centers
    centers = [gutter + place * _PITCH for place in range(len(model.columns))]
    for step, (column, center) in enumerate(zip(model.columns, centers, strict=True)):
        for passed in centers[:step]:
            canvas.put(step, passed, glyphs.stem, FAINT)
        canvas.put(step, center, glyphs.corner, FAINT)
        canvas.put(step, center + _STAIRS, str(column.status), ANSI_STYLES[column.role])
    return centers


def _draw_lane(
    canvas: Canvas, lane: Lane, at: Mapping[RunStatus, int], glyphs: Glyphs, covered: AbstractSet[CellKey]
) -> None:
    """Draw a lane, bright if any of its moves is covered, then the symbol of each of its cells."""
    y = canvas.height
    is_bright = any((source, lane.event) in covered for source in lane.sources)
    stroke, style = (glyphs.solid, ANSI_STYLES[lane.role]) if is_bright else (glyphs.dashed, FAINT)
    canvas.put(y, 0, str(lane.event), BOLD if is_bright else PLAIN)
    target, rings = at[lane.target], [at[source] for source in lane.sources]
    for x in range(min(*rings, target), max(*rings, target) + 1):
        canvas.put(y, x, stroke.line[x % len(stroke.line)], style)
    # The head is beside its column, because the symbol of the column's own cell, a refusal, is there.
    if min(rings) < target:
        canvas.put(y, target - 1, stroke.right, style)
    if max(rings) > target:
        canvas.put(y, target + 1, stroke.left, style)
    signs = _symbols(glyphs)
    for status, center in at.items():
        is_move, is_covered = status in lane.sources, (status, lane.event) in covered
        symbol_style = style if is_move else ANSI_STYLES["red"] if is_covered else FAINT
        canvas.put(y, center, signs[is_move, is_covered], symbol_style)
