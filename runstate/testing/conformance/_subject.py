"""What stands trial: somebody's runs, behind the few things that the trial asks of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from runstate.lifecycle import RUN_LIFECYCLE, Lifecycle, RunEvent

__all__ = ["Clocked", "EventNotOffered", "EventRefused", "Leasing", "Loading", "Subject", "law_of", "name_of"]


class EventRefused(Exception):
    """What an adapter raises where its implementation said no."""


class EventNotOffered(Exception):
    """What an adapter raises for an event that its implementation has no way to be asked. It counts neither way."""


class Subject(Protocol):
    """Somebody's implementation of runs. A handle is whatever names a run to it: an id, an object, a row's key."""

    refused: tuple[type[Exception], ...]
    """What its `ask` raises to say no. Any other error is told as a breakage, and never taken for a refusal."""

    def create(self) -> Any:
        """Make a new run; return its handle."""
        ...

    def ask(self, run: Any, event: RunEvent) -> object:
        """Ask an event of a run. Raises one of `refused` if it is refused, `EventNotOffered` if it cannot be asked."""
        ...

    def read(self, run: Any) -> Mapping[str, Any]:
        """Return the run as it is kept now: its `status`, by the law's names, and what it has of a run's fields."""
        ...


@runtime_checkable
class Loading(Subject, Protocol):
    """A subject whose runs two actors can hold at once, each having read it by itself: their copies go stale."""

    def load(self, run: Any) -> Any:
        """Return a handle as another actor has it who reads the run now."""
        ...


@runtime_checkable
class Clocked(Protocol):
    """A subject whose time the trial may move. For others it waits, so that no two moves fall into one second."""

    def advance(self, seconds: int) -> None:
        """Let so many seconds pass."""
        ...


@runtime_checkable
class Leasing(Subject, Protocol):
    """A subject with workers, whose leases lapse."""

    def claim(self, worker: str, run: Any) -> None:
        """Let a worker claim a run, or take it over from one whose lease has lapsed."""
        ...

    def lapse(self, worker: str) -> None:
        """Let a worker's lease lapse, as if it had stood still for that long."""
        ...

    def settle(self, worker: str, run: Any, event: RunEvent) -> object:
        """Let a worker end its run, or ask for tools. Raises one of `refused` if it is no longer the worker's."""
        ...


def law_of(subject: Subject) -> Lifecycle:
    """Return the law that a subject is held against: its own `law`, else that of runs."""
    law: Lifecycle = getattr(subject, "law", RUN_LIFECYCLE)
    return law


def name_of(subject: Subject) -> str:
    """Return what a subject is called: its `name`, else that of its class."""
    return str(getattr(subject, "name", "") or type(subject).__name__)
