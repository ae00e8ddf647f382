"""What a handler is, and how it is called: whatever it raises comes back as a value."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeAlias, TypeGuard

import attrs

from runstate.worker._context import Context, Outcome

__all__ = ["Handler", "HandlerError", "TaskFactory", "call", "discard", "is_awaitable", "task_factory"]

Handler: TypeAlias = Callable[[Context], Outcome | None] | Callable[[Context], Awaitable[Outcome | None]]
"""A function of a run's context, plain or async, that returns what came of the run: nothing means completed."""

TaskFactory: TypeAlias = "Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]"
"""Makes a task of a coroutine, under a name."""


@attrs.frozen
class HandlerError:
    """What a handler raised. Also what would end the thread or the loop: a run is never lost by it."""

    error: BaseException


def call(handler: Handler, ctx: Context) -> object:
    """Call a plain handler; return what it returns, or what it `Raised`."""
    try:
        return handler(ctx)
    except BaseException as error:
        return HandlerError(error)


def is_awaitable(returned: object) -> TypeGuard[Awaitable[object]]:
    """Tell whether what a handler returned is still to be awaited, as by a plain decorator around an async function."""
    try:
        return inspect.isawaitable(returned)
    except Exception:  # an object that cannot even be asked for its class
        return False


def discard(returned: object) -> None:
    """Close a coroutine that is not awaited any more, or Python warns that it never was."""
    if inspect.iscoroutine(returned):
        with suppress(Exception):
            returned.close()


def _as_asyncio_does(loop: asyncio.AbstractEventLoop) -> bool:
    """Tell whether nobody has a say in how a loop makes its tasks."""
    own = getattr(type(loop), "create_task", None) is asyncio.BaseEventLoop.create_task
    return own and loop.get_task_factory() is None


def task_factory(loop: asyncio.AbstractEventLoop) -> TaskFactory:
    """Return what makes tasks of a loop.

    A task that is made directly saves its number, which is a text, and on Python 3.12 it begins at once: a handler
    that never waits is then done without a round of the loop.
    """
    if not _as_asyncio_does(loop):
        return lambda coroutine, name: loop.create_task(coroutine, name=name)
    if sys.version_info < (3, 12):
        return lambda coroutine, name: asyncio.Task(coroutine, loop=loop, name=name)
    return lambda coroutine, name: asyncio.Task(coroutine, loop=loop, name=name, eager_start=True)
