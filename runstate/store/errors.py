"""The errors of a store."""

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
    "RunIsLive",
    "RunNotFound",
    "SchemaMismatch",
    "StoreError",
    "StoreUnavailable",
    "StoreUrlError",
    "ThreadBusy",
    "VersionConflict",
]


class LostRace(RunstateError):
    """Another client or worker moved the run first. Nothing was changed. `run` is the current run."""

    def __init__(self, run: StoredRun, event: RunEvent) -> None:
        super().__init__(run, event)
        self.run: StoredRun = run
        self.run_id: str = run.id
        self.event: RunEvent = event
        """The requested event."""


class VersionConflict(LostRace):
    """The run has another version than `expected_version`. Read the run again, and decide again."""

    def __init__(self, run: StoredRun, event: RunEvent, expected_version: int) -> None:
        super().__init__(run, event)
        RunstateError.__init__(self, run, event, expected_version)  # the arguments with which pickle makes a copy
        self.expected_version: int = expected_version

    def __str__(self) -> str:
        return (
            f"run {self.run_id} is {self.run.status} at version {self.run.version}, not at {self.expected_version}, "
            f"so {self.event} was not applied; read it again and decide again"
        )


class LeaseLost(LostRace):
    """The worker no longer has the run: its lease has lapsed, or another worker has taken the run over."""

    def __str__(self) -> str:
        return (
            f"run {self.run_id} is {self.run.status} and no longer this worker's, so it cannot {self.event}; "
            "only the worker that has it now can"
        )


class RunNotFound(RunstateError, LookupError):
    """The store has no run with this id."""

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id)
        self.run_id: str = run_id

    def __str__(self) -> str:
        return f"No run found with id '{self.run_id}'."  # the message of the real servers


class RunIsLive(RunstateError):
    """The run has not ended, so it cannot be repeated. `run` is the current run."""

    def __init__(self, run: StoredRun) -> None:
        super().__init__(run)
        self.run: StoredRun = run
        self.run_id: str = run.id

    def __str__(self) -> str:
        status = self.run.status
        return f"run {self.run_id} is {status}, and only an ended run can be repeated: wait for its end, or cancel it"


class ThreadBusy(RunstateError):
    """The thread already has a live run, and `one_live_run_per_thread="reject"` was given. Nothing was created."""

    def __init__(self, thread_id: str, run_id: str) -> None:
        super().__init__(thread_id, run_id)
        self.thread_id: str = thread_id
        self.run_id: str = run_id
        """The id of the live run."""

    def __str__(self) -> str:
        return f"Thread {self.thread_id} already has an active run {self.run_id}."  # the message of the real servers


class IdempotencyKeyReused(RunstateError):
    """The idempotency key belongs to a run that was created with other values. Nothing was created."""

    def __init__(self, key: str, run_id: str, fields: Sequence[str]) -> None:
        super().__init__(key, run_id, tuple(fields))
        self.key: str = key
        self.run_id: str = run_id
        """The id of the run that was created with the key."""
        self.fields: tuple[str, ...] = tuple(fields)
        """The names of the values that differ."""

    def __str__(self) -> str:
        return (
            f"the idempotency key {self.key!r} belongs to run {self.run_id}, which was created with other values "
            f"({', '.join(self.fields)}); a new request needs a new key"
        )


class StoreError(RunstateError):
    """The store could not execute a request. Nothing was changed, except perhaps with `OutcomeUnknown`."""


class StoreUrlError(StoreError, ValueError):
    """The address is wrong: its form, its database or file, its user or its password."""


class AccessDenied(StoreError):
    """The role of the connection, or the user of the process, lacks a permission in the database."""


class SchemaMismatch(StoreError):
    """The tables are missing, or are not those of this version of the library."""


class StoreUnavailable(StoreError):
    """The database cannot be reached, is busy for too long, full, or read-only for now. A retry can help."""

    retryable: ClassVar[bool] = True


class OutcomeUnknown(StoreError):
    """The reply was lost: the change may or may not have been made. Read the run before you repeat the request."""
