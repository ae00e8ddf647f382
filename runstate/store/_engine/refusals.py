"""The law's refusals of a stored run: they tell how the run stands, and what moved it there."""

from __future__ import annotations

from runstate.lifecycle import RUN_LIFECYCLE, RunEvent
from runstate.lifecycle.errors import DeadlinePassed, IllegalTransition
from runstate.store._types import StoredRun

__all__ = ["refused", "too_late"]


def refused(run: StoredRun, event: RunEvent) -> IllegalTransition:
    """Return the refusal of the law, with the run as it stands."""
    error = RUN_LIFECYCLE.refusal(run.id, run.status, event)
    error.args = (*error.args, run)
    return error


def too_late(run: StoredRun, event: RunEvent) -> DeadlinePassed:
    """Return the refusal of an event that had to come before the deadline of a run which is not expired yet."""
    allowed = tuple(
        other for other in RUN_LIFECYCLE.allowed_events(run.status) if other not in RUN_LIFECYCLE.until_deadline
    )
    return DeadlinePassed(run.id, run.status, event, allowed, None, run)
