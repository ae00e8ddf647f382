"""Notifications from other processes that use an SQLite file, by polling its counter of their commits."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread
from typing import Final

from runstate.clock import monotonic, sleep
from runstate.store._notifier import ALL_CHANGES, LocalNotifier
from runstate.store.errors import StoreError

__all__ = ["SqliteNotifier"]


class SqliteNotifier(LocalNotifier):
    """Polls SQLite's `data_version`: more often for a while after a commit."""

    _OFTEN_S: Final = 0.002
    _SELDOM_S: Final = 0.012
    _AWAKE_S: Final = 1.0  # how long it polls often after a commit

    def __init__(self, external_commits: Callable[[], int | None]) -> None:
        """Prepare. `external_commits` returns the count of other connections' commits; None if it is unknown now."""
        super().__init__()
        self._external_commits = external_commits
        self._thread: Thread | None = None
        self._closed = Event()

    def _start(self) -> None:
        with self._changing:
            if self._thread is None and not self._closed.is_set():
                self._thread = Thread(target=self._run, name="runstate-notifier", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        known: int | None = None
        awake_until = 0.0
        while not self._closed.is_set():
            with suppress(StoreError):
                now = self._external_commits()
                if now is not None and now != known:
                    if known is not None:
                        awake_until = monotonic() + self._AWAKE_S
                    self._notify_listeners(ALL_CHANGES)  # also at the first poll: a change may have been missed
                    known = now
            if not self._listeners and not self._continues():
                return
            sleep(self._OFTEN_S if monotonic() < awake_until else self._SELDOM_S)

    def _continues(self) -> bool:
        """Return whether there are still listeners. If not, forget the thread, which ends."""
        with self._changing:
            if self._listeners:
                return True
            self._thread = None
            return False

    def close(self) -> None:
        """End the thread. Send no more notifications."""
        super().close()
        self._closed.set()
        thread = self._thread
        if thread is not None:
            thread.join()
