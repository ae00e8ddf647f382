"""What a store gives out: a run with its place in the store, and the entries of its history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

import attrs

from runstate.lifecycle import RunEvent, RunStatus
from runstate.run.record import JsonObject
from runstate.run.snapshot import RunSnapshot
from runstate.run.values import Usage

__all__ = ["Entry", "Settle", "SettleKey", "StoredRun"]

SettleKey: TypeAlias = tuple[RunEvent, bool]
"""An event that settles a run, and whether it is laden: carries more than its usage, or not even that."""

_OWN: Final = (
    "seq",
    "version",
    "event",
    "source",
    "changed_at_us",
    "actor",
    "queue",
    "priority",
    "attempt",
    "claimable",
)


class StoredRun(RunSnapshot):
    """A run as the store held it when it was read. It has no moves: those are asked of the store, by its id."""

    __slots__ = (
        "_pending_row",
        "actor",
        "attempt",
        "changed_at_us",
        "claimable",
        "event",
        "priority",
        "queue",
        "seq",
        "source",
        "version",
    )

    _pending_row: tuple[Callable[[Sequence[Any]], tuple[Any, ...]], Sequence[Any]] | None
    """The row it is read from, and what reads it; None once it was read."""
    seq: int
    """The store's own number for it; rises with every run created."""
    version: int
    """How many entries its history has: the race token. A new run has one, its birth."""
    event: RunEvent | None
    """What moved it last; None for a run that was only created."""
    source: RunStatus | None
    """Where it stood before that."""
    changed_at_us: int
    """When that was, in Unix microseconds."""
    actor: str | None
    """Who asked for it."""
    queue: str
    priority: int
    """Higher is claimed first."""
    attempt: int
    """How many workers have begun on it since it was last claimed from the queue; 0 where none has."""
    claimable: bool
    """Whether it may be claimed: false before its time, and while it waits behind its thread's live run."""

    @classmethod
    def lazy(
        cls,
        read: Callable[[Sequence[Any]], tuple[Any, ...]],
        row: Sequence[Any],
        seq: int,
        run_id: str,
        attempt: int,
        at: int,
        priority: int,
        status: RunStatus,
        expires_at: int | None,
        thread_id: str,
    ) -> Self:
        """Return a run of which only this is known yet; `read` gives all of it when somebody asks for more.

        A worker asks for no more than this, and most handlers for little: reading a whole run costs as much as the
        rest of a turn.
        """
        run = cls.__new__(cls)
        run._pending_row = (read, row)
        run.seq = seq
        run.attempt = attempt
        run.changed_at_us = at
        run.priority = priority
        run._id = run_id
        run._status = status
        run._expires_at = expires_at
        run._thread_id = thread_id
        return run

    if not TYPE_CHECKING:  # or a type checker would take any attribute for one of these

        def __getattr__(self, name: str) -> Any:
            """Read the run, as somebody asks for more of it than is known."""
            if name == "_pending_row" or name.startswith("__"):
                raise AttributeError(name)
            pending = getattr(self, "_pending_row", None)
            if pending is None:
                with suppress(AttributeError):  # another thread has just read it
                    return object.__getattribute__(self, name)
                if name in set(RunEvent):
                    raise AttributeError(f"a stored run is moved by its store: store.{name}(run.id, ...)")
                raise AttributeError(f"{type(self).__name__} has no attribute {name!r}", name=name, obj=self)
            read, row = pending
            self.__setstate__(read(row))
            self._pending_row = None
            return getattr(self, name)

    def __getstate__(self) -> tuple[Any, ...]:
        return (*self.field_values(), *(getattr(self, name) for name in _OWN))

    def __setstate__(self, values: tuple[Any, ...]) -> None:
        super().__setstate__(values[: -len(_OWN)])
        self.seq, self.version, self.event, self.source, self.changed_at_us, self.actor, *rest = values[-len(_OWN) :]
        self.queue, self.priority, self.attempt, self.claimable = rest

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return self.__getstate__() == other.__getstate__()

    __hash__ = None  # type: ignore[assignment]  # as a RunRecord


@attrs.frozen
class Entry:
    """One entry of a run's history, which nobody changes."""

    run_id: str
    version: int
    """1 for the birth, then one more an entry, with no gap."""
    event: RunEvent | None
    """What was asked; None for the birth."""
    source: RunStatus | None
    """Where the run stood; None for the birth."""
    target: RunStatus
    at_us: int
    """Unix microseconds; never before the entry before it."""
    actor: str | None
    """Who asked."""
    detail: JsonObject | None
    """What came with it: the calls required, the outputs submitted, a failure's traceback, a worker's attempt."""
    cursor: str = attrs.field(default="", eq=False)
    """Where to resume watching all runs after this entry."""


@attrs.define
class Settle:
    """The outcome of a claimed run. It is never changed; a class that forbids it takes a microsecond longer to make."""

    run: StoredRun
    event: RunEvent
    usage: str | None = None
    noted: Usage | None = None
    """What it has used, to be remembered while it waits for its tools."""
    detail: str | None = None
    required_action: str | None = None
    last_error: str | None = None
    incomplete_details: str | None = None

    @property
    def outcome(self) -> SettleKey:
        """Its event, and whether it is laden: carries more than its usage, or not even that."""
        bare = self.detail is self.required_action is self.last_error is self.incomplete_details is None
        return self.event, not bare or self.usage is None or self.noted is not None
