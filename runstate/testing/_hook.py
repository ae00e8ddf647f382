"""Where the kit's assertions tell what they asked of a class of the user's own, should anybody be counting."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from runstate.lifecycle import RunEvent, RunStatus
from runstate.run.snapshot import RunSnapshot

__all__ = ["Listener", "notice", "notify"]

Listener: TypeAlias = Callable[[RunStatus, RunEvent], None]

_listener: Listener | None = None


def notify(listener: Listener | None) -> Listener | None:
    """Let `listener` hear of what is asked from now on, None for nobody; return who heard of it before."""
    global _listener
    before, _listener = _listener, listener
    return before


def notice(run: object, status: RunStatus, event: RunEvent) -> None:
    """Tell that an assertion asked an event of a run that stood there. Runs of this library tell by themselves."""
    if _listener is not None and not isinstance(run, RunSnapshot):
        _listener(status, event)
