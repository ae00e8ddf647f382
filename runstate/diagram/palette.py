"""The colours of the tones, on light paper and on dark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from runstate.diagram.model import Tone

__all__ = ["DARK", "LIGHT", "Paint"]


@attrs.frozen
class Paint:
    """The colours of one tone: of a box, its outline and the lanes that lead there, its text, the box of the run."""

    fill: str
    edge: str
    ink: str
    solid: str


# Text on its box, and the paper's colour on a solid box, have a contrast above 4.5 : 1; a test holds this.
LIGHT: Final[Mapping[Tone, Paint]] = {
    "blue": Paint("#e8f0fe", "#1a73e8", "#174ea6", "#1967d2"),
    "amber": Paint("#fef7e0", "#d19a00", "#7a4f00", "#946200"),
    "green": Paint("#e6f4ea", "#188038", "#0d652d", "#188038"),
    "orange": Paint("#fdeee0", "#dd6b10", "#8f3e00", "#b84e00"),
    "red": Paint("#fce8e6", "#c5221f", "#a50e0e", "#c5221f"),
    "grey": Paint("#f1f3f4", "#5f6368", "#3c4043", "#5f6368"),
}
DARK: Final[Mapping[Tone, Paint]] = {
    "blue": Paint("#12274a", "#6ea8fe", "#b3d1ff", "#6ea8fe"),
    "amber": Paint("#352a0b", "#e3b341", "#f5d98b", "#e3b341"),
    "green": Paint("#10301c", "#4cc38a", "#a5e8c4", "#4cc38a"),
    "orange": Paint("#3a2110", "#f0883e", "#ffc89b", "#f0883e"),
    "red": Paint("#3d1616", "#f47067", "#ffb4ad", "#f47067"),
    "grey": Paint("#26292e", "#9aa0a6", "#d2d6db", "#9aa0a6"),
}
