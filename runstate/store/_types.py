"""What a store returns: a run with its place in the store, and the entries of its history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Self

import attrs

from runstate.lifecycle import RunEvent, RunStatus
from runstate.run.record import JsonObject
from runstate.run.snapshot import RunSnapshot

__all__ = ["Entry", "StoredRun"]


class StoredRun(RunSnapshot):
    """A run as the store held it when it was read. It has no moves: those are asked of the store, by its id."""

    STORE_FIELDS: ClassVar = (
        *("seq", "version", "event", "source", "changed_at_us"),
        *("actor", "queue", "priority", "attempt", "claimable"),
    )
    """What it has of the store, besides what every run has."""

    __slots__ = ("_pending_row", *STORE_FIELDS)

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
        return (*self.field_values(), *(getattr(self, name) for name in self.STORE_FIELDS))

    def __setstate__(self, values: tuple[Any, ...]) -> None:
        count = len(self.STORE_FIELDS)
        super().__setstate__(values[:-count])
        self.set_store_fields(values[-count:])

    def set_store_fields(self, values: tuple[Any, ...]) -> None:
        """Set what a run has of the store, as `STORE_FIELDS`: a loop over the names takes twice as long."""
        self.seq, self.version, self.event, self.source, self.changed_at_us, self.actor, *rest = values
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
