"""The async form of a store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NoReturn, cast

from runstate.run.values import Usage
from runstate.store._api.async_within import AsyncCallerTransport
from runstate.store._api.entry_feed import EntryFeed
from runstate.store._api.event_feed import EventFeed, checked_position, follow_async
from runstate.store._api.methods import StoreMethods
from runstate.store._api.watch import start_watching, watch_async
from runstate.store._api.worker_commands import save_checkpoint_command
from runstate.store._engine.async_transport import AsyncTransport, mirror
from runstate.store._engine.committer import Committer
from runstate.store._engine.transport import ReadPool, Transport
from runstate.store._types import Entry, Event, StoredRun
from runstate.store._worker_types import Checkpoint, Lease

__all__ = ["AsyncBoundStore", "AsyncMethods", "AsyncStore"]


class AsyncMethods:
    """The methods of a store that are coroutines in its async forms."""

    methods: StoreMethods

    @mirror(StoreMethods.create)
    def create(self) -> None: ...

    @mirror(StoreMethods.create_many)
    def create_many(self) -> None: ...

    @mirror(StoreMethods.start)
    def start(self) -> None: ...

    @mirror(StoreMethods.require_action)
    def require_action(self) -> None: ...

    @mirror(StoreMethods.submit_tool_outputs)
    def submit_tool_outputs(self) -> None: ...

    @mirror(StoreMethods.request_cancel)
    def request_cancel(self) -> None: ...

    @mirror(StoreMethods.confirm_cancel)
    def confirm_cancel(self) -> None: ...

    @mirror(StoreMethods.complete)
    def complete(self) -> None: ...

    @mirror(StoreMethods.mark_incomplete)
    def mark_incomplete(self) -> None: ...

    @mirror(StoreMethods.fail)
    def fail(self) -> None: ...

    @mirror(StoreMethods.expire)
    def expire(self) -> None: ...

    @mirror(StoreMethods.get)
    def get(self) -> None: ...

    @mirror(StoreMethods.progress)
    def progress(self) -> None: ...

    @mirror(StoreMethods.list)
    def list(self) -> None: ...

    @mirror(StoreMethods.history)
    def history(self) -> None: ...

    @mirror(StoreMethods.entries)
    def entries(self) -> None: ...

    @mirror(StoreMethods.latest_cursor)
    def latest_cursor(self) -> None: ...

    @mirror(StoreMethods.counts)
    def counts(self) -> None: ...

    @mirror(StoreMethods.queues)
    def queues(self) -> None: ...

    @mirror(StoreMethods.open_lease)
    def open_lease(self) -> None: ...

    @mirror(StoreMethods.heartbeat)
    def heartbeat(self) -> None: ...

    @mirror(StoreMethods.close_lease)
    def close_lease(self) -> None: ...

    @mirror(StoreMethods.settle_and_claim)
    def settle_and_claim(self) -> None: ...

    @mirror(StoreMethods.claim)
    def claim(self) -> None: ...

    @mirror(StoreMethods.claim_id)
    def claim_id(self) -> None: ...

    @mirror(StoreMethods.settle)
    def settle(self) -> None: ...

    @mirror(StoreMethods.release)
    def release(self) -> None: ...

    @mirror(StoreMethods.take_over)
    def take_over(self) -> None: ...

    @mirror(StoreMethods.save_checkpoint)
    def save_checkpoint(self) -> None: ...

    @mirror(StoreMethods.repeat)
    def repeat(self) -> None: ...

    @mirror(StoreMethods.trace_contexts)
    def trace_contexts(self) -> None: ...

    @mirror(StoreMethods.save_trace_context)
    def save_trace_context(self) -> None: ...

    @mirror(StoreMethods.attempts)
    def attempts(self) -> None: ...

    @mirror(StoreMethods.workers)
    def workers(self) -> None: ...

    @mirror(StoreMethods.matching_ids)
    def matching_ids(self) -> None: ...

    @mirror(StoreMethods.pause)
    def pause(self) -> None: ...

    @mirror(StoreMethods.resume)
    def resume(self) -> None: ...

    @mirror(StoreMethods.pauses)
    def pauses(self) -> None: ...

    @mirror(StoreMethods.steps)
    def steps(self) -> None: ...

    @mirror(StoreMethods.step_index)
    def step_index(self) -> None: ...

    @mirror(StoreMethods.step_result)
    def step_result(self) -> None: ...

    @mirror(StoreMethods.save_step)
    def save_step(self) -> None: ...

    @mirror(StoreMethods.events_page)
    def events_page(self) -> None: ...

    @mirror(StoreMethods.last_event_number)
    def last_event_number(self) -> None: ...

    @mirror(StoreMethods.prune_events)
    def prune_events(self) -> None: ...

    @mirror(StoreMethods.overdue)
    def overdue(self) -> None: ...

    @mirror(StoreMethods.owned)
    def owned(self) -> None: ...

    @mirror(StoreMethods.is_anything_due)
    def is_anything_due(self) -> None: ...

    @mirror(StoreMethods.sweep)
    def sweep(self) -> None: ...

    @mirror(StoreMethods.prune)
    def prune(self) -> None: ...


class AsyncBoundStore(AsyncMethods):
    """A store inside the caller's own async transaction, from `AsyncStore.within`. The caller commits, or not."""

    def __init__(self, transport: AsyncCallerTransport) -> None:
        self.methods: StoreMethods = StoreMethods(cast("Transport", transport))

    def __reduce__(self) -> NoReturn:
        self.methods.__reduce__()


