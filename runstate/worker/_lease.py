"""The lease of a worker: opened, renewed by a thread, given up when it may have lapsed, and opened again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from runstate.clock import monotonic
from runstate.store import HeartbeatResult, Lease
from runstate.worker._heartbeat import HeartbeatThread, LoopTicks
from runstate.worker._settings import WorkerSettings

__all__ = ["WorkerLease"]


class WorkerLease:
    """The current lease of a worker. Used in the event loop, except for `is_safe`."""

    def __init__(
        self,
        settings: WorkerSettings,
        on_heartbeat: Callable[[float, HeartbeatResult], None],
        on_lost: Callable[[str], None],
    ) -> None:
        """Prepare; `take` opens the lease. Both functions are called in the event loop.

        `on_heartbeat` is called with the time before a heartbeat was sent and with its result, `on_lost` with the
        reason.
        """
        self._settings: Final = settings
        self._on_heartbeat: Final = on_heartbeat
        self._on_lost: Final = on_lost
        self.ticks: Final = LoopTicks()
        """Records when the event loop last moved."""
        self.is_lost: bool = False
        """Whether other workers may have taken over the runs of this lease. False again with the next lease."""
        self.lease: Lease
        self._heartbeat: HeartbeatThread

    async def take(self) -> None:
        """Open a lease, and renew it from now on. Raises `StoreError`."""
        settings = self._settings
        opened_at = monotonic()  # before the request: the reply may take a while
        lease = await settings.store.aio.open_lease(settings.name, lease_s=settings.lease_s)
        stall_s = settings.stall_timeout_s
        heartbeat = HeartbeatThread(settings.store, lease, opened_at, stall_s, self.ticks, self._receive)
        self.lease, self._heartbeat, self.is_lost = lease, heartbeat, False
        heartbeat.start()

    async def take_anew(self) -> None:
        """Open another lease, after this one was lost. Raises `StoreError`."""
        self.stop()
        await self.take()

    def _receive(self, sent_at: float, beat: HeartbeatResult) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._heartbeat.loop.call_soon_threadsafe(self._apply, sent_at, beat)

    def _apply(self, sent_at: float, beat: HeartbeatResult) -> None:
        if beat.held:
            self._on_heartbeat(sent_at, beat)
        elif not self.is_lost:
            self._lose("its lease lapsed")

    @property
    def is_safe(self) -> bool:
        """Whether no other worker can have taken over this worker's runs yet, with a margin. Read in any thread."""
        return self._heartbeat.lease_is_safe

    def is_held(self, lease: Lease) -> bool:
        """Return whether no other worker can have taken over the runs of a lease yet. May be called in any thread."""
        return lease is self.lease and self.is_safe

    def ensure(self) -> bool:
        """Return True while the lease is certainly valid. Otherwise give it up, and return False."""
        if not self.is_lost and not self.is_safe:
            self._lose("it could not renew its lease in time")
        return not self.is_lost

    def _lose(self, why: str) -> None:
        self.is_lost = True
        self._on_lost(why)

    async def close(self) -> None:
        """Close the lease in the store. Raises `StoreError`."""
        await self._settings.store.aio.close_lease(self.lease)

    def stop(self, wait_s: float = 1.0) -> None:
        """Stop renewing the lease. Wait up to `wait_s` seconds for a heartbeat that is under way."""
        self._heartbeat.stop(wait_s)
