"""Where the kit's assertions tell what they asked of a class of the user's own, should anybody be counting."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from runstate.lifecycle import RunEvent, RunStatus
from runstate.snapshot import RunSnapshot
from runstate.testing.records import status_of

__all__ = ["notice", "notify"]

Listener: TypeAlias = Callable[[RunStatus, RunEvent], None]

_listener: Listener | None = None


def notify(listener: Listener | None) -> None:
    """Let `listener` hear of what is asked from now on; None for nobody."""
    global _listener
    _listener = listener


def notice(run: object, event: RunEvent) -> None:
    """Tell that an assertion is asking an event of a run. Runs of this library tell by themselves."""
    if _listener is not None and not isinstance(run, RunSnapshot):
        _listener(status_of(run), event)
