"""Squared paper for text pictures: characters put at places, each with a colour that may be left away.

Also the two alphabets, Unicode and plain ASCII. The reader of pictures (`reading.py`) uses the same ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, TypeAlias

import attrs

from runstate.diagram.model import Tone

__all__ = ["ASCII", "BOLD", "FAINT", "PAINT", "PLAIN", "UNICODE", "Alphabet", "Canvas", "Stroke", "without_color"]

Style: TypeAlias = str
"""The parameters of one ANSI "select graphic rendition" sequence; empty for the terminal's own colour."""

PLAIN: Final[Style] = ""
BOLD: Final[Style] = "1"
FAINT: Final[Style] = "2;38;5;244"
# Middle tones of the 256 colours: each has a contrast above 3 : 1 on white and on black; a test holds this.
PAINT: Final[Mapping[Tone, Style]] = {
    "blue": "38;5;33",
    "amber": "38;5;136",
    "green": "38;5;28",
    "orange": "38;5;166",
    "red": "38;5;167",
    "grey": "38;5;244",
}

_ESCAPE: Final = re.compile(r"\x1b\[[0-9;]*m")


@attrs.frozen
class Stroke:
    """How one lane is drawn. `line` is repeated, so that two characters make a dashed line."""

    ring: str
    line: str
    right: str
    left: str
    both: str
    """The target, reached from both sides."""
    loop: str
    """A source that is the target as well."""


@attrs.frozen
class Alphabet:
    """The characters of one kind of text picture."""

    lit: Stroke
    dim: Stroke
    grid: str
    divider: str
    here: str
    rule: str
    corner: str
    stem: str
    arrow: str


UNICODE: Final = Alphabet(
    lit=Stroke(ring="●", line="─", right="▶", left="◀", both="◆", loop="◉"),
    dim=Stroke(ring="○", line="╌", right="▷", left="◁", both="◇", loop="◎"),
    grid="·",
    divider="┊",
    here="▲",
    rule="─",
    corner="┌",
    stem="│",
    arrow="→",
)
ASCII: Final = Alphabet(
    lit=Stroke(ring="o", line="-", right=">", left="<", both="X", loop="@"),
    dim=Stroke(ring="o", line="- ", right=">", left="<", both="X", loop="@"),
    grid=".",
    divider=":",
    here="^",
    rule="-",
    corner="+",
    stem="|",
    arrow="->",
)


@attrs.define
class Canvas:
    """Lines of characters that grow as they are written on."""

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
        """Write `text` over whatever stands in line `y` from column `x` on."""
        while len(self._lines) <= y:
            self._lines.append([])
        line = self._lines[y]
        line.extend([(" ", PLAIN)] * (x - len(line)))
        line[x : x + len(text)] = [(char, style) for char in text]

    def text(self, *, color: bool) -> str:
        """Return the lines joined, none with blanks at its end."""
        return "\n".join(
            _painted(line) if color else "".join(char for char, _ in line).rstrip() for line in self._lines
        )


def without_color(text: str) -> str:
    """Return `text` without its ANSI colours."""
    return _ESCAPE.sub("", text)


def _painted(line: list[tuple[str, Style]]) -> str:
    end = len("".join(char for char, _ in line).rstrip())
    pieces: list[str] = []
    current = PLAIN
    for char, wanted in line[:end]:
        style = current if char == " " else wanted  # a blank shows no colour
        if style != current:
            pieces.append(f"\x1b[0;{style}m" if style else "\x1b[0m")
            current = style
        pieces.append(char)
    return "".join(pieces) + ("\x1b[0m" if current else "")
