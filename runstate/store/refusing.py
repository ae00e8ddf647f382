"""The law's refusal of a stored run: it tells how the run stands, and what moved it there."""

from __future__ import annotations

from runstate.errors import IllegalTransition
from runstate.lifecycle import LAW, RunEvent
from runstate.stored import StoredRun

__all__ = ["refused"]


def refused(run: StoredRun, event: RunEvent) -> IllegalTransition:
    """Return the refusal of the law, with the run as it stands."""
    error = LAW.refusal(run.id, run.status, event)
    error.args = (*error.args, run)
    return error
