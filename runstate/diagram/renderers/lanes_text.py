"""Lanes as text: one column for a status, one line for an event, so no line crosses another.

There are four layouts, from wide to narrow, and the widest that fits is used: the stamps under the names; stars under
the names and the stamps below; the names as a staircase; a list. Each shows all transitions, and tests parse each of
them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import Final

import attrs

from runstate.diagram.canvas import ASCII, BOLD, FAINT, PLAIN, UNICODE, Canvas, Glyphs, Stroke
from runstate.diagram.model import DiagramModel, Lane, StatusColumn
from runstate.diagram.palette import ANSI_STYLES
from runstate.run.json_values import escape

__all__ = ["EMPTY", "INDENT", "TITLE", "lanes_text"]

EMPTY: Final = "no transitions"
"""The text for a lifecycle without transitions."""
TITLE: Final = "run "
"""The beginning of the title line of a diagram with a run. No event and no status begins with it."""
INDENT: Final = "    "
"""The beginning of a line that continues the one above in a list."""

_NARROW: Final = 50
_GAP: Final = 2
_PITCHES: Final = (6, 5, 4, 3)
"""Characters from one column to the next under a staircase."""


@attrs.frozen
class _Grid:
    """The places of the columns, in characters from the left."""

    gutter: int
    centers: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    """The first character of each column's part of the rule above it, and one past its last."""
    divider: int | None

    @property
    def text_width(self) -> int:
        """The width of text above and below the lanes."""
        return max(self.spans[-1][1], _NARROW)


def lanes_text(model: DiagramModel, *, ascii_only: bool = False, width: int | None = None, color: bool = False) -> str:
    """Return the lanes as text, at most `width` characters wide unless a word is longer; None means no limit."""
    glyphs = ASCII if ascii_only else UNICODE
    for canvas in _layouts(model, glyphs):
        if width is None or canvas.width <= width:
            break
    else:
        canvas = _draw_list(model, glyphs, _NARROW if width is None else width)
    return canvas.text(color=color)


def _layouts(model: DiagramModel, glyphs: Glyphs) -> Iterator[Canvas]:
    if not model.lanes:
        return
    captions = tuple(column.caption for column in model.columns)
    yield _draw_side_by_side(model, glyphs, captions)
    starred = tuple(column.caption if column.times else "*" * bool(column.stamps) for column in model.columns)
    yield _draw_side_by_side(model, glyphs, starred)
    for pitch in _PITCHES[:-1]:
        yield _draw_staircase(model, glyphs, pitch, captions_after=True)
    for pitch in _PITCHES[-2:]:
        yield _draw_staircase(model, glyphs, pitch, captions_after=False)


def _draw_side_by_side(model: DiagramModel, glyphs: Glyphs, captions: tuple[str, ...]) -> Canvas:
    """Draw with the names side by side and the captions under them."""
    grid = _compact_grid(model, captions)
    canvas = Canvas()
    _draw_title(canvas, model, grid.text_width)
    top = canvas.height
    _draw_groups(canvas, top, model, grid, glyphs)
    for column, center, caption in zip(model.columns, grid.centers, captions, strict=True):
        _put_centered(canvas, top + 1, center, str(column.status), _name_style(column))
        _put_centered(canvas, top + 2, center, caption, _caption_style(column))
    _draw_lanes(canvas, model, grid, glyphs)
    if "*" in captions:
        notes = (f"{c.status} {'/'.join(c.stamps)}" for c in model.columns if c.stamps and not c.times)
        _put_paragraph(canvas, f"* stamps: {', '.join(notes)}", grid.text_width, FAINT)
    return canvas


def _draw_staircase(model: DiagramModel, glyphs: Glyphs, pitch: int, *, captions_after: bool) -> Canvas:
    """Draw with the names above each other, each on the stem of its column, its caption after it or at the left."""
    grid = _even_grid(model, pitch, captions_after=captions_after)
    canvas = Canvas()
    _draw_title(canvas, model, grid.text_width)
    top = canvas.height
    for step, (column, center) in enumerate(zip(model.columns, grid.centers, strict=True)):
        y = top + step
        for passed in grid.centers[:step]:
            canvas.put(y, passed, glyphs.stem, FAINT)
        canvas.put(y, center, glyphs.corner, FAINT)
        name_end = center + _GAP + len(column.status)
        canvas.put(y, center + _GAP, str(column.status), _name_style(column))
        left = name_end + _GAP if captions_after else grid.gutter - _GAP - len(column.caption)
        canvas.put(y, left, column.caption, _caption_style(column))
    _draw_groups(canvas, canvas.height, model, grid, glyphs)
    _draw_lanes(canvas, model, grid, glyphs)
    return canvas


