"""One run on its last attempt at a time: a run that kills its process must not make the other runs there fail.

When a worker dies, the attempt of each run that it had increases by one: of the run that killed it, and of all others.
At the last attempt that would fail them all. So a process takes over one such run at a time, and the next one when that
has ended. Then only the run that kills the process uses up its attempts. No worker holds the runs that wait. Any
process may take them over, and a cancel and a deadline reach them as usual.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Lock

__all__ = ["LastAttempts", "Reservation", "is_last", "last_attempts"]


def is_last(attempt: int, max_attempts: int) -> bool:
    """Return whether a run that was taken over is on its last allowed attempt.

    The first attempt never counts, even if only one is allowed: no worker has died of such a run yet. Otherwise a
    worker with `max_attempts=1` would execute one run at a time.
    """
    return attempt >= max_attempts and attempt > 1


class Reservation:
    """The place for one run on its last attempt, held from before the take-over until its handler has ended."""

    def __init__(self) -> None:
        self._is_held: Callable[[], bool] = _always

    @property
    def is_held(self) -> bool:
        """Whether the place is taken."""
        return self._is_held()

    def hold_while(self, is_at_work: Callable[[], bool]) -> None:
        """Hold the place as long as `is_at_work` returns True. It is called in any thread."""
        self._is_held = is_at_work

    def end(self) -> None:
        """Free the place."""
        self._is_held = _never


class LastAttempts:
    """Allows one reservation at a time."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._given: Reservation | None = None

    def reserve(self) -> Reservation | None:
        """Reserve the place. Return None at once if another run has it."""
        with self._lock:
            if self._given is not None and self._given.is_held:
                return None
            self._given = Reservation()
            return self._given


def _always() -> bool:
    return True


def _never() -> bool:
    return False


_here = LastAttempts()


def last_attempts() -> LastAttempts:
    """Return the object that all workers of this process share."""
    return _here


def _forget() -> None:
    """Reset the object in a forked child, which has none of its parent's runs."""
    global _here
    _here = LastAttempts()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
