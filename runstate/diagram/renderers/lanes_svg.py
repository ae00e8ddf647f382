"""Lanes as an SVG that needs nothing else: no script, no font file, light and dark by the reader's own setting.

It brings its own paper, so that it stays readable on a page whose colours are not the reader's setting.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape as escape_html
from typing import Final

import attrs

from runstate.diagram.model import Lane, Picture, StatusColumn, Tone
from runstate.diagram.palette import DARK, LIGHT, Paint
from runstate.run.json_values import escape

__all__ = ["lanes_svg"]

_STYLE: Final = """\
.runstate{font-family:system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif;font-size:13px}
.runstate text{fill:#202124}
.runstate .paper{fill:#fff}
.runstate .guide,.runstate .divider{stroke:#dadce0;stroke-width:1}
.runstate .divider{stroke:#9aa0a6;stroke-dasharray:2 4}
.runstate .note{fill:#5f6368;font-size:11px}
.runstate .title{font-size:16px;font-weight:600}
.runstate .status .name{font-weight:600}
.runstate .status .caption{font-size:10.5px}
.runstate rect{stroke-width:1.4}
.runstate .row{fill:none;pointer-events:all}
.runstate .lane line,.runstate .lane path{fill:none;stroke-width:2}
.runstate circle{fill:#fff;stroke-width:2}
.runstate .askable .name{font-weight:600}
.runstate .dim{opacity:.35}"""
_DARK_STYLE: Final = """\
.runstate text{fill:#e6e8eb}
.runstate .paper,.runstate circle{fill:#0d1117}
.runstate .guide{stroke:#262c36}
.runstate .divider{stroke:#57606a}
.runstate .note{fill:#9aa4af}"""

_RING: Final = 4.5
_HEAD: Final = 9
_MARGIN: Final = 20
_BOX_TOP: Final = 64
_BOX_HEIGHT: Final = 44
_FIRST_LANE: Final = 136
_ROW: Final = 30
_GAP: Final = 10
_BORDER: Final = 4
"""From the box of a terminal status to the second line around it, and a little more."""
_GROUP_GAP: Final = 26
_NAME_CHAR: Final = 8.0
_CAPTION_CHAR: Final = 6.2
_LONGEST_TITLE: Final = 80


@attrs.frozen
class _Layout:
    """Where everything is, in pixels."""

    gutter: float
    boxes: tuple[tuple[float, float], ...]
    """Left edge and width of each status."""
    width: float
    bottom: float
    """Under the last lane."""

    def center(self, index: int) -> float:
        """Return the middle of the column."""
        left, width = self.boxes[index]
        return left + width / 2


def lanes_svg(picture: Picture) -> str:
    """Return the lanes as one SVG element. Everything in it that came from outside is escaped."""
    sheet = _measured(picture)
    height = sheet.bottom + 44
    title = _title(picture)
    size = f'width="{_n(sheet.width)}" height="{_n(height)}"'
    view = f'viewBox="0 0 {_n(sheet.width)} {_n(height)}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="runstate" role="img" {size} {view}>',
        f"<title>{escape_html(title)}</title>",
        f"<desc>{escape_html(_description(picture))}</desc>",
        f"<style>\n{_style()}\n</style>",
        f'<rect class="paper" {size} rx="8"/>',
        f'<text class="title" x="{_n(sheet.width / 2)}" y="28" text-anchor="middle">{escape_html(title)}</text>',
        *_guides(picture, sheet),
        *(_box(column, *box) for column, box in zip(picture.columns, sheet.boxes, strict=True)),
        *(
            line
            for row, lane in enumerate(picture.lanes)
            for line in _lane(picture, lane, sheet, _FIRST_LANE + row * _ROW)
        ),
        *_legend(picture, sheet),
        "</svg>",
    ]
    return "\n".join(parts)


def _measured(picture: Picture) -> _Layout:
    gutter = _MARGIN + max((len(lane.event) for lane in picture.lanes), default=0) * _NAME_CHAR + 14
    left = gutter
    boxes: list[tuple[float, float]] = []
    for index, column in enumerate(picture.columns):
        width = max(len(column.status) * _NAME_CHAR, len(column.caption) * _CAPTION_CHAR) + 20
        if column.terminal and index == len(picture.live) > 0:
            left += _GROUP_GAP
        boxes.append((left, width))
        left += width + _GAP + _BORDER * column.terminal
    return _Layout(
        gutter, tuple(boxes), max(left - _GAP + _MARGIN, 460.0), _FIRST_LANE + len(picture.lanes) * _ROW - 14
    )


def _title(picture: Picture) -> str:
    standing = picture.standing
    if standing is None:
        return "Run lifecycle"
    name = "" if standing.run_id is None else f" {escape(standing.run_id)}"
    title = f"Run{name} is {standing.status}"
    return title if len(title) <= _LONGEST_TITLE else f"{title[:_LONGEST_TITLE]}…"


def _description(picture: Picture) -> str:
    return " ".join(
        (
            "Each row is an event: rings where it may be asked, an arrow head where it leads.",
            *(f"{lane.sentence}." for lane in picture.lanes),
        )
    )


def _style() -> str:
    dark = "\n".join((_DARK_STYLE, *_tones(DARK, "#0d1117")))
    return "\n".join((_STYLE, *_tones(LIGHT, "#fff"), f"@media (prefers-color-scheme:dark){{\n{dark}\n}}"))


def _tones(paints: Mapping[Tone, Paint], paper: str) -> Iterator[str]:
    for tone, paint in paints.items():
        yield f".runstate .status.{tone} rect{{fill:{paint.fill};stroke:{paint.edge}}}"
        yield f".runstate .status.{tone} text{{fill:{paint.ink}}}"
        yield f".runstate .status.{tone}.here .box{{fill:{paint.solid};stroke:{paint.solid}}}"
        yield f".runstate .status.{tone}.here text{{fill:{paper}}}"
        yield f".runstate .lane.{tone} :is(line,path,circle){{stroke:{paint.edge}}}"
        yield f".runstate .lane.{tone} polygon{{fill:{paint.edge}}}"


def _guides(picture: Picture, sheet: _Layout) -> Iterator[str]:
    """A faint line down from each status, and one between those a run can leave and those it cannot."""
    lives = len(picture.live)
    for index in range(len(picture.columns)):
        x = _n(sheet.center(index))
        yield f'<line class="guide" x1="{x}" y1="{_BOX_TOP + _BOX_HEIGHT + 4}" x2="{x}" y2="{_n(sheet.bottom)}"/>'
    if 0 < lives < len(picture.columns):
        x = _n(sheet.boxes[lives][0] - (_GROUP_GAP + _GAP) / 2)
        yield f'<line class="divider" x1="{x}" y1="44" x2="{x}" y2="{_n(sheet.bottom)}"/>'
    for text, first, group in (("live", 0, picture.live), ("terminal: no way out", lives, picture.terminal)):
        if group:
            yield f'<text class="note" x="{_n(sheet.boxes[first][0])}" y="52">{text}</text>'


def _box(column: StatusColumn, left: float, width: float) -> str:
    classes = f"status {column.tone}{' here' * column.here}"
    shape = f'x="{_n(left)}" y="{_BOX_TOP}" width="{_n(width)}" height="{_BOX_HEIGHT}" rx="8"'
    border = f'<rect x="{_n(left - 3)}" y="{_BOX_TOP - 3}" width="{_n(width + 6)}" height="{_BOX_HEIGHT + 6}" rx="11"/>'
    middle = _n(left + width / 2)
    name_y = _BOX_TOP + (19 if column.caption else 27)
    caption = f'<text class="caption" x="{middle}" y="{_BOX_TOP + 35}" text-anchor="middle">{column.caption}</text>'
    return (
        f'<g class="{classes}"><title>{column.status}: {escape_html(column.status.meaning)}</title>'
        f'{border * column.terminal}<rect class="box" {shape}/>'
        f'<text class="name" x="{middle}" y="{name_y}" text-anchor="middle">{column.status}</text>'
        f"{caption * bool(column.caption)}</g>"
    )


def _lane(picture: Picture, lane: Lane, sheet: _Layout, y: float) -> Iterator[str]:
    at = {column.status: sheet.center(index) for index, column in enumerate(picture.columns)}
    target = at[lane.target]
    sources = [at[status] for status in lane.sources]
    leads_back = target in sources
    emphasis = "" if picture.standing is None else " askable" if lane.askable else " dim"
    yield f'<g class="lane {lane.tone}{emphasis}"><title>{lane.sentence}</title>'
    yield f'<rect class="row" width="{_n(sheet.width)}" y="{_n(y - _ROW / 2)}" height="{_ROW}"/>'
    yield f'<text class="name" x="{_n(sheet.gutter - 14)}" y="{_n(y + 4.5)}" text-anchor="end">{lane.event}</text>'
    for side, end in ((1, min(sources)), (-1, max(sources))):  # from the left, from the right
        if (target - end) * side > 0:
            tip = target - side * (_RING + 1) * leads_back
            yield f'<line x1="{_n(end)}" y1="{_n(y)}" x2="{_n(tip - side * (_HEAD - 1))}" y2="{_n(y)}"/>'
            yield _head(tip, y, tip - side * _HEAD, y)
    if leads_back:
        yield f'<path d="M{_n(target + 3)},{_n(y - 3)}c12,-14 -22,-15 -11.5,-6.5"/>'
        yield _head(target - 2.5, y - 3.5, target - 9.5, y - 9.5)
    yield from (f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{_RING}"/>' for x in sources)
    yield "</g>"


def _head(x: float, y: float, from_x: float, from_y: float) -> str:
    """Return an arrow head whose tip, its first corner, is at (x, y), seen from where it comes."""
    across_x, across_y = (from_y - y) * 0.5, (x - from_x) * 0.5
    corners = ((x, y), (from_x + across_x, from_y + across_y), (from_x - across_x, from_y - across_y))
    return f'<polygon points="{" ".join(f"{_n(a)},{_n(b)}" for a, b in corners)}"/>'


def _legend(picture: Picture, sheet: _Layout) -> Iterator[str]:
    x, y = sheet.gutter + 6, sheet.bottom + 20
    deadline = None if picture.standing is None else picture.standing.time_of("expires_at")
    small = "small: the stamp it writes" if picture.standing is None else "small: its time (UTC), else its stamp"
    small += f"; the run expires {deadline}" if deadline else ""
    yield f'<g class="legend lane grey"><circle cx="{_n(x)}" cy="{_n(y)}" r="{_RING}"/>'
    yield _head(x + 113, y, x + 104, y)
    for offset, text in ((11, "may be asked"), (120, "leads to"), (188, small)):
        yield f'<text class="note" x="{_n(x + offset)}" y="{_n(y + 4)}">{text}</text>'
    yield "</g>"


def _n(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
