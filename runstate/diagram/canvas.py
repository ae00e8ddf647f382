"""A canvas for text diagrams: characters at places, each with an optional ANSI style.

Also the two sets of glyphs, Unicode and plain ASCII.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias

import attrs

__all__ = ["ASCII", "BOLD", "FAINT", "PLAIN", "UNICODE", "Canvas", "Glyphs", "Stroke", "without_color"]

Style: TypeAlias = str
"""The parameters of one ANSI "select graphic rendition" sequence; empty for the default style."""

PLAIN: Final[Style] = ""
BOLD: Final[Style] = "1"
FAINT: Final[Style] = "2;38;5;244"

_ESCAPE: Final = re.compile(r"\x1b\[[0-9;]*m")


@attrs.frozen
class Stroke:
    """The characters of one lane. `line` is repeated, so two characters make a dashed line."""

    ring: str
    line: str
    right: str
    left: str
    both: str
    """The target, reached from both sides."""
    loop: str
    """A source that is the target as well."""


@attrs.frozen
class Glyphs:
    """The characters of one kind of text diagram."""

    solid: Stroke
    dashed: Stroke
    grid: str
    divider: str
    current: str
    rule: str
    corner: str
    stem: str
    arrow: str


UNICODE: Final = Glyphs(
    solid=Stroke(ring="●", line="─", right="▶", left="◀", both="◆", loop="◉"),
    dashed=Stroke(ring="○", line="╌", right="▷", left="◁", both="◇", loop="◎"),
    grid="·",
    divider="┊",
    current="▲",
    rule="─",
    corner="┌",
    stem="│",
    arrow="→",
)
ASCII: Final = Glyphs(
    solid=Stroke(ring="o", line="-", right=">", left="<", both="X", loop="@"),
    dashed=Stroke(ring="o", line="- ", right=">", left="<", both="X", loop="@"),
    grid=".",
    divider=":",
    current="^",
    rule="-",
    corner="+",
    stem="|",
    arrow="->",
)


@attrs.define
class Canvas:
    """Lines of styled characters, which grow as they are written to."""

    _lines: list[list[tuple[str, Style]]] = attrs.field(factory=list[list[tuple[str, Style]]])

    @property
    def height(self) -> int:
        """The number of lines."""
        return len(self._lines)

    @property
    def width(self) -> int:
        """The number of characters in the longest line."""
        return max(map(len, self._lines), default=0)

    def put(self, y: int, x: int, text: str, style: Style = PLAIN) -> None:
        """Write `text` into line `y` from column `x` on, over what is there."""
        while len(self._lines) <= y:
            self._lines.append([])
        line = self._lines[y]
        line.extend([(" ", PLAIN)] * (x - len(line)))
        line[x : x + len(text)] = [(char, style) for char in text]

    def text(self, *, color: bool) -> str:
        """Return the lines as text without trailing blanks; `color` adds ANSI styles."""
        return "\n".join(
            _with_ansi_styles(line) if color else "".join(char for char, _ in line).rstrip() for line in self._lines
        )


def without_color(text: str) -> str:
    """Return `text` without its ANSI colours."""
    return _ESCAPE.sub("", text)


def _with_ansi_styles(line: list[tuple[str, Style]]) -> str:
    end = len("".join(char for char, _ in line).rstrip())
    pieces: list[str] = []
    current = PLAIN
    for char, wanted in line[:end]:
        style = current if char == " " else wanted  # a blank shows no style
        if style != current:
            pieces.append(f"\x1b[0;{style}m" if style else "\x1b[0m")
            current = style
        pieces.append(char)
    return "".join(pieces) + ("\x1b[0m" if current else "")
