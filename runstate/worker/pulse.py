"""The thread that keeps a worker's lease alive, whatever its event loop is doing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Event, Thread
from typing import TYPE_CHECKING, Final

from runstate.clock import monotonic
from runstate.errors import StoreError
from runstate.store.working import Beat, Lease

if TYPE_CHECKING:
    from runstate.store import Store

__all__ = ["Pulse"]

_log = logging.getLogger("runstate.worker")

_BEATS: Final = 3  # heartbeats a lease: one may be lost
_LOOK_S: Final = 0.5  # between two looks whether the loop still turns
_BLOCKED_S: Final = 1.0  # a loop that stands still for longer is reported
_MARGIN: Final = 0.15  # of the lease: a worker stops its own runs so much before others may take them over


class Pulse:
    """Renews a lease every third of it, and knows until when it holds by the clock that nobody sets."""

    def __init__(self, store: Store, lease: Lease, opened_at: float, beaten: Callable[[float, Beat], None]) -> None:
        self._store = store
        self.lease: Final = lease
        self._beaten = beaten
        self._opened = opened_at
        self._held_until = self._opened + lease.lease_s
        self._stopped = Event()
        self._turned_at = monotonic()
        self._told = False
        self._thread = Thread(target=self._go, name="runstate-pulse", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def look_away(self) -> None:
        """Report no blocked loop any more: the worker ends, and tells nothing of its turns."""
        self._told = True
        self._turned_at = float("-inf")

    def turned(self) -> None:
        """Note that the event loop turns."""
        self._turned_at = monotonic()

    @property
    def is_safe(self) -> bool:
        """Whether nobody can have taken this worker's runs over yet, with a margin."""
        return monotonic() < self._held_until - _MARGIN * self.lease.lease_s

    def _go(self) -> None:
        every = self.lease.lease_s / _BEATS
        next_at = self._opened + every
        while not self._stopped.wait(min(_LOOK_S, max(0.0, next_at - monotonic()))):
            self._look_at_the_loop()
            if monotonic() < next_at:
                continue
            next_at = monotonic() + every
            sent = monotonic()
            try:
                beat = self._store.heartbeat(self.lease)
            except StoreError as error:
                _log.warning("heartbeat not taken: %s", error)
                next_at = monotonic() + min(every, 0.2)
                continue
            if self._stopped.is_set():
                return  # it took so long that there may be another lease
            if beat.held:
                self._held_until = sent + self.lease.lease_s
            self._beaten(sent, beat)

    def _look_at_the_loop(self) -> None:
        still = monotonic() - self._turned_at
        if still < _BLOCKED_S:
            self._told = False
        elif not self._told:
            self._told = True
            _log.warning("the event loop has been blocked for %.1f s: cancels and deadlines wait for it", still)

    def stop(self) -> None:
        """Beat no more."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=1.0)
