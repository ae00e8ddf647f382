"""Every exception of runstate, and the sentence it speaks.

An error is a small record: fields for programs, one sentence for people. Whose fault it is decides the class:

- `DefinitionError`: the table itself contradicts itself (a developer's mistake, found when it loads).
- `IllegalTransition`: the law refused the event where the run stands; `TerminalStatus` when nothing can ever be asked;
  `DeadlinePassed` when the event had to come before the deadline, and the run is not expired yet.
- `ToolOutputsMismatch`: the event may be asked, but not with these tool outputs.
- `InvalidRun`: a value that no run can have; `RunDecodeError` when it was read from outside.
- `LostRace`: somebody else was faster; `Conflict` by the version, `LeaseLost` by the lease.
- `RunNotFound`, `ThreadBusy`, `KeyReused`: what was asked does not fit what the store holds.
- `StoreError`: the store's own trouble; `retryable` says whether asking again can help.

After any of them the run is as it was. (After `OutcomeUnknown` nobody knows: that is what it says.)
"""

from runstate.lifecycle.errors import DeadlinePassed, DefinitionError, IllegalTransition, RunstateError, TerminalStatus
from runstate.run.errors import FieldError, InvalidRun, RunDecodeError, ToolOutputsMismatch
from runstate.store.errors import (
    AccessDenied,
    Conflict,
    KeyReused,
    LeaseLost,
    LostRace,
    OutcomeUnknown,
    RunNotFound,
    SchemaMismatch,
    StoreError,
    StoreUnavailable,
    StoreUrlError,
    ThreadBusy,
)

__all__ = [
    "AccessDenied",
    "Conflict",
    "DeadlinePassed",
    "DefinitionError",
    "FieldError",
    "IllegalTransition",
    "InvalidRun",
    "KeyReused",
    "LeaseLost",
    "LostRace",
    "OutcomeUnknown",
    "RunDecodeError",
    "RunNotFound",
    "RunstateError",
    "SchemaMismatch",
    "StoreError",
    "StoreUnavailable",
    "StoreUrlError",
    "TerminalStatus",
    "ThreadBusy",
    "ToolOutputsMismatch",
]
