"""The lifecycle of a run: nine statuses, nine events, nineteen transitions, and every look-up derived from them.

This package has no input and no output, and knows nothing of time, storage or JSON.
"""

from runstate.lifecycle._lifecycle import (
    RUN_LIFECYCLE,
    Lifecycle,
    allowed_events,
    documented,
    is_terminal,
    shortest_path,
    target_of,
    validate_lifecycle,
)
from runstate.lifecycle._table import INITIAL_STATUS, TRANSITIONS
from runstate.lifecycle._types import Basis, RunEvent, RunStatus, Stamp, StatusField, Transition

__all__ = [
    "INITIAL_STATUS",
    "RUN_LIFECYCLE",
    "TRANSITIONS",
    "Basis",
    "Lifecycle",
    "RunEvent",
    "RunStatus",
    "Stamp",
    "StatusField",
    "Transition",
    "allowed_events",
    "documented",
    "is_terminal",
    "shortest_path",
    "target_of",
    "validate_lifecycle",
]
