"""Lanes as text: one column a status, one line an event, so that no line ever crosses another.

Four layouts, from wide to narrow; the widest that fits is taken. The stamps under the names; stars under the names and
the stamps below; the names as a staircase; a list. None leaves a rule out, and the tests read each of them back.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import Final

import attrs

from runstate.diagram.canvas import ASCII, BOLD, FAINT, PAINT, PLAIN, UNICODE, Alphabet, Canvas, Stroke
from runstate.diagram.model import Lane, Picture, StatusColumn
from runstate.run.json_values import escape

__all__ = ["EMPTY", "HANGING", "TITLE", "lanes_text"]

EMPTY: Final = "no transitions"
"""What stands in the place of lanes where a law has no rows."""
TITLE: Final = "run "
"""How the line above a picture with a run begins. No event and no status begins so."""
HANGING: Final = "    "
"""How a line of the list begins that continues the one above."""

_NARROW: Final = 50
_GAP: Final = 2
_PITCHES: Final = (6, 5, 4, 3)
"""Characters from one column to the next under a staircase."""


@attrs.frozen
class _Grid:
    """Where the columns are, in characters from the left."""

    gutter: int
    centers: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    """Where each column's part of the rule above it begins, and one past its end."""
    divider: int | None

    @property
    def room(self) -> int:
        """How wide the lines of words above and below the lanes may be."""
        return max(self.spans[-1][1], _NARROW)


def lanes_text(picture: Picture, *, ascii_only: bool = False, width: int | None = None, color: bool = False) -> str:
    """Return the lanes as text, at most `width` characters wide where words allow; None means no limit."""
    alphabet = ASCII if ascii_only else UNICODE
    for canvas in _attempts(picture, alphabet):
        if width is None or canvas.width <= width:
            break
    else:
        canvas = _listed(picture, alphabet, _NARROW if width is None else width)
    return canvas.text(color=color)


def _attempts(picture: Picture, alphabet: Alphabet) -> Iterator[Canvas]:
    if not picture.lanes:
        return
    captions = tuple(column.caption for column in picture.columns)
    yield _named(picture, alphabet, captions)
    starred = tuple(column.caption if column.times else "*" * bool(column.stamps) for column in picture.columns)
    yield _named(picture, alphabet, starred)
    for pitch in _PITCHES[:-1]:
        yield _stairs(picture, alphabet, pitch, captions_after=True)
    for pitch in _PITCHES[-2:]:
        yield _stairs(picture, alphabet, pitch, captions_after=False)


def _named(picture: Picture, alphabet: Alphabet, captions: tuple[str, ...]) -> Canvas:
    """Draw with the names side by side, and what entering a status writes under each."""
    grid = _side_by_side(picture, captions)
    canvas = Canvas()
    _title(canvas, picture, grid.room)
    top = canvas.height
    _groups(canvas, top, picture, grid, alphabet)
    for column, center, caption in zip(picture.columns, grid.centers, captions, strict=True):
        _centered(canvas, top + 1, center, str(column.status), _name_style(column))
        _centered(canvas, top + 2, center, caption, _caption_style(column))
    _lanes(canvas, picture, grid, alphabet)
    if "*" in captions:
        notes = (f"{c.status} {'/'.join(c.stamps)}" for c in picture.columns if c.stamps and not c.times)
        _paragraph(canvas, f"* stamps: {', '.join(notes)}", grid.room, FAINT)
    return canvas


