"""Requests of a handler while the store may be away: retry until they are done or no longer wanted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final, TypeVar

from runstate.store.availability import Availability, Retry, is_outage
from runstate.store.errors import LeaseLost, StoreError

__all__ = ["retry_outages", "retry_outages_async", "retry_until_saved", "retry_until_saved_async"]

T = TypeVar("T")

_LOOK_S: Final = 0.2  # between two checks whether the request is still wanted


def retry_outages(request: Callable[[], T], wanted: Callable[[], bool], availability: Availability) -> T:
    """Return the result of a request. Repeat it during an outage, as long as `wanted` returns True. Blocks."""
    retry: Retry | None = None
    try:
        while True:
            try:
                result = request()
            except StoreError as error:
                if not is_outage(error):
                    raise
                retry = retry or Retry(availability)
                retry.failed(error)
                while wanted() and not retry.wait(_LOOK_S):
                    pass
                if not wanted():
                    raise
            else:
                break
        if retry is not None:
            retry.succeeded()
    finally:
        if retry is not None:
            retry.end()
    return result


async def retry_outages_async(
    request: Callable[[], Awaitable[T]],
    wanted: Callable[[], bool],
    availability: Availability,
    first: Awaitable[T] | None = None,
) -> T:
    """Do the same as `retry_outages`, in a coroutine. `first` is the first request, if it was made already."""
    retry: Retry | None = None
    try:
        while True:
            try:
                result = await (request() if first is None else first)
            except StoreError as error:
                first = None
                if not is_outage(error) or not wanted():
                    raise
                retry = retry or Retry(availability)
                retry.failed(error)
                await retry.wait_later()
            else:
                break
        if retry is not None:
            retry.succeeded()
    finally:
        if retry is not None:
            retry.end()
    return result


def retry_until_saved(
    save: Callable[[], bool], wanted: Callable[[], bool], lost: Callable[[], LeaseLost], availability: Availability
) -> Awaitable[None]:
    """Save a checkpoint. Retry during an outage, as long as `wanted` returns True.

    Return an awaitable that is already done. Raises the error of `lost` if `save` returns False, and a `StoreError`
    that is not an outage.
    """
    if not retry_outages(save, wanted, availability):
        raise lost()
    return _Saved()


class _Saved:
    """The awaitable for a checkpoint that was saved."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


def retry_until_saved_async(
    save: Callable[[], asyncio.Future[bool]],
    wanted: Callable[[], bool],
    lost: Callable[[], LeaseLost],
    availability: Availability,
) -> Awaitable[None]:
    """Request to save a checkpoint. Return an awaitable that is done when the checkpoint is saved.

    The request is made at once, even if the result is not awaited. Awaiting it raises like `retry_until_saved`.
    """
    return _Saving(save, wanted, lost, availability)


class _Saving:
    """The awaitable for a checkpoint that is being saved."""

    def __init__(
        self,
        save: Callable[[], asyncio.Future[bool]],
        wanted: Callable[[], bool],
        lost: Callable[[], LeaseLost],
        availability: Availability,
    ) -> None:
        self._save = save
        self._wanted = wanted
        self._lost = lost
        self._availability = availability
        self._saved = save()

    def __await__(self) -> Generator[Any, None, None]:
        return self._wait().__await__()

    async def _wait(self) -> None:
        if not await retry_outages_async(self._save, self._wanted, self._availability, self._saved):
            raise self._lost()
