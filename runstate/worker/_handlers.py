"""The type of handlers, and the functions that call them and return their exceptions as values."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeAlias, TypeGuard

import attrs

from runstate.store.errors import LeaseLost
from runstate.worker._context import Context
from runstate.worker._outcome import Outcome

__all__ = ["Handler", "HandlerError", "TaskFactory", "call", "discard", "is_awaitable", "task_factory"]

Handler: TypeAlias = Callable[[Context], Outcome | None] | Callable[[Context], Awaitable[Outcome | None]]
"""A function of a run's `Context`, plain or async, that returns an `Outcome`. None means that the run is completed."""

TaskFactory: TypeAlias = "Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]"
"""Makes a task from a coroutine and a name."""


@attrs.frozen
class HandlerError:
    """An exception of a handler. Also `SystemExit` and the like, which would end the thread or the loop."""

    error: BaseException


def call(handler: Handler, ctx: Context) -> object:
    """Call a plain handler. Return its return value, or its exception as a `HandlerError`."""
    try:
        try:
            return handler(ctx)
        finally:
            if ctx.emitter is not None:  # before the outcome is committed: afterwards the run takes no more
                with suppress(LeaseLost):  # so the outcome will be refused, too
                    ctx.emitter.flush(ctx.goes_on)
    except BaseException as error:
        return HandlerError(error)


def is_awaitable(returned: object) -> TypeGuard[Awaitable[object]]:
    """Return whether a handler's return value is awaitable, as that of a plain decorator around an async function."""
    try:
        return inspect.isawaitable(returned)
    except Exception:  # an object whose `__class__` raises
        return False


def discard(returned: object) -> None:
    """Close a coroutine that will not be awaited. Otherwise Python warns that it was never awaited."""
    if inspect.iscoroutine(returned):
        with suppress(Exception):
            returned.close()


def _as_asyncio_does(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether a loop makes its tasks as asyncio does, without a task factory or an override."""
    own = getattr(type(loop), "create_task", None) is asyncio.BaseEventLoop.create_task
    return own and loop.get_task_factory() is None


def task_factory(loop: asyncio.AbstractEventLoop) -> TaskFactory:
    """Return the function that makes tasks in a loop.

    To make the task directly avoids formatting a default name. Since Python 3.12 the task also begins at once, so a
    handler that never waits is done without an iteration of the loop.
    """
    if not _as_asyncio_does(loop):
        return lambda coroutine, name: loop.create_task(coroutine, name=name)
    if sys.version_info < (3, 12):
        return lambda coroutine, name: asyncio.Task(coroutine, loop=loop, name=name)
    return lambda coroutine, name: asyncio.Task(coroutine, loop=loop, name=name, eager_start=True)
