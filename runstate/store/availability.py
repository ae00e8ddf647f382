"""Whether a store's database can be used: the one place that knows, for all who wait for it.

The committer reports what becomes of its requests here, and so does each part of a worker. A part whose request failed
makes it again by a `Retry`, with a backoff of its own. While the database cannot be used one part tries at a time, and
the end of the outage ends the wait of all. The log has one line when an outage begins, one a minute while it lasts, one
when it is over.
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
"""Between two lines about one outage."""
_MOST_LINES: Final = 4
"""In `_AGAIN_S` seconds, where a database comes and goes."""


def can_be_retried(error: BaseException) -> bool:
    """Tell whether what was not done, or perhaps was, can be asked again: it is the same thing twice."""
    return isinstance(error, StoreUnavailable | OutcomeUnknown)


def is_outage(error: BaseException) -> bool:
    """Tell whether an error of a store that could be used before may pass by itself.

    A server that is being restored, renamed or replaced says for a while that there is no such database, table or
    right. Where a store is opened these are mistakes: no caller could use it before.
    """
    return isinstance(error, _OUTAGES)


class Availability:
    """Whether the database of one store can be used, as the last requests found."""

    def __init__(self) -> None:
        self.is_away: bool = False
        """Whether the last request that tells found the database unusable."""
        self.settled: bool = True
        """Whether there is nothing to do when a request succeeds: no outage, and none whose end was not logged."""
        self.epoch: int = 0
        """Rises when sessions were lost: those of an earlier epoch may lead to a server that is no more the one."""
        self.ended: int = 0
        """How many outages have ended."""
        self.wakes: int = 0
        """How often `wake` was called."""
        self._changing = Lock()
        self._failing: set[Retry] = set()
        """Whose last request the database did not take, also where it takes those of others: it is not back for all."""
        self._wakers: list[Callable[[], object]] = []
        self._listeners: list[Callable[[], object]] = []
        self._backoff = Backoff()
        self._next_at = 0.0
        self._since = self._until = float("-inf")
        """When the last outage began, and when it ended."""
        self._error: BaseException | None = None
        self._lost = False
        self._is_told = False
        """Whether the log's last line says that the database is away."""
        self._told_at: list[float] = []

    # --- what requests report -------------------------------------------------------------------------------------

    def failed(self, error: BaseException, *, session_lost: bool = False) -> None:
        """Note that a request found the database unusable, and whether its session is of no more use."""
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
        """Note that a request which writes was answered. Ask this only while not `settled`: it takes a lock."""
        with self._changing:
            was_lost, self._lost = self._lost, False
            self.epoch += was_lost  # what was opened meanwhile may lead to the server of before
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
        """Note whose requests fail, and that they do no more."""
        with self._changing:
            (self._failing.add if fails else self._failing.discard)(retry)

    def report(self) -> None:
        """Log that the database is away, if it is and the log does not say so; once a minute again."""
        with self._changing:
            error, again = self._error, self._is_told
            due = not again or monotonic() - self._told_at[-1] >= _AGAIN_S
            if not self.is_away or not due or not self._may_tell():
                return
            self._is_told = True
            away_us = (monotonic() - self._since) * 1_000_000
        if again:
            log.warning("the store has been away for %s: %s; asking again", format_duration(away_us), error)
        else:
            log.warning("%s; asking again", error)

    def _may_tell(self) -> bool:
        """Count a line, unless there were too many of late."""
        now = monotonic()
        self._told_at = [at for at in self._told_at if now - at < _AGAIN_S]
        if len(self._told_at) >= _MOST_LINES:
            return False
        self._told_at.append(now)
        return True

    # --- waiting --------------------------------------------------------------------------------------------------

    def was_away_since(self, at: float) -> bool:
        """Tell whether the database was away at any time since a moment of the monotonic clock."""
        return self.is_away or self._until > at

    def wake(self) -> None:
        """End every wait now: those who wait have something else to do."""
        with self._changing:
            self.wakes += 1
        self._call(self._wakers)

    def turn_in(self) -> float:
        """Return the seconds until the next try; at 0 it is the caller's, and the next one's is later."""
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
        """Have `changed` called whenever the epoch has risen, from any thread."""
        with self._changing:
            self._listeners.append(changed)
        try:
            yield
        finally:
            with self._changing:
                self._listeners.remove(changed)

    @contextmanager
    def waking(self, wake: Callable[[], object]) -> Generator[None, None, None]:
        """Have `wake` called when an outage ends, and by `wake`, from any thread."""
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
        """Return what `attempt` returns; where the database is away, try again for so many seconds.

        Raises what the last attempt raised, as `StoreUnavailable` where it says that an answer was lost: an attempt
        is something that can be made again.
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
    """When a request that the database did not take is made again: after delays of its own, which grow.

    While the database is away it waits for its turn, too. The end of an outage ends its wait early, but only once until
    it succeeds: that others succeed says nothing of a request that is refused for itself.
    """

    def __init__(self, availability: Availability, backoff: Backoff | None = None, *, takes_turns: bool = True) -> None:
        """Get ready. Without `takes_turns` it leaves it to others to find out whether the database is away."""
        self._availability: Final = availability
        self._backoff: Final = backoff or Backoff()
        self._takes_turns: Final = takes_turns
        self._due_at = float("-inf")
        self._ended_before = 0
        self._may_hurry = True
        self.failures: int = 0
        """How many requests failed since the last that did not."""

    def failed(self, error: BaseException) -> None:
        """Note that a request failed, and that the next one is to wait."""
        self.failures += 1
        self._ended_before = self._availability.ended
        if self._takes_turns and is_outage(error):
            self._availability.failed(error)
            self._availability.keeps_failing(self, True)
        self._due_at = monotonic() + self._backoff.next()

    def succeeded(self) -> None:
        """Note that a request went well: the next delay is the first one again."""
        self.failures, self._may_hurry = 0, True
        self._due_at = float("-inf")
        self._backoff.reset()
        self.end()
        if self._takes_turns and not self._availability.settled:
            self._availability.succeeded()

    def end(self) -> None:
        """Note that there will be no other request."""
        self._availability.keeps_failing(self, False)

    def due_in(self) -> float:
        """Return the seconds until the next request; at 0 it is to be made."""
        if self._may_hurry and self.failures and self._availability.ended != self._ended_before:
            self._may_hurry = False
            self._due_at = float("-inf")
        own = self._due_at - monotonic()
        if own > 0 or not self._takes_turns:
            return max(0.0, own)
        return self._availability.turn_in()

    def wait(self, most_s: float = float("inf")) -> bool:
        """Block until the next request is to be made, or all are woken; False after `most_s` seconds."""
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
    """Return what sets an event of a loop, from any thread."""

    def wake() -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(woken.set)

    return wake
