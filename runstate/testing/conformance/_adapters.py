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
from runstate.store.errors import LeaseLost, VersionConflict
from runstate.testing._diff import read_fields
from runstate.testing._send import RefusalTypes, send_event, send_event_to_store
from runstate.testing.conformance._system import EventNotOffered, EventRefused, SupportsClock

__all__ = ["FunctionAdapter", "InMemoryAdapter", "ObjectAdapter", "SqlTableAdapter", "StoreAdapter"]


_TIME_PARAMETER: Final = re.compile(r":at\b|%\(at\)s")


def _refusal_types(refused: RefusalTypes) -> tuple[type[Exception], ...]:
    """Return the exceptions that count as refusals. Raises `TypeError` for anything but classes of exceptions."""
    kinds = refused if isinstance(refused, tuple) else (refused,)
    for kind in cast("tuple[object, ...]", kinds):
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise TypeError(f"refused: expected a class of errors, or a tuple of them, got {kind!r}")
    return (EventRefused, *kinds)


class FunctionAdapter:
    """Three functions: create a run, send an event to it, read it back.

    `load` returns the handle that another actor gets by reading the run now; `advance` moves the clock by seconds.
    """

    def __init__(
        self,
        create: Callable[[], Any],
        send: Callable[[Any, RunEvent], object],
        read: Callable[[Any], Mapping[str, Any]],
        *,
        refused: RefusalTypes,
        load: Callable[[Any], Any] | None = None,
        advance: Callable[[int], None] | None = None,
        lifecycle: Lifecycle = RUN_LIFECYCLE,
        name: str = "functions",
    ) -> None:
        self._create, self._ask, self._read = create, send, read
        if load is not None:
            self.load: Callable[[Any], Any] = load
        if advance is not None:
            self.advance: Callable[[int], None] = advance
        self.refused: tuple[type[Exception], ...] = _refusal_types(refused)
        self.lifecycle: Lifecycle = lifecycle
        self.name: str = name

    def create(self) -> Any:
        """Create a run."""
        return self._create()

    def send(self, run: Any, event: RunEvent) -> object:
        """Send an event to a run."""
        return self._ask(run, RunEvent(event))

    def read(self, run: Any) -> Mapping[str, Any]:
        """Return a run as it is stored."""
        return self._read(run)


class ObjectAdapter:
    """Objects with a method for each event: instances of an ORM class, models of a state machine.

    `methods` names the methods that are not called like their event (`{"request_cancel": "cancel"}`). An event without
    a method is not offered. Required arguments (calls, outputs, reason, code, message) are filled in with samples by
    their names. `load` returns a second copy of a run, as another session of an ORM reads it; `read` returns what is
    stored, if that is not the object itself; `advance` moves the clock that the objects read.
    """

    def __init__(
        self,
        create: Callable[[], Any],
        *,
        refused: RefusalTypes,
        methods: Mapping[str, str] | None = None,
        load: Callable[[Any], Any] | None = None,
        read: Callable[[Any], object] | None = None,
        advance: Callable[[int], None] | None = None,
        lifecycle: Lifecycle = RUN_LIFECYCLE,
        name: str = "",
    ) -> None:
        if not callable(create):
            got = with_article(type(create).__name__)
            raise TypeError(f"create: expected a class, or what makes an object, got {got}")
        self._create = create
        self._names = {RunEvent(event): method for event, method in (methods or {}).items()}
        self._read = read
        if load is not None:
            self.load: Callable[[Any], Any] = load
        if advance is not None:
            self.advance: Callable[[int], None] = advance
        self.refused: tuple[type[Exception], ...] = _refusal_types(refused)
        self.lifecycle: Lifecycle = lifecycle
        self.name: str = name or getattr(create, "__name__", "objects")

    def create(self) -> Any:
        """Create a run."""
        return self._create()

    def send(self, run: Any, event: RunEvent) -> object:
        """Call the method of an event."""
        method = self._names.get(event, event)
        if not callable(getattr(run, method, None)):
            error = EventNotOffered if event not in self._names else TypeError  # a method that was named must exist
            raise error(f"{type(run).__name__} has no method {method}()")
        return send_event(run, event, method=method)

    def read(self, run: Any) -> Mapping[str, Any]:
        """Return the attributes of a run."""
        return read_fields(run if self._read is None else self._read(run))


