"""How a note is kept while the store may be away for a while: asked again, as long as the run is the worker's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final

from runstate.store.availability import Availability, Retry, is_outage
from runstate.store.errors import StoreError

__all__ = ["retry_until_saved", "retry_until_saved_async"]

_LOOK_S: Final = 0.2  # between two looks whether the note is still wanted


def retry_until_saved(
    ask: Callable[[], object], wanted: Callable[[], bool], availability: Availability
) -> Awaitable[None]:
    """Return when a note is kept; what comes back can be awaited all the same."""
    try:
        ask()
    except StoreError as error:
        _keep_on(ask, wanted, Retry(availability), error)
    return _Saved()


def _keep_on(ask: Callable[[], object], wanted: Callable[[], bool], retry: Retry, error: StoreError) -> None:
    """Ask again to keep what was not kept."""
    try:
        while True:
            if not is_outage(error):
                raise error
            retry.failed(error)
            while wanted() and not retry.wait(_LOOK_S):
                pass
            if not wanted():
                raise error
            try:
                ask()
            except StoreError as again:
                error = again
            else:
                retry.succeeded()
                return
    finally:
        retry.end()


def retry_until_saved_async(
    ask: Callable[[], asyncio.Future[None]], wanted: Callable[[], bool], availability: Availability
) -> Awaitable[None]:
    """Ask at once to keep a note; return what is done when it is kept."""
    return _Saving(ask, wanted, availability)


class _Saved:
    """A note that is kept."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


class _Saving:
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
        retry: Retry | None = None
        try:
            while True:
                try:
                    await self._asked
                except StoreError as error:
                    if not is_outage(error) or not self._wanted():
                        raise
                    retry = retry or Retry(self._availability)
                    retry.failed(error)
                    await retry.wait_later()
                    self._asked = self._ask()
                else:
                    if retry is not None:
                        retry.succeeded()
                    return
        finally:
            if retry is not None:
                retry.end()
