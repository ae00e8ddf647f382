"""The hook by which transition coverage counts the events that assertions send to classes of the user."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from runstate.lifecycle import RunEvent, RunStatus
from runstate.run.snapshot import RunSnapshot

__all__ = ["EventHook", "report_event", "set_event_hook"]

EventHook: TypeAlias = Callable[[RunStatus, RunEvent], None]

_hook: EventHook | None = None


def set_event_hook(hook: EventHook | None) -> EventHook | None:
    """Set the hook that is called for each event, None for no hook; return the previous one."""
    global _hook
    previous, _hook = _hook, hook
    return previous


def report_event(run: object, status: RunStatus, event: RunEvent) -> None:
    """Call the hook for an event that an assertion sent. Runs of this library are counted in another way."""
    if _hook is not None and not isinstance(run, RunSnapshot):
        _hook(status, event)
