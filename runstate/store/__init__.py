"""Runs that survive: in SQLite, for one machine, or PostgreSQL, for many.

    with open_store("sqlite:///runs.db") as store:
        run = store.create(thread_id="thread_1", assistant_id="asst_1", model="gpt-4o")
        store.request_cancel(run.id, actor="web")

Every method is there for threads (`store.create(...)`) and for coroutines (`await store.aio.create(...)`), over one
committer. The database holds the law by itself, and refuses what is illegal to hand-written SQL too.
"""

from runstate.store._api.create import NewRun
from runstate.store._api.open import open_store
from runstate.store._api.queries import Page
from runstate.store._api.store import AsyncStore, BoundStore, Store
from runstate.store._api.worker_protocol import Beat, Claim, Lease, Swept
from runstate.store._engine.commands import Settle
from runstate.store._types import Entry, StoredRun

__all__ = [
    "AsyncStore",
    "Beat",
    "BoundStore",
    "Claim",
    "Entry",
    "Lease",
    "NewRun",
    "Page",
    "Settle",
    "Store",
    "StoredRun",
    "Swept",
    "open_store",
]