def _draw_list(model: DiagramModel, glyphs: Glyphs, width: int) -> Canvas:
    """Write each lane as a line of words, wrapped if it is too long."""
    canvas = Canvas()
    position = model.position
    allowed, refused = (f"{glyphs.solid.ring} ", "- " if glyphs is ASCII else f"{glyphs.dashed.ring} ")
    if position is not None:
        _draw_title(canvas, model, max(width, _NARROW // 2))
        written = (stamp for column in model.columns if column.times for stamp in column.stamps)
        times = ", ".join(f"{stamp} {position.time_of(stamp)}" for stamp in written if position.time_of(stamp))
        _put_paragraph(canvas, f"{glyphs.current} {position.status}  {times}", width, BOLD)
    for lane in model.lanes:
        stamps = dict.fromkeys(row.stamp for row in lane.rows if row.stamp is not None)
        written_by = f" ({', '.join(stamps)})" if stamps else ""
        line = f"{lane.event}: {', '.join(lane.sources)} {glyphs.arrow} {lane.target}"
        mark = "" if position is None else allowed if lane.is_allowed else refused
        style = ANSI_STYLES[lane.role] if lane.is_allowed else FAINT
        _put_paragraph(canvas, f"{mark}{line}{written_by}", width, style)
    if not model.lanes:
        _put_paragraph(canvas, EMPTY, width, FAINT)
    elif position is not None:
        _put_paragraph(canvas, f"{allowed}allowed here   {refused}not from here", width, FAINT)
    return canvas


def _draw_lanes(canvas: Canvas, model: DiagramModel, grid: _Grid, glyphs: Glyphs) -> None:
    """Draw the mark of the current status, then the lanes, then the legend."""
    y = canvas.height
    for column, center in zip(model.columns, grid.centers, strict=True):
        if column.is_current:
            canvas.put(y, center, glyphs.current, _name_style(column))
    y = canvas.height
    for row, lane in enumerate(model.lanes, y):
        for center in grid.centers:
            canvas.put(row, center, glyphs.grid, FAINT)
        if grid.divider is not None:
            canvas.put(row, grid.divider, glyphs.divider, FAINT)
        lit = model.position is not None and lane.is_allowed
        canvas.put(row, 0, str(lane.event), BOLD if lit else PLAIN if lane.is_allowed else FAINT)
        _draw_lane(canvas, row, model, lane, grid, glyphs.solid if lane.is_allowed else glyphs.dashed)
    _put_paragraph(canvas, _legend(model, glyphs), grid.text_width, FAINT)


def _draw_lane(canvas: Canvas, y: int, model: DiagramModel, lane: Lane, grid: _Grid, stroke: Stroke) -> None:
    at = {column.status: center for column, center in zip(model.columns, grid.centers, strict=True)}
    style = ANSI_STYLES[lane.role] if lane.is_allowed else FAINT
    target = at[lane.target]
    rings = [at[source] for source in lane.sources]
    left, right = min(*rings, target), max(*rings, target)
    for x in range(left, right + 1):
        canvas.put(y, x, stroke.line[(x - left) % len(stroke.line)], style)
    for x in rings:
        canvas.put(y, x, stroke.ring, style)
    canvas.put(y, target, _head(stroke, rings, target), style)


def _head(stroke: Stroke, rings: list[int], target: int) -> str:
    if target in rings:
        return stroke.loop
    if min(rings) < target < max(rings):
        return stroke.both
    return stroke.right if min(rings) < target else stroke.left


def _legend(model: DiagramModel, glyphs: Glyphs) -> str:
    lit, dim = glyphs.solid, glyphs.dashed
    signs = [f"{lit.ring} allowed here", f"{lit.right} leads to"]
    if any(lane.target in lane.sources for lane in model.lanes):
        signs.append(f"{lit.loop} both: leads back to the same status")
    if model.position is not None:
        signs.append(f"{dim.ring}{(dim.line * 4)[1:4]}{dim.right} not from here")
    return "   ".join(signs)


def _compact_grid(model: DiagramModel, captions: tuple[str, ...]) -> _Grid:
    """Place the columns as close as their names and captions allow."""
    gutter = _longest(lane.event for lane in model.lanes) + _GAP
    spans: list[tuple[int, int]] = []
    divider = None
    name_end = caption_end = gutter - _GAP  # one past the last character so far
    for column, caption in zip(model.columns, captions, strict=True):
        first_end = column.is_terminal and column is model.terminal[0] and bool(spans)
        half = len(column.status) // 2
        gap = _GAP + 3 * first_end
        center = max(name_end + gap + half, caption_end + _GAP + len(caption) // 2)
        if first_end:
            divider = (name_end + center - half) // 2
        spans.append((center - half, center - half + len(column.status)))
        name_end = spans[-1][1]
        caption_end = max(center - len(caption) // 2 + len(caption), caption_end)
    centers = tuple(left + len(column.status) // 2 for (left, _), column in zip(spans, model.columns, strict=True))
    return _Grid(gutter, centers, tuple(spans), divider)


def _even_grid(model: DiagramModel, pitch: int, *, captions_after: bool) -> _Grid:
    """Place the columns `pitch` characters apart, with a gap before the terminal ones."""
    captions = () if captions_after else (column.caption for column in model.columns)
    gutter = _longest((*(lane.event for lane in model.lanes), *captions)) + _GAP
    live_count = len(model.live)
    group_gap = _GAP if 0 < live_count < len(model.columns) else 0
    centers = tuple(gutter + index * pitch + group_gap * (index >= live_count) for index in range(len(model.columns)))
    divider = centers[live_count] - (pitch + group_gap) // 2 if group_gap else None
    return _Grid(gutter, centers, tuple((center, center + 1) for center in centers), divider)


def _draw_title(canvas: Canvas, model: DiagramModel, width: int) -> None:
    """Write which run this is, in ASCII, because other characters of an id may be wider than they count."""
    position = model.position
    if position is None:
        return
    place = f"is {position.status}"
    name = escape(position.run_id or "").encode("ascii", "backslashreplace").decode("ascii")
    room = max(width - len(f"{TITLE} {place}"), 0)
    if len(name) > room:
        name = f"{name[: max(room - 3, 0)]}..."[:room]
    line = f"{TITLE}{name} {place}" if name else f"{TITLE}{place}"
    deadline = position.time_of("expires_at")
    note = f", expires {deadline} UTC" if deadline else ", times in UTC"
    canvas.put(0, 0, line + note if len(line + note) <= width else line, BOLD)


def _draw_groups(canvas: Canvas, y: int, model: DiagramModel, grid: _Grid, glyphs: Glyphs) -> None:
    """Draw a rule over the live columns and one over the terminal ones."""
    live_count = len(model.live)
    for label, spans in (("live", grid.spans[:live_count]), ("terminal", grid.spans[live_count:])):
        if spans:
            left, right = spans[0][0], spans[-1][1]
            text = f"{glyphs.rule} {label} ".ljust(right - left, glyphs.rule)
            canvas.put(y, left, text if len(text) <= right - left else label, FAINT)


def _put_centered(canvas: Canvas, y: int, center: int, text: str, style: str) -> None:
    canvas.put(y, center - len(text) // 2, text, style)


def _put_paragraph(canvas: Canvas, text: str, width: int, style: str) -> None:
    """Write a text under everything else, wrapped between words."""
    lines = textwrap.wrap(text, max(width, 1), subsequent_indent=INDENT, break_long_words=False, break_on_hyphens=False)
    for line in lines:
        canvas.put(canvas.height, 0, line, style)


def _longest(texts: Iterable[str]) -> int:
    return max(map(len, texts), default=0)


def _name_style(column: StatusColumn) -> str:
    return f"{BOLD};{ANSI_STYLES[column.role]}" if column.is_current else ANSI_STYLES[column.role]


def _caption_style(column: StatusColumn) -> str:
    return PLAIN if column.times else FAINT
