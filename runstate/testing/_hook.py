"""Where the kit's assertions tell what they asked of a class of the user's own, should anybody be counting."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from runstate.lifecycle import RunEvent, RunStatus
from runstate.run.snapshot import RunSnapshot

__all__ = ["EventHook", "report_event", "set_event_hook"]

EventHook: TypeAlias = Callable[[RunStatus, RunEvent], None]

_hook: EventHook | None = None


def set_event_hook(hook: EventHook | None) -> EventHook | None:
    """Let `listener` hear of what is asked from now on, None for nobody; return who heard of it before."""
    global _hook
    previous, _hook = _hook, hook
    return previous


def report_event(run: object, status: RunStatus, event: RunEvent) -> None:
    """Tell that an assertion asked an event of a run that stood there. Runs of this library tell by themselves."""
    if _hook is not None and not isinstance(run, RunSnapshot):
        _hook(status, event)
