"""The async form of a store's methods: the same body and signature, with a future for the result."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from types import MethodType
from typing import Any, Concatenate, Final, Generic, ParamSpec, Protocol, TypeVar, cast

from runstate.store._engine.commands import Command
from runstate.store._engine.committer import Committer
from runstate.store._engine.transport import ReadPool, SyncTransport, read_command
from runstate.store._sql.connection import Connection

__all__ = ["AsyncMethod", "AsyncTransport", "mirror"]

P = ParamSpec("P")
T = TypeVar("T")
_READERS: Final = 4  # threads that read for coroutines


class Asynchronous(Protocol):
    """An object with async methods."""

    @property
    def methods(self) -> Any:
        """The methods, over an `AsyncTransport`."""
        ...


class AsyncTransport:
    """The transport for coroutines. Its methods return futures, although their types are those of the results."""

    def __init__(self, committer: Committer, readers: ReadPool | None) -> None:
        self._committer = committer
        self._readers = readers
        self._pool = ThreadPoolExecutor(_READERS, thread_name_prefix="runstate-reader")

    def execute(self, command: Command[T]) -> T:
        """Let the committer execute a command; return the future of its result."""
        return cast("T", self.submit(command))

    def submit(self, command: Command[T]) -> asyncio.Future[T]:
        """Do the same as `execute`, with the type of a future."""
        return self._committer.submit(command)

    def read(self, look: Callable[[Connection], T]) -> T:
        """Call `look` in a reading thread; return the future of its result."""
        self._committer.check_open()
        by_thread = SyncTransport(self._committer, self._readers).read
        return cast("T", asyncio.get_running_loop().run_in_executor(self._pool, by_thread, look))

    def read_for_worker(self, look: Callable[[Connection], T]) -> T:
        """Let the committer read if the database has a server; return the future of the result."""
        return self.execute(read_command(look)) if self._committer.of_server else self.read(look)

    def close(self) -> None:
        """End the reading threads."""
        self._pool.shutdown()


class AsyncMethod(Generic[P, T]):
    """A method of a store as a coroutine function, with the same name, arguments and result.

    Every public method returns the result of its transport. The transport of coroutines returns a future, which is
    awaited here. So the types are those of the method, and its body exists once.
    """

    def __init__(self, method: Callable[Concatenate[Any, P], T]) -> None:
        @wraps(method)
        async def call(store: Asynchronous, *args: P.args, **kwargs: P.kwargs) -> T:
            return await cast("Awaitable[T]", method(store.methods, *args, **kwargs))

        call.__qualname__ = f"AsyncStore.{method.__name__}"  # the name in Python's warning about a missing await
        self._call = call
        self.__doc__ = method.__doc__

    def __get__(self, store: Asynchronous | None, owner: type) -> Callable[P, Awaitable[T]]:
        return cast("Callable[P, Awaitable[T]]", self._call if store is None else MethodType(self._call, store))


def mirror(method: Callable[Concatenate[Any, P], T]) -> Callable[[Callable[..., None]], AsyncMethod[P, T]]:
    """Return the decorator that replaces a placeholder by the async form of a method."""

    def put(_: Callable[..., None]) -> AsyncMethod[P, T]:
        return AsyncMethod(method)

    return put
