"""Factories for runs in any status, and a run in memory that records its history."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, nullcontext
from functools import wraps
from threading import local
from typing import Any, Final, Self, overload

from runstate.clock import ManualClock, time_us, use_clock
from runstate.lifecycle import INITIAL_STATUS, RUN_LIFECYCLE, RunEvent, RunStatus
from runstate.run import Run
from runstate.store import Entry, Store, StoredRun
from runstate.testing._send import send_event, send_event_to_store

__all__ = ["SETUP_ACTOR", "TrackedRun", "a_run", "is_setting_up"]

SETUP_ACTOR: Final = "a_run"
"""The actor of the entries that `a_run` writes into a store."""

_IDS: Final = {"thread_id": "thread_1", "assistant_id": "asst_1", "model": "gpt-4o"}
_local: Final = local()


class TrackedRun(Run):
    """A `Run` that records its history for the messages of assertions. A copy has a history of its own."""

    __slots__ = ("_entries",)

    _entries: list[Entry]

    @classmethod
    def create(cls, *, at: int | None = None, **settings: Any) -> Self:
        """Return a new run, as `Run.create` does, with the first entry of its history."""
        run = super().create(at=at, **settings)
        run.record_entry(None, None, time_us() if at is None else at * 1_000_000)
        return run

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Its history since its creation, or since it was read from a record."""
        return tuple(getattr(self, "_entries", ()))

    def record_entry(self, event: RunEvent | None, source: RunStatus | None, at_us: int) -> None:
        """Append an entry; `at_us` is in Unix microseconds."""
        if not hasattr(self, "_entries"):
            self._entries = []
        version = len(self._entries) + 1
        self._entries.append(Entry(self.id, version, event, source, self.status, at_us, None, None))

    def __getstate__(self) -> tuple[Any, ...]:
        return (*super().__getstate__(), self.entries)

    def __setstate__(self, values: tuple[Any, ...]) -> None:
        *fields, entries = values
        super().__setstate__(tuple(fields))
        self._entries = list(entries)

    def __eq__(self, other: object) -> bool:
        # The history does not count. (Of two classes Python asks the subclass first.)
        return self.field_values() == other.field_values() if isinstance(other, Run) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as in Run


def _recording(event: RunEvent) -> Callable[..., None]:
    @wraps(getattr(Run, event))
    def move(self: TrackedRun, *args: Any, at: int | None = None, **kwargs: Any) -> None:
        source = self.status
        getattr(super(TrackedRun, self), event)(*args, at=at, **kwargs)
        self.record_entry(event, source, time_us() if at is None else at * 1_000_000)

    return move


for _event in RunEvent:
    setattr(TrackedRun, _event, _recording(_event))


@overload
def a_run(
    status: RunStatus | str | None = None,
    *,
    path: Iterable[RunEvent | str] | None = None,
    clock: ManualClock | None = None,
    store: None = None,
    **settings: Any,
) -> TrackedRun: ...
@overload
def a_run(
    status: RunStatus | str | None = None,
    *,
    path: Iterable[RunEvent | str] | None = None,
    clock: ManualClock | None = None,
    store: Store,
    **settings: Any,
) -> StoredRun: ...
def a_run(
    status: RunStatus | str | None = None,
    *,
    path: Iterable[RunEvent | str] | None = None,
    clock: ManualClock | None = None,
    store: Store | None = None,
    **settings: Any,
) -> TrackedRun | StoredRun:
    """Return a run in `status`, made by a legal path, with one second for each event by `clock`.

    The path is the shortest one through in_progress, unless `path` is given; with neither the run is new. `settings`
    are those of `Run.create`, or of `store.create` with a store; ids and the model have samples. Without a clock, a run
    in memory has its own clock, which begins at `at` or on 14 November 2023, and a stored run uses the clock of the
    process.

    Raises `ValueError` for an unknown status and for one in which the path does not end, and `IllegalTransition` for
    an illegal path.

    >>> run = a_run("requires_action")
    >>> run.status, run.started_at, [str(entry.event) for entry in run.entries]
    (<RunStatus.REQUIRES_ACTION: 'requires_action'>, 1700000001, ['None', 'start', 'require_action'])
    """
    expected = None if status is None else RunStatus(status)
    events = _path_to(expected or INITIAL_STATUS) if path is None else tuple(map(RunEvent, path))
    run: TrackedRun | StoredRun
    with _setting_up():
        if store is None:
            run = _in_memory({**_IDS, **settings}, events, clock)
        else:
            run = _in_store(store, {**_IDS, **settings}, events, clock)
    if expected not in (None, run.status):
        raise ValueError(f"the path {' -> '.join(events) or '()'} ends in {run.status}, not in {expected}")
    return run


def _path_to(status: RunStatus) -> tuple[RunEvent, ...]:
    """Return the shortest path that begins with `start`. From in_progress a path leads to every status."""
    begun = RUN_LIFECYCLE.target_of(RunEvent.START)
    return () if status is INITIAL_STATUS else (RunEvent.START, *(RUN_LIFECYCLE.shortest_path(begun, status) or ()))


def _in_memory(settings: dict[str, Any], events: Iterable[RunEvent], clock: ManualClock | None) -> TrackedRun:
    # Times are passed, because the clock belongs to the whole process, and a worker may be reading it.
    created_at = settings.get("at")
    if clock is None:
        clock = ManualClock() if created_at is None else ManualClock(created_at)
    run = TrackedRun.create(**{**settings, "at": int(clock.time()) if created_at is None else created_at})
    for event in events:
        clock.advance(1)
        send_event(run, event, at=int(clock.time()))
    return run


def _in_store(
    store: Store, settings: dict[str, Any], events: Iterable[RunEvent], clock: ManualClock | None
) -> StoredRun:
    with nullcontext() if clock is None else use_clock(clock):
        run = store.create(**settings)
        for event in events:
            if clock is not None:
                clock.advance(1)
            # A stored run without a worker is cancelled at once; a run in memory waits for the confirmation.
            if not (event is RunEvent.CONFIRM_CANCEL and run.status is RUN_LIFECYCLE.target_of(event)):
                run = send_event_to_store(store, run, event, actor=SETUP_ACTOR)
    return run


@contextmanager
def _setting_up() -> Generator[None, None, None]:
    _local.arranging = True
    try:
        yield
    finally:
        _local.arranging = False


def is_setting_up() -> bool:
    """Return whether this thread is setting up a run for a test. Such moves do not count for coverage."""
    return getattr(_local, "arranging", False)
