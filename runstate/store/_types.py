"""The values that a store returns: stored runs, their histories, steps and attempts, workers, and paused queues."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import attrs

from runstate.lifecycle import RunEvent, RunStatus
from runstate.run.record import JsonObject
from runstate.run.snapshot import RunSnapshot
from runstate.run.values import Usage

__all__ = ["Attempt", "Entry", "Event", "PausedQueue", "StepRecord", "StoredRun", "WorkerInfo"]


class StoredRun(RunSnapshot):
    """A run as it was read from a store: a `RunSnapshot` with the fields of the store.

    It cannot be changed and has no moves. Call the methods of the store with its id: `store.complete(run.id)`.
    """

    STORE_FIELDS: ClassVar = (
        *("seq", "version", "event", "source", "changed_at_us"),
        *("actor", "queue", "priority", "attempt", "lost", "failed", "claimable", "repeats"),
    )
    """The names of the fields of the store."""

    __slots__ = ("_pending_row", *STORE_FIELDS)

    _pending_row: tuple[Callable[[Sequence[Any]], tuple[Any, ...]], Sequence[Any]] | None
    """The row of the run, and the function that decodes it. None after it was decoded."""
    seq: int
    """The store's number of the run. It increases with every run that is created."""
    version: int
    """The number of entries in its history. A new run has one. Pass it as `expected_version` of a move."""
    event: RunEvent | None
    """The event of the last move. None for a run that was only created."""
    source: RunStatus | None
    """The status before the last move."""
    changed_at_us: int
    """When the run was last moved or created, in Unix microseconds."""
    actor: str | None
    """The actor of the last move."""
    queue: str
    priority: int
    """Runs with a higher priority are claimed first."""
    attempt: int
    """How many times workers have claimed the run since it was last queued. 0 if none has."""
    lost: int
    """How many of these claims ended with the death of the worker."""
    failed: int
    """How many of these claims ended with an error, and were retried."""
    claimable: bool
    """Whether the run is queued and may be claimed.

    False before its `not_before`, while it waits behind a run of its thread, and once it was started.
    """
    repeats: str | None
    """The id of the ended run that this one repeats. None for other runs."""

    @classmethod
    def lazy(
        cls,
        read: Callable[[Sequence[Any]], tuple[Any, ...]],
        row: Sequence[Any],
        seq: int,
        version: int,
        run_id: str,
        attempt: int,
        lost: int,
        at: int,
        priority: int,
        status: RunStatus,
        expires_at: int | None,
        thread_id: str,
    ) -> Self:
        """Return a run with these fields only. `read` decodes the row when another field is first read.

        A worker needs no other fields, and most handlers need few: to decode a whole run costs as much as everything
        else that a worker does for it.
        """
        run = cls.__new__(cls)
        run._pending_row = (read, row)
        run.seq = seq
        run.version = version
        run.attempt = attempt
        run.lost = lost
        run.changed_at_us = at
        run.priority = priority
        run._id = run_id
        run._status = status
        run._expires_at = expires_at
        run._thread_id = thread_id
        return run

    if not TYPE_CHECKING:  # otherwise a type checker would accept any attribute

        def __getattr__(self, name: str) -> Any:
            """Decode the row, because a field is missing."""
            if name == "_pending_row" or name.startswith("__"):
                raise AttributeError(name)
            pending = getattr(self, "_pending_row", None)
            if pending is None:
                with suppress(AttributeError):  # another thread has just decoded the row
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
        """Set the fields of `STORE_FIELDS`, in this order. A loop over the names would take twice as long."""
        self.seq, self.version, self.event, self.source, self.changed_at_us, self.actor, *rest = values
        self.queue, self.priority, self.attempt, self.lost, self.failed, self.claimable, self.repeats = rest

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return self.__getstate__() == other.__getstate__()

    __hash__ = None  # type: ignore[assignment]  # as a RunRecord


@attrs.frozen
class Entry:
    """One entry of a run's history. Entries are never changed."""

    run_id: str
    version: int
    """The number of the entry: 1 for the creation of the run, then increasing by one without a gap."""
    event: RunEvent | None
    """The event of the move. None for the creation."""
    source: RunStatus | None
    """The status before the move. None for the creation."""
    target: RunStatus
    """The status after the move."""
    at_us: int
    """When the move was made, in Unix microseconds. Never earlier than the entry before."""
    actor: str | None
    """The name of the client or worker that requested the move."""
    detail: JsonObject | None
    """The required calls, the submitted outputs, the traceback of a failure, or the attempt of a worker."""
    cursor: str = attrs.field(default="", eq=False)
    """The position of this entry among the entries of all runs. Pass it as `after` to resume after this entry."""


@attrs.frozen
class Event:
    """A piece of output that a handler has emitted by `Context.emit`. Readers share it: do not change its data."""

    number: int
    """1 for the first event of the run, then increasing by one without a gap."""
    attempt: int
    """The attempt of the run that has emitted it. A later attempt may emit the same again."""
    data: Any
    """The JSON value."""
    at_us: int
    """When it was written, in Unix microseconds. Events that are written together have the same time."""


@attrs.frozen
class StepRecord:
    """A step that the handler of a run has kept."""

    name: str
    key: str
    """The key among the steps of this name; empty without one."""
    number: int
    """Its place among the steps of the run."""
    attempt: int
    """The attempt of the run in which it was executed."""
    result: Any
    """What the function of the step returned. None also for a step without an end."""
    usage: Usage
    """The tokens that the step has used."""
    began_at_us: int
    """When it began, in Unix microseconds."""
    ended_at_us: int | None
    """When it ended. None for a step that was begun with `once=True`, and whose end nobody kept."""

    @property
    def seconds(self) -> float | None:
        """How long it took; None if it has no end."""
        return None if self.ended_at_us is None else (self.ended_at_us - self.began_at_us) / 1_000_000


@attrs.frozen
class Attempt:
    """An attempt of a run that ended without an outcome."""

    number: int
    """1 for the first of them in the life of the run, then increasing by one."""
    attempt: int
    """The value of `StoredRun.attempt` in this attempt. It begins again at 1 after a tool round."""
    ended_at_us: int
    """When its end was recorded, in Unix microseconds."""
    result: Literal["retry", "lost", "released"]
    """Why there is no outcome: the run waits for a retry, the worker died, or the worker released the run."""
    actor: str | None
    """The name of the worker."""
    error: JsonObject | None
    """Why the run is retried: `code`, `message` and maybe `traceback`. None for the others."""
    next_at_us: int | None
    """When the retry is due, in Unix microseconds. None for the others."""


@attrs.frozen
class WorkerInfo:
    """A worker at work: a session whose lease holds."""

    name: str
    """The name of the worker in histories. Several workers may have one name."""
    began_at_us: int
    """When it opened its lease, in Unix microseconds."""
    lease_until_us: int
    """Until when its lease holds unless it is renewed, in Unix microseconds."""
    runs: int
    """How many runs it has."""


@attrs.frozen
class PausedQueue:
    """A pause of a queue. While it lasts, no run of the queue is claimed."""

    queue: str
    paused_at_us: int
    """When it began, in Unix microseconds."""
    paused_by: str | None
    """The name of who paused the queue."""
    reason: str | None
    resumed_at_us: int | None
    """When it ended, in Unix microseconds. None while it lasts."""
    resumed_by: str | None
    """The name of who resumed the queue."""
