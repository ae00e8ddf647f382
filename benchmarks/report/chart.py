"""Bars: one panel a database, one bar a contestant, as an SVG that reads on light paper and on dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final, Literal, NamedTuple, TypeAlias

from runstate.diagram.model import ColorRole
from runstate.diagram.palette import DARK, LIGHT, RoleColors

Kind: TypeAlias = Literal["runstate", "baseline", "peer"]

WIDTH: Final = 860
LABELS: Final = 250
ROW: Final = 26
BAR: Final = 16
HEAD: Final = 34
MARGIN: Final = 16
_ROLES: Final[Mapping[Kind, ColorRole]] = {"runstate": "blue", "baseline": "grey", "peer": "orange"}


class Bar(NamedTuple):
    """One contestant's figure."""

    name: str
    value: float
    kind: Kind


class Panel(NamedTuple):
    """The bars that can be compared with each other."""

    title: str
    bars: Sequence[Bar]


def _style() -> str:
    def colours(paper: str, ink: str, note: str, palette: Mapping[ColorRole, RoleColors]) -> str:
        edges = {kind: palette[role].outline for kind, role in _ROLES.items()}
        rules = "".join(f".bars .{kind}{{fill:{edge}}}" for kind, edge in edges.items())
        return f".bars .paper{{fill:{paper}}}.bars text{{fill:{ink}}}.bars .note{{fill:{note}}}{rules}"

    light = colours("#fff", "#202124", "#5f6368", LIGHT)
    dark = colours("#16181c", "#e8eaed", "#9aa0a6", DARK)
    font = 'font-family:system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif;font-size:13px'
    heads = ".bars .title{font-size:15px;font-weight:600}.bars .note{font-size:11.5px}.bars .bold{font-weight:600}"
    return f".bars{{{font}}}{heads}{light}@media (prefers-color-scheme:dark){{{dark}}}"


def _panel(panel: Panel, top: float) -> list[str]:
    most = max(bar.value for bar in panel.bars)
    room = WIDTH - LABELS - 2 * MARGIN - 80
    lines = [f'<text class="title" x="{MARGIN}" y="{top + 20:g}">{escape(panel.title)}</text>']
    for place, bar in enumerate(panel.bars):
        middle = top + HEAD + place * ROW + ROW / 2
        length = max(1.0, room * bar.value / most)
        bold = ' class="bold"' if bar.kind == "runstate" else ""
        size = f'width="{length:.1f}" height="{BAR}" rx="2"'
        lines += [
            f'<text{bold} x="{LABELS}" y="{middle + 4.5:g}" text-anchor="end">{escape(bar.name)}</text>',
            f'<rect class="{bar.kind}" x="{LABELS + 10}" y="{middle - BAR / 2:g}" {size}/>',
            f'<text{bold} x="{LABELS + 18 + length:.1f}" y="{middle + 4.5:g}">{bar.value:,.0f}</text>',
        ]
    return lines


def chart(title: str, note: str, panels: Sequence[Panel]) -> str:
    """Return the SVG. Each panel has a scale of its own; the longest bar is its best."""
    lines: list[str] = []
    top = MARGIN + 46.0
    for panel in panels:
        lines += _panel(panel, top)
        top += HEAD + ROW * len(panel.bars) + 18
    figures = [", ".join(f"{bar.name} {bar.value:,.0f}" for bar in panel.bars) for panel in panels]
    told = "; ".join(f"{panel.title}: {each}" for panel, each in zip(panels, figures, strict=True))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="bars" role="img" width="{WIDTH}" height="{top:g}"'
        f' viewBox="0 0 {WIDTH} {top:g}">'
    )
    return "\n".join(
        (
            head,
            f"<title>{escape(title)}</title>",
            f"<desc>{escape(told)}</desc>",
            f"<style>{_style()}</style>",
            f'<rect class="paper" width="{WIDTH}" height="{top:g}" rx="6"/>',
            f'<text class="title" x="{MARGIN}" y="{MARGIN + 14}">{escape(title)}</text>',
            f'<text class="note" x="{MARGIN}" y="{MARGIN + 34}">{escape(note)}</text>',
            *lines,
            "</svg>\n",
        )
    )
