"""Ready adapters: plain functions, objects with methods, an SQL table, and this library's own runs."""

from __future__ import annotations

import copy
import re
import threading
import weakref
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from itertools import count
from typing import Any, Final, cast

from runstate.clock import ManualClock, sleep, time_us
from runstate.lifecycle import INITIAL_STATUS, RUN_LIFECYCLE, Lifecycle, RunEvent
from runstate.lifecycle.errors import IllegalTransition
from runstate.run import Run
from runstate.run.codec import json_text
from runstate.run.ids import new_run_id
from runstate.run.validators import with_article
from runstate.store import Lease, Settle, Store, StoredRun
from runstate.store.errors import Conflict, LeaseLost
from runstate.testing._diff import fields_of
from runstate.testing._drive import RefusalTypes, ask, ask_stored
from runstate.testing.conformance._subject import Clocked, EventNotOffered, EventRefused

__all__ = ["FunctionAdapter", "InMemoryAdapter", "ObjectAdapter", "SqlTableAdapter", "StoreAdapter"]


_AT: Final = re.compile(r":at\b|%\(at\)s")


def _kinds(refused: RefusalTypes) -> tuple[type[Exception], ...]:
    """Return what an adapter takes for a refusal. Raises `TypeError` for what is no class of errors."""
    kinds = refused if isinstance(refused, tuple) else (refused,)
    for kind in cast("tuple[object, ...]", kinds):
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise TypeError(f"refused: expected a class of errors, or a tuple of them, got {kind!r}")
    return (EventRefused, *kinds)


class FunctionAdapter:
    """Three plain functions: make a run, ask an event of it, read it back.

    `load` returns a second handle of a run, as another actor has it who reads it now; `advance` lets seconds pass.
    """

    def __init__(
        self,
        create: Callable[[], Any],
        ask: Callable[[Any, RunEvent], object],
        read: Callable[[Any], Mapping[str, Any]],
        *,
        refused: RefusalTypes,
        load: Callable[[Any], Any] | None = None,
        advance: Callable[[int], None] | None = None,
        law: Lifecycle = RUN_LIFECYCLE,
        name: str = "functions",
    ) -> None:
        self._create, self._ask, self._read = create, ask, read
        if load is not None:
            self.load: Callable[[Any], Any] = load
        if advance is not None:
            self.advance: Callable[[int], None] = advance
        self.refused: tuple[type[Exception], ...] = _kinds(refused)
        self.law: Lifecycle = law
        self.name: str = name

    def create(self) -> Any:
        """Make a run."""
        return self._create()

    def ask(self, run: Any, event: RunEvent) -> object:
        """Ask an event of it."""
        return self._ask(run, RunEvent(event))

    def read(self, run: Any) -> Mapping[str, Any]:
        """Return it as it is kept."""
        return self._read(run)


class ObjectAdapter:
    """Objects of a class of your own, with a method for each event: an ORM class, a machine's model.

    `names` are the methods that are called otherwise than their event (`{"request_cancel": "cancel"}`); an event whose
    method is not there is not offered. What a method needs besides has samples by name (calls, outputs, reason, code,
    message). `load` returns a second copy of a run, as another session of an ORM would read it, and `read` what is kept
    of it, if that is not the object itself; `advance` lets seconds pass for the clock that they read.
    """

    def __init__(
        self,
        create: Callable[[], Any],
        *,
        refused: RefusalTypes,
        names: Mapping[str, str] | None = None,
        load: Callable[[Any], Any] | None = None,
        read: Callable[[Any], object] | None = None,
        advance: Callable[[int], None] | None = None,
        law: Lifecycle = RUN_LIFECYCLE,
        name: str = "",
    ) -> None:
        if not callable(create):
            got = with_article(type(create).__name__)
            raise TypeError(f"create: expected a class, or what makes an object, got {got}")
        self._create = create
        self._names = {RunEvent(event): method for event, method in (names or {}).items()}
        self._read = read
        if load is not None:
            self.load: Callable[[Any], Any] = load
        if advance is not None:
            self.advance: Callable[[int], None] = advance
        self.refused: tuple[type[Exception], ...] = _kinds(refused)
        self.law: Lifecycle = law
        self.name: str = name or getattr(create, "__name__", "objects")

    def create(self) -> Any:
        """Make a run."""
        return self._create()

    def ask(self, run: Any, event: RunEvent) -> object:
        """Ask an event by its method."""
        named = self._names.get(event, event)
        if not callable(getattr(run, named, None)):
            missing = EventNotOffered if event not in self._names else TypeError  # what is named must be there
            raise missing(f"{type(run).__name__} has no method {named}()")
        return ask(run, event, method=named)

    def read(self, run: Any) -> Mapping[str, Any]:
        """Return its attributes."""
        return fields_of(run if self._read is None else self._read(run))


