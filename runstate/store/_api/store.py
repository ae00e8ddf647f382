"""The store: one public face for threads, its twin for coroutines, and one inside a caller's own transaction."""

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


class StoreMethods(CreateMixin, TransitionMixin, QueryMixin, WorkerProtocolMixin):
    """All that can be asked of runs that survive."""

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a store holds connections, and can be neither copied nor pickled for another process: "
            "give that process the URL, and let it open_store(url)"
        )


for _part in (CreateMixin, TransitionMixin, QueryMixin, WorkerProtocolMixin):
    for _name, _method in vars(_part).items():
        if isfunction(_method) and not _name.startswith("_"):
            _method.__qualname__ = f"Store.{_name}"  # what Python calls it where the arguments are wrong


class BoundStore(StoreMethods):
    """A store inside a transaction of the caller's: what it does is committed, or not, with the caller's own rows."""


class Store(StoreMethods):
    """Runs that survive, for threads; `aio` is the same for coroutines. Close it, or use `with` or `async with`."""

    def __init__(
        self,
        database: Database,
        wait_s: float,
        listening: Database | None = None,
        place: StoreIdentity | None = None,
        availability: Availability | None = None,
    ) -> None:
        """Over a database; `listening` is the same reached in a way that notifications come through.

        `place` is where its tables were found. To ask for that in the middle of a caller's transaction may take a
        connection that a small pool does not have before the transaction has ended.
        """
        self._database: Final = database
        self.display_url: Final = database.display_url
        """The address of the database without the password."""
        self.dialect: Final = database.dialect.name
        """`sqlite` or `postgres`."""
        self.address_parts: Final[Sequence[str]] = database.private
        """Hosts, names, paths and the password of the address, which stand in no run and in no log."""
        self.availability: Final = availability or Availability()
        """Whether the database can be used now; for workers, which wait for it."""
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
        await asyncio.to_thread(self.close)  # it waits for what was asked, which the loop may have to answer

    @property
    def aio(self) -> AsyncStore:
        """The same methods for coroutines: `await store.aio.create(...)`."""
        if self._aio is None:
            self._aio = AsyncStore(self, self._committer, self._readers, self._notifier)
        return self._aio

    def _committed(self, batch: Sequence[Command[Any]]) -> None:
        """Ring for what a committed batch has changed."""
        hint = batch[0].change
        for command in batch[1:]:
            if command.change is not hint:  # putting flags together takes a microsecond, and most are alike
                hint |= command.change
        if hint:
            self._notifier.notify(hint)

    def subscribe(self, listener: Callable[[Change], None]) -> AbstractContextManager[None]:
        """Call `listener` when something may have changed, as long as the context lasts.

        It is called from any thread, and must not wait. A notification may come late, twice, or not at all: a listener
        also looks by itself now and then.
        """
        return self._notifier.subscribe(listener)

    def watch(self, run_id: str | None = None, *, after: int | str | None = None) -> Iterator[Entry]:
        """Yield entries as they are committed: of one run until it has ended, or of all runs for ever.

        `after` resumes: the version of an entry of the run, or the `cursor` of an entry of all runs. Without it, a
        run is watched from its birth, all runs from now on. Raises `RunNotFound`.
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
        """Keep what a worker knows of a run as `save_checkpoint`, without waiting for it.

        It goes into the next commit, before whatever this caller does next. It does not block, so coroutines call it
        too. Whether it was kept is not told.
        """
        self._committer.post(save_checkpoint_command(lease, run, checkpoint, usage, progress))

    @contextmanager
    def within(self, connection: object) -> Generator[BoundStore, None, None]:
        """Work inside the transaction that is open on `connection`, a caller's own to the same database.

        A psycopg or sqlite3 connection, or a SQLAlchemy one. Nothing is committed here: that is the caller's, and so
        are locks held until then. An error undoes only what was asked, not the caller's own work. Raises `StoreError`
        where the connection leads elsewhere, as every one does for a store in memory.
        """
        if self._database.in_memory:
            raise StoreError("no other connection leads to a store in memory: open a file, as in sqlite:///runs.db")
        yield BoundStore(CallerTransaction(self._database.wrap(connection), self._require_own))

    def _require_own(self, session: Connection) -> None:
        """Raise `StoreError` unless a caller's connection leads to the tables of this store."""
        here = session.identity()
        if self._place is None or here.table != self._place.table:
            self._place = self._transport.read(lambda own: own.identity())  # the tables may have been made anew
            require_same(here, self._place)

    def close(self) -> None:
        """Commit what was asked, and let the connections go. Asking afterwards raises `StoreError`.

        A database that says nothing for three times `wait_s`, and for five seconds at least, is waited for no longer:
        who asked then gets an `OutcomeUnknown`.
        """
        if not self._committer.is_ours:
            return  # they are the parent's, who goes on with them
        with ExitStack() as parts:
            parts.callback(self._database.close)
            if self._aio is not None:
                parts.callback(self._aio.close)
            if self._readers is not None:
                parts.callback(self._readers.close)
            parts.callback(self._notifier.close)
            parts.callback(self._committer.close)


def database_of(store: Store) -> Database:
    """Return the database of a store, for the parts of this library that open a connection of their own."""
    return store._database  # pyright: ignore[reportPrivateUsage]


class AsyncStore:
    """Runs that survive, for coroutines: the methods of `Store`, each to be awaited."""

    def __init__(self, store: Store, committer: Committer, readers: ReadPool | None, notifier: LocalNotifier) -> None:
        self._store = store
        self._notifier = notifier
        self._later = AsyncTransport(committer, readers)
        self.methods: Final = StoreMethods(cast("Transport", self._later))

    def __reduce__(self) -> NoReturn:
        self._store.__reduce__()

    def close(self) -> None:
        """Let the reading threads go."""
        self._later.close()

    async def watch(self, run_id: str | None = None, *, after: int | str | None = None) -> AsyncIterator[Entry]:
        """Yield entries as `Store.watch` does."""
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
        """Keep what a worker knows of a run, and return a future that tells whether it was kept.

        Unlike `save_checkpoint` it is requested by the call, and not when it is awaited: it goes into the next commit,
        before whatever this caller does next.
        """
        return self._later.submit(save_checkpoint_command(lease, run, checkpoint, usage, progress))

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
