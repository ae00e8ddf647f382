"""The interface of a contestant: it creates runs, drains them, and starts one while a worker is idle."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, TypeAlias

Dialect: TypeAlias = Literal["sqlite", "postgres", "redis"]


class MeasurementFailed(Exception):
    """A measurement did not finish."""


class Contestant(ABC):
    """A way to keep runs. `prepare` makes new tables; then runs are created, and then they are drained."""

    name: str
    dialect: Dialect
    about: str
    """What it does, for the reader of the table."""
    missing: str = ""
    """Why it cannot be measured here; empty if it can."""
    creates_at_once: tuple[int, ...] = (1, 100)
    """How many creates are in flight at once. One: each is acknowledged before the next call."""
    slots: tuple[int, ...] = (1, 10, 100)
    """How many runs a worker may have at once. Empty: drains are not measured."""
    measures_start: bool = True
    """Whether the wait for an idle worker is measured."""

    @abstractmethod
    def prepare(self) -> None:
        """Make fresh, empty tables."""

    @abstractmethod
    def create(self, count: int, in_flight: int) -> float:
        """Create `count` runs, `in_flight` at a time; return the seconds until the last is acknowledged."""

    def vacuum(self) -> None:  # noqa: B027  (optional)
        """Do what the database would do in the background between the creates and the drain. Not timed."""

    @abstractmethod
    def drain(self, count: int, slots: int, processes: int) -> float:
        """Claim and complete the `count` runs that exist; return the seconds that it took."""

    def start(self, count: int, every: float) -> list[float]:
        """Create a run every `every` seconds beside one idle worker.

        Return, for each, the seconds from the call until the first line of its handler.
        """
        raise NotImplementedError

    def close(self) -> None:  # noqa: B027
        """Release all resources."""
