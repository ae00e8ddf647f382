"""One run: its fields, its values, its nine moves, and its JSON. No input and no output.

`Run` is a run in memory. `RunSnapshot` is a run that was read, and has no moves. Modules whose names begin with an
underscore are private to this package; the others serve the packages above. `runstate.run.codec` reads and writes JSON,
and is loaded when it is first needed.
"""

from runstate.run._run import DEFAULT_EXPIRES_IN_S, Run
from runstate.run.ids import new_run_id
from runstate.run.record import RunRecord
from runstate.run.snapshot import RunSnapshot
from runstate.run.values import (
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

__all__ = [
    "DEFAULT_EXPIRES_IN_S",
    "NO_USAGE",
    "ErrorCode",
    "IncompleteDetails",
    "IncompleteReason",
    "LastError",
    "RequiredAction",
    "Run",
    "RunRecord",
    "RunSnapshot",
    "ToolCall",
    "TruncationStrategy",
    "Usage",
    "new_run_id",
]
