"""The coverage drawn in the lanes: a column a status, a line an event, and in all 81 places whether it was asked."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from runstate.diagram.canvas import ASCII, BOLD, FAINT, PAINT, PLAIN, UNICODE, Alphabet, Canvas
from runstate.diagram.model import Lane, Picture
from runstate.lifecycle import RUN_LIFECYCLE, RunStatus
from runstate.testing.coverage._data import Exercised
from runstate.testing.matrix import CellKey

__all__ = ["covered_lanes"]

_PITCH: Final = 6
_GAP: Final = 2
_STAIRS: Final = 2
"""Characters between the corner of a stair and its name."""


def covered_lanes(
    exercised: Exercised, *, width: int | None = None, color: bool = False, ascii_only: bool = False
) -> str:
    """Return the lanes with what was asked in them, at most `width` characters wide where that is 70 or more."""
    picture = Picture.of(RUN_LIFECYCLE)
    alphabet = ASCII if ascii_only else UNICODE
    canvas = Canvas()
    centers = _names(canvas, picture, alphabet, width)
    asked = {(cell.status, cell.event) for cell in exercised.asked()}
    for lane in picture.lanes:
        _lane(canvas, lane, dict(zip((c.status for c in picture.columns), centers, strict=True)), alphabet, asked)
    signs = _signs(alphabet)
    legend = (f"{signs[True, True]} move asked", f"{signs[True, False]} move not asked")
    refused = (f"{signs[False, True]} refusal asked", f"{signs[False, False]} refusal not asked")
    canvas.put(canvas.height, 0, "   ".join((*legend, *refused)), FAINT)
    return canvas.text(color=color)


def _signs(alphabet: Alphabet) -> dict[tuple[bool, bool], str]:
    """Return the sign of a cell: is it a move, was it asked."""
    if alphabet is ASCII:
        return {(True, True): "O", (True, False): "o", (False, True): "x", (False, False): "."}
    lit, dim = alphabet.lit.ring, alphabet.dim.ring
    return {(True, True): lit, (True, False): dim, (False, True): "×", (False, False): alphabet.grid}


def _names(canvas: Canvas, picture: Picture, alphabet: Alphabet, width: int | None) -> list[int]:
    """Write the statuses side by side where there is room, else as a staircase; return the middle of each column."""
    gutter = max(len(lane.event) for lane in picture.lanes) + _GAP
    left, centers = gutter, list[int]()
    for column in picture.columns:
        centers.append(left + len(column.status) // 2)
        left += len(column.status) + _GAP
    if width is None or left - _GAP <= width:
        for column, center in zip(picture.columns, centers, strict=True):
            canvas.put(0, center - len(column.status) // 2, str(column.status), PAINT[column.tone])
        return centers
    centers = [gutter + place * _PITCH for place in range(len(picture.columns))]
    for step, (column, center) in enumerate(zip(picture.columns, centers, strict=True)):
        for passed in centers[:step]:
            canvas.put(step, passed, alphabet.stem, FAINT)
        canvas.put(step, center, alphabet.corner, FAINT)
        canvas.put(step, center + _STAIRS, str(column.status), PAINT[column.tone])
    return centers


def _lane(
    canvas: Canvas, lane: Lane, at: Mapping[RunStatus, int], alphabet: Alphabet, asked: AbstractSet[CellKey]
) -> None:
    """Draw a lane, lit where any of its moves was asked, then the sign of each of its cells."""
    y = canvas.height
    lit = any((source, lane.event) in asked for source in lane.sources)
    stroke, style = (alphabet.lit, PAINT[lane.tone]) if lit else (alphabet.dim, FAINT)
    canvas.put(y, 0, str(lane.event), BOLD if lit else PLAIN)
    target, rings = at[lane.target], [at[source] for source in lane.sources]
    for x in range(min(*rings, target), max(*rings, target) + 1):
        canvas.put(y, x, stroke.line[x % len(stroke.line)], style)
    # The head beside its column, for the column's own cell, a refusal, has its sign there.
    if min(rings) < target:
        canvas.put(y, target - 1, stroke.right, style)
    if max(rings) > target:
        canvas.put(y, target + 1, stroke.left, style)
    signs = _signs(alphabet)
    for status, center in at.items():
        is_move, is_asked = status in lane.sources, (status, lane.event) in asked
        tone = style if is_move else PAINT["red"] if is_asked else FAINT
        canvas.put(y, center, signs[is_move, is_asked], tone)
