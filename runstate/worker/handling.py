"""What a handler is."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from runstate.worker.context import Context, Outcome

__all__ = ["Handler", "is_asynchronous"]

Handler: TypeAlias = Callable[[Context], Outcome | None] | Callable[[Context], Awaitable[Outcome | None]]
"""A function of a run's context, plain or async, that returns what came of the run: nothing means completed."""


def is_asynchronous(handler: Handler) -> bool:
    """Tell whether a handler is to be awaited. Raises `TypeError` for what cannot be called."""
    if not callable(handler):
        raise TypeError(f"a handler is a function of a context, got {type(handler).__name__}")
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004
