"""Lanes as a self-contained SVG: no script, no font file, light or dark by the setting of the browser.

It has its own background, so it stays readable on a page that does not follow that setting.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape as escape_html
from typing import Final

import attrs

from runstate.diagram.model import ColorRole, DiagramModel, Lane, StatusColumn
from runstate.diagram.palette import DARK, LIGHT, RoleColors
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
"""Room for the second outline around the box of a terminal status."""
_GROUP_GAP: Final = 26
_NAME_CHAR: Final = 8.0
_CAPTION_CHAR: Final = 6.2
_LONGEST_TITLE: Final = 80


@attrs.frozen
class _Layout:
    """The places of the parts, in pixels."""

    gutter: float
    boxes: tuple[tuple[float, float], ...]
    """Left edge and width of each status."""
    width: float
    bottom: float
    """The lower edge of the last lane."""

    def center(self, index: int) -> float:
        """Return the middle of the column."""
        left, width = self.boxes[index]
        return left + width / 2


def lanes_svg(model: DiagramModel) -> str:
    """Return the lanes as one SVG element. All text from outside is escaped."""
    layout = _compute_layout(model)
    height = layout.bottom + 44
    title = _title(model)
    size = f'width="{_px(layout.width)}" height="{_px(height)}"'
    view = f'viewBox="0 0 {_px(layout.width)} {_px(height)}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="runstate" role="img" {size} {view}>',
        f"<title>{escape_html(title)}</title>",
        f"<desc>{escape_html(_description(model))}</desc>",
        f"<style>\n{_style()}\n</style>",
        f'<rect class="paper" {size} rx="8"/>',
        f'<text class="title" x="{_px(layout.width / 2)}" y="28" text-anchor="middle">{escape_html(title)}</text>',
        *_guides(model, layout),
        *(_box(column, *box) for column, box in zip(model.columns, layout.boxes, strict=True)),
        *(
            line
            for row, lane in enumerate(model.lanes)
            for line in _lane(model, lane, layout, _FIRST_LANE + row * _ROW)
        ),
        *_legend(model, layout),
        "</svg>",
    ]
    return "\n".join(parts)


def _compute_layout(model: DiagramModel) -> _Layout:
    gutter = _MARGIN + max((len(lane.event) for lane in model.lanes), default=0) * _NAME_CHAR + 14
    left = gutter
    boxes: list[tuple[float, float]] = []
    for index, column in enumerate(model.columns):
        width = max(len(column.status) * _NAME_CHAR, len(column.caption) * _CAPTION_CHAR) + 20
        if column.is_terminal and index == len(model.live) > 0:
            left += _GROUP_GAP
        boxes.append((left, width))
        left += width + _GAP + _BORDER * column.is_terminal
    return _Layout(gutter, tuple(boxes), max(left - _GAP + _MARGIN, 460.0), _FIRST_LANE + len(model.lanes) * _ROW - 14)


def _title(model: DiagramModel) -> str:
    position = model.position
    if position is None:
        return "Run lifecycle"
    name = "" if position.run_id is None else f" {escape(position.run_id)}"
    title = f"Run{name} is {position.status}"
    return title if len(title) <= _LONGEST_TITLE else f"{title[:_LONGEST_TITLE]}…"


def _description(model: DiagramModel) -> str:
    return " ".join(
        (
            "Each row is an event. Rings mark the statuses that allow it, an arrow head the status it leads to.",
            *(f"{lane.sentence}." for lane in model.lanes),
        )
    )


def _style() -> str:
    dark = "\n".join((_DARK_STYLE, *_role_styles(DARK, "#0d1117")))
    return "\n".join((_STYLE, *_role_styles(LIGHT, "#fff"), f"@media (prefers-color-scheme:dark){{\n{dark}\n}}"))


def _role_styles(palette: Mapping[ColorRole, RoleColors], background: str) -> Iterator[str]:
    for role, colors in palette.items():
        yield f".runstate .status.{role} rect{{fill:{colors.fill};stroke:{colors.outline}}}"
        yield f".runstate .status.{role} text{{fill:{colors.text}}}"
        yield f".runstate .status.{role}.here .box{{fill:{colors.current_fill};stroke:{colors.current_fill}}}"
        yield f".runstate .status.{role}.here text{{fill:{background}}}"
        yield f".runstate .lane.{role} :is(line,path,circle){{stroke:{colors.outline}}}"
        yield f".runstate .lane.{role} polygon{{fill:{colors.outline}}}"


def _guides(model: DiagramModel, layout: _Layout) -> Iterator[str]:
    """Yield a faint line down from each status, and one between the live and the terminal ones."""
    live_count = len(model.live)
    for index in range(len(model.columns)):
        x = _px(layout.center(index))
        yield f'<line class="guide" x1="{x}" y1="{_BOX_TOP + _BOX_HEIGHT + 4}" x2="{x}" y2="{_px(layout.bottom)}"/>'
    if 0 < live_count < len(model.columns):
        x = _px(layout.boxes[live_count][0] - (_GROUP_GAP + _GAP) / 2)
        yield f'<line class="divider" x1="{x}" y1="44" x2="{x}" y2="{_px(layout.bottom)}"/>'
    for text, first, group in (("live", 0, model.live), ("terminal: no way out", live_count, model.terminal)):
        if group:
            yield f'<text class="note" x="{_px(layout.boxes[first][0])}" y="52">{text}</text>'


def _box(column: StatusColumn, left: float, width: float) -> str:
    classes = f"status {column.role}{' here' * column.is_current}"
    shape = f'x="{_px(left)}" y="{_BOX_TOP}" width="{_px(width)}" height="{_BOX_HEIGHT}" rx="8"'
    border = (
        f'<rect x="{_px(left - 3)}" y="{_BOX_TOP - 3}" width="{_px(width + 6)}" height="{_BOX_HEIGHT + 6}" rx="11"/>'
    )
    middle = _px(left + width / 2)
    name_y = _BOX_TOP + (19 if column.caption else 27)
    caption = f'<text class="caption" x="{middle}" y="{_BOX_TOP + 35}" text-anchor="middle">{column.caption}</text>'
    return (
        f'<g class="{classes}"><title>{column.status}: {escape_html(column.status.meaning)}</title>'
        f'{border * column.is_terminal}<rect class="box" {shape}/>'
        f'<text class="name" x="{middle}" y="{name_y}" text-anchor="middle">{column.status}</text>'
        f"{caption * bool(column.caption)}</g>"
    )


def _lane(model: DiagramModel, lane: Lane, layout: _Layout, y: float) -> Iterator[str]:
    at = {column.status: layout.center(index) for index, column in enumerate(model.columns)}
    target = at[lane.target]
    sources = [at[status] for status in lane.sources]
    leads_back = target in sources
    emphasis = "" if model.position is None else " askable" if lane.is_allowed else " dim"
    yield f'<g class="lane {lane.role}{emphasis}"><title>{lane.sentence}</title>'
    yield f'<rect class="row" width="{_px(layout.width)}" y="{_px(y - _ROW / 2)}" height="{_ROW}"/>'
    yield f'<text class="name" x="{_px(layout.gutter - 14)}" y="{_px(y + 4.5)}" text-anchor="end">{lane.event}</text>'
    for side, end in ((1, min(sources)), (-1, max(sources))):  # arrows from the left, then from the right
        if (target - end) * side > 0:
            tip = target - side * (_RING + 1) * leads_back
            yield f'<line x1="{_px(end)}" y1="{_px(y)}" x2="{_px(tip - side * (_HEAD - 1))}" y2="{_px(y)}"/>'
            yield _head(tip, y, tip - side * _HEAD, y)
    if leads_back:
        yield f'<path d="M{_px(target + 3)},{_px(y - 3)}c12,-14 -22,-15 -11.5,-6.5"/>'
        yield _head(target - 2.5, y - 3.5, target - 9.5, y - 9.5)
    yield from (f'<circle cx="{_px(x)}" cy="{_px(y)}" r="{_RING}"/>' for x in sources)
    yield "</g>"


def _head(x: float, y: float, from_x: float, from_y: float) -> str:
    """Return an arrow head from (from_x, from_y) with its tip, the first corner, at (x, y)."""
    across_x, across_y = (from_y - y) * 0.5, (x - from_x) * 0.5
    corners = ((x, y), (from_x + across_x, from_y + across_y), (from_x - across_x, from_y - across_y))
    return f'<polygon points="{" ".join(f"{_px(a)},{_px(b)}" for a, b in corners)}"/>'


def _legend(model: DiagramModel, layout: _Layout) -> Iterator[str]:
    x, y = layout.gutter + 6, layout.bottom + 20
    deadline = None if model.position is None else model.position.time_of("expires_at")
    small = "small: the stamp it writes" if model.position is None else "small: its time (UTC), else its stamp"
    small += f"; the run expires {deadline}" if deadline else ""
    yield f'<g class="legend lane grey"><circle cx="{_px(x)}" cy="{_px(y)}" r="{_RING}"/>'
    yield _head(x + 113, y, x + 104, y)
    for offset, text in ((11, "allowed here"), (120, "leads to"), (188, small)):
        yield f'<text class="note" x="{_px(x + offset)}" y="{_px(y + 4)}">{text}</text>'
    yield "</g>"


def _px(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
