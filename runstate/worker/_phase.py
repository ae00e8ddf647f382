"""The phases of a worker, as one small table: when it may begin, and what a stop does in each phase."""

from __future__ import annotations

from enum import Enum
from typing import Final

from runstate.clock import monotonic

__all__ = ["PhaseEvent", "WorkerLife", "WorkerPhase"]


class WorkerPhase(Enum):
    """The phase of a worker. The values describe the phases."""

    IDLE = "it has not begun, or has ended by itself, and may begin again"
    WORKING = "it claims runs and calls the handler"
    DRAINING = "it was stopped: it claims no more runs, and its handlers may finish"
    STOPPING = "it was stopped twice: it releases its runs at once"
    STOPPED = "it was stopped, and cannot begin again"


class PhaseEvent(Enum):
    """An event that may change the phase of a worker."""

    BEGIN = "the worker begins"
    STOP = "the worker is stopped"
    END = "its work has ended"


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
    """The phase of a worker, and the time at which its drain ends. `stop` may be called in any thread."""

    def __init__(self, drain_s: float) -> None:
        self._drain_s: Final = drain_s
        self.phase: WorkerPhase = WorkerPhase.IDLE
        self._stop_at = float("inf")
        """When a stopped worker releases its runs, by the monotonic clock."""

    def move(self, event: PhaseEvent) -> bool:
        """Enter the phase that follows an event. Return False if the event is not allowed in this phase."""
        phase = _NEXT.get((self.phase, event))
        self.phase = phase or self.phase
        return phase is not None

    def stop(self) -> None:
        """Begin to drain. If the worker was stopped before, end the drain time at once."""
        now = monotonic()
        self._stop_at = now if self.is_stopping else now + self._drain_s
        self.move(PhaseEvent.STOP)

    @property
    def is_stopping(self) -> bool:
        """Whether the worker was stopped."""
        return self.phase in _IS_STOPPING

    @property
    def time_left(self) -> float:
        """For how many seconds the handlers may continue, and the worker waits for the store."""
        return max(0.0, self._stop_at - monotonic())

    @property
    def is_time_over(self) -> bool:
        """Whether the drain time is over."""
        return self.time_left == 0.0
