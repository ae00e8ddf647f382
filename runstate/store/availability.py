"""Whether a store's database can be used: one object records it for all parts of the store and of a worker.

The committer reports the results of its requests here, and so does each part of a worker. A part whose request failed
repeats it with a `Retry`, which has its own backoff. While the database cannot be used, one part tries at a time, and
the end of the outage ends the wait of all. The log has one line when an outage begins, one per minute while it lasts,
and one when it is over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from threading import Event, Lock
from typing import Final, TypeVar

from runstate.clock import format_duration, monotonic
from runstate.lifecycle.errors import RunstateError
from runstate.store.backoff import Backoff
from runstate.store.errors import (
    AccessDenied,
    OutcomeUnknown,
    SchemaMismatch,
    StoreError,
    StoreUnavailable,
    StoreUrlError,
)

__all__ = ["Availability", "Retry", "can_be_retried", "is_outage"]

log: Final = logging.getLogger("runstate.store")

T = TypeVar("T")
_OUTAGES: Final = (StoreUnavailable, OutcomeUnknown, StoreUrlError, SchemaMismatch, AccessDenied)
_AGAIN_S: Final = 60.0
"""Seconds between two log lines about one outage."""
_MOST_LINES: Final = 4
"""The limit of log lines in `_AGAIN_S` seconds, if outages come and go."""


def can_be_retried(error: BaseException) -> bool:
    """Return whether an idempotent request that failed with this error can be repeated."""
    return isinstance(error, StoreUnavailable | OutcomeUnknown)


def is_outage(error: BaseException) -> bool:
    """Return whether an error of a store that could be used before may be temporary.

    While a server is restored, renamed or replaced, it reports for a while that a database, table or permission is
    missing. When a store is opened, the same errors are treated as mistakes of the caller.
    """
    return isinstance(error, _OUTAGES)


class Availability:
    """Whether the database of one store can be used, according to the last requests."""

    def __init__(self) -> None:
        self.is_away: bool = False
        """Whether the database could not be used at the last request that shows it."""
        self.settled: bool = True
        """Whether `succeeded` has nothing to do: there is no outage, and the end of the last one was logged."""
        self.epoch: int = 0
        """Increases when sessions were lost. Sessions of an earlier epoch may be connected to an old server."""
        self.ended: int = 0
        """How many outages have ended."""
        self.wakes: int = 0
        """How often `wake` was called."""
        self._changing = Lock()
        self._failing: set[Retry] = set()
        """The retries whose last request failed, even if other requests succeed: the outage is not over for all."""
        self._wakers: list[Callable[[], object]] = []
        self._listeners: list[Callable[[], object]] = []
        self._backoff = Backoff()
        self._next_at = 0.0
        self._since = self._until = float("-inf")
        """When the last outage began and ended, by the monotonic clock."""
        self._error: BaseException | None = None
        self._lost = False
        self._is_told = False
        """Whether the last line in the log says that the database is away."""
        self._told_at: list[float] = []

    # --- reports of requests --------------------------------------------------------------------------------------

    def failed(self, error: BaseException, *, session_lost: bool = False) -> None:
        """Record that a request could not use the database, and whether its session must be replaced."""
        with self._changing:
            if not self.is_away:
                self.is_away, self.settled = True, False
                now = monotonic()
                self._since = self._since if self._failing else now
                self._backoff.reset()
                self._next_at = now + self._backoff.next()
            self._error = error
            self._lost = self._lost or session_lost
            self.epoch += session_lost
        if session_lost:
            self._call(self._listeners)

    def succeeded(self) -> None:
        """Record that a writing request succeeded. Call this only while `settled` is False: it takes a lock."""
        with self._changing:
            was_lost, self._lost = self._lost, False
            self.epoch += was_lost  # sessions that were opened meanwhile may be connected to the old server
            ended, self.is_away = self.is_away, False
            if ended:
                self._until = monotonic()
                self.ended += 1
            self.settled = not self._is_told or (not self._failing and self._may_tell())
            told = self._is_told and self.settled
            if told:
                self._is_told = False
            lasted_us = (self._until - self._since) * 1_000_000
        if ended:
            self._call(self._wakers)
        if was_lost:
            self._call(self._listeners)
        if told:
            log.warning("the store is back after %s", format_duration(lasted_us))

    def keeps_failing(self, retry: Retry, fails: bool) -> None:
        """Record whether the requests of a retry fail."""
        with self._changing:
            (self._failing.add if fails else self._failing.discard)(retry)

    def report(self) -> None:
        """Log that the database is away, if it is and this was not logged in the last minute."""
        with self._changing:
            error, again = self._error, self._is_told
            due = not again or monotonic() - self._told_at[-1] >= _AGAIN_S
            if not self.is_away or not due or not self._may_tell():
                return
            self._is_told = True
            away_us = (monotonic() - self._since) * 1_000_000
        if again:
            log.warning("the store has been away for %s: %s; retrying", format_duration(away_us), error)
        else:
            log.warning("%s; retrying", error)

    def _may_tell(self) -> bool:
        """Return whether a line may be logged, and count it. False if there were too many in the last minute."""
        now = monotonic()
        self._told_at = [at for at in self._told_at if now - at < _AGAIN_S]
        if len(self._told_at) >= _MOST_LINES:
            return False
        self._told_at.append(now)
        return True

    # --- waiting --------------------------------------------------------------------------------------------------

    def was_away_since(self, at: float) -> bool:
        """Return whether the database was away at any time since `at`, a time of the monotonic clock."""
        return self.is_away or self._until > at

    def wake(self) -> None:
        """End all waits now, because a worker was stopped."""
        with self._changing:
            self.wakes += 1
        self._call(self._wakers)

    def turn_in(self) -> float:
        """Return the seconds until the next try. With 0 the caller must try now; later callers get a later time."""
        if not self.is_away:
            return 0.0
        with self._changing:
            now = monotonic()
            if not self.is_away:
                return 0.0
            if self._next_at > now:
                return self._next_at - now
            self._next_at = now + self._backoff.next()
            return 0.0

    @contextmanager
    def listening(self, changed: Callable[[], object]) -> Generator[None, None, None]:
        """Call `changed` whenever the epoch has increased, in any thread, inside the block."""
        with self._changing:
            self._listeners.append(changed)
        try:
            yield
        finally:
            with self._changing:
                self._listeners.remove(changed)

    @contextmanager
    def waking(self, wake: Callable[[], object]) -> Generator[None, None, None]:
        """Call `wake` when an outage ends and by the method `wake`, in any thread, inside the block."""
        with self._changing:
            self._wakers.append(wake)
        try:
            yield
        finally:
            with self._changing:
                self._wakers.remove(wake)

    def _call(self, those: list[Callable[[], object]]) -> None:
        with self._changing:
            called = [*those]
        for call in called:
            call()

    # --- opening --------------------------------------------------------------------------------------------------

    def wait_for(self, attempt: Callable[[], T], patience_s: float) -> T:
        """Return the result of `attempt`. While the database is away, try again for up to `patience_s` seconds.

        `attempt` must be safe to repeat. Raises the error of the last attempt; `StoreUnavailable` replaces
        `OutcomeUnknown`.
        """
        until, retry = monotonic() + patience_s, Retry(self)
        try:
            while True:
                try:
                    found = attempt()
                except RunstateError as error:
                    if not can_be_retried(error):
                        raise
                    retry.failed(error)
                    if monotonic() >= until:
                        raise _nothing_changed(error) from error.__cause__
                    retry.wait(until - monotonic())
                else:
                    retry.succeeded()
                    return found
        finally:
            retry.end()


class Retry:
    """The time at which a failed request is repeated, with growing delays.

    While the database is away, only one retry at a time may try. The end of an outage ends the wait early, but only
    once until the request succeeds: a request may fail for a reason of its own while others succeed.
    """

    def __init__(self, availability: Availability, backoff: Backoff | None = None, *, takes_turns: bool = True) -> None:
        """Prepare. Without `takes_turns`, the request reports no outage, and need not be the only one that tries."""
        self._availability: Final = availability
        self._backoff: Final = backoff or Backoff()
        self._takes_turns: Final = takes_turns
        self._due_at = float("-inf")
        self._ended_before = 0
        self._may_hurry = True
        self.failures: int = 0
        """How many times the request has failed since it last succeeded."""

    def failed(self, error: BaseException) -> None:
        """Record that the request failed, and set the time of the next try."""
        self.failures += 1
        self._ended_before = self._availability.ended
        if self._takes_turns and is_outage(error):
            self._availability.failed(error)
            self._availability.keeps_failing(self, True)
        self._due_at = monotonic() + self._backoff.next()

    def succeeded(self) -> None:
        """Record that the request succeeded, and reset the delays."""
        self.failures, self._may_hurry = 0, True
        self._due_at = float("-inf")
        self._backoff.reset()
        self.end()
        if self._takes_turns and not self._availability.settled:
            self._availability.succeeded()

    def end(self) -> None:
        """Record that the request is not repeated any more."""
        self._availability.keeps_failing(self, False)

    def due_in(self) -> float:
        """Return the seconds until the next try. With 0 the caller must try now."""
        if self._may_hurry and self.failures and self._availability.ended != self._ended_before:
            self._may_hurry = False
            self._due_at = float("-inf")
        own = self._due_at - monotonic()
        if own > 0 or not self._takes_turns:
            return max(0.0, own)
        return self._availability.turn_in()

    def wait(self, most_s: float = float("inf")) -> bool:
        """Block until the next try, or until all are woken. Return False if `most_s` seconds have passed before."""
        self._availability.report()
        until, woken, wakes = monotonic() + most_s, Event(), self._availability.wakes
        with self._availability.waking(woken.set):
            while self._availability.wakes == wakes and (due_in := self.due_in()) > 0:
                if (left_s := until - monotonic()) <= 0:
                    return False
                woken.wait(min(due_in, left_s))
                woken.clear()
        return True

    async def wait_later(self, most_s: float = float("inf")) -> bool:
        """Wait as `wait` does, without blocking the event loop."""
        self._availability.report()
        loop, woken, wakes = asyncio.get_running_loop(), asyncio.Event(), self._availability.wakes
        until = monotonic() + most_s
        with self._availability.waking(_in_loop(loop, woken)):
            while self._availability.wakes == wakes and (due_in := self.due_in()) > 0:
                if (left_s := until - monotonic()) <= 0:
                    return False
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(due_in, left_s)):
                        await woken.wait()
                woken.clear()
        return True


def _nothing_changed(error: RunstateError) -> StoreError:
    return error if isinstance(error, StoreUnavailable) else StoreUnavailable(str(error))


def _in_loop(loop: asyncio.AbstractEventLoop, woken: asyncio.Event) -> Callable[[], object]:
    """Return a function that sets an event of a loop, and can be called in any thread."""

    def wake() -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(woken.set)

    return wake
