"""Middleware: functions around the handler of a worker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, Union, cast

from runstate.worker._arguments import check_middleware, is_async_function, named
from runstate.worker._outcome import Outcome

if TYPE_CHECKING:
    from runstate.worker._context import Context
    from runstate.worker._handlers import Handler

__all__ = ["Middleware", "with_middleware"]

Middleware: TypeAlias = Union[  # noqa: UP007  # a name in quotes has no `|`
    Callable[["Context", Callable[["Context"], Outcome | None]], Outcome | None],
    Callable[["Context", Callable[["Context"], Awaitable[Outcome | None]]], Awaitable[Outcome | None]],
]
"""A function of the context and of the rest of the call, which it calls with the context. It returns the outcome.

It is async for an async handler, and plain for a plain one.
"""


def with_middleware(handler: Handler, middleware: Sequence[Middleware]) -> Handler:
    """Return a handler that calls the middleware around `handler`, the first one outermost.

    Raises `TypeError` for something that is no function of two arguments, and for a function of another kind than the
    handler.
    """
    check_middleware(middleware)
    is_async = is_async_function(handler)
    for one in middleware:
        if is_async_function(one) is not is_async:
            kinds = ("async", "plain") if is_async else ("plain", "async")
            raise TypeError(
                f"middleware: {named(one)} is {kinds[1]} and the handler is {kinds[0]}: "
                f"write {'`async def` and `return await call(ctx)`' if is_async else '`def` and `return call(ctx)`'}"
            )
    wrapped: Any = handler
    for one in reversed(middleware):
        wrapped = _around_async(one, wrapped) if is_async else _around(one, wrapped)
    return cast("Handler", wrapped)


def _around(outer: Any, inner: Any) -> Any:
    def call(ctx: Context) -> Any:
        return outer(ctx, inner)

    return call


def _around_async(outer: Any, inner: Any) -> Any:
    async def call(ctx: Context) -> Any:
        return await outer(ctx, inner)

    return call
