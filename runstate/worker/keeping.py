"""How a note is kept while the store may be away for a while: asked again, as long as the run is the worker's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final

from runstate.errors import StoreError
from runstate.store.availability import Availability, is_outage

__all__ = ["keep", "keep_later"]

_LOOK_S: Final = 0.2  # between two looks whether the note is still wanted


def keep(ask: Callable[[], object], wanted: Callable[[], bool], availability: Availability) -> Awaitable[None]:
    """Return when a note is kept; what comes back can be awaited all the same."""
    while True:
        try:
            ask()
            return _Kept()
        except StoreError as error:
            if not is_outage(error):
                raise
            availability.failed(error)
            while wanted() and not availability.wait(_LOOK_S):
                pass
            if not wanted():
                raise


def keep_later(
    ask: Callable[[], asyncio.Future[None]], wanted: Callable[[], bool], availability: Availability
) -> Awaitable[None]:
    """Ask at once to keep a note; return what is done when it is kept."""
    return _Keeping(ask, wanted, availability)


class _Kept:
    """A note that is kept."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


class _Keeping:
    """A note that was asked for."""

    def __init__(
        self, ask: Callable[[], asyncio.Future[None]], wanted: Callable[[], bool], availability: Availability
    ) -> None:
        self._ask = ask
        self._wanted = wanted
        self._availability = availability
        self._asked = ask()

    def __await__(self) -> Generator[Any, None, None]:
        return self._wait().__await__()

    async def _wait(self) -> None:
        while True:
            try:
                return await self._asked
            except StoreError as error:
                if not is_outage(error) or not self._wanted():
                    raise
                self._availability.failed(error)
            await self._availability.wait_later()
            self._asked = self._ask()
