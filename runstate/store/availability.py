"""Whether a store's database can be used: the one place that knows, for all who wait for it.

The committer reports what becomes of its requests here, and so does each part of a worker. While the database cannot
be used they wait here for the next try, with backoff; of those who take turns one tries at a time, and a success ends
the wait of all. The log has one line when an outage begins, one a minute while it lasts, one when it is over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from threading import Event, Lock
from typing import Final, TypeVar

from runstate.clock import monotonic, span
from runstate.errors import (
    AccessDenied,
    OutcomeUnknown,
    RunstateError,
    SchemaMismatch,
    StoreError,
    StoreUnavailable,
    StoreUrlError,
)
from runstate.store.backoff import Backoff

__all__ = ["Availability", "can_be_retried", "is_outage"]

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
    right. Where a store is opened these are mistakes: nobody could use it before.
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
        self._changing = Lock()
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
                self._since = monotonic()
                self._backoff.reset()
                self._next_at = self._since + self._backoff.next()
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
            self.settled = not self._is_told or self._may_tell()
            told = self._is_told and self.settled
            if told:
                self._is_told = False
            lasted_us = (self._until - self._since) * 1_000_000
        if ended:
            self.wake()
        if was_lost:
            self._call(self._listeners)
        if told:
            log.warning("the store is back after %s", span(lasted_us))

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
            log.warning("the store has been away for %s: %s; asking again", span(away_us), error)
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

    def is_due(self) -> bool:
        """Tell whether the database may be tried now: it can be used, or it is time for the next try, the caller's."""
        return not self.is_away or self._due_in() <= 0

    def was_away_since(self, at: float) -> bool:
        """Tell whether the database was away at any time since a moment of the clock that nobody sets."""
        return self.is_away or self._until > at

    def wait(self, most_s: float = float("inf")) -> bool:
        """Block until the next try is the caller's, or the database was found usable; False after `most_s` seconds."""
        self.report()
        until, woken = monotonic() + most_s, Event()
        with self._waking(woken.set):
            while not woken.is_set() and (due_in := self._due_in()) > 0:
                if (left_s := until - monotonic()) <= 0:
                    return False
                woken.wait(min(due_in, left_s))
        return True

    async def wait_later(self, most_s: float = float("inf")) -> bool:
        """Wait as `wait` does, without blocking the event loop."""
        self.report()
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        until = monotonic() + most_s
        with self._waking(_in_loop(loop, woken)):
            while not woken.is_set() and (due_in := self._due_in()) > 0:
                if (left_s := until - monotonic()) <= 0:
                    return False
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(due_in, left_s)):
                        await woken.wait()
        return True

    def wake(self) -> None:
        """End every wait now: the database is back, or who waits has something else to do."""
        self._call(self._wakers)

    async def wait_until_back(self, most_s: float = 5.0) -> None:
        """Wait until the database was found usable, or `most_s` seconds are over; takes no turn from those who try."""
        self.report()
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        with self._waking(_in_loop(loop, woken)), suppress(TimeoutError):
            if self.is_away:
                async with asyncio.timeout(most_s):
                    await woken.wait()

    def _due_in(self) -> float:
        """Return the seconds until the next try; at 0 it is the caller's, and the next one's is later."""
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
    def _waking(self, wake: Callable[[], object]) -> Generator[None, None, None]:
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
        until = monotonic() + patience_s
        while True:
            try:
                found = attempt()
            except RunstateError as error:
                if not can_be_retried(error):
                    raise
                self.failed(error)
                if monotonic() >= until:
                    raise _nothing_changed(error) from error.__cause__
                self.wait(until - monotonic())
            else:
                if not self.settled:
                    self.succeeded()
                return found


def _nothing_changed(error: RunstateError) -> StoreError:
    return error if isinstance(error, StoreUnavailable) else StoreUnavailable(str(error))


def _in_loop(loop: asyncio.AbstractEventLoop, woken: asyncio.Event) -> Callable[[], object]:
    """Return what sets an event of a loop, from any thread."""

    def wake() -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(woken.set)

    return wake
