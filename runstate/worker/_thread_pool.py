"""The threads in which plain handlers are called.

They are daemon threads. The threads of an executor would keep the process alive if a handler never returns.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from queue import SimpleQueue
from threading import Thread
from typing import Final, Generic, TypeVar

__all__ = ["DaemonThreadPool"]

T = TypeVar("T")


class DaemonThreadPool(Generic[T]):
    """A pool of daemon threads, started when needed and reused."""

    def __init__(self, function: Callable[[T], object], taken: Callable[[T, object], None]) -> None:
        """Prepare. Threads call `function`, which must not raise. The running loop calls `taken` with each result."""
        self._function: Final = function
        self._taken: Final = taken
        self._loop: Final = asyncio.get_running_loop()
        self._context: Final = copy_context()
        """Each call has a copy of this context, so no call sees the variables that another one has set."""
        self._asked: Final[SimpleQueue[T | None]] = SimpleQueue()
        self._returned: Final[deque[tuple[T, object]]] = deque()
        self._wake_pending = False
        """Whether `_deliver` is scheduled in the loop."""
        self._threads = 0
        self._busy = 0

    def submit(self, given: T) -> None:
        """Call the function with `given` in a thread."""
        self._busy += 1
        if self._busy > self._threads:
            self._threads += 1
            Thread(target=self._run, name=f"runstate-handler-{self._threads}", daemon=True).start()
        self._asked.put(given)

    def _run(self) -> None:
        while (given := self._asked.get()) is not None:
            self._returned.append((given, self._context.copy().run(self._function, given)))
            del given  # otherwise it is kept until the next call
            if not self._wake_pending:  # to wake the loop costs more than a call, and switches threads
                self._wake_pending = True
                with suppress(RuntimeError):  # the loop is closed, and needs no results
                    self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._wake_pending = False  # before the results are taken: a later result schedules this again
        try:
            while self._returned:
                self._busy -= 1
                self._taken(*self._returned.popleft())
        finally:
            if self._returned:  # `taken` raised: deliver the other results nevertheless
                self._loop.call_soon(self._deliver)

    def shutdown(self) -> None:
        """Let each thread end after its current call. This does not wait for them."""
        for _ in range(self._threads):
            self._asked.put(None)
