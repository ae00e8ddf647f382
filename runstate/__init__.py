"""The lifecycle of an Assistants API run, as one explicit table.

Three uses: drive runs in a worker (`Run`), assert transition rules in tests (`LAW`, `TRANSITIONS`, `judge`), print
state diagrams (`runstate.diagram`). Everything public is here, but for the faces: `runstate.diagram` draws, and
`runstate.machine` is the same law for those who live with `transitions`.
"""

import sys as _sys

from runstate.clock import Clock, ManualClock, SystemClock, use_clock
from runstate.errors import (
    Fault,
    IllegalTransition,
    InvalidRun,
    LawError,
    RunDecodeError,
    RunstateError,
    TerminalStatus,
    ToolOutputsMismatch,
)
from runstate.ids import new_run_id
from runstate.lifecycle import (
    LAW,
    TRANSITIONS,
    Basis,
    Law,
    RunEvent,
    RunStatus,
    Transition,
    allowed_events,
    documented,
    is_terminal,
    shortest_path,
    target_of,
)
from runstate.run import DEFAULT_EXPIRES_IN_S, Run
from runstate.values import (
    NO_USAGE,
    ErrorCode,
    IncompleteDetails,
    IncompleteReason,
    LastError,
    RequiredAction,
    ToolCall,
    TruncationStrategy,
    Usage,
)

if _sys.modules.get("hypothesis"):  # which looks for those that tell it of their types as it is loaded
    from _runstate_hypothesis import register as _register

    _register()

__all__ = [
    "DEFAULT_EXPIRES_IN_S",
    "LAW",
    "NO_USAGE",
    "TRANSITIONS",
    "Basis",
    "Clock",
    "ErrorCode",
    "Fault",
    "IllegalTransition",
    "IncompleteDetails",
    "IncompleteReason",
    "InvalidRun",
    "LastError",
    "Law",
    "LawError",
    "ManualClock",
    "RequiredAction",
    "Run",
    "RunDecodeError",
    "RunEvent",
    "RunStatus",
    "RunstateError",
    "SystemClock",
    "TerminalStatus",
    "ToolCall",
    "ToolOutputsMismatch",
    "Transition",
    "TruncationStrategy",
    "Usage",
    "allowed_events",
    "documented",
    "is_terminal",
    "new_run_id",
    "shortest_path",
    "target_of",
    "use_clock",
]
