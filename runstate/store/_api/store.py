"""The store: one public face for threads, its twin for coroutines, and one inside a caller's own transaction."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from inspect import isfunction, isroutine
from types import TracebackType
from typing import Any, Final, NoReturn, ParamSpec, Self, TypeVar, cast

from runstate.store._api.create import Creating
from runstate.store._api.queries import Reading
from runstate.store._api.same_store import Place, place_of, require_same
from runstate.store._api.transitions import Moving
from runstate.store._api.watch import look_from, watch, watch_later
from runstate.store._api.worker_protocol import Working
from runstate.store._engine.async_transport import Later, like
from runstate.store._engine.commands import Command
from runstate.store._engine.committer import Committer
from runstate.store._engine.transport import ByCommitter, Inside, Readers, Way
from runstate.store._notifier import Bell
from runstate.store._postgres.notifier import NotifyBell
from runstate.store._sql.connection import Connection, Database
from runstate.store._sql.schema import SQLITE
from runstate.store._sqlite.notifier import VersionBell
from runstate.store._types import Entry
from runstate.store.availability import Availability
from runstate.store.errors import StoreError

__all__ = ["AsyncStore", "BoundStore", "Store"]

P = ParamSpec("P")
T = TypeVar("T")
_CALLERS: Final = "the database of the connection that was given"  # to within(): it may be another than the store's


class Everything(Creating, Moving, Reading, Working):
    """All that can be asked of runs that survive."""

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a store holds connections, and can be neither copied nor pickled for another process: "
            "give that process the URL, and let it open_store(url)"
        )


for _part in (Creating, Moving, Reading, Working):
    for _name, _method in vars(_part).items():
        if isfunction(_method) and not _name.startswith("_"):
            _method.__qualname__ = f"Store.{_name}"  # what Python calls it where the arguments are wrong


class BoundStore(Everything):
    """A store inside a transaction of the caller's: what it does is committed, or not, with the caller's own rows."""


class Store(Everything):
    """Runs that survive, for threads; `aio` is the same for coroutines. Close it, or use `with` or `async with`."""

    def __init__(
        self,
        database: Database,
        wait_s: float,
        listening: Database | None = None,
        place: Place | None = None,
        availability: Availability | None = None,
    ) -> None:
        """Over a database; `listening` is the same reached in a way that notifications come through.

        `place` is where its tables were found. To ask for that in the middle of a caller's transaction may take a
        connection that a small pool does not have before the transaction has ended.
        """
        self.database: Final = database
        self.availability: Final = availability or Availability()
        """Whether the database can be used now; for workers, which wait for it."""
        self._committer = Committer(database, self._committed, wait_s, self.availability)
        self._readers = None if database.in_memory else Readers(database, wait_s, self.availability)
        super().__init__(ByCommitter(self._committer, self._readers))
        self._aio: AsyncStore | None = None
        self._place = place
        self.bell: Final = self._hang_bell(listening or database)

    def _hang_bell(self, listening: Database) -> Bell:
        if self.database.in_memory:
            return Bell()
        if self.database.dialect is SQLITE:
            return VersionBell(self)
        from runstate.store._postgres.connection import PostgresDatabase

        return NotifyBell(cast("PostgresDatabase", listening), self.availability)

    def __repr__(self) -> str:
        return f"<Store {self.database.display_url}>"

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
            self._aio = AsyncStore(self, self._committer, self._readers)
        return self._aio

    def _committed(self, batch: Sequence[Command[Any]]) -> None:
        """Ring for what a committed batch has changed."""
        hint = batch[0].hint
        for command in batch[1:]:
            if command.hint is not hint:  # putting flags together takes a microsecond, and most are alike
                hint |= command.hint
        if hint:
            self.bell.ring(hint)

    def foreign_commits(self) -> int | None:
        """Return a number that changes when another connection commits to this SQLite file."""
        return self._committer.foreign_commits()

    def ask(self, command: Command[T]) -> T:
        """Have a command of a worker's committed; the thread waits."""
        return self._committer.ask(command)

    def ask_later(self, command: Command[T]) -> asyncio.Future[T]:
        """Have a command of a worker's committed; the coroutine waits."""
        return self._committer.ask_later(command)

    def tell(self, command: Command[Any]) -> None:
        """Have a command committed that nobody waits for."""
        self._committer.tell(command)

    def watch(self, run_id: str | None = None, *, after: int | str | None = None) -> Iterator[Entry]:
        """Yield entries as they are committed: of one run until it has ended, or of all runs for ever.

        `after` resumes: the version of an entry of the run, or the `cursor` of an entry of all runs. Without it, a
        run is watched from its birth, all runs from now on. Raises `RunNotFound`.
        """
        return watch(self, self.bell, look_from(run_id, after, self.latest_cursor))

    @contextmanager
    def within(self, connection: object) -> Generator[BoundStore, None, None]:
        """Work inside the transaction that is open on `connection`, a caller's own to the same database.

        A psycopg or sqlite3 connection, or a SQLAlchemy one. Nothing is committed here: that is the caller's, and so
        are locks held until then. An error undoes only what was asked, not the caller's own work. Raises `StoreError`
        where the connection leads elsewhere, as every one does for a store in memory.
        """
        if self.database.in_memory:
            raise StoreError("no other connection leads to a store in memory: open a file, as in sqlite:///runs.db")
        yield BoundStore(Inside(self._session_over(connection), self._require_own))

    def _require_own(self, session: Connection) -> None:
        """Raise `StoreError` unless a caller's connection leads to the tables of this store."""
        here = place_of(session)
        if self._place is None or here.table != self._place.table:
            self._place = self._way.read(place_of)  # the tables may have been made anew
            require_same(here, self._place)

    def _session_over(self, connection: object) -> Connection:
        for step in ("connection", "driver_connection"):  # SQLAlchemy's connection, and the driver's own inside it
            inner = getattr(connection, step, None)
            if inner is not None and not isroutine(inner):
                connection = inner
        if self.database.dialect is SQLITE:
            from runstate.store._sqlite.connection import SqliteConnection

            if not isinstance(connection, sqlite3.Connection):
                raise StoreError(
                    f"expected a sqlite3 connection, got {type(connection).__name__}: use one of sqlite3's"
                )
            return SqliteConnection(connection, _CALLERS, 0.0, owned=False)
        import psycopg

        from runstate.store._postgres.connection import PostgresConnection

        if not isinstance(connection, psycopg.Connection):
            kind = type(connection).__name__
            raise StoreError(f"expected a psycopg connection, got {kind}: use psycopg 3's, or SQLAlchemy's over it")
        return PostgresConnection(cast("psycopg.Connection[tuple[Any, ...]]", connection), _CALLERS, owned=False)

    def close(self) -> None:
        """Commit what was asked, and let the connections go. Asking afterwards raises `StoreError`.

        A database that says nothing for three times `wait_s`, and for five seconds at least, is waited for no longer:
        who asked then gets an `OutcomeUnknown`.
        """
        if not self._committer.is_ours:
            return  # they are the parent's, who goes on with them
        with ExitStack() as parts:
            parts.callback(self.database.close)
            if self._aio is not None:
                parts.callback(self._aio.close)
            if self._readers is not None:
                parts.callback(self._readers.close)
            parts.callback(self.bell.close)
            parts.callback(self._committer.close)