class SqlTableAdapter:
    """A table of runs, and the statements that move them.

    `connect` opens a DB-API connection (sqlite3, psycopg). Each thread has its own, and every statement is committed.
    The statements take `id` and `at` (Unix seconds) in the style of the driver, `:id` or `%(id)s`: `create` inserts a
    run with that id, `read` selects it with its column names, and `moves` has one statement for each event. A statement
    that affects or returns no row refuses the event, and so does an error of `refused` (a CHECK, a trigger).
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        *,
        create: str,
        moves: Mapping[str, str],
        read: str,
        refused: RefusalTypes = (),
        lifecycle: Lifecycle = RUN_LIFECYCLE,
        name: str = "SQL table",
    ) -> None:
        self._connect = connect
        self._made, self._moves, self._look = create, {RunEvent(event): sql for event, sql in moves.items()}, read
        self._own = threading.local()
        self._late = 0
        if _TIME_PARAMETER.search(
            self._moves.get(RunEvent.START, "".join(moves.values()))
        ):  # else the database has the time
            self.advance: Callable[[int], None] = self._advance
        self.refused: tuple[type[Exception], ...] = _refusal_types(refused)
        self.lifecycle: Lifecycle = lifecycle
        self.name: str = name

    def create(self) -> str:
        """Insert a run; return its id."""
        run_id = new_run_id(time_us() / 1_000_000)
        self._execute(self._made, run_id)
        return run_id

    def send(self, run: str, event: RunEvent) -> object:
        """Execute the statement of an event."""
        if event not in self._moves:
            raise EventNotOffered(f"there is no statement for {event}")
        if self._execute(self._moves[event], run)[0] == 0:
            raise EventRefused("no row was touched")
        return None

    def read(self, run: str) -> Mapping[str, Any]:
        """Select a run."""
        _, row = self._execute(self._look, run)  # this commits: otherwise later reads would see the first snapshot
        if row is None:
            raise LookupError("no row has its id")
        return row

    def _advance(self, seconds: int) -> None:
        self._late += seconds

    def _execute(self, statement: str, run: str) -> tuple[int, Mapping[str, Any] | None]:
        """Execute a statement and commit; return how many rows it affected, and the first that it returned."""
        connection = self._connection()
        parameters = {"id": run, "at": time_us() // 1_000_000 + self._late}
        try:
            with closing(connection.cursor()) as cursor:
                cursor.execute(statement, parameters)
                touched: int = cursor.rowcount
                rows: list[dict[str, Any]] = []
                if cursor.description is not None:
                    names = [column[0] for column in cursor.description]
                    rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
                    touched = len(rows)
            connection.commit()
        except Exception:
            with suppress(Exception):  # the first error is the one to report
                connection.rollback()
            raise
        return touched, next(iter(rows), None)

    def _connection(self) -> Any:
        if not hasattr(self._own, "held"):
            held, connection = _OpenMarker(), self._connect()
            weakref.finalize(held, _close, connection)
            self._own.held, self._own.connection = held, connection
        return self._own.connection


class _OpenMarker:
    """A marker in the storage of a thread: when it goes, the connection of the thread is closed."""


def _close(connection: Any) -> None:
    with suppress(Exception):  # the thread that it belonged to may be gone, and the server too
        connection.close()


_LEASE_S: Final = 30.0
_SHORT_LEASE_S: Final = 0.2
"""A lease short enough to wait for in real time."""

_IDS: Final[Mapping[str, Any]] = {"thread_id": "thread_1", "assistant_id": "asst_1", "model": "gpt-4o"}


class InMemoryAdapter:
    """The runs of this library in memory."""

    name = "runstate.Run"
    refused: tuple[type[Exception], ...] = (IllegalTransition,)

    def __init__(self) -> None:
        self._clock = ManualClock()

    def create(self) -> Run:
        """Create a run."""
        return Run.create(**_IDS, at=int(self._clock.time()))

    def send(self, run: Run, event: RunEvent) -> object:
        """Send an event to a run, at the time of the adapter's clock."""
        return send_event(run, event, at=int(self._clock.time()))

    def read(self, run: Run) -> Mapping[str, Any]:
        """Return all fields of a run."""
        return copy.copy(run).to_dict()

    def advance(self, seconds: int) -> None:
        """Move the adapter's clock."""
        self._clock.advance(seconds)


