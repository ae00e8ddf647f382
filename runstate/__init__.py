"""The lifecycle of an Assistants API run: in memory, in a store, in workers, and in tests.

`Run` is a run in memory: nine moves, each legal or refused by the table `RUN_LIFECYCLE`. `open_store` opens SQLite or
PostgreSQL, where runs are durable. `Worker` claims them and calls your handler, and `drive` does so for one run inside
another engine. All of that, and every error, can be imported from here. What needs a database is loaded on first use,
so `import runstate` stays light.

    runstate.lifecycle                 the table of transitions, and every look-up in it
    runstate.run                       one run: its values, its moves, its JSON
    runstate.traces                    reads recorded runs and judges whether a legal history can have left them
    runstate.store                     stores: durable runs, their histories, and the methods for workers
    runstate.worker                    workers and their handlers, `drive`, `Dispatcher`
    runstate.testing                   assertions, fixtures, transition coverage, Hypothesis strategies, conformance
    runstate.diagram                   draws the lifecycle, and the position of a run in it
    runstate.integrations.alembic      the tables of a store as a revision of an application
    runstate.integrations.django       the views of a store as read-only models
    runstate.integrations.otel         traces and metrics of handlers by OpenTelemetry
    runstate.integrations.pydantic_ai  durable agents of Pydantic AI: model requests and tool calls are steps of a run
    runstate.integrations.transitions  the lifecycle as a `transitions.Machine`, for a model of your own

The command `runstate` shows the lifecycle, and manages stored runs.
"""

import sys as _sys
import typing as _typing

from runstate._lazy import lazy as _lazy
from runstate.clock import Clock, ManualClock, SystemClock, use_clock
from runstate.lifecycle import (
    RUN_LIFECYCLE,
    TRANSITIONS,
    Basis,
    Lifecycle,
    RunEvent,
    RunStatus,
    Transition,
    allowed_events,
    documented,
    is_terminal,
    shortest_path,
    target_of,
)
from runstate.lifecycle.errors import DeadlinePassed, DefinitionError, IllegalTransition, RunstateError, TerminalStatus
from runstate.run import (
    DEFAULT_EXPIRES_IN_S,
    NO_USAGE,
    ErrorCode,
    IncompleteDetails,
    IncompleteReason,
    LastError,
    RequiredAction,
    Run,
    ToolCall,
    TruncationStrategy,
    Usage,
    new_run_id,
)
from runstate.run.errors import FieldError, InvalidRun, RunDecodeError, ToolOutputsMismatch

if _typing.TYPE_CHECKING:
    from runstate.store import (
        AsyncStore,
        Attempt,
        Entry,
        Event,
        NewRun,
        Page,
        PausedQueue,
        StepRecord,
        Store,
        StoredRun,
        WorkerInfo,
        open_store,
    )
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
    from runstate.worker import (
        Context,
        Dispatcher,
        Handler,
        Middleware,
        Outcome,
        RetryLater,
        RetryPolicy,
        RunFailed,
        StepInterrupted,
        TokenLimitReached,
        Worker,
        drive,
        drive_async,
    )
else:
    _STORE = (
        *("AsyncStore", "Attempt", "Entry", "Event", "NewRun", "Page", "PausedQueue", "StepRecord", "Store"),
        *("StoredRun", "WorkerInfo", "open_store"),
    )
    _WORKER = (
        "Context",
        "Dispatcher",
        "Handler",
        "Middleware",
        "Outcome",
        "RetryLater",
        "RetryPolicy",
        "RunFailed",
        "StepInterrupted",
        "TokenLimitReached",
        "Worker",
    )
    _STORE_ERRORS = (
        "AccessDenied",
        "IdempotencyKeyReused",
        "LeaseLost",
        "LostRace",
        "OutcomeUnknown",
        "RunIsLive",
        "RunNotFound",
        "SchemaMismatch",
        "StoreError",
        "StoreUnavailable",
        "StoreUrlError",
        "ThreadBusy",
        "VersionConflict",
    )
    _LATER = {
        **dict.fromkeys(_STORE_ERRORS, "runstate.store.errors"),
        **dict.fromkeys(_STORE, "runstate.store"),
        **dict.fromkeys((*_WORKER, "drive", "drive_async"), "runstate.worker"),
    }

    __getattr__, __dir__ = _lazy(__name__, _LATER)


if _sys.modules.get("hypothesis"):  # it looks for plugins when it is loaded; here it was loaded first
    from _runstate_hypothesis import register as _register

    _register()

__all__ = [
    "DEFAULT_EXPIRES_IN_S",
    "NO_USAGE",
    "RUN_LIFECYCLE",
    "TRANSITIONS",
    "AccessDenied",
    "AsyncStore",
    "Attempt",
    "Basis",
    "Clock",
    "Context",
    "DeadlinePassed",
    "DefinitionError",
    "Dispatcher",
    "Entry",
    "ErrorCode",
    "Event",
    "FieldError",
    "Handler",
    "IdempotencyKeyReused",
    "IllegalTransition",
    "IncompleteDetails",
    "IncompleteReason",
    "InvalidRun",
    "LastError",
    "LeaseLost",
    "Lifecycle",
    "LostRace",
    "ManualClock",
    "Middleware",
    "NewRun",
    "Outcome",
    "OutcomeUnknown",
    "Page",
    "PausedQueue",
    "RequiredAction",
    "RetryLater",
    "RetryPolicy",
    "Run",
    "RunDecodeError",
    "RunEvent",
    "RunFailed",
    "RunIsLive",
    "RunNotFound",
    "RunStatus",
    "RunstateError",
    "SchemaMismatch",
    "StepInterrupted",
    "StepRecord",
    "Store",
    "StoreError",
    "StoreUnavailable",
    "StoreUrlError",
    "StoredRun",
    "SystemClock",
    "TerminalStatus",
    "ThreadBusy",
    "TokenLimitReached",
    "ToolCall",
    "ToolOutputsMismatch",
    "Transition",
    "TruncationStrategy",
    "Usage",
    "VersionConflict",
    "Worker",
    "WorkerInfo",
    "allowed_events",
    "documented",
    "drive",
    "drive_async",
    "is_terminal",
    "new_run_id",
    "open_store",
    "shortest_path",
    "target_of",
    "use_clock",
]
