"""The durable store of runs: SQLite for one machine, PostgreSQL for many.

    with open_store("sqlite:///runs.db") as store:
        run = store.create(thread_id="thread_1", assistant_id="asst_1", model="gpt-4o")
        store.request_cancel(run.id, actor="web")

Every method has a blocking form (`store.create(...)`) and an async form (`await store.aio.create(...)`). The database
itself refuses illegal changes, also from hand-written SQL.

The names of this package are imported on first access, so that `runstate.errors` imports no driver.
"""

from typing import TYPE_CHECKING

from runstate._lazy import lazy

if TYPE_CHECKING:
    from runstate.store._api.async_store import AsyncStore
    from runstate.store._api.create import DEFAULT_QUEUE, NewRun
    from runstate.store._api.event_writer import Emitter
    from runstate.store._api.methods import BoundStore
    from runstate.store._api.migrate_within import migrate_within
    from runstate.store._api.open import open_store
    from runstate.store._api.queries import Page
    from runstate.store._api.store import Store
    from runstate.store._api.trace_contexts import TraceContexts
    from runstate.store._api.worker_protocol import DEFAULT_MAX_ATTEMPTS, worker_name
    from runstate.store._notifier import Change
    from runstate.store._types import Attempt, Entry, Event, PausedQueue, StepRecord, StoredRun, WorkerInfo
    from runstate.store._worker_types import (
        Checkpoint,
        Claim,
        HeartbeatResult,
        Lease,
        Settle,
        SettleAndClaimResult,
        SweepResult,
    )
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "DEFAULT_MAX_ATTEMPTS": "runstate.store._api.worker_protocol",
            "DEFAULT_QUEUE": "runstate.store._api.create",
            "AsyncStore": "runstate.store._api.async_store",
            "Attempt": "runstate.store._types",
            "BoundStore": "runstate.store._api.methods",
            "Change": "runstate.store._notifier",
            "Checkpoint": "runstate.store._worker_types",
            "Claim": "runstate.store._worker_types",
            "Emitter": "runstate.store._api.event_writer",
            "Entry": "runstate.store._types",
            "Event": "runstate.store._types",
            "HeartbeatResult": "runstate.store._worker_types",
            "Lease": "runstate.store._worker_types",
            "NewRun": "runstate.store._api.create",
            "PausedQueue": "runstate.store._types",
            "Page": "runstate.store._api.queries",
            "Settle": "runstate.store._worker_types",
            "SettleAndClaimResult": "runstate.store._worker_types",
            "StepRecord": "runstate.store._types",
            "Store": "runstate.store._api.store",
            "StoredRun": "runstate.store._types",
            "SweepResult": "runstate.store._worker_types",
            "WorkerInfo": "runstate.store._types",
            "TraceContexts": "runstate.store._api.trace_contexts",
            "migrate_within": "runstate.store._api.migrate_within",
            "open_store": "runstate.store._api.open",
            "worker_name": "runstate.store._api.worker_protocol",
        },
    )

__all__ = [
    "DEFAULT_MAX_ATTEMPTS",
    "DEFAULT_QUEUE",
    "AsyncStore",
    "Attempt",
    "BoundStore",
    "Change",
    "Checkpoint",
    "Claim",
    "Emitter",
    "Entry",
    "Event",
    "HeartbeatResult",
    "Lease",
    "NewRun",
    "Page",
    "PausedQueue",
    "Settle",
    "SettleAndClaimResult",
    "StepRecord",
    "Store",
    "StoredRun",
    "SweepResult",
    "TraceContexts",
    "WorkerInfo",
    "migrate_within",
    "open_store",
    "worker_name",
]