class AsyncStore:
    """Runs that survive, for coroutines: the methods of `Store`, each to be awaited."""

    def __init__(self, store: Store, committer: Committer, readers: Readers | None) -> None:
        self._store = store
        self._later = Later(committer, readers)
        self.everything: Final = Everything(cast("Way", self._later))

    def __reduce__(self) -> NoReturn:
        self._store.__reduce__()

    def close(self) -> None:
        """Let the reading threads go."""
        self._later.close()

    async def watch(self, run_id: str | None = None, *, after: int | str | None = None) -> AsyncIterator[Entry]:
        """Yield entries as `Store.watch` does."""
        latest = "" if run_id is not None or after is not None else await self.latest_cursor()
        place = look_from(run_id, after, lambda: latest)
        async for entry in watch_later(self.everything, self._store.bell, place):
            yield entry

    @like(Everything.create)
    def create(self) -> None: ...

    @like(Everything.create_many)
    def create_many(self) -> None: ...

    @like(Everything.start)
    def start(self) -> None: ...

    @like(Everything.require_action)
    def require_action(self) -> None: ...

    @like(Everything.submit_tool_outputs)
    def submit_tool_outputs(self) -> None: ...

    @like(Everything.request_cancel)
    def request_cancel(self) -> None: ...

    @like(Everything.confirm_cancel)
    def confirm_cancel(self) -> None: ...

    @like(Everything.complete)
    def complete(self) -> None: ...

    @like(Everything.mark_incomplete)
    def mark_incomplete(self) -> None: ...

    @like(Everything.fail)
    def fail(self) -> None: ...

    @like(Everything.expire)
    def expire(self) -> None: ...

    @like(Everything.get)
    def get(self) -> None: ...

    @like(Everything.progress)
    def progress(self) -> None: ...

    @like(Everything.list)
    def list(self) -> None: ...

    @like(Everything.history)
    def history(self) -> None: ...

    @like(Everything.entries)
    def entries(self) -> None: ...

    @like(Everything.latest_cursor)
    def latest_cursor(self) -> None: ...

    @like(Everything.counts)
    def counts(self) -> None: ...

    @like(Everything.queues)
    def queues(self) -> None: ...

    @like(Everything.open_lease)
    def open_lease(self) -> None: ...

    @like(Everything.heartbeat)
    def heartbeat(self) -> None: ...

    @like(Everything.close_lease)
    def close_lease(self) -> None: ...

    @like(Everything.claim)
    def claim(self) -> None: ...

    @like(Everything.claim_id)
    def claim_id(self) -> None: ...

    @like(Everything.settle)
    def settle(self) -> None: ...

    @like(Everything.release)
    def release(self) -> None: ...

    @like(Everything.take_over)
    def take_over(self) -> None: ...

    @like(Everything.note)
    def note(self) -> None: ...

    @like(Everything.overdue)
    def overdue(self) -> None: ...

    @like(Everything.owned)
    def owned(self) -> None: ...

    @like(Everything.is_anything_due)
    def is_anything_due(self) -> None: ...

    @like(Everything.sweep)
    def sweep(self) -> None: ...

    @like(Everything.prune)
    def prune(self) -> None: ...
