"""The thread that renews a worker's lease while its event loop is busy, up to the stall timeout.

A worker whose loop stands still for a moment keeps its runs. When the loop has not moved for the stall timeout, the
lease is no longer renewed: a handler may block the loop forever, and the worker's other runs would wait for their
deadlines.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread
from typing import TYPE_CHECKING, Final

from runstate.clock import monotonic
from runstate.store import HeartbeatResult, Lease
from runstate.store.availability import is_outage
from runstate.store.backoff import Backoff
from runstate.store.errors import StoreError

if TYPE_CHECKING:
    from runstate.store import Store

__all__ = ["HeartbeatThread", "LoopTicks"]

_log = logging.getLogger("runstate.worker")

_BEATS: Final = 3  # heartbeats per lease: one may be lost
_LOOK_S: Final = 0.5  # between two checks whether the loop still moves
_TICK_S: Final = 0.1  # between two ticks of the loop
_BLOCKED_S: Final = 1.0  # a loop that stands still for longer is reported
_MARGIN: Final = 0.15  # of the lease: so long before other workers may take its runs over, a worker stops them


class LoopTicks:
    """Records when an event loop last moved. Kept when the worker takes another lease."""

    def __init__(self) -> None:
        self.moved_at: float = float("-inf")
        """The time of the last tick, by the monotonic clock. Minus infinity before `start`."""
        self._next: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to record, in the running loop."""
        self.stop()
        self._tick(asyncio.get_running_loop())

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self.moved_at = monotonic()
        self._next = loop.call_later(_TICK_S, self._tick, loop)

    def stop(self) -> None:
        """Stop recording."""
        if self._next is not None:
            self._next.cancel()
            self._next = None


class HeartbeatThread:
    """Renews a lease once per third of its length, and keeps its end by the monotonic clock."""

    def __init__(
        self,
        store: Store,
        lease: Lease,
        opened_at: float,
        stall_timeout_s: float,
        ticks: LoopTicks,
        beaten: Callable[[float, HeartbeatResult], None],
    ) -> None:
        """Prepare the thread. Called in the event loop that `ticks` records.

        `beaten` is called in the thread, with the time before the heartbeat was sent and its result.
        """
        self._store = store
        self.lease: Final = lease
        self._on_heartbeat = beaten
        self._opened = opened_at
        self._held_until = self._opened + lease.lease_s
        self._stall_timeout_s = stall_timeout_s
        self._stopped = Event()
        self._ticks = ticks
        self.loop: Final = asyncio.get_running_loop()
        """The event loop that is checked."""
        self._told = self._told_of_stall = False
        self._thread = Thread(target=self._run, name="runstate-heartbeat", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def lease_is_safe(self) -> bool:
        """Whether no other worker can have taken over this worker's runs yet, with a margin of 15 % of the lease."""
        return monotonic() < self._held_until - _MARGIN * self.lease.lease_s

    def _run(self) -> None:
        every = self.lease.lease_s / _BEATS
        next_at = self._opened + every
        availability, backoff, missed, hurries = self._store.availability, Backoff(), False, True
        while not self._stopped.wait(min(_LOOK_S, max(0.0, next_at - monotonic()))):
            is_stalled = self._watch_loop()
            if monotonic() < next_at:
                if not (missed and hurries and not availability.is_away):
                    continue
                hurries = False  # only once: the store may be back for other requests only
            next_at = monotonic() + every
            if is_stalled:
                next_at = monotonic() + min(every, _TICK_S)  # the loop may move again before the lease lapses
                continue
            sent = monotonic()
            try:
                beat = self._store.heartbeat(self.lease)
            except StoreError as error:
                if is_outage(error):
                    availability.failed(error)
                    availability.report()
                next_at, missed = monotonic() + min(every, backoff.next()), True
                continue
            missed, hurries = False, True
            backoff.reset()
            if self._stopped.is_set():
                return  # the heartbeat took so long that the worker may have another lease
            if beat.held:
                self._held_until = sent + self.lease.lease_s
            self._on_heartbeat(sent, beat)

    def _watch_loop(self) -> bool:
        """Log that the loop stands still. Return whether it has done so for the stall timeout."""
        still = monotonic() - self._ticks.moved_at
        is_stalled = still >= self._stall_timeout_s
        if is_stalled and not self._told_of_stall:
            self._told_of_stall = self._told = True
            _log.error(
                "worker %s: the event loop has not moved for %.1f s%s; the lease is not renewed until it moves, and"
                " other workers take over the runs of this one",
                *(self.lease.actor, still, self._blocking_handler()),
            )
        elif still >= _BLOCKED_S and not self._told:
            self._told = True
            _log.warning(
                "the event loop has been blocked for %.1f s%s: cancels and deadlines wait for it",
                still,
                self._blocking_handler(),
            )
        elif still < _BLOCKED_S:
            self._told = self._told_of_stall = is_stalled
        return is_stalled

    def _blocking_handler(self) -> str:
        """Return the name of the task that the loop is executing. The task of a handler has the id of its run."""
        with suppress(RuntimeError):  # the loop may change its tasks meanwhile
            task = asyncio.current_task(self.loop)
            return "" if task is None else f" by {task.get_name()}"
        return ""

    def stop(self, wait_s: float = 1.0) -> None:
        """Stop the thread. Wait up to `wait_s` seconds for a heartbeat that is under way."""
        is_first = not self._stopped.is_set()
        self._stopped.set()
        if is_first and self._thread.is_alive():  # a heartbeat that hangs blocks the event loop only once
            self._thread.join(timeout=wait_s)
