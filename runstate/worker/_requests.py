"""The requests of a worker that the store did not take: each is made again, with a backoff of its own."""

from __future__ import annotations

import logging
from typing import Final

from runstate.store.availability import Availability, Retry
from runstate.store.backoff import Backoff
from runstate.store.errors import StoreError

__all__ = ["StoreRequests"]

_log: Final = logging.getLogger("runstate.worker")

_MOST_S: Final = 5.0  # between two tries of what was put off
_REPORTED: Final = 3  # failures until the log says so; an outage is noticed before


class StoreRequests:
    """When each kind of request that failed is made again."""

    def __init__(self, availability: Availability) -> None:
        self._availability: Final = availability
        self._failed: Final[dict[str, Retry]] = {}

    def __bool__(self) -> bool:
        """Return whether any kind of request failed the last time."""
        return bool(self._failed)

    async def wait(self, request: str, error: StoreError, most_s: float) -> None:
        """Wait until it is time to make a request again, for at most `most_s` seconds."""
        retry = self._failed.get(request)
        if retry is None:
            retry = self._failed[request] = Retry(self._availability)
        retry.failed(error)
        await retry.wait_later(most_s)

    def put_off(self, request: str, error: StoreError) -> None:
        """Let a request be made again later, beside the others: it may be refused where they are not."""
        retry = self._failed.get(request)
        if retry is None:
            backoff = Backoff(most_s=_MOST_S)
            retry = self._failed[request] = Retry(self._availability, backoff, takes_turns=False)
        retry.failed(error)
        if retry.failures == _REPORTED and not self._availability.is_away:
            _log.warning("cannot %s: %s; retrying", request, error)

    def is_due(self, request: str) -> bool:
        """Return whether a request may be made now."""
        retry = self._failed.get(request)
        return retry is None or retry.due_in() <= 0

    def succeeded(self, request: str) -> None:
        """Forget that a request failed."""
        retry = self._failed.pop(request, None)
        if retry is not None:
            retry.succeeded()

    def end(self) -> None:
        """Forget all of them: nothing is requested any more."""
        for retry in self._failed.values():
            retry.end()
        self._failed.clear()
