"""What a store refuses, and what goes wrong in one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from runstate.lifecycle import RunEvent
from runstate.lifecycle.errors import RunstateError
from runstate.store._types import StoredRun

__all__ = [
    "AccessDenied",
    "IdempotencyKeyReused",
    "LeaseLost",
    "LostRace",
    "OutcomeUnknown",
    "RunNotFound",
    "SchemaMismatch",
    "StoreError",
    "StoreUnavailable",
    "StoreUrlError",
    "ThreadBusy",
    "VersionConflict",
]


class LostRace(RunstateError):
    """Somebody else moved the run first. Nothing was changed; `run` is how it stands now."""

    def __init__(self, run: StoredRun, event: RunEvent) -> None:
        super().__init__(run, event)
        self.run: StoredRun = run
        self.run_id: str = run.id
        self.event: RunEvent = event
        """What was asked."""


class VersionConflict(LostRace):
    """The run is not at the version that the decision was made on. Read it again, and decide anew."""

    def __init__(self, run: StoredRun, event: RunEvent, expected_version: int) -> None:
        super().__init__(run, event)
        RunstateError.__init__(self, run, event, expected_version)  # what pickle makes it of again
        self.expected_version: int = expected_version

    def __str__(self) -> str:
        return (
            f"run {self.run_id} is {self.run.status} at version {self.run.version}, not at {self.expected_version}, "
            f"and was not asked to {self.event}; read it again and decide anew"
        )


class LeaseLost(LostRace):
    """The worker no longer holds the run: its lease lapsed, or another took the run over."""

    def __str__(self) -> str:
        return (
            f"run {self.run_id} is {self.run.status} and no longer this worker's, so it cannot {self.event}; "
            "whoever holds its lease now can"
        )


class RunNotFound(RunstateError, LookupError):
    """The store has no run with this id."""

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id)
        self.run_id: str = run_id

    def __str__(self) -> str:
        return f"No run found with id '{self.run_id}'."  # as the real servers say it


class ThreadBusy(RunstateError):
    """The thread has a live run, and the new one was to be its only one. Nothing was created."""

    def __init__(self, thread_id: str, run_id: str) -> None:
        super().__init__(thread_id, run_id)
        self.thread_id: str = thread_id
        self.run_id: str = run_id
        """The run that is in the way."""

    def __str__(self) -> str:
        return f"Thread {self.thread_id} already has an active run {self.run_id}."  # as the real servers say it


class IdempotencyKeyReused(RunstateError):
    """The idempotency key belongs to a run that was created with other values. Nothing was created."""

    def __init__(self, key: str, run_id: str, fields: Sequence[str]) -> None:
        super().__init__(key, run_id, tuple(fields))
        self.key: str = key
        self.run_id: str = run_id
        """The run that was created with the key."""
        self.fields: tuple[str, ...] = tuple(fields)
        """What differs."""

    def __str__(self) -> str:
        return (
            f"the idempotency key {self.key!r} belongs to run {self.run_id}, which was created with other values "
            f"({', '.join(self.fields)}); a new request needs a new key"
        )


class StoreError(RunstateError):
    """The store's own trouble, in one sentence. Nothing was changed."""


class StoreUrlError(StoreError, ValueError):
    """The address is none that a store can be opened with."""


class AccessDenied(StoreError):
    """The role that the store was opened with, or the user of the process, may not do this in the database."""


class SchemaMismatch(StoreError):
    """The database is not one that this version of the library can work with."""


class StoreUnavailable(StoreError):
    """The database cannot be reached, is busy for too long, full, or read-only for now. Asking again can help."""

    retryable: ClassVar[bool] = True


class OutcomeUnknown(StoreError):
    """The answer was lost: the change was made, or was not. Read the run before asking again."""
