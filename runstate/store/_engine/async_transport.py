"""The methods of a store as coroutines: one body, one signature, and a future for an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from types import MethodType
from typing import Any, Concatenate, Final, Generic, ParamSpec, Protocol, TypeVar, cast

from runstate.store._engine.commands import Command
from runstate.store._engine.committer import Committer
from runstate.store._engine.transport import ReadPool, SyncTransport
from runstate.store._sql.connection import Connection

__all__ = ["AsyncMethod", "AsyncTransport", "mirror"]

P = ParamSpec("P")
T = TypeVar("T")
_READERS: Final = 4  # threads that read for coroutines


class Asynchronous(Protocol):
    """What has the methods that are awaited."""

    @property
    def methods(self) -> Any:
        """The methods themselves, by the way of coroutines."""
        ...


class AsyncTransport:
    """The way of coroutines: what is asked comes back as a future, whatever its type says (see `Awaited`)."""

    def __init__(self, committer: Committer, readers: ReadPool | None) -> None:
        self._committer = committer
        self._readers = readers
        self._pool = ThreadPoolExecutor(_READERS, thread_name_prefix="runstate-reader")

    def execute(self, command: Command[T]) -> T:
        """Have a command committed; return the future of its answer."""
        return cast("T", self.submit(command))

    def submit(self, command: Command[T]) -> asyncio.Future[T]:
        """Have a command committed; return the future of its answer, as what it is."""
        return self._committer.submit(command)

    def read(self, look: Callable[[Connection], T]) -> T:
        """Return the future of what `look` finds in a thread that reads."""
        self._committer.check_open()
        by_thread = SyncTransport(self._committer, self._readers).read
        return cast("T", asyncio.get_running_loop().run_in_executor(self._pool, by_thread, look))

    def close(self) -> None:
        """Let the reading threads go."""
        self._pool.shutdown()


class AsyncMethod(Generic[P, T]):
    """A method of a store as a coroutine: the same name, arguments and answer, with no second body or signature.

    Every public method ends in what its way gives back. The way of coroutines gives back a future, which is awaited
    here; so the types are those of the method, and it is written once.
    """

    def __init__(self, method: Callable[Concatenate[Any, P], T]) -> None:
        @wraps(method)
        async def call(store: Asynchronous, *args: P.args, **kwargs: P.kwargs) -> T:
            return await cast("Awaitable[T]", method(store.methods, *args, **kwargs))

        call.__qualname__ = f"AsyncStore.{method.__name__}"  # which Python names where a caller forgets to await
        self._call = call
        self.__doc__ = method.__doc__

    def __get__(self, store: Asynchronous | None, owner: type) -> Callable[P, Awaitable[T]]:
        return cast("Callable[P, Awaitable[T]]", self._call if store is None else MethodType(self._call, store))


def mirror(method: Callable[Concatenate[Any, P], T]) -> Callable[[Callable[..., None]], AsyncMethod[P, T]]:
    """Return the decorator that puts the awaited twin of a method in the place of a name."""

    def put(_: Callable[..., None]) -> AsyncMethod[P, T]:
        return AsyncMethod(method)

    return put
