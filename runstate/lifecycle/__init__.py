"""The lifecycle of a run: nine statuses, nine events, nineteen transitions, and every look-up derived from them.

This package knows nothing of time, storage, JSON or people: it has no input and no output.
"""

from runstate.lifecycle._lifecycle import (
    LAW,
    Law,
    allowed_events,
    check_complete,
    documented,
    is_terminal,
    shortest_path,
    target_of,
)
from runstate.lifecycle._table import BIRTH, TRANSITIONS
from runstate.lifecycle._types import Basis, Field, RunEvent, RunStatus, Stamp, Transition

__all__ = [
    "BIRTH",
    "LAW",
    "TRANSITIONS",
    "Basis",
    "Field",
    "Law",
    "RunEvent",
    "RunStatus",
    "Stamp",
    "Transition",
    "allowed_events",
    "check_complete",
    "documented",
    "is_terminal",
    "shortest_path",
    "target_of",
]
