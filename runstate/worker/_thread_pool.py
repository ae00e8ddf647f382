"""The threads in which plain handlers are called.

They are daemons: a handler that never returns must not keep its process from ending, as the threads of an executor do.
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
    """Threads that are started when needed, and wait for more to do."""

    def __init__(self, function: Callable[[T], object], taken: Callable[[T, object], None]) -> None:
        """Let threads call `function`, which raises nothing, and `taken` have what it returns, in the running loop."""
        self._function: Final = function
        self._taken: Final = taken
        self._loop: Final = asyncio.get_running_loop()
        self._context: Final = copy_context()
        """What the function is called in a copy of: no call sees what another has set."""
        self._asked: Final[SimpleQueue[T | None]] = SimpleQueue()
        self._returned: Final[deque[tuple[T, object]]] = deque()
        self._wake_pending = False
        """Whether the loop is about to look at what has been returned."""
        self._threads = 0
        self._busy = 0

    def submit(self, given: T) -> None:
        """Have the function called in a thread."""
        self._busy += 1
        if self._busy > self._threads:
            self._threads += 1
            Thread(target=self._run, name=f"runstate-handler-{self._threads}", daemon=True).start()
        self._asked.put(given)

    def _run(self) -> None:
        while (given := self._asked.get()) is not None:
            self._returned.append((given, self._context.copy().run(self._function, given)))
            del given  # or it lives until the next call
            if not self._wake_pending:  # to wake the loop costs more than such a call, and lets all other threads in
                self._wake_pending = True
                with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._wake_pending = False  # before the look: what is returned after it rings again
        try:
            while self._returned:
                self._busy -= 1
                self._taken(*self._returned.popleft())
        finally:
            if self._returned:  # `taken` failed: the others are not to suffer
                self._loop.call_soon(self._deliver)

    def shutdown(self) -> None:
        """Let the threads end when they are done; nobody waits for them."""
        for _ in range(self._threads):
            self._asked.put(None)
