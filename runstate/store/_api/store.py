"""The store in its blocking form."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn, ParamSpec, Self, TypeVar

from runstate.run.values import Usage
from runstate.store._api.async_store import AsyncStore
from runstate.store._api.async_within import AsyncCallerTransport, wrap_async
from runstate.store._api.entry_feed import EntryFeed
from runstate.store._api.event_feed import EventFeed, checked_position, follow
from runstate.store._api.event_writer import Emitter, EventWriter
from runstate.store._api.methods import BoundStore, StoreMethods
from runstate.store._api.same_store import require_same
from runstate.store._api.watch import start_watching, watch
from runstate.store._api.worker_commands import save_checkpoint_command
from runstate.store._engine.commands import Command
from runstate.store._engine.committer import Committer
from runstate.store._engine.transport import CallerTransaction, ReadPool, SyncTransport
from runstate.store._notifier import ALL_CHANGES, Change
from runstate.store._sql.connection import Connection, Database
from runstate.store._sql.identity import StoreIdentity
from runstate.store._types import Entry, Event, StoredRun
from runstate.store._worker_types import Checkpoint, Lease
from runstate.store.availability import Availability
from runstate.store.errors import StoreError

__all__ = ["Store", "database_of"]

P = ParamSpec("P")
T = TypeVar("T")


class Store(StoreMethods):
    """A durable store of runs, in SQLite or PostgreSQL. `open_store` makes one.

    These methods block; `store.aio` has the same methods for coroutines. Any number of threads and event loops may
    share a store. Open one per process: a store does not survive a fork, and cannot be pickled. Close it after use, or
    use `with` or `async with`.

    A change is durable when its method returns. All methods may raise `StoreUnavailable`, if nothing was changed and a
    retry can help, and `OutcomeUnknown`, if the reply to a change was lost. Both are a `StoreError`.
    """

    def __init__(
        self,
        database: Database,
        wait_s: float,
        listening: Database | None = None,
        place: StoreIdentity | None = None,
        availability: Availability | None = None,
    ) -> None:
        """Make a store of a database. `listening` is the same database, at an address for notifications.

        `place` is the identity of its tables. It is read before, because to read it inside a caller's transaction may
        need a connection that a small pool does not have before the transaction ends.
        """
        self._database: Final = database
        self.display_url: Final = database.display_url
        """The address of the database without the password."""
        self.dialect: Final = database.dialect.name
        """`sqlite` or `postgres`."""
        self.address_parts: Final[Sequence[str]] = database.private
        """The hosts, names, paths and the password of the address, which are removed from runs and logs."""
        self.availability: Final = availability or Availability()
        """Whether the database can be used now. Workers use it to wait for the database."""
        self._committer = Committer(database, self._committed, wait_s, self.availability)
        self._readers = None if database.in_memory else ReadPool(database, wait_s, self.availability)
        super().__init__(SyncTransport(self._committer, self._readers))
        self._aio: AsyncStore | None = None
        self._place = place
        self._notifier: Final = (listening or database).notifier(self._committer.external_commits, self.availability)
        self._events = EventWriter(
            self._committer.execute, self.last_event_number, self.availability, self._committer.check_open
        )
        self._feed = EventFeed(self._transport.read, self._notifier, self.display_url)
        self._entry_feed = EntryFeed(self._transport.read, self._notifier, self.display_url)

    def __repr__(self) -> str:
        return f"<Store {self._database.display_url}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)  # it waits for pending requests, which may need the event loop

    if not TYPE_CHECKING:  # a type checker says so by itself

        def __getattr__(self, name: str) -> NoReturn:
            if name in ("save", "update", "put", "add", "insert"):
                told = "create(thread_id=...) makes a run, and moves such as complete(run_id) change it"
                raise AttributeError(f"a store has no {name}: {told}")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    @property
    def aio(self) -> AsyncStore:
        """The async form of the store: `await store.aio.create(...)`."""
        if self._aio is None:
            feeds = (self._entry_feed, self._feed)
            self._aio = AsyncStore(self, self._committer, self._readers, *feeds, self._bind_async)
        return self._aio

    def _committed(self, batch: Sequence[Command[Any]]) -> None:
        """Notify listeners of the changes of a committed batch."""
        hint = batch[0].change
        for command in batch[1:]:
            if command.change is not hint:  # to combine flags takes a microsecond, and most are equal
                hint |= command.change
        if hint:
            self._notifier.notify(hint)

    def subscribe(
        self, listener: Callable[[Change], None], changes: Change = ALL_CHANGES
    ) -> AbstractContextManager[None]:
        """Call `listener` when something may have changed, inside a `with` block.

        `changes` are the kinds of change that it is for; it may be called for others too. On PostgreSQL a process that
        listens only for queued and cancelling runs is not woken by each commit of the others.

        It is called in any thread, with the kinds of change, and must not block. A notification may come late, twice,
        or not at all, so also poll now and then.

            with store.subscribe(lambda change: wake.set()):
                ...
        """
        return self._notifier.subscribe(listener, changes)

    def watch(self, run_id: str | None = None, *, after: int | str | None = None) -> Iterator[Entry]:
        """Yield entries as they are committed: of one run until it has ended, or of all runs without an end.

        `after` resumes after an entry: pass its `version` for one run, or its `cursor` for all runs. By default one run
        is followed from its creation, and all runs from now on. All watchers of a process share one connection. Raises
        `RunNotFound`.

            for entry in store.watch(run.id):
                print(entry.target)
        """
        return watch(self._entry_feed, self._transport.read, start_watching(run_id, after, self.latest_cursor))

    def events(self, run_id: str, *, after: int = 0) -> Iterator[Event]:
        """Yield the events that the handler of a run emits, as they are written, until the run has ended.

        `after` resumes after an event: pass its number. Each event comes once and in order, whatever crashes meanwhile.
        All readers of a process share one connection. Raises `RunNotFound`, and `InvalidRun` for wrong arguments.

            for event in store.events(run.id):
                print(event.data, end="")
        """
        checked_position(run_id, after)
        return follow(self._feed, self._transport.read, run_id, after)

    def emitter(self, lease: Lease, run: StoredRun) -> Emitter:
        """Return the object that emits events of a claimed run. `Context.emit` uses it."""
        return Emitter(self._events, lease, run)

    def post_checkpoint(
        self,
        lease: Lease,
        run: StoredRun,
        *,
        checkpoint: Checkpoint | None = None,
        usage: Usage | None = None,
        progress: str | None = None,
    ) -> None:
        """Save the data of a claimed run like `save_checkpoint`, without waiting for it.

        It is part of the next commit, before any later request of this caller. Coroutines may call this too, because it
        does not block. There is no result and no error: use `aio.post_checkpoint` to get them.
        """
        self._committer.post(save_checkpoint_command(lease, run, checkpoint, usage, progress))

    @contextmanager
    def within(self, connection: object) -> Generator[BoundStore, None, None]:
        """Return a store that works inside the open transaction of your own connection to the same database.

        `connection` is an sqlite3 or psycopg connection, SQLAlchemy's `Connection` or `Session` over one of them, or
        Django's `connection`; for async ones there is `store.aio.within`. This commits nothing: you commit, and your
        rows and the runs are saved or rolled back together. Locks are held until then. An error undoes only the failed
        request, not your own work.

            with store.within(connection) as bound:
                bound.create(thread_id="thread_1", assistant_id="asst_1", model="gpt-4o")
            connection.commit()

        Raises `StoreError` for every store in memory, and at the first call inside the block if the connection leads to
        another store.
        """
        self._require_no_memory()
        yield BoundStore(self._bound(self._database.wrap(connection)))

    async def _bind_async(self, connection: object) -> AsyncCallerTransport:
        """Return the transport over a caller's own async connection."""
        self._require_no_memory()
        session, run = await wrap_async(self._database, connection)
        return AsyncCallerTransport(self._bound(session), run)

    def _bound(self, session: Connection) -> CallerTransaction:
        session.skipped = self._committer.skipped
        return CallerTransaction(session, self._require_own)

    def _require_no_memory(self) -> None:
        if self._database.in_memory:
            raise StoreError("no other connection leads to a store in memory: open a file, as in sqlite:///runs.db")

    def _require_own(self, session: Connection) -> None:
        """Raise `StoreError` unless a caller's connection leads to the tables of this store."""
        here = session.identity()
        if self._place is None or here.table != self._place.table:
            self._place = self._transport.read(lambda own: own.identity())  # the tables may have been created again
            require_same(here, self._place)

    def close(self) -> None:
        """Commit all pending requests, and close the connections. Later requests raise `StoreError`.

        If the database does not reply for three times `wait_s`, and at least five seconds, this waits no longer.
        Callers that still wait then get a `StoreError`: an `OutcomeUnknown` if their request had been sent.
        """
        if not self._committer.is_ours:
            return  # in a forked child: the connections belong to the parent
        with ExitStack() as parts:
            parts.callback(self._database.close)
            if self._aio is not None:
                parts.callback(self._aio.close)
            if self._readers is not None:
                parts.callback(self._readers.close)
            parts.callback(self._notifier.close)
            parts.callback(self._committer.close)
            parts.callback(self._entry_feed.close)
            parts.callback(self._feed.close)
            parts.callback(self._events.close)


def database_of(store: Store) -> Database:
    """Return the database of a store, for parts of this library that open another connection."""
    return store._database  # pyright: ignore[reportPrivateUsage]
