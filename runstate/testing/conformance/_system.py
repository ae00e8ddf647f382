"""The protocols of a system under test: what an adapter must have, and what it may have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from runstate.lifecycle import RUN_LIFECYCLE, Lifecycle, RunEvent

__all__ = [
    "EventNotOffered",
    "EventRefused",
    "SupportsClock",
    "SupportsLeases",
    "SupportsLoad",
    "SystemUnderTest",
    "lifecycle_of",
    "name_of",
]


class EventRefused(Exception):
    """An adapter raises it when its implementation refuses an event."""


class EventNotOffered(Exception):
    """An adapter raises it for an event that its implementation has no call for. The cell is "not offered"."""


class SystemUnderTest(Protocol):
    """An implementation of runs. A handle is whatever identifies a run to it: an id, an object, the key of a row."""

    refused: tuple[type[Exception], ...]
    """The exceptions by which `send` refuses an event. Any other error is a violation, and never a refusal."""

    def create(self) -> Any:
        """Create a run; return its handle."""
        ...

    def send(self, run: Any, event: RunEvent) -> object:
        """Send an event to a run.

        Raises one of `refused` if it is refused, `EventNotOffered` if there is no call for it.
        """
        ...

    def read(self, run: Any) -> Mapping[str, Any]:
        """Return the run as it is stored now: its `status`, by the names of `RunStatus`, and the fields that it has."""
        ...


@runtime_checkable
class SupportsLoad(SystemUnderTest, Protocol):
    """A system in which two actors can each hold a copy of a run, which becomes stale when the other moves the run."""

    def load(self, run: Any) -> Any:
        """Return the handle that another actor gets by reading the run now."""
        ...


@runtime_checkable
class SupportsClock(Protocol):
    """A system whose clock can be moved. With others the kit waits, so that no two moves fall into one second."""

    def advance(self, seconds: int) -> None:
        """Move the clock forward by so many seconds."""
        ...


@runtime_checkable
class SupportsLeases(SystemUnderTest, Protocol):
    """A system with workers whose leases can lapse."""

    def claim(self, worker: str, run: Any) -> None:
        """Let a worker claim a run, or take it over from a worker whose lease has lapsed."""
        ...

    def lapse(self, worker: str) -> None:
        """Let a worker's lease lapse, as if the worker had stalled for that long."""
        ...

    def settle(self, worker: str, run: Any, event: RunEvent) -> object:
        """Let a worker settle its run. Raises one of `refused` if the run is no longer the worker's."""
        ...


def lifecycle_of(system: SystemUnderTest) -> Lifecycle:
    """Return the table that a system is checked against: its own `lifecycle`, else that of runs."""
    lifecycle: Lifecycle = getattr(system, "lifecycle", RUN_LIFECYCLE)
    return lifecycle


def name_of(system: SystemUnderTest) -> str:
    """Return the name of a system: its `name`, else that of its class."""
    return str(getattr(system, "name", "") or type(system).__name__)
