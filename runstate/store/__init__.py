"""Runs that survive: in SQLite, for one machine, or PostgreSQL, for many.

    with open_store("sqlite:///runs.db") as store:
        run = store.create(thread_id="thread_1", assistant_id="asst_1", model="gpt-4o")
        store.request_cancel(run.id, actor="web")

Every method is there for threads (`store.create(...)`) and for coroutines (`await store.aio.create(...)`), over one
committer. The database holds the law by itself, and refuses what is illegal to hand-written SQL too.

What is named here is loaded when it is first asked for, so that `runstate.errors` loads no driver.
"""

from typing import TYPE_CHECKING

from runstate._lazy import lazy

if TYPE_CHECKING:
    from runstate.store._api.create import DEFAULT_QUEUE, NewRun
    from runstate.store._api.open import open_store
    from runstate.store._api.queries import Page
    from runstate.store._api.store import AsyncStore, BoundStore, Store
    from runstate.store._api.worker_protocol import (
        DEFAULT_MAX_ATTEMPTS,
        Claim,
        HeartbeatResult,
        Lease,
        SweepResult,
    )
    from runstate.store._types import Entry, Settle, StoredRun
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "DEFAULT_MAX_ATTEMPTS": "runstate.store._api.worker_protocol",
            "DEFAULT_QUEUE": "runstate.store._api.create",
            "AsyncStore": "runstate.store._api.store",
            "HeartbeatResult": "runstate.store._api.worker_protocol",
            "BoundStore": "runstate.store._api.store",
            "Claim": "runstate.store._api.worker_protocol",
            "Entry": "runstate.store._types",
            "Lease": "runstate.store._api.worker_protocol",
            "NewRun": "runstate.store._api.create",
            "Page": "runstate.store._api.queries",
            "Settle": "runstate.store._types",
            "Store": "runstate.store._api.store",
            "StoredRun": "runstate.store._types",
            "SweepResult": "runstate.store._api.worker_protocol",
            "open_store": "runstate.store._api.open",
        },
    )

__all__ = [
    "DEFAULT_MAX_ATTEMPTS",
    "DEFAULT_QUEUE",
    "AsyncStore",
    "BoundStore",
    "Claim",
    "Entry",
    "HeartbeatResult",
    "Lease",
    "NewRun",
    "Page",
    "Settle",
    "Store",
    "StoredRun",
    "SweepResult",
    "open_store",
]