class SqlTableAdapter:
    """A table of runs, and the statements that move them.

    `connect` opens a connection of the DB-API (sqlite3, psycopg); each thread has its own, and every statement is
    committed. The statements take `id` and `at` (Unix seconds) in the style of the driver, `:id` or `%(id)s`: `create`
    inserts a run under that id, `read` selects it with its column names, and `moves` hold one for each event. One that
    touches or returns no row refused, as does an error of `refused` (a CHECK, a trigger).
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        *,
        create: str,
        moves: Mapping[str, str],
        read: str,
        refused: RefusalTypes = (),
        law: Lifecycle = RUN_LIFECYCLE,
        name: str = "SQL table",
    ) -> None:
        self._connect = connect
        self._made, self._moves, self._look = create, {RunEvent(event): sql for event, sql in moves.items()}, read
        self._own = threading.local()
        self._late = 0
        if _AT.search(self._moves.get(RunEvent.START, "".join(moves.values()))):  # else the database tells the time
            self.advance: Callable[[int], None] = self._advance
        self.refused: tuple[type[Exception], ...] = _kinds(refused)
        self.law: Lifecycle = law
        self.name: str = name

    def create(self) -> str:
        """Insert a run; return its id."""
        run_id = new_run_id(time_us() / 1_000_000)
        self._execute(self._made, run_id)
        return run_id

    def ask(self, run: str, event: RunEvent) -> object:
        """Execute the statement of an event."""
        if event not in self._moves:
            raise EventNotOffered(f"there is no statement for {event}")
        if self._execute(self._moves[event], run)[0] == 0:
            raise EventRefused("no row was touched")
        return None

    def read(self, run: str) -> Mapping[str, Any]:
        """Select a run."""
        _, row = self._execute(self._look, run)  # committed, or a reader would see for ever what it saw first
        if row is None:
            raise LookupError("no row has its id")
        return row

    def _advance(self, seconds: int) -> None:
        self._late += seconds

    def _execute(self, statement: str, run: str) -> tuple[int, Mapping[str, Any] | None]:
        """Execute a statement and commit; return how many rows it touched, and the first that it returned."""
        connection = self._connection()
        given = {"id": run, "at": time_us() // 1_000_000 + self._late}
        try:
            with closing(connection.cursor()) as cursor:
                cursor.execute(statement, given)
                touched: int = cursor.rowcount
                rows: list[dict[str, Any]] = []
                if cursor.description is not None:
                    names = [column[0] for column in cursor.description]
                    rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
                    touched = len(rows)
            connection.commit()
        except Exception:
            with suppress(Exception):  # what went wrong first is what is told
                connection.rollback()
            raise
        return touched, next(iter(rows), None)

    def _connection(self) -> Any:
        if not hasattr(self._own, "held"):
            held, connection = _Held(), self._connect()
            weakref.finalize(held, _close, connection)
            self._own.held, self._own.connection = held, connection
        return self._own.connection


class _Held:
    """What a thread holds as long as it may use its connection, which is closed then."""


def _close(connection: Any) -> None:
    with suppress(Exception):  # the thread that it belonged to may be gone, and the server too
        connection.close()


_LEASE_S: Final = 30.0
_BRIEF_S: Final = 0.2
"""A lease that is waited for in earnest, and that nobody must still hold at any time."""

_NAMES: Final[Mapping[str, Any]] = {"thread_id": "thread_1", "assistant_id": "asst_1", "model": "gpt-4o"}


class InMemoryAdapter:
    """Runs of this library in memory."""

    name = "runstate.Run"
    refused: tuple[type[Exception], ...] = (IllegalTransition,)

    def __init__(self) -> None:
        self._clock = ManualClock()

    def create(self) -> Run:
        """Make a run."""
        return Run.create(**_NAMES, at=int(self._clock.time()))

    def ask(self, run: Run, event: RunEvent) -> object:
        """Ask an event of it, at the time of the trial."""
        return ask(run, event, at=int(self._clock.time()))

    def read(self, run: Run) -> Mapping[str, Any]:
        """Return all of it."""
        return copy.copy(run).to_dict()

    def advance(self, seconds: int) -> None:
        """Move the clock that the moves are told."""
        self._clock.advance(seconds)


class StoreAdapter:
    """A store of this library, each request by an actor of its own. Whoever has read a run decides on that version.

    With the `clock` that everybody reads, time is moved rather than waited for.
    """

    refused: tuple[type[Exception], ...] = (IllegalTransition, Conflict, LeaseLost)

    def __init__(self, store: Store, clock: ManualClock | None = None, **settings: Any) -> None:
        self.store: Final = store
        if clock is not None:
            self.advance: Callable[[int], None] = clock.advance
        self.name: str = f"runstate.store, {store.database.dialect.name}"
        self._settings = {**_NAMES, **settings}
        self._actors = count(1)
        self._claims: dict[str, tuple[Lease, StoredRun]] = {}

    def create(self) -> str:
        """Make a run; return its id."""
        return self.store.create(**self._settings).id

    def load(self, run: str) -> StoredRun:
        """Read a run, to decide on what it is now."""
        return self.store.get(run)

    def ask(self, run: str | StoredRun, event: RunEvent) -> object:
        """Ask an event of it."""
        known = {"expected_version": run.version} if isinstance(run, StoredRun) else {}
        kept = run if isinstance(run, StoredRun) else self.store.get(run)
        return ask_stored(self.store, kept, event, actor=f"actor {next(self._actors)}", **known)

    def read(self, run: str) -> Mapping[str, Any]:
        """Return it as the store keeps it."""
        return self.store.get(run).to_dict()

    def claim(self, worker: str, run: str) -> None:
        """Let a worker claim a run, or take it over."""
        is_new = self.store.get(run).status is INITIAL_STATUS
        waits = is_new and not isinstance(self, Clocked)
        lease = self.store.open_lease(worker, lease_s=_BRIEF_S if waits else _LEASE_S)
        found = self.store.claim_id(lease, run) if is_new else next(iter(self.store.take_over(lease, run_id=run)), None)
        if found is None:
            raise EventRefused("it is not to be had")
        self._claims[worker] = lease, found.run

    def lapse(self, worker: str) -> None:
        """Let a worker's lease lapse: time passes, and the sweep finds it."""
        if isinstance(self, Clocked):
            self.advance(2 * int(_LEASE_S))
        else:
            sleep(1.5 * _BRIEF_S)
        self.store.sweep()

    def settle(self, worker: str, run: str, event: RunEvent) -> object:
        """Let a worker settle its run, as it was when it claimed it."""
        lease, claimed = self._claims[worker]
        for error in self.store.settle(lease, [_outcome(claimed, RunEvent(event))]).refused.values():
            raise error
        return None


def _outcome(run: StoredRun, event: RunEvent) -> Settle:
    """Return an outcome as a worker brings it, with what it needs."""
    sample = Run.from_dict(run.to_dict())
    ask(sample, event)
    return Settle(
        run,
        event,
        json_text(sample.usage),
        required_action=json_text(sample.required_action),
        last_error=json_text(sample.last_error),
        incomplete_details=json_text(sample.incomplete_details),
    )
