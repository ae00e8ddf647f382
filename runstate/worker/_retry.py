"""Saving a checkpoint while the store may be away: retry until it is saved or no longer wanted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final

from runstate.store.availability import Availability, Retry, is_outage
from runstate.store.errors import LeaseLost, StoreError

__all__ = ["retry_until_saved", "retry_until_saved_async"]

_LOOK_S: Final = 0.2  # between two checks whether the checkpoint is still wanted


def retry_until_saved(
    save: Callable[[], bool], wanted: Callable[[], bool], lost: Callable[[], LeaseLost], availability: Availability
) -> Awaitable[None]:
    """Save a checkpoint. Retry during an outage, as long as `wanted` returns True.

    Return an awaitable that is already done. Raises the error of `lost` if `save` returns False, and a `StoreError`
    that is not an outage.
    """
    retry: Retry | None = None
    try:
        while True:
            try:
                saved = save()
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
    if not saved:
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
        retry: Retry | None = None
        try:
            while True:
                try:
                    saved = await self._saved
                except StoreError as error:
                    if not is_outage(error) or not self._wanted():
                        raise
                    retry = retry or Retry(self._availability)
                    retry.failed(error)
                    await retry.wait_later()
                    self._saved = self._save()
                else:
                    break
            if retry is not None:
                retry.succeeded()
        finally:
            if retry is not None:
                retry.end()
        if not saved:
            raise self._lost()
