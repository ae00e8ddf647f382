"""How a note is kept while the store may be away for a while: asked again, as long as the run is the worker's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final

from runstate.clock import pause
from runstate.errors import OutcomeUnknown, StoreError

__all__ = ["keep", "keep_later", "may_be_asked_again"]

_AWAY_S: Final = 0.2  # before asking again


def may_be_asked_again(error: StoreError) -> bool:
    """Tell whether what was not taken, or perhaps was, can be asked again: it is the same thing twice."""
    return error.retryable or isinstance(error, OutcomeUnknown)


def keep(ask: Callable[[], object], wanted: Callable[[], bool]) -> Awaitable[None]:
    """Return when a note is kept; what comes back can be awaited all the same."""
    while True:
        try:
            ask()
            return _Kept()
        except StoreError as error:
            if not may_be_asked_again(error) or not wanted():
                raise
        pause(_AWAY_S)


def keep_later(ask: Callable[[], asyncio.Future[None]], wanted: Callable[[], bool]) -> Awaitable[None]:
    """Ask at once to keep a note; return what is done when it is kept."""
    return _Keeping(ask, wanted)


class _Kept:
    """A note that is kept."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


class _Keeping:
    """A note that was asked for."""

    def __init__(self, ask: Callable[[], asyncio.Future[None]], wanted: Callable[[], bool]) -> None:
        self._ask = ask
        self._wanted = wanted
        self._asked = ask()

    def __await__(self) -> Generator[Any, None, None]:
        return self._wait().__await__()

    async def _wait(self) -> None:
        while True:
            try:
                return await self._asked
            except StoreError as error:
                if not may_be_asked_again(error) or not self._wanted():
                    raise
            await asyncio.sleep(_AWAY_S)
            self._asked = self._ask()
