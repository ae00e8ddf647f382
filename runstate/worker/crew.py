"""The threads in which plain handlers are called.

They are daemons: a handler that never returns must not keep its process from ending, as the threads of an executor do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Final, TypeAlias

__all__ = ["Crew"]

_Asked: TypeAlias = tuple[Callable[[], object], "asyncio.Future[object]"]


class Crew:
    """Threads that are started when needed, and wait for more to do."""

    def __init__(self) -> None:
        self._asked: Final[SimpleQueue[_Asked | None]] = SimpleQueue()
        self._threads = 0
        self._busy = 0

    def call(self, function: Callable[[], object]) -> asyncio.Future[object]:
        """Call a function that raises nothing in a thread; return the future of what it returns."""
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._busy += 1
        if self._busy > self._threads:
            self._threads += 1
            Thread(target=self._go, name=f"runstate-handler-{self._threads}", daemon=True).start()
        self._asked.put((function, future))
        return future

    def _go(self) -> None:
        while (asked := self._asked.get()) is not None:
            function, future = asked
            returned = function()
            with suppress(RuntimeError):  # the loop is closed: nobody waits for it any more
                future.get_loop().call_soon_threadsafe(self._answer, future, returned)
            del asked, function, future, returned  # or they live until the next call

    def _answer(self, future: asyncio.Future[object], returned: object) -> None:
        self._busy -= 1
        if not future.done():
            future.set_result(returned)

    def dismiss(self) -> None:
        """Let the threads end when they are done; nobody waits for them."""
        for _ in range(self._threads):
            self._asked.put(None)
