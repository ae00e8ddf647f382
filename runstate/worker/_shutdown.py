"""The time that a stopped worker waits for a reply of the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

__all__ = ["ShutdownTimeout"]


class ShutdownTimeout:
    """A timeout around a block of a worker. A stop of the worker may shorten it while the block runs."""

    def __init__(self) -> None:
        self._timeout: asyncio.Timeout | None = None

    @asynccontextmanager
    async def limit(self, seconds: float | None) -> AsyncGenerator[None, None]:
        """Raise `TimeoutError` if the block takes longer. With None there is no limit until `shorten` is called."""
        async with asyncio.timeout(seconds) as self._timeout:
            yield

    @property
    def has_expired(self) -> bool:
        """Whether the last block exceeded its limit."""
        return self._timeout is not None and self._timeout.expired()

    def shorten(self, seconds: float) -> None:
        """Let the current block take at most so many seconds from now. Called in the event loop."""
        if self._timeout is None:
            return
        at, until = asyncio.get_running_loop().time() + seconds, self._timeout.when()
        with suppress(RuntimeError):  # there is no current block
            self._timeout.reschedule(at if until is None else min(at, until))

    def restart(self, seconds: float) -> None:
        """Let the current block take so many seconds from now, even if its limit was shorter."""
        if self._timeout is not None:
            self._timeout.reschedule(asyncio.get_running_loop().time() + seconds)
