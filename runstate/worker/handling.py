"""What a handler is, and how it is called: whatever it raises comes back as a value."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, cast

import attrs

from runstate.worker.context import Context, Outcome

__all__ = ["Handler", "Raised", "call", "call_later", "is_asynchronous"]

Handler: TypeAlias = Callable[[Context], Outcome | None] | Callable[[Context], Awaitable[Outcome | None]]
"""A function of a run's context, plain or async, that returns what came of the run: nothing means completed."""


@attrs.frozen
class Raised:
    """What a handler raised. Also what would end the thread or the loop: a run is never lost by it."""

    error: BaseException


def is_asynchronous(handler: Handler) -> bool:
    """Tell whether a handler is to be awaited. Raises `TypeError` for what cannot be called."""
    if not callable(handler):
        raise TypeError(f"a handler is a function of a context, got {type(handler).__name__}")
    bare: Any = handler
    while isinstance(bare, functools.partial):
        bare = bare.func
    return inspect.iscoroutinefunction(bare) or inspect.iscoroutinefunction(getattr(bare, "__call__", None))  # noqa: B004


def call(handler: Handler, ctx: Context) -> object:
    """Call a plain handler; return what it returns, or what it `Raised`."""
    try:
        returned = handler(ctx)
        if inspect.iscoroutine(returned):
            returned.close()  # or Python complains that nobody awaited it
    except BaseException as error:
        return Raised(error)
    return returned


async def call_later(handler: Handler, ctx: Context) -> object:
    """Await an async handler; return what it returns, or what it `Raised`. Only who cancels the task cancels it."""
    try:
        return await cast("Callable[[Context], Awaitable[Outcome | None]]", handler)(ctx)
    except asyncio.CancelledError as error:
        current = asyncio.current_task()
        if current is None or current.cancelling():
            raise
        return Raised(error)  # of something that the handler awaited
    except BaseException as error:
        return Raised(error)