class AsyncStore(AsyncMethods):
    """The async form of a store, as `store.aio`: the methods of `Store`, for coroutines."""

    def __init__(
        self,
        store: StoreMethods,
        committer: Committer,
        readers: ReadPool | None,
        entry_feed: EntryFeed,
        feed: EventFeed,
        bind: Callable[[object], Awaitable[AsyncCallerTransport]],
    ) -> None:
        """Use the parts of a store. `bind` returns the transport over a caller's own connection."""
        self._store = store
        self._bind = bind
        self._entry_feed = entry_feed
        self._feed = feed
        self._later = AsyncTransport(committer, readers)
        self.methods: StoreMethods = StoreMethods(cast("Transport", self._later))

    def __reduce__(self) -> NoReturn:
        self._store.__reduce__()

    def close(self) -> None:
        """End the reading threads."""
        self._later.close()

    async def watch(self, run_id: str | None = None, *, after: int | str | None = None) -> AsyncIterator[Entry]:
        """Yield entries like `Store.watch`, for coroutines."""
        latest = "" if run_id is not None or after is not None else await self.latest_cursor()
        watcher = start_watching(run_id, after, lambda: latest)
        async for entry in watch_async(self._entry_feed, self._later.read, watcher):
            yield entry

    async def events(self, run_id: str, *, after: int = 0) -> AsyncIterator[Event]:
        """Yield events like `Store.events`, for coroutines."""
        checked_position(run_id, after)
        async for event in follow_async(self._feed, self._later.read, run_id, after):
            yield event

    @asynccontextmanager
    async def within(self, connection: object) -> AsyncGenerator[AsyncBoundStore, None]:
        """Return a store that works inside the open transaction of your own async connection, like `Store.within`.

        `connection` is psycopg's `AsyncConnection`, SQLAlchemy's `AsyncConnection` or `AsyncSession` (over psycopg or
        aiosqlite), or a connection of aiosqlite. The methods of the store are coroutines.

            async with session.begin(), store.aio.within(session) as bound:
                await bound.create(thread_id="thread_1", assistant_id="asst_1", model="gpt-4o")

        Raises `StoreError` for every store in memory and for other connections, and at the first call inside the block
        if the connection leads to another store, and for a call after the block.
        """
        transport = await self._bind(connection)
        try:
            yield AsyncBoundStore(transport)
        finally:
            await transport.end()

    def post_checkpoint(
        self,
        lease: Lease,
        run: StoredRun,
        *,
        checkpoint: Checkpoint | None = None,
        usage: Usage | None = None,
        progress: str | None = None,
    ) -> asyncio.Future[bool]:
        """Save the data of a claimed run like `save_checkpoint`. Return a future of whether it was saved.

        Unlike `save_checkpoint`, the request is made by the call, not when it is awaited. It is part of the next
        commit, before any later request of this caller.
        """
        return self._later.submit(save_checkpoint_command(lease, run, checkpoint, usage, progress))
