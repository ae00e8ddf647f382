"""The life of a worker, as one small table: when it may begin, and what a stop means where it is."""

from __future__ import annotations

from enum import Enum
from typing import Final

from runstate.clock import monotonic

__all__ = ["PhaseEvent", "WorkerLife", "WorkerPhase"]


class WorkerPhase(Enum):
    """Where a worker is in its life."""

    IDLE = "it has not begun, or has ended by itself, and may begin again"
    WORKING = "it claims runs and calls the handler"
    DRAINING = "it was stopped: it claims no more, and its handlers may finish"
    STOPPING = "it was stopped twice: it gives its runs back at once"
    STOPPED = "it was stopped, and never works again"


class PhaseEvent(Enum):
    """What moves a worker from one phase to the next."""

    BEGIN = "it is told to work"
    STOP = "it is told to stop"
    END = "its work is over"


_NEXT: Final = {
    (WorkerPhase.IDLE, PhaseEvent.BEGIN): WorkerPhase.WORKING,
    (WorkerPhase.IDLE, PhaseEvent.STOP): WorkerPhase.STOPPED,
    (WorkerPhase.WORKING, PhaseEvent.STOP): WorkerPhase.DRAINING,
    (WorkerPhase.WORKING, PhaseEvent.END): WorkerPhase.IDLE,
    (WorkerPhase.DRAINING, PhaseEvent.STOP): WorkerPhase.STOPPING,
    (WorkerPhase.DRAINING, PhaseEvent.END): WorkerPhase.STOPPED,
    (WorkerPhase.STOPPING, PhaseEvent.STOP): WorkerPhase.STOPPING,
    (WorkerPhase.STOPPING, PhaseEvent.END): WorkerPhase.STOPPED,
    (WorkerPhase.STOPPED, PhaseEvent.STOP): WorkerPhase.STOPPED,
}


_IS_STOPPING: Final = frozenset({WorkerPhase.DRAINING, WorkerPhase.STOPPING, WorkerPhase.STOPPED})


class WorkerLife:
    """The phase of a worker, and for how long it drains. May be stopped from any thread."""

    def __init__(self, drain_s: float) -> None:
        self._drain_s: Final = drain_s
        self.phase: WorkerPhase = WorkerPhase.IDLE
        self._stop_at = float("inf")
        """When a worker that was stopped gives its runs back, by the monotonic clock."""

    def move(self, event: PhaseEvent) -> bool:
        """Enter the phase to which an event leads; return False where the event is not allowed."""
        phase = _NEXT.get((self.phase, event))
        self.phase = phase or self.phase
        return phase is not None

    def stop(self) -> None:
        """Drain; where it was stopped before, stop at once."""
        now = monotonic()
        self._stop_at = now if self.is_stopping else now + self._drain_s
        self.move(PhaseEvent.STOP)

    @property
    def is_stopping(self) -> bool:
        """Whether it was stopped."""
        return self.phase in _IS_STOPPING

    @property
    def time_left(self) -> float:
        """For how many seconds its handlers may go on, and the store may be waited for."""
        return max(0.0, self._stop_at - monotonic())

    @property
    def is_time_over(self) -> bool:
        """Whether its handlers may go on no longer."""
        return self.time_left == 0.0
