"""The failed requests of a worker: each kind is retried with its own backoff."""

from __future__ import annotations

import logging
from typing import Final

from runstate.store.availability import Availability, Retry
from runstate.store.backoff import Backoff
from runstate.store.errors import StoreError

__all__ = ["StoreRequests"]

_log: Final = logging.getLogger("runstate.worker")

_MOST_S: Final = 5.0  # between two tries of a postponed request
_REPORTED: Final = 3  # failures before a warning is logged; an outage is logged earlier


class StoreRequests:
    """The kinds of requests that failed last, and the time of the next try of each."""

    def __init__(self, availability: Availability) -> None:
        self._availability: Final = availability
        self._failed: Final[dict[str, Retry]] = {}

    def __bool__(self) -> bool:
        """Return whether any kind of request failed at its last try."""
        return bool(self._failed)

    async def wait(self, request: str, error: StoreError, most_s: float) -> None:
        """Wait until the next try of a failed request, for at most `most_s` seconds."""
        retry = self._failed.get(request)
        if retry is None:
            retry = self._failed[request] = Retry(self._availability)
        retry.failed(error)
        await retry.wait_later(most_s)

    def put_off(self, request: str, error: StoreError) -> None:
        """Postpone the next try of a failed request, independently of others: they may succeed meanwhile."""
        retry = self._failed.get(request)
        if retry is None:
            backoff = Backoff(most_s=_MOST_S)
            retry = self._failed[request] = Retry(self._availability, backoff, takes_turns=False)
        retry.failed(error)
        if retry.failures == _REPORTED and not self._availability.is_away:
            _log.warning("cannot %s: %s; retrying", request, error)

    def is_due(self, request: str) -> bool:
        """Return whether a kind of request may be made now."""
        retry = self._failed.get(request)
        return retry is None or retry.due_in() <= 0

    def succeeded(self, request: str) -> None:
        """Forget the failures of a kind of request."""
        retry = self._failed.pop(request, None)
        if retry is not None:
            retry.succeeded()

    def end(self) -> None:
        """Forget all failures. Called when the worker makes no more requests."""
        for retry in self._failed.values():
            retry.end()
        self._failed.clear()
