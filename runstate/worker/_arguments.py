"""Checks of a worker's arguments, made before it claims a run: a mistake there must not make runs fail."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from types import MethodType
from typing import Any, Final, cast

from runstate.run.errors import FieldError
from runstate.run.validators import with_article
from runstate.store import AsyncStore, Store

__all__ = [
    "check_handler",
    "check_middleware",
    "check_redact",
    "check_send",
    "check_store",
    "is_async_function",
    "outside_of_loops",
    "possible",
]

_CONTEXT: Final = object()
_CALL: Final = object()
"""The arguments with which signatures are bound."""


def check_store(store: object, other: object = None) -> None:
    """Raise `TypeError` if `store` is not a `Store`. `other` is the next argument: the two may have been swapped.

    The message has only the type of a wrong argument: the address of a database may contain a password.
    """
    if isinstance(store, Store):
        return
    if isinstance(other, Store):
        raise TypeError("the arguments are swapped: the store comes first, then the function")
    if isinstance(store, AsyncStore):
        raise TypeError("store: expected a Store, got its `aio`: give the store itself")
    got = "a class" if isinstance(store, type) else with_article(type(store).__name__)
    raise TypeError(f"store: expected a Store, got {got}: open one with open_store(...) and give what it returns")


def check_handler(handler: object) -> None:
    """Raise `TypeError` if a handler is not a function, or cannot be called with a context alone."""
    if isinstance(handler, Store | AsyncStore):
        raise TypeError("handler: expected a function of a context, got a store")
    _check_called(handler, "handler", "a handler is a function of a context", "def answer(ctx): ...")
    bare = _bare(handler)
    if inspect.isgeneratorfunction(bare) or inspect.isgeneratorfunction(_call_of(bare)):
        raise TypeError(f"handler: {named(handler)} is a generator function: return one outcome, and yield nothing")
    if inspect.isasyncgenfunction(bare) or inspect.isasyncgenfunction(_call_of(bare)):
        raise TypeError(f"handler: {named(handler)} is an async generator function: return one outcome, yield nothing")


def check_send(send: object) -> None:
    """Raise `TypeError` if a dispatcher's `send` cannot be called with the id of a run alone, or is async."""
    _check_called(send, "send", "`send` is a function of a run's id", "def send(run_id): ...")
    _check_plain(send, "send")


def check_redact(redact: object) -> None:
    """Raise `TypeError` if a worker's `redact` cannot be called with a text alone, or is async."""
    _check_called(redact, "redact", "`redact` is a function of a text", "def redact(text): ...")
    _check_plain(redact, "redact")


def check_middleware(middleware: object) -> None:
    """Raise `TypeError` if something is no sequence of functions of a context and of the rest of the call."""
    if not isinstance(middleware, Sequence):
        raise TypeError(f"middleware: expected a list of functions, got {with_article(type(middleware).__name__)}")
    for place, one in enumerate(cast("Sequence[object]", middleware)):
        path, expected = f"middleware[{place}]", "a middleware is a function of a context and of the rest of the call"
        _check_called(one, path, expected, "def middleware(ctx, call): ...", (_CONTEXT, _CALL))
        if inspect.isgeneratorfunction(_bare(one)) or inspect.isasyncgenfunction(_bare(one)):
            raise TypeError(f"{path}: {named(one)} is a generator function: return what `call(ctx)` returns")


def _check_plain(function: object, path: str) -> None:
    if is_async_function(function):
        raise TypeError(f"{path}: {named(function)} is async, and would not be awaited: give a plain function")


def is_async_function(function: object) -> bool:
    """Return whether a call of a function returns an awaitable. For a decorated function, the decorator counts."""
    bare = _bare(function)
    return inspect.iscoroutinefunction(bare) or inspect.iscoroutinefunction(_call_of(bare))


def _check_called(
    function: object, path: str, expected: str, example: str, arguments: Sequence[object] = (_CONTEXT,)
) -> None:
    if inspect.isawaitable(function):
        raise _not_awaited(function, path, expected)
    if isinstance(function, type):
        raise TypeError(f"{path}: {expected}, and {function.__name__} is a class: give an object of it, or a method")
    if not callable(function):
        raise TypeError(f"{path}: {expected}, got {with_article(type(function).__name__)}")
    signature = _signature(function)
    if signature is None:
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        count = "one argument" if len(arguments) == 1 else "two arguments"
        told = f"{path}: {named(function)}{_shown(signature)} cannot be called with {count} ({error})"
        raise TypeError(f"{told}; expected `{example}`") from None


def _signature(function: Callable[..., object]) -> inspect.Signature | None:
    """Return the signature of a function, or None if it has none.

    The signature of a decorator counts, not that of the decorated function: a decorator may add or remove parameters.
    The decorated function counts only if the decorator has no signature of its own, as with `functools.cache`.
    """
    for follows in (False, True):
        with suppress(Exception):  # some builtins have no signature
            return inspect.signature(function, follow_wrapped=follows)
    return None


def _shown(signature: inspect.Signature) -> str:
    """Return a signature as text, without annotations and default values, which may be long or secret."""
    bare = [
        one.replace(annotation=one.empty, default=one.empty if one.default is one.empty else ...)
        for one in signature.parameters.values()
    ]
    return str(inspect.Signature(bare)).replace("=Ellipsis", "=...")


def _not_awaited(function: object, path: str, expected: str) -> TypeError:
    what = with_article(type(function).__name__)
    if inspect.iscoroutine(function):
        function.close()  # otherwise Python warns that it was never awaited
        what = "a coroutine: give the async function itself, and do not call it"
    return TypeError(f"{path}: {expected}, got {what}")


def _bare(function: object) -> object:
    """Return the function inside partials, static methods and bound methods."""
    while True:
        if isinstance(function, partial):
            function = cast("partial[object]", function).func
        elif isinstance(function, staticmethod | MethodType):
            function = function.__func__
        else:
            return function


def _call_of(function: object) -> Callable[..., Any] | None:
    """Return the `__call__` that Python uses: that of the type. None for a plain function."""
    return None if inspect.isfunction(function) else getattr(type(function), "__call__", None)  # noqa: B004


def named(function: object) -> str:
    """Return the qualified name of a function, as in its source."""
    bare = _bare(function)
    name = getattr(bare, "__qualname__", None)
    return name if isinstance(name, str) else type(bare).__qualname__


def possible(faults: Sequence[FieldError]) -> None:
    """Raise `ValueError` with the first of the errors in a worker's settings, if there are any."""
    for path, problem in faults:
        raise ValueError(f"{path}: {problem}")


def outside_of_loops(instead: str) -> None:
    """Raise `RuntimeError` if an event loop is running in this thread: a blocking call would stop it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        raise RuntimeError(
            "gevent is not supported: the greenlets of a thread share its event loop, and one of them is running it; "
            "drive runs in a pool of threads or processes (celery --pool threads, gunicorn -k gthread)"
        )
    raise RuntimeError(f"an event loop is running here, and this would block it: use `{instead}`")
