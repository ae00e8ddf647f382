"""The colours of the roles: on a light page, on a dark page, and in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from runstate.diagram.model import ColorRole

__all__ = ["ANSI_STYLES", "DARK", "LIGHT", "RoleColors"]


@attrs.frozen
class RoleColors:
    """The colours of one role: a box, its outline and the lanes to it, its text, the box of the current status."""

    fill: str
    outline: str
    text: str
    current_fill: str


# Text on its box, and the page's colour on the current box, have a contrast above 4.5 : 1. A test checks it.
LIGHT: Final[Mapping[ColorRole, RoleColors]] = {
    "blue": RoleColors("#e8f0fe", "#1a73e8", "#174ea6", "#1967d2"),
    "amber": RoleColors("#fef7e0", "#d19a00", "#7a4f00", "#946200"),
    "green": RoleColors("#e6f4ea", "#188038", "#0d652d", "#188038"),
    "orange": RoleColors("#fdeee0", "#dd6b10", "#8f3e00", "#b84e00"),
    "red": RoleColors("#fce8e6", "#c5221f", "#a50e0e", "#c5221f"),
    "grey": RoleColors("#f1f3f4", "#5f6368", "#3c4043", "#5f6368"),
}
DARK: Final[Mapping[ColorRole, RoleColors]] = {
    "blue": RoleColors("#12274a", "#6ea8fe", "#b3d1ff", "#6ea8fe"),
    "amber": RoleColors("#352a0b", "#e3b341", "#f5d98b", "#e3b341"),
    "green": RoleColors("#10301c", "#4cc38a", "#a5e8c4", "#4cc38a"),
    "orange": RoleColors("#3a2110", "#f0883e", "#ffc89b", "#f0883e"),
    "red": RoleColors("#3d1616", "#f47067", "#ffb4ad", "#f47067"),
    "grey": RoleColors("#26292e", "#9aa0a6", "#d2d6db", "#9aa0a6"),
}
# Middle tones of the 256 colours: each has a contrast above 3 : 1 on white and on black. A test checks it.
ANSI_STYLES: Final[Mapping[ColorRole, str]] = {
    "blue": "38;5;33",
    "amber": "38;5;136",
    "green": "38;5;28",
    "orange": "38;5;166",
    "red": "38;5;167",
    "grey": "38;5;244",
}
"""The parameters of an ANSI "select graphic rendition" sequence."""
