"""The store in three forms: blocking, async, and inside a caller's own transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from inspect import isfunction
from types import TracebackType
from typing import Any, Final, NoReturn, ParamSpec, Self, TypeVar, cast

from runstate.run.values import Usage
from runstate.store._api.create import CreateMixin
from runstate.store._api.queries import QueryMixin
from runstate.store._api.same_store import require_same
from runstate.store._api.steps import StepMixin
from runstate.store._api.transitions import TransitionMixin
from runstate.store._api.watch import start_cursor, watch, watch_async
from runstate.store._api.worker_protocol import WorkerProtocolMixin, save_checkpoint_command
from runstate.store._engine.async_transport import AsyncTransport, mirror
from runstate.store._engine.commands import Command
from runstate.store._engine.committer import Committer
from runstate.store._engine.transport import CallerTransaction, ReadPool, SyncTransport, Transport
from runstate.store._notifier import Change, LocalNotifier
from runstate.store._sql.connection import Connection, Database
from runstate.store._sql.identity import StoreIdentity
from runstate.store._types import Entry, StoredRun
from runstate.store._worker_types import Checkpoint, Lease
from runstate.store.availability import Availability
from runstate.store.errors import StoreError

__all__ = ["AsyncStore", "BoundStore", "Store", "database_of"]

P = ParamSpec("P")
T = TypeVar("T")


class StoreMethods(CreateMixin, TransitionMixin, QueryMixin, WorkerProtocolMixin, StepMixin):
    """The methods that all forms of a store have."""

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a store holds connections, and can be neither copied nor pickled for another process: "
            "give that process the URL, and let it open_store(url)"
        )


for _part in (CreateMixin, TransitionMixin, QueryMixin, WorkerProtocolMixin, StepMixin):
    for _name, _method in vars(_part).items():
        if isfunction(_method) and not _name.startswith("_"):
            _method.__qualname__ = f"Store.{_name}"  # the name in Python's messages about wrong arguments


class BoundStore(StoreMethods):
    """A store inside the caller's own transaction, from `Store.within`. The caller commits its changes, or not."""


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

    @property
    def aio(self) -> AsyncStore:
        """The async form of the store: `await store.aio.create(...)`."""
        if self._aio is None:
            self._aio = AsyncStore(self, self._committer, self._readers, self._notifier)
        return self._aio

    def _committed(self, batch: Sequence[Command[Any]]) -> None:
        """Notify listeners of the changes of a committed batch."""
        hint = batch[0].change
        for command in batch[1:]:
            if command.change is not hint:  # to combine flags takes a microsecond, and most are equal
                hint |= command.change
        if hint:
            self._notifier.notify(hint)

    def subscribe(self, listener: Callable[[Change], None]) -> AbstractContextManager[None]:
        """Call `listener` when something may have changed, inside a `with` block.

        It is called in any thread, with the kinds of change, and must not block. A notification may come late, twice,
        or not at all, so also poll now and then.

            with store.subscribe(lambda change: wake.set()):
                ...
        """
        return self._notifier.subscribe(listener)

    def watch(self, run_id: str | None = None, *, after: int | str | None = None) -> Iterator[Entry]:
        """Yield entries as they are committed: of one run until it has ended, or of all runs without an end.

        `after` resumes after an entry: pass its `version` for one run, or its `cursor` for all runs. By default one run
        is followed from its creation, and all runs from now on. Raises `RunNotFound`.

            for entry in store.watch(run.id):
                print(entry.target)
        """
        return watch(self, self._notifier, start_cursor(run_id, after, self.latest_cursor))

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

        `connection` is an sqlite3, psycopg or SQLAlchemy connection. This commits nothing: you commit, and your rows
        and the runs are saved or rolled back together. Locks are held until then. An error undoes only the failed
        request, not your own work.

            with store.within(connection) as bound:
                bound.create(thread_id="thread_1", assistant_id="asst_1", model="gpt-4o")
            connection.commit()

        Raises `StoreError` if the connection leads to another store, and for every store in memory.
        """
        if self._database.in_memory:
            raise StoreError("no other connection leads to a store in memory: open a file, as in sqlite:///runs.db")
        session = self._database.wrap(connection)
        session.skipped = self._committer.skipped
        yield BoundStore(CallerTransaction(session, self._require_own))

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


def database_of(store: Store) -> Database:
    """Return the database of a store, for parts of this library that open another connection."""
    return store._database  # pyright: ignore[reportPrivateUsage]


class AsyncStore:
    """The async form of a store, as `store.aio`: the methods of `Store`, for coroutines."""

    def __init__(self, store: Store, committer: Committer, readers: ReadPool | None, notifier: LocalNotifier) -> None:
        self._store = store
        self._notifier = notifier
        self._later = AsyncTransport(committer, readers)
        self.methods: Final = StoreMethods(cast("Transport", self._later))

    def __reduce__(self) -> NoReturn:
        self._store.__reduce__()

    def close(self) -> None:
        """End the reading threads."""
        self._later.close()

    async def watch(self, run_id: str | None = None, *, after: int | str | None = None) -> AsyncIterator[Entry]:
        """Yield entries like `Store.watch`, for coroutines."""
        latest = "" if run_id is not None or after is not None else await self.latest_cursor()
        place = start_cursor(run_id, after, lambda: latest)
        async for entry in watch_async(self.methods, self._notifier, place):
            yield entry

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

    @mirror(StoreMethods.steps)
    def steps(self) -> None: ...

    @mirror(StoreMethods.step_index)
    def step_index(self) -> None: ...

    @mirror(StoreMethods.step_result)
    def step_result(self) -> None: ...

    @mirror(StoreMethods.save_step)
    def save_step(self) -> None: ...

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
