"""Runs brought to a status by a legal path, and a run in memory that remembers what it was asked."""

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
from runstate.testing._drive import ask, ask_stored

__all__ = ["ARRANGED", "TrackedRun", "a_run", "is_arranging"]

ARRANGED: Final = "a_run"
"""The actor of the entries that `a_run` leaves in a store."""

_NAMES: Final = {"thread_id": "thread_1", "assistant_id": "asst_1", "model": "gpt-4o"}
_here: Final = local()


class TrackedRun(Run):
    """A `Run` that remembers its history, so that a failing assertion can tell it. A copy has a history of its own."""

    __slots__ = ("_entries",)

    _entries: list[Entry]

    @classmethod
    def create(cls, *, at: int | None = None, **settings: Any) -> Self:
        """Return a new run, as `Run.create` does, whose history begins."""
        run = super().create(at=at, **settings)
        run.remember(None, None, time_us() if at is None else at * 1_000_000)
        return run

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What happened to it, from its birth on; of one that was read from a record, since then."""
        return tuple(getattr(self, "_entries", ()))

    def remember(self, event: RunEvent | None, source: RunStatus | None, at: int) -> None:
        """Append an entry; `at` in Unix microseconds."""
        if not hasattr(self, "_entries"):
            self._entries = []
        version = len(self._entries) + 1
        self._entries.append(Entry(self.id, version, event, source, self.status, at, None, None))

    def __getstate__(self) -> tuple[Any, ...]:
        return (*super().__getstate__(), self.entries)

    def __setstate__(self, values: tuple[Any, ...]) -> None:
        *fields, entries = values
        super().__setstate__(tuple(fields))
        self._entries = list(entries)

    def __eq__(self, other: object) -> bool:
        # A run that remembers is the run it is. (Of two kinds of run Python asks the special one first.)
        return self.field_values() == other.field_values() if isinstance(other, Run) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as a Run


def _remembering(event: RunEvent) -> Callable[..., None]:
    @wraps(getattr(Run, event))
    def move(self: TrackedRun, *args: Any, at: int | None = None, **given: Any) -> None:
        source = self.status
        getattr(super(TrackedRun, self), event)(*args, at=at, **given)
        self.remember(event, source, time_us() if at is None else at * 1_000_000)

    return move


for _event in RunEvent:
    setattr(TrackedRun, _event, _remembering(_event))


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
    """Return a run that stands in `status`, brought there by a legal path, a second an event by `clock`.

    The path is the shortest from birth through in_progress, unless one is given; with neither the run is new.
    `settings` are those of `Run.create` (of `store.create` with a store); the names have samples. Without a clock, a
    run in memory has one of its own from `at` on, else from 14 November 2023, and a stored one the clock that everybody
    reads.

    Raises `ValueError` for a status that is none of the nine or that the path does not end in, and what the law
    raises for a path that is illegal.

    >>> run = a_run("requires_action")
    >>> run.status, run.started_at, [str(entry.event) for entry in run.entries]
    (<RunStatus.REQUIRES_ACTION: 'requires_action'>, 1700000001, ['None', 'start', 'require_action'])
    """
    wanted = None if status is None else RunStatus(status)
    events = _way_to(wanted or INITIAL_STATUS) if path is None else tuple(map(RunEvent, path))
    run: TrackedRun | StoredRun
    with _arranging():
        if store is None:
            run = _in_memory({**_NAMES, **settings}, events, clock)
        else:
            run = _in_store(store, {**_NAMES, **settings}, events, clock)
    if wanted not in (None, run.status):
        raise ValueError(f"the path {' -> '.join(events) or '()'} ends in {run.status}, not in {wanted}")
    return run


def _way_to(status: RunStatus) -> tuple[RunEvent, ...]:
    """Return the shortest way that a worker takes part in; from where it begins, one leads everywhere."""
    begun = RUN_LIFECYCLE.target_of(RunEvent.START)
    return () if status is INITIAL_STATUS else (RunEvent.START, *(RUN_LIFECYCLE.shortest_path(begun, status) or ()))


def _in_memory(given: dict[str, Any], events: Iterable[RunEvent], clock: ManualClock | None) -> TrackedRun:
    # Its times are given, because the clock is the whole process's, and a worker may be reading it.
    born = given.get("at")
    if clock is None:
        clock = ManualClock() if born is None else ManualClock(born)
    run = TrackedRun.create(**{**given, "at": int(clock.time()) if born is None else born})
    for event in events:
        clock.advance(1)
        ask(run, event, at=int(clock.time()))
    return run


def _in_store(store: Store, given: dict[str, Any], events: Iterable[RunEvent], clock: ManualClock | None) -> StoredRun:
    with nullcontext() if clock is None else use_clock(clock):
        run = store.create(**given)
        for event in events:
            if clock is not None:
                clock.advance(1)
            # A stored run that nobody works on is cancelled at once, where one in memory waits for its confirmation.
            if not (event is RunEvent.CONFIRM_CANCEL and run.status is RUN_LIFECYCLE.target_of(event)):
                run = ask_stored(store, run, event, actor=ARRANGED)
    return run


@contextmanager
def _arranging() -> Generator[None, None, None]:
    _here.arranging = True
    try:
        yield
    finally:
        _here.arranging = False


def is_arranging() -> bool:
    """Tell whether this thread is bringing a run where a test wants it: those moves are not the test's own."""
    return getattr(_here, "arranging", False)