class StoreAdapter:
    """A store of this library. Each request has its own actor. A request by a loaded copy has the version of the copy.

    With `clock`, the clock of the whole process, time is moved instead of waited for. `settings` are arguments of
    `Store.create`, for every run.
    """

    refused: tuple[type[Exception], ...] = (IllegalTransition, VersionConflict, LeaseLost)

    def __init__(self, store: Store, clock: ManualClock | None = None, **settings: Any) -> None:
        self.store: Final = store
        if clock is not None:
            self.advance: Callable[[int], None] = clock.advance
        self.name: str = f"runstate.store, {store.dialect}"
        self._settings = {**_IDS, **settings}
        self._actors = count(1)
        self._claims: dict[str, tuple[Lease, StoredRun]] = {}

    def create(self) -> str:
        """Create a run; return its id."""
        return self.store.create(**self._settings).id

    def load(self, run: str) -> StoredRun:
        """Read a run."""
        return self.store.get(run)

    def send(self, run: str | StoredRun, event: RunEvent) -> object:
        """Send an event to a run."""
        known = {"expected_version": run.version} if isinstance(run, StoredRun) else {}
        kept = run if isinstance(run, StoredRun) else self.store.get(run)
        return send_event_to_store(self.store, kept, event, actor=f"actor {next(self._actors)}", **known)

    def read(self, run: str) -> Mapping[str, Any]:
        """Return a run as it is stored."""
        return self.store.get(run).to_dict()

    def claim(self, worker: str, run: str) -> None:
        """Let a worker claim a run, or take it over."""
        is_new = self.store.get(run).status is INITIAL_STATUS
        waits = is_new and not isinstance(self, SupportsClock)
        lease = self.store.open_lease(worker, lease_s=_SHORT_LEASE_S if waits else _LEASE_S)
        found = self.store.claim_id(lease, run) if is_new else next(iter(self.store.take_over(lease, run_id=run)), None)
        if found is None:
            raise EventRefused("it cannot be claimed")
        self._claims[worker] = lease, found.run

    def lapse(self, worker: str) -> None:
        """Let a worker's lease lapse: time passes, and a sweep closes it."""
        if isinstance(self, SupportsClock):
            self.advance(2 * int(_LEASE_S))
        else:
            sleep(1.5 * _SHORT_LEASE_S)
        self.store.sweep()

    def settle(self, worker: str, run: str, event: RunEvent) -> object:
        """Let a worker settle a run by the copy that it claimed."""
        lease, claimed = self._claims[worker]
        for error in self.store.settle(lease, [_outcome(claimed, RunEvent(event))]).refused.values():
            raise error
        return None


def _outcome(run: StoredRun, event: RunEvent) -> Settle:
    """Return an outcome with sample values, as a worker commits it."""
    sample = Run.from_dict(run.to_dict())
    send_event(sample, event)
    return Settle(
        run,
        event,
        json_text(sample.usage),
        required_action=json_text(sample.required_action),
        last_error=json_text(sample.last_error),
        incomplete_details=json_text(sample.incomplete_details),
    )
