"""Refusals for stored runs. They have the current run, with its last event and actor."""

from __future__ import annotations

from runstate.lifecycle import RUN_LIFECYCLE, RunEvent
from runstate.lifecycle.errors import DeadlinePassed, IllegalTransition
from runstate.store._types import StoredRun

__all__ = ["refused", "too_late"]


def refused(run: StoredRun, event: RunEvent) -> IllegalTransition:
    """Return the refusal of the table of transitions, with the current run."""
    error = RUN_LIFECYCLE.refusal(run.id, run.status, event)
    error.args = (*error.args, run)
    return error


def too_late(run: StoredRun, event: RunEvent) -> DeadlinePassed:
    """Return the refusal of an event that is allowed only before the deadline, for a run that is not expired yet."""
    allowed = tuple(
        other for other in RUN_LIFECYCLE.allowed_events(run.status) if other not in RUN_LIFECYCLE.until_deadline
    )
    return DeadlinePassed(run.id, run.status, event, allowed, None, run)
