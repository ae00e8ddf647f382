"""How long the store may take to answer a worker that is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

__all__ = ["ShutdownTimeout"]


class ShutdownTimeout:
    """A timeout around what a worker awaits, which is set when the worker is stopped, perhaps in the middle of it."""

    def __init__(self) -> None:
        self._timeout: asyncio.Timeout | None = None

    @asynccontextmanager
    async def limit(self, seconds: float | None) -> AsyncGenerator[None, None]:
        """Raise `TimeoutError` if the block takes longer; None: as long as it takes, until `shorten`."""
        async with asyncio.timeout(seconds) as self._timeout:
            yield

    @property
    def has_expired(self) -> bool:
        """Whether the last block took too long."""
        return self._timeout is not None and self._timeout.expired()

    def shorten(self, seconds: float) -> None:
        """Let the block that is under way take so many seconds from now at most. Called in the event loop."""
        if self._timeout is None:
            return
        at, until = asyncio.get_running_loop().time() + seconds, self._timeout.when()
        with suppress(RuntimeError):  # nothing is awaited now
            self._timeout.reschedule(at if until is None else min(at, until))

    def restart(self, seconds: float) -> None:
        """Let the block that is under way take so many seconds from now."""
        if self._timeout is not None:
            self._timeout.reschedule(asyncio.get_running_loop().time() + seconds)