def _stairs(picture: Picture, alphabet: Alphabet, pitch: int, *, captions_after: bool) -> Canvas:
    """Draw with the names above each other, each on the stem of its column; its caption after it or at the left."""
    grid = _evenly(picture, pitch, captions_after=captions_after)
    canvas = Canvas()
    _title(canvas, picture, grid.room)
    top = canvas.height
    for step, (column, center) in enumerate(zip(picture.columns, grid.centers, strict=True)):
        y = top + step
        for passed in grid.centers[:step]:
            canvas.put(y, passed, alphabet.stem, FAINT)
        canvas.put(y, center, alphabet.corner, FAINT)
        name_end = center + _GAP + len(column.status)
        canvas.put(y, center + _GAP, str(column.status), _name_style(column))
        left = name_end + _GAP if captions_after else grid.gutter - _GAP - len(column.caption)
        canvas.put(y, left, column.caption, _caption_style(column))
    _groups(canvas, canvas.height, picture, grid, alphabet)
    _lanes(canvas, picture, grid, alphabet)
    return canvas


def _listed(picture: Picture, alphabet: Alphabet, width: int) -> Canvas:
    """Write each lane as a line of words, folded where it must be."""
    canvas = Canvas()
    standing = picture.standing
    asked, refused = (f"{alphabet.lit.ring} ", "- " if alphabet is ASCII else f"{alphabet.dim.ring} ")
    if standing is not None:
        _title(canvas, picture, max(width, _NARROW // 2))
        written = (stamp for column in picture.columns if column.times for stamp in column.stamps)
        times = ", ".join(f"{stamp} {standing.time_of(stamp)}" for stamp in written if standing.time_of(stamp))
        _paragraph(canvas, f"{alphabet.here} {standing.status}  {times}", width, BOLD)
    for lane in picture.lanes:
        stamps = dict.fromkeys(row.stamp for row in lane.rows if row.stamp is not None)
        written_by = f" ({', '.join(stamps)})" if stamps else ""
        line = f"{lane.event}: {', '.join(lane.sources)} {alphabet.arrow} {lane.target}"
        mark = "" if standing is None else asked if lane.askable else refused
        style = PAINT[lane.tone] if lane.askable else FAINT
        _paragraph(canvas, f"{mark}{line}{written_by}", width, style)
    if not picture.lanes:
        _paragraph(canvas, EMPTY, width, FAINT)
    elif standing is not None:
        _paragraph(canvas, f"{asked}may be asked   {refused}not from here", width, FAINT)
    return canvas


def _lanes(canvas: Canvas, picture: Picture, grid: _Grid, alphabet: Alphabet) -> None:
    """Draw the mark where the run stands, then the lanes, then what the signs mean."""
    y = canvas.height
    for column, center in zip(picture.columns, grid.centers, strict=True):
        if column.here:
            canvas.put(y, center, alphabet.here, _name_style(column))
    y = canvas.height
    for row, lane in enumerate(picture.lanes, y):
        for center in grid.centers:
            canvas.put(row, center, alphabet.grid, FAINT)
        if grid.divider is not None:
            canvas.put(row, grid.divider, alphabet.divider, FAINT)
        lit = picture.standing is not None and lane.askable
        canvas.put(row, 0, str(lane.event), BOLD if lit else PLAIN if lane.askable else FAINT)
        _lane(canvas, row, picture, lane, grid, alphabet.lit if lane.askable else alphabet.dim)
    _paragraph(canvas, _legend(picture, alphabet), grid.room, FAINT)


def _lane(canvas: Canvas, y: int, picture: Picture, lane: Lane, grid: _Grid, stroke: Stroke) -> None:
    at = {column.status: center for column, center in zip(picture.columns, grid.centers, strict=True)}
    style = PAINT[lane.tone] if lane.askable else FAINT
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


def _legend(picture: Picture, alphabet: Alphabet) -> str:
    lit, dim = alphabet.lit, alphabet.dim
    signs = [f"{lit.ring} may be asked", f"{lit.right} leads to"]
    if any(lane.target in lane.sources for lane in picture.lanes):
        signs.append(f"{lit.loop} both: leads back to where it is asked")
    if picture.standing is not None:
        signs.append(f"{dim.ring}{(dim.line * 4)[1:4]}{dim.right} not from here")
    return "   ".join(signs)


def _side_by_side(picture: Picture, captions: tuple[str, ...]) -> _Grid:
    """Put the columns as close as their names and captions allow."""
    gutter = _longest(lane.event for lane in picture.lanes) + _GAP
    spans: list[tuple[int, int]] = []
    divider = None
    name_end = caption_end = gutter - _GAP  # one past the last character so far
    for column, caption in zip(picture.columns, captions, strict=True):
        first_end = column.terminal and column is picture.terminal[0] and bool(spans)
        half = len(column.status) // 2
        gap = _GAP + 3 * first_end
        center = max(name_end + gap + half, caption_end + _GAP + len(caption) // 2)
        if first_end:
            divider = (name_end + center - half) // 2
        spans.append((center - half, center - half + len(column.status)))
        name_end = spans[-1][1]
        caption_end = max(center - len(caption) // 2 + len(caption), caption_end)
    centers = tuple(left + len(column.status) // 2 for (left, _), column in zip(spans, picture.columns, strict=True))
    return _Grid(gutter, centers, tuple(spans), divider)


def _evenly(picture: Picture, pitch: int, *, captions_after: bool) -> _Grid:
    """Put the columns `pitch` characters apart, terminal ones a little further."""
    captions = () if captions_after else (column.caption for column in picture.columns)
    gutter = _longest((*(lane.event for lane in picture.lanes), *captions)) + _GAP
    lives = len(picture.live)
    apart = _GAP if 0 < lives < len(picture.columns) else 0
    centers = tuple(gutter + index * pitch + apart * (index >= lives) for index in range(len(picture.columns)))
    divider = centers[lives] - (pitch + apart) // 2 if apart else None
    return _Grid(gutter, centers, tuple((center, center + 1) for center in centers), divider)


def _title(canvas: Canvas, picture: Picture, width: int) -> None:
    """Say which run this is, in ASCII whatever its id holds: other characters may be wider than they count."""
    standing = picture.standing
    if standing is None:
        return
    place = f"is {standing.status}"
    name = escape(standing.run_id or "").encode("ascii", "backslashreplace").decode("ascii")
    room = max(width - len(f"{TITLE} {place}"), 0)
    if len(name) > room:
        name = f"{name[: max(room - 3, 0)]}..."[:room]
    line = f"{TITLE}{name} {place}" if name else f"{TITLE}{place}"
    deadline = standing.time_of("expires_at")
    note = f", expires {deadline} UTC" if deadline else ", times in UTC"
    canvas.put(0, 0, line + note if len(line + note) <= width else line, BOLD)


def _groups(canvas: Canvas, y: int, picture: Picture, grid: _Grid, alphabet: Alphabet) -> None:
    """Rule a line over the live columns and one over the terminal ones."""
    lives = len(picture.live)
    for label, spans in (("live", grid.spans[:lives]), ("terminal", grid.spans[lives:])):
        if spans:
            left, right = spans[0][0], spans[-1][1]
            text = f"{alphabet.rule} {label} ".ljust(right - left, alphabet.rule)
            canvas.put(y, left, text if len(text) <= right - left else label, FAINT)


def _centered(canvas: Canvas, y: int, center: int, text: str, style: str) -> None:
    canvas.put(y, center - len(text) // 2, text, style)


def _paragraph(canvas: Canvas, text: str, width: int, style: str) -> None:
    """Write a text under everything else, folded between words."""
    lines = textwrap.wrap(
        text, max(width, 1), subsequent_indent=HANGING, break_long_words=False, break_on_hyphens=False
    )
    for line in lines:
        canvas.put(canvas.height, 0, line, style)


def _longest(texts: Iterable[str]) -> int:
    return max(map(len, texts), default=0)


def _name_style(column: StatusColumn) -> str:
    return f"{BOLD};{PAINT[column.tone]}" if column.here else PAINT[column.tone]


def _caption_style(column: StatusColumn) -> str:
    return PLAIN if column.times else FAINT
