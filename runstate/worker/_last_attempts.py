"""One run on its last attempt at a time: a run that kills its process must not fail the others that were in it.

When a worker dies, every run it had counts one attempt more, the guilty one and its neighbours alike. At the last
attempt that would fail them all. So a process takes over one such run, and the next when that has ended: the run that
kills the process then is the only one whose attempts are spent. Those that wait are held by no worker meanwhile. Any
process may take them over; a cancel, a deadline and the end of this process find them as they find every such run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Lock

__all__ = ["LastAttempts", "Reservation", "is_last", "last_attempts"]


def is_last(attempt: int, max_attempts: int) -> bool:
    """Tell whether a run that was taken over is begun for the last time.

    The first attempt never counts, even where only one is allowed: no worker has died of such a run yet, and whoever
    allows one attempt would have one run at a time.
    """
    return attempt >= max_attempts and attempt > 1


class Reservation:
    """The place of one run, from before it is taken over until it is at work no more."""

    def __init__(self) -> None:
        self._is_held: Callable[[], bool] = _always

    @property
    def is_held(self) -> bool:
        """Whether the place is taken."""
        return self._is_held()

    def hold_while(self, is_at_work: Callable[[], bool]) -> None:
        """Hold the place as long as a run is at work, which any thread may ask."""
        self._is_held = is_at_work

    def end(self) -> None:
        """Give the place back."""
        self._is_held = _never


class LastAttempts:
    """The place for one run on its last attempt."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._given: Reservation | None = None

    def reserve(self) -> Reservation | None:
        """Reserve the place, or return None where another run has it. Does not wait."""
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
    """Return the place that all workers of this process share."""
    return _here


def _forget() -> None:
    """Begin anew in a forked child, which has none of the runs of its parent."""
    global _here
    _here = LastAttempts()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
