"""All exceptions of runstate.

An error has fields for programs and one sentence for people. The class says what was wrong:

- `DefinitionError`: a table of transitions contradicts itself (a mistake of its author, found when it is loaded).
- `IllegalTransition`: the table refuses the event in the status of the run; `TerminalStatus` if the run has ended;
  `DeadlinePassed` if the event had to come before the deadline, and the run is not expired yet.
- `ToolOutputsMismatch`: the event is allowed, but not with these tool outputs.
- `InvalidRun`: a value that no run can have; `RunDecodeError` if it was read from outside.
- `LostRace`: another caller was faster; `VersionConflict` by the version, `LeaseLost` by the lease.
- `RunNotFound`, `RunIsLive`, `ThreadBusy`, `IdempotencyKeyReused`: the request does not fit what the store has.
- `StoreError`: a problem of the store; `retryable` says whether a retry can succeed.

After any of them the run is unchanged, except after `OutcomeUnknown`, which says that this is not known.
"""

from runstate.lifecycle.errors import DeadlinePassed, DefinitionError, IllegalTransition, RunstateError, TerminalStatus
from runstate.run.errors import FieldError, InvalidRun, RunDecodeError, ToolOutputsMismatch
from runstate.store.errors import (
    AccessDenied,
    IdempotencyKeyReused,
    LeaseLost,
    LostRace,
    OutcomeUnknown,
    RunIsLive,
    RunNotFound,
    SchemaMismatch,
    StoreError,
    StoreUnavailable,
    StoreUrlError,
    ThreadBusy,
    VersionConflict,
)

__all__ = [
    "AccessDenied",
    "DeadlinePassed",
    "DefinitionError",
    "FieldError",
    "IdempotencyKeyReused",
    "IllegalTransition",
    "InvalidRun",
    "LeaseLost",
    "LostRace",
    "OutcomeUnknown",
    "RunDecodeError",
    "RunIsLive",
    "RunNotFound",
    "RunstateError",
    "SchemaMismatch",
    "StoreError",
    "StoreUnavailable",
    "StoreUrlError",
    "TerminalStatus",
    "ThreadBusy",
    "ToolOutputsMismatch",
    "VersionConflict",
]
